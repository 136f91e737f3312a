//! The index of a tip: its best chance of a return for the time spent waiting.
//!
//! Over every horizon the chance of a return within it, divided by the time the tip is then held;
//! the best of these (Gittins' index). The rate at the present age alone is no good: a tip that
//! surely returns in a minute has none now.

use super::ages::{BINS, width_s};
use super::survival::Hazards;

/// An index on a logarithmic scale, eight levels an octave; higher is kept longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(i16);

/// What a tip's blocks are worth: its level, and between tips of one level the later used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Worth {
    pub level: Level,
    /// Counts uses of tips.
    pub used: u64,
}

const LEVELS_PER_OCTAVE: f32 = 8.0;
/// The level of one return a second.
const LEVEL_OF_ONE: f32 = 256.0;

impl Level {
    /// Of a tip whose session ended.
    pub const ENDED: Self = Self(0);
    /// Of what no tip claims.
    pub const UNCLAIMED: Self = Self(1);
    const LEAST: f32 = 2.0;
    /// By how much the worth of what is lifted back in time sinks meanwhile: eight octaves, so that
    /// it goes before nearly all that has to be waited for.
    const YIELDS: i16 = 64;
    const MOST: f32 = 1000.0;

    /// The level of so many expected returns a second.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "clamped to what fits")]
    pub fn of_rate(per_s: f32) -> Self {
        let level = per_s.max(1e-12).log2() * LEVELS_PER_OCTAVE + LEVEL_OF_ONE;
        Self(level.clamp(Self::LEAST, Self::MOST) as i16)
    }

    /// The level, as long as losing the copy costs a lift and no wait.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a small constant")]
    pub fn yielding(self) -> Self {
        Self((self.0 - Self::YIELDS).max(Self::LEAST as i16))
    }

    /// The level of a copy whose loss costs 2^(eighths/8) times the usual.
    #[must_use]
    pub const fn raised(self, eighths: i16) -> Self {
        Self(self.0.saturating_add(eighths))
    }
}

/// The best rate of return from the bin `from` on, per second.
pub(super) fn best_rate(hazards: &Hazards, from: usize) -> f32 {
    let (mut left, mut returned, mut held_s, mut best) = (1.0_f32, 0.0_f32, 0.0_f32, 0.0_f32);
    for (bin, hazard) in (from..BINS).zip(&hazards[from..]) {
        // Who returns within a bin does so in its middle.
        held_s += left * width_s(bin) * (1.0 - hazard / 2.0);
        returned += left * hazard;
        left *= 1.0 - hazard;
        best = best.max(returned / held_s);
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retention::value::ages::bin_of;
    use std::time::Duration;

    #[test]
    fn a_sure_return_is_worth_its_waiting_time() {
        let mut hazards = [0.0; BINS];
        hazards[bin_of(Duration::from_mins(1))] = 1.0;
        let soon = bin_of(Duration::from_secs(50));
        let [fresh, aged] = [0, soon].map(|from| best_rate(&hazards, from));
        assert!((1.0 / 70.0..1.0 / 50.0).contains(&fresh), "{fresh}");
        assert!(aged > 3.0 * fresh, "{aged} {fresh}: nearly there");
        assert!(best_rate(&hazards, bin_of(Duration::from_mins(2))) <= 0.0, "overdue for good");
    }

    #[test]
    fn levels_are_eighths_of_an_octave() {
        let [once, twice] = [0.25, 0.5].map(Level::of_rate);
        assert_eq!(once.raised(8), twice);
        assert!(Level::of_rate(0.0) > Level::UNCLAIMED && Level::UNCLAIMED > Level::ENDED);
        assert!(Level::of_rate(f32::INFINITY) > Level::of_rate(1e6));
    }
}
