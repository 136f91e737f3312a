//! What happens often is said seldom, so that the log stays readable while a disk is full, a server is down,
//! or a client calls in a loop.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Stopwatch;

/// Lets something be said at most once a second.
#[derive(Debug)]
pub struct Seldom {
    since: Stopwatch,
    /// The second, counted from one, in which something was last said.
    said_in: AtomicU64,
    unsaid: AtomicU64,
}

impl Seldom {
    #[must_use]
    pub fn start() -> Self {
        let (said_in, unsaid) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { since: Stopwatch::start(), said_in, unsaid }
    }

    /// Whether it may be said now: then how many times it was not since the last time.
    pub fn turn(&self) -> Option<u64> {
        let second = self.since.elapsed().as_secs() + 1;
        if self.said_in.swap(second, Ordering::Relaxed) == second {
            self.unsaid.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.unsaid.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_few_lines_and_what_was_not_said_is_counted() {
        let seldom = Seldom::start();
        let said: Vec<u64> = (0..10_000).filter_map(|_| seldom.turn()).collect();
        assert!((1..10).contains(&said.len()), "{} lines", said.len());
        let unsaid = seldom.unsaid.load(Ordering::Relaxed);
        assert_eq!(said.iter().sum::<u64>() + said.len() as u64 + unsaid, 10_000);
    }
}
