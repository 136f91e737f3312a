//! How many requests run at once: as many as the store takes without complaint.
//!
//! Additive increase, multiplicative decrease: one more for every round that went well, a third
//! fewer when the store asks for patience or does not answer in time. Never lets more run than its
//! bound, and never fewer than one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::domain::units::Time;
use crate::env::{Clock, SystemClock};

/// Requests that were already running when the last cut was made tell nothing new.
const CUT_PAUSE: Duration = Duration::from_millis(500);

/// What a request told of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Well,
    /// It was asked for patience, or there was no answer in time.
    TooMuch,
    /// It failed for another reason.
    Nothing,
}

pub(super) struct Limiter {
    permits: Semaphore,
    pace: Mutex<Pace>,
    clock: SystemClock,
}

/// One request's turn; over when it is dropped.
pub(super) struct Turn<'a> {
    limiter: &'a Limiter,
    permit: Option<SemaphorePermit<'a>>,
}

impl Limiter {
    pub fn new(most: usize) -> Self {
        Self {
            permits: Semaphore::new(most),
            pace: Mutex::new(Pace::new(most)),
            clock: SystemClock::start(),
        }
    }

    pub async fn turn(&self) -> Turn<'_> {
        // Never closed.
        let permit = self.permits.acquire().await.ok();
        Turn { limiter: self, permit }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Pace) -> T) -> T {
        change(&mut self.pace.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Requests that may run at once now.
    #[cfg(test)]
    pub fn limit(&self) -> usize {
        self.with(|pace| pace.limit)
    }
}

impl Turn<'_> {
    pub fn tell(&self, told: Told) {
        let now = self.limiter.clock.now();
        let more = self.limiter.with(|pace| pace.hear(told, now));
        if more {
            self.limiter.permits.add_permits(1);
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.limiter.with(Pace::takes_back)
        {
            permit.forget();
        }
    }
}

/// The arithmetic of it.
struct Pace {
    most: usize,
    limit: usize,
    /// Turns that were cut while they were out: they are kept when they come back.
    owed: usize,
    well: usize,
    cut_at: Time,
}

impl Pace {
    const fn new(most: usize) -> Self {
        Self { most, limit: most, owed: 0, well: 0, cut_at: Time::ZERO }
    }

    /// Whether there is one turn more.
    fn hear(&mut self, told: Told, now: Time) -> bool {
        match told {
            Told::Nothing => false,
            Told::Well => self.grow(),
            Told::TooMuch => {
                self.cut(now);
                false
            }
        }
    }

    fn grow(&mut self) -> bool {
        self.well += 1;
        if self.limit >= self.most || self.well < self.limit {
            return false;
        }
        (self.well, self.limit) = (0, self.limit + 1);
        // One that is owed need not come back.
        let forgiven = self.owed > 0;
        self.owed -= usize::from(forgiven);
        !forgiven
    }

    fn cut(&mut self, now: Time) {
        if now.since(self.cut_at) < CUT_PAUSE {
            return;
        }
        let limit = (self.limit * 2 / 3).max(1);
        self.owed += self.limit - limit;
        (self.limit, self.well, self.cut_at) = (limit, 0, now);
    }

    fn takes_back(&mut self) -> bool {
        let owed = self.owed > 0;
        self.owed -= usize::from(owed);
        owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(1_000 + millis)
    }

    #[test]
    fn a_complaint_costs_a_third_and_a_round_that_went_well_brings_one_back() {
        let mut pace = Pace::new(9);
        pace.hear(Told::TooMuch, at(0));
        assert_eq!((pace.limit, pace.owed), (6, 3));
        pace.hear(Told::TooMuch, at(100));
        assert_eq!(pace.limit, 6, "of the same moment");
        pace.hear(Told::TooMuch, at(600));
        assert_eq!(pace.limit, 4);
        for _ in 0..3 {
            assert!(!pace.hear(Told::Well, at(700)));
        }
        pace.hear(Told::Nothing, at(700));
        assert_eq!(pace.limit, 4);
        pace.hear(Told::Well, at(700));
        assert_eq!(pace.limit, 5);
    }

    #[test]
    fn it_stays_between_one_and_its_bound() {
        let mut pace = Pace::new(4);
        for second in 0..20 {
            pace.hear(Told::TooMuch, at(1_000 * second));
        }
        assert_eq!(pace.limit, 1);
        for _ in 0..100 {
            pace.hear(Told::Well, at(0));
        }
        assert_eq!(pace.limit, 4);
    }

    #[tokio::test]
    async fn turns_are_as_many_as_the_limit_says_also_when_it_falls_while_they_are_out() {
        let limiter = Limiter::new(6);
        let mut turns = Vec::new();
        for _ in 0..6 {
            turns.push(limiter.turn().await);
        }
        turns[0].tell(Told::TooMuch);
        assert_eq!(limiter.limit(), 4);
        turns.clear();
        assert_eq!(limiter.permits.available_permits(), 4);
        for _ in 0..4 + 5 {
            limiter.turn().await.tell(Told::Well);
        }
        assert_eq!((limiter.limit(), limiter.permits.available_permits()), (6, 6));
    }
}
