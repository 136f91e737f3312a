//! When the blocks of an agent that waits for a tool are lifted, and how long they are then held.
//!
//! Arithmetic on what was announced. Looks at no block, tier or link.

use std::time::Duration;

use super::units::Time;

/// A pause that is expected to be shorter is not worth moving blocks down and up again.
const YIELD_MIN: Duration = Duration::from_secs(20);

/// Beyond this nothing is lifted: holding blocks for an estimate that may be off by as much again
/// costs others more than it saves.
const EXPECTED_MAX: Duration = Duration::from_mins(10);

/// Lifting begins when so much of the expected time is over. Estimates that are off by a factor of
/// 1.6 in one case of three (a deviation of a half on the logarithmic scale) let one tool in a
/// hundred return before.
const BEGIN_PERCENT: u32 = 30;

/// What was lifted is held up to so much of the expected time, and at least so long beyond it. Of
/// such tools one in twelve returns later still.
const HELD_PERCENT: u32 = 200;
const HELD_BEYOND_MIN: Duration = Duration::from_secs(2);

/// What is planned for a tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Until then the blocks make room before all others: they are lifted back. None where the pause
    /// is too short for that.
    pub yields_until: Option<Time>,
    /// From then on room is made for them.
    pub begin: Time,
    /// When the tool is expected back.
    pub needed: Time,
    /// When what was lifted is let go.
    pub deadline: Time,
}

impl Pause {
    /// The plan for a tool that is expected back after `expected`; none where nothing is lifted.
    #[must_use]
    pub fn plan(now: Time, expected: Duration) -> Option<Self> {
        if expected > EXPECTED_MAX {
            return None;
        }
        let begin = now + expected * BEGIN_PERCENT / 100;
        let held = (expected * HELD_PERCENT / 100).max(expected + HELD_BEYOND_MIN);
        Some(Self {
            yields_until: (expected >= YIELD_MIN).then_some(begin),
            begin,
            needed: now + expected,
            deadline: now + held,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When it yields until, begins, is needed and is let go, in milliseconds from the start.
    fn check(expected: Duration, plan: Option<[u64; 4]>) {
        let now = Time::from_millis(1_000_000);
        let at = |time: Time| time.since(now).as_millis().try_into().expect("short");
        let found = Pause::plan(now, expected).map(|pause| {
            let yields = pause.yields_until.map_or(0, at);
            [yields, at(pause.begin), at(pause.needed), at(pause.deadline)]
        });
        assert_eq!(found, plan, "{expected:?}");
    }

    #[test]
    fn plans() {
        check(Duration::ZERO, Some([0, 0, 0, 2_000]));
        check(Duration::from_secs(1), Some([0, 300, 1_000, 3_000]));
        check(Duration::from_millis(19_999), Some([0, 5_999, 19_999, 39_998]));
        check(Duration::from_secs(20), Some([6_000, 6_000, 20_000, 40_000]));
        check(Duration::from_mins(10), Some([180_000, 180_000, 600_000, 1_200_000]));
        check(Duration::from_millis(600_001), None);
        check(Duration::MAX, None);
    }
}
