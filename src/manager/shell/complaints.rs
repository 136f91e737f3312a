//! Complaints: failures of single copies, said at most once a second, however many there are.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::env::Stopwatch;

/// What keeps the log readable while a disk is full or a server is down.
pub(super) struct Complaints {
    since: Stopwatch,
    /// The second, counted from one, in which something was last said.
    said_in: AtomicU64,
    unsaid: AtomicU64,
}

impl Complaints {
    pub fn start() -> Self {
        let (said_in, unsaid) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { since: Stopwatch::start(), said_in, unsaid }
    }

    /// Says it, with the number of others since the last time, or counts it. True: it was said.
    pub fn note(&self, failure: &str) -> bool {
        let second = self.since.elapsed().as_secs() + 1;
        if self.said_in.swap(second, Ordering::Relaxed) == second {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let others = self.unsaid.swap(0, Ordering::Relaxed);
        tracing::warn!(others, "a copy failed: {failure}");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_failures_are_few_lines() {
        let complaints = Complaints::start();
        let said = (0..10_000).filter(|_| complaints.note("no space left")).count();
        assert!((1..10).contains(&said), "{said} lines");
    }
}
