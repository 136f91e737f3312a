//! Runs things when their time has come, on one thread.
//!
//! Never loses one: what is still waiting when this is dropped runs at once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::domain::units::Time;
use crate::env::{Clock, SystemClock};
use crate::tiers::workers::Workers;

type Work = Box<dyn FnOnce() + Send>;

/// A clock and what waits for it. The caller bounds how many wait.
pub struct Later {
    // Dropped in this order: the thread ends once the sending end is gone.
    sender: Sender<(Time, Work)>,
    _workers: Workers,
    clock: std::sync::Arc<SystemClock>,
}

impl Later {
    /// `waiting_max` is the caller's bound.
    ///
    /// # Errors
    /// The machine refused a thread.
    pub fn start(waiting_max: usize) -> io::Result<Self> {
        let clock = std::sync::Arc::new(SystemClock::start());
        let (sender, receiver) = crossbeam_channel::bounded(waiting_max);
        let mut workers = Workers::default();
        let ticking = std::sync::Arc::clone(&clock);
        workers.start_one("later", move || run(&receiver, &*ticking))?;
        Ok(Self { sender, _workers: workers, clock })
    }

    #[must_use]
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// Runs `work` at `due`, or now if that is past.
    pub fn at(&self, due: Time, work: Work) {
        if due <= self.now() {
            return work();
        }
        // Full only beyond the caller's bound; early is better than never.
        if let Err(refused) = self.sender.try_send((due, work)) {
            refused.into_inner().1();
        }
    }
}

struct Waiting {
    due: Time,
    /// Keeps the order of those that are due at once.
    number: u64,
    work: Work,
}

fn run(receiver: &Receiver<(Time, Work)>, clock: &dyn Clock) {
    let mut waiting = BinaryHeap::new();
    let mut number = 0;
    loop {
        let patience = waiting
            .peek()
            .map_or(Duration::MAX, |Reverse(next): &Reverse<Waiting>| next.due.since(clock.now()));
        let arrived = match patience {
            Duration::MAX => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            patience => receiver.recv_timeout(patience),
        };
        match arrived {
            Ok((due, work)) => {
                waiting.push(Reverse(Waiting { due, number, work }));
                number += 1;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        while waiting.peek().is_some_and(|Reverse(next)| next.due <= clock.now()) {
            if let Some(Reverse(next)) = waiting.pop() {
                (next.work)();
            }
        }
    }
    while let Some(Reverse(next)) = waiting.pop() {
        (next.work)();
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Waiting {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn work_runs_in_the_order_of_its_time_and_not_before() {
        let later = Later::start(8).unwrap();
        let (tell, told) = sync_channel(8);
        let start = later.now();
        for millis in [60, 20, 40] {
            let tell = tell.clone();
            let due = start + Duration::from_millis(millis);
            later.at(due, Box::new(move || tell.send(millis).unwrap()));
        }
        for millis in [20, 40, 60] {
            assert_eq!(told.recv().unwrap(), millis);
            assert!(later.now().since(start) >= Duration::from_millis(millis));
        }
    }

    #[test]
    fn what_waits_at_the_end_runs_then() {
        let later = Later::start(8).unwrap();
        let (tell, told) = sync_channel(8);
        let due = later.now() + Duration::from_hours(1);
        later.at(due, Box::new(move || tell.send(()).unwrap()));
        drop(later);
        told.try_recv().unwrap();
    }
}
