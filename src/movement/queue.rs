//! The links' queues: what waits, what moves, and what is next.
//!
//! Never looks inside a transfer, and never holds more than its bounds.

use std::collections::VecDeque;

use super::{Class, Link};

/// One link's bounds, in transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    pub in_flight_max: usize,
    pub queued_max: usize,
}

/// After this many more urgent transfers in a row, the longest-waiting less urgent one goes.
const URGENT_STREAK_MAX: u32 = 8;

/// What became of a transfer that was offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<T> {
    /// Start it now.
    Start(T),
    Queued,
    /// The queue is full: it is given back.
    Full(T),
}

#[derive(Debug)]
struct Lane<T> {
    limits: LinkLimits,
    in_flight: usize,
    queued: usize,
    waiting: [VecDeque<T>; Class::COUNT],
    urgent_streak: u32,
}

/// All links of a node.
#[derive(Debug)]
pub struct Links<T> {
    lanes: [Lane<T>; Link::COUNT],
}

impl<T> Links<T> {
    #[must_use]
    pub fn new(limits: [LinkLimits; Link::COUNT]) -> Self {
        Self {
            lanes: limits.map(|limits| Lane {
                limits,
                in_flight: 0,
                queued: 0,
                waiting: Default::default(),
                urgent_streak: 0,
            }),
        }
    }

    /// Starts or queues a transfer.
    pub fn offer(&mut self, link: Link, class: Class, transfer: T) -> Offer<T> {
        let lane = &mut self.lanes[link.index()];
        if lane.in_flight < lane.limits.in_flight_max && lane.queued == 0 {
            lane.in_flight += 1;
            return Offer::Start(transfer);
        }
        if lane.queued >= lane.limits.queued_max {
            return Offer::Full(transfer);
        }
        lane.queued += 1;
        lane.waiting[class.index()].push_back(transfer);
        Offer::Queued
    }

    /// A started transfer ended; the next one to start, if any waits.
    ///
    /// # Panics
    /// Nothing was in flight on the link: a broken invariant of the caller.
    pub fn finished(&mut self, link: Link) -> Option<T> {
        let lane = &mut self.lanes[link.index()];
        assert!(lane.in_flight > 0, "a transfer ended on {link:?} where none was in flight");
        lane.in_flight -= 1;
        let next = lane.next()?;
        lane.in_flight += 1;
        lane.queued -= 1;
        Some(next)
    }

    /// Takes out every waiting transfer that `unwanted` names, most urgent first.
    pub fn cancel(&mut self, mut unwanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut cancelled = Vec::new();
        for lane in &mut self.lanes {
            for waiting in &mut lane.waiting {
                for transfer in std::mem::take(waiting) {
                    if unwanted(&transfer) {
                        lane.queued -= 1;
                        cancelled.push(transfer);
                    } else {
                        waiting.push_back(transfer);
                    }
                }
            }
        }
        cancelled
    }

    /// Transfers in flight and waiting, over all links.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.lanes
            .iter()
            .fold((0, 0), |(flying, queued), lane| (flying + lane.in_flight, queued + lane.queued))
    }
}

impl<T> Lane<T> {
    /// The most urgent transfer, unless less urgent ones have been passed over too often.
    fn next(&mut self) -> Option<T> {
        let first = self.waiting.iter().position(|waiting| !waiting.is_empty())?;
        let last = self.waiting.iter().rposition(|waiting| !waiting.is_empty())?;
        let class = if first < last && self.urgent_streak >= URGENT_STREAK_MAX {
            self.urgent_streak = 0;
            last
        } else {
            self.urgent_streak = if first < last { self.urgent_streak + 1 } else { 0 };
            first
        };
        self.waiting[class].pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(in_flight_max: usize, queued_max: usize) -> Links<u32> {
        Links::new([LinkLimits { in_flight_max, queued_max }; Link::COUNT])
    }

    #[test]
    fn bounds_hold_and_urgent_goes_first() {
        let mut links = links(1, 2);
        assert_eq!(links.offer(Link::NvmeRead, Class::Background, 1), Offer::Start(1));
        assert_eq!(links.offer(Link::NvmeRead, Class::Background, 2), Offer::Queued);
        assert_eq!(links.offer(Link::NvmeRead, Class::Demand, 3), Offer::Queued);
        assert_eq!(links.offer(Link::NvmeRead, Class::Demand, 4), Offer::Full(4));
        assert_eq!(links.offer(Link::NvmeWrite, Class::Demand, 5), Offer::Start(5));
        assert_eq!(links.finished(Link::NvmeRead), Some(3));
        assert_eq!(links.finished(Link::NvmeRead), Some(2));
        assert_eq!(links.finished(Link::NvmeRead), None);
        assert_eq!(links.counts(), (1, 0));
    }

    #[test]
    fn nobody_starves() {
        let mut links = links(1, 100);
        links.offer(Link::ObjectPut, Class::Demand, 0);
        links.offer(Link::ObjectPut, Class::Background, 1000);
        for n in 1..50 {
            links.offer(Link::ObjectPut, Class::Demand, n);
        }
        let started: Vec<u32> =
            std::iter::from_fn(|| links.finished(Link::ObjectPut)).take(12).collect();
        assert!(started.contains(&1000), "{started:?}");
    }

    #[test]
    fn cancelled_transfers_leave_the_queue() {
        let mut links = links(1, 10);
        for n in 0..5 {
            links.offer(Link::DeviceUp, Class::Demand, n);
        }
        assert_eq!(links.cancel(|n| n % 2 == 0), [2, 4]);
        assert_eq!(links.counts(), (1, 2));
        assert_eq!(links.finished(Link::DeviceUp), Some(1));
    }
}
