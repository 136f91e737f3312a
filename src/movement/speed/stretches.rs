//! A link's busy stretches: what landed, and how long the link took for it.
//!
//! Time in which nothing lands because a transfer hangs is none of the link's. Knows no speed: it is
//! told how long a silence says that.

use std::time::Duration;

use crate::domain::units::Time;

/// A busy stretch is cut after so long, so that a link that is never idle is heard of, too.
const STRETCH_MAX: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub bytes: u64,
    pub took: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Stretches {
    /// When each transfer under way started, the earliest first.
    flights: Vec<Time>,
    /// Those that started before this hang.
    fresh_since: Time,
    /// The latest start of one that landed and did not hang.
    landed_start: Option<Time>,
    last_end: Time,
    /// The stretch under way; a failure in it makes it worthless.
    since: Time,
    bytes: u64,
    failed: bool,
}

impl Stretches {
    pub const fn new() -> Self {
        Self {
            flights: Vec::new(),
            fresh_since: Time::ZERO,
            landed_start: None,
            last_end: Time::ZERO,
            since: Time::ZERO,
            bytes: 0,
            failed: false,
        }
    }

    /// Time has come to `now`. If nothing started or ended for longer than `silence_max`, whatever is
    /// under way hangs: the stretch ended with the last that was heard.
    pub fn pass(&mut self, now: Time, silence_max: Duration) -> Option<Stretch> {
        let last_start = self.flights.last()?;
        let heard = self.last_end.max(*last_start);
        if !self.has_fresh() || now.since(heard) <= silence_max {
            return None;
        }
        let stretch = self.cut(heard);
        self.begin(now);
        self.fresh_since = now;
        stretch
    }

    pub fn started(&mut self, now: Time) {
        if !self.has_fresh() {
            self.fresh_since = now;
            self.begin(now);
        }
        self.flights.push(now);
    }

    /// The last one that started never did.
    pub fn withdrawn(&mut self) {
        self.flights.pop();
    }

    /// A transfer ended that had started at `start`; `failed` if not all of it landed.
    pub fn ended(&mut self, now: Time, start: Time, bytes: u64, failed: bool) -> Option<Stretch> {
        let at = self.flights.partition_point(|flight| *flight < start);
        assert_eq!(self.flights.get(at), Some(&start), "a transfer ends that never started");
        self.flights.remove(at);
        let before = std::mem::replace(&mut self.last_end, now);
        if start < self.fresh_since {
            let overtaken = self.landed_start >= Some(start);
            let took = now.since(start.max(before));
            return (!failed && !overtaken).then(|| self.alone(now, bytes, took)).flatten();
        }
        self.bytes += bytes;
        self.failed |= failed;
        if !failed {
            self.landed_start = self.landed_start.max(Some(start));
        }
        if self.has_fresh() && now.since(self.since) < STRETCH_MAX {
            return None;
        }
        let stretch = self.cut(now);
        self.begin(now);
        stretch
    }

    /// What hung and was passed by nobody: the link is as slow as that.
    fn alone(&mut self, now: Time, bytes: u64, took: Duration) -> Option<Stretch> {
        self.begin(now);
        (!took.is_zero()).then_some(Stretch { bytes, took })
    }

    fn has_fresh(&self) -> bool {
        self.flights.last().is_some_and(|start| *start >= self.fresh_since)
    }

    const fn begin(&mut self, now: Time) {
        (self.since, self.bytes, self.failed) = (now, 0, false);
    }

    fn cut(&self, end: Time) -> Option<Stretch> {
        let took = end.since(self.since);
        let counts = self.bytes > 0 && !self.failed && !took.is_zero();
        counts.then_some(Stretch { bytes: self.bytes, took })
    }
}
