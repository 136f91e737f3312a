//! Whether a store that failed is asked further: a circuit breaker.
//!
//! Decides only. Never reads a clock, waits or asks.

use std::time::Duration;

use crate::domain::units::Time;

/// Failures on end after which the store counts as out: more than one operation's attempts.
const FAILURES_MAX: u32 = 10;

/// How long after it went out the store is asked again, doubling up to a bound.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// All operations go through.
    Closed,
    /// None does.
    Open,
    /// None does, for nothing at all is heard of the store; what went before gave no complaint.
    Silent,
    /// The store answers again: the next operation goes through to see whether it ends well.
    Trial,
    /// That one is under way.
    Trying,
}

/// What is heard of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// An operation wants to go through.
    Asked,
    /// One ended as the store wished: also with the news that nothing is there.
    Worked,
    /// One failed and may work another time; `Lost`: will not until somebody mends something.
    Failed,
    Lost,
    /// Others that asked it heard nothing for a long time.
    Nothing,
    /// It answers the question whether it is there.
    Answered,
}

use Heard::{Answered, Asked, Failed, Lost, Nothing, Worked};
use State::{Closed, Open, Silent, Trial, Trying};

impl State {
    const fn is_out(self) -> bool {
        matches!(self, Open | Silent)
    }

    /// What follows. `enough`: so many failed on end that one more opens it.
    const fn next(self, heard: Heard, enough: bool) -> Self {
        match (self, heard) {
            // Of operations that began before, or the trial's own; or an end to the silence that was all
            // that was said against it.
            (_, Worked) | (Closed, Asked | Answered) | (Silent, Answered) => Closed,
            (Closed | Silent, Nothing) | (Silent, Asked | Failed) => Silent,
            (Closed, Failed) if !enough => Closed,
            (_, Failed | Lost | Nothing) | (Open, Asked) => Open,
            (Open | Trial, Answered) => Trial,
            (Trial | Trying, Asked) | (Trying, Answered) => Trying,
        }
    }
}

pub(super) struct Breaker {
    state: State,
    failures: u32,
    wait: Duration,
    since: Time,
    why: String,
}

impl Breaker {
    pub fn new() -> Self {
        let (since, why) = (Time::ZERO, String::new());
        Self { state: Closed, failures: 0, wait: WAIT_MIN, since, why }
    }

    /// Whether an operation may go through.
    pub fn admits(&mut self) -> bool {
        let before = self.state;
        self.state = before.next(Asked, false);
        matches!(before, Closed | Trial)
    }

    pub fn worked(&mut self) {
        *self = Self { state: self.state.next(Worked, false), ..Self::new() };
    }

    /// Whether it opens by that.
    pub fn failed(&mut self, now: Time, heard: Heard, why: impl FnOnce() -> String) -> bool {
        self.failures = self.failures.saturating_add(1);
        let before = self.state;
        self.state = before.next(heard, self.failures >= FAILURES_MAX);
        let opens = self.state.is_out() && !before.is_out();
        if opens {
            self.why = why();
        }
        match before {
            Closed if opens => self.since = now,
            Trying => self.wait = (self.wait * 2).min(WAIT_MAX),
            _ => {}
        }
        opens
    }

    /// The store was asked whether it is there.
    pub fn probed(&mut self, answers: bool) {
        if answers && self.state == Silent {
            *self = Self::new();
        } else if answers {
            self.state = self.state.next(Answered, false);
        } else {
            self.wait = (self.wait * 2).min(WAIT_MAX);
        }
    }

    /// When the store is to be asked again; nothing unless it is out.
    pub fn wait(&self) -> Option<Duration> {
        self.state.is_out().then_some(self.wait)
    }

    /// Whether it is out and the next operation goes through, or has and is under way.
    pub fn is_on_trial(&self) -> bool {
        matches!(self.state, Trial | Trying)
    }

    /// Whether it is out and the next operation goes through.
    pub fn takes_one(&self) -> bool {
        self.state == Trial
    }

    /// Since when and why it is out, if it is.
    pub fn out(&self) -> Option<(Time, &str)> {
        (self.state != Closed).then_some((self.since, self.why.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn every_state_and_what_may_be_heard_in_it() {
        let mut table = String::new();
        for state in [Closed, Open, Silent, Trial, Trying] {
            for heard in [Asked, Worked, Failed, Lost, Nothing, Answered] {
                for enough in [false, true] {
                    let next = state.next(heard, enough);
                    let many = if enough { " (many)" } else { "" };
                    if !enough || next != state.next(heard, false) {
                        writeln!(table, "{state:?} + {heard:?}{many} -> {next:?}")
                            .expect("a string");
                    }
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    fn fail(breaker: &mut Breaker, times: u32) -> u32 {
        let failed = |_| breaker.failed(Time::from_millis(7), Failed, || "on purpose".into());
        (0..times).map(failed).map(u32::from).sum()
    }

    #[test]
    fn it_opens_once_after_failures_on_end_and_not_before() {
        let mut breaker = Breaker::new();
        assert_eq!(fail(&mut breaker, FAILURES_MAX - 1), 0);
        breaker.worked();
        assert_eq!(fail(&mut breaker, FAILURES_MAX - 1), 0);
        assert!(breaker.admits());
        assert_eq!(fail(&mut breaker, 5), 1);
        assert!(!breaker.admits());
        assert_eq!(breaker.out(), Some((Time::from_millis(7), "on purpose")));
    }

    #[test]
    fn one_tries_first_and_its_end_decides() {
        let mut breaker = Breaker::new();
        fail(&mut breaker, FAILURES_MAX);
        assert_eq!(breaker.wait(), Some(WAIT_MIN));
        breaker.probed(true);
        assert!(breaker.admits() && !breaker.admits());
        assert_eq!(fail(&mut breaker, 1), 1);
        assert_eq!(breaker.wait(), Some(WAIT_MIN * 2));
        breaker.probed(false);
        assert_eq!(breaker.wait(), Some(WAIT_MIN * 4));
        breaker.probed(true);
        assert!(breaker.admits());
        breaker.worked();
        assert!(breaker.admits() && breaker.admits());
        assert_eq!((breaker.wait(), breaker.out()), (None, None));
    }

    #[test]
    fn what_was_out_for_silence_alone_is_back_with_the_first_answer() {
        let mut breaker = Breaker::new();
        assert!(breaker.failed(Time::ZERO, Nothing, || "nothing came".into()));
        assert!(!breaker.admits() && !breaker.failed(Time::ZERO, Nothing, String::new));
        breaker.probed(false);
        assert_eq!(breaker.wait(), Some(WAIT_MIN * 2));
        breaker.probed(true);
        assert_eq!((breaker.wait(), breaker.out()), (None, None));
        assert!(breaker.admits() && breaker.admits());
    }

    #[test]
    fn what_only_an_operator_mends_opens_it_at_once_and_waits_have_a_bound() {
        let mut breaker = Breaker::new();
        assert!(breaker.failed(Time::ZERO, Lost, || "no such bucket".into()));
        for _ in 0..100 {
            breaker.probed(false);
        }
        assert_eq!(breaker.wait(), Some(WAIT_MAX));
    }
}
