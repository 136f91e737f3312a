//! The links' queues: what waits, what moves, and what is next.
//!
//! A transfer that a request waits for finds its link all but free, because the others have only so
//! many bytes under way as the link moves in a moment. Never looks inside a transfer, and never holds
//! more than its bounds.

use std::collections::VecDeque;
use std::time::Duration;

use super::speed::{Gauge, Speed};
use super::{Class, Link};
use crate::domain::units::Time;

/// One link's bounds, in transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLimits {
    pub in_flight_max: usize,
    pub queued_max: usize,
    /// Processors copy, on this link and on others: what a request loads over any of them is heeded
    /// on this one too.
    pub shares_processors: bool,
}

/// Transfers nobody waits for leave so much of the link's time to one that comes: while requests
/// use the link, and while none did for [`DEMAND_MEMORY`].
const YIELD: Duration = Duration::from_millis(2);
const OPEN: Duration = Duration::from_millis(20);
const DEMAND_MEMORY: Duration = Duration::from_secs(1);

/// A transfer is cut so that it moves within this time: what comes next need not wait for long, and
/// the next link starts on what has landed.
const CUT: Duration = Duration::from_millis(5);
const CUT_YIELDING: Duration = Duration::from_millis(1);

/// So much at a time is moved ahead of need over a link whose speed nobody has seen yet.
const TRIAL_BYTES: u64 = 256 << 10;

/// What waited for so long goes next, whatever its class: nothing starves.
const PATIENCE: Duration = Duration::from_millis(200);

/// What became of a transfer that was offered.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<T> {
    /// Start it now.
    Start(T),
    Queued,
    /// The queue is full: it is given back.
    Full(T),
}

/// What a transfer takes of its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    pub link: Link,
    pub class: Class,
    pub bytes: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    transfer: T,
    bytes: u64,
    since: Time,
}

#[derive(Debug)]
struct Lane<T> {
    limits: LinkLimits,
    is_remote: bool,
    in_flight: [usize; Class::COUNT],
    in_flight_bytes: [u64; Class::COUNT],
    waiting: [VecDeque<Waiting<T>>; Class::COUNT],
    waiting_bytes: [u64; Class::COUNT],
    moved_bytes: [u64; Class::COUNT],
    gauge: Gauge,
    demanded: Option<Time>,
}

/// All links of a node.
#[derive(Debug)]
pub struct Links<T> {
    lanes: [Lane<T>; Link::COUNT],
}

impl<T> Links<T> {
    #[must_use]
    pub fn new(limits: [LinkLimits; Link::COUNT]) -> Self {
        let lane = |link: Link| Lane {
            limits: limits[link.index()],
            is_remote: matches!(link, Link::ObjectGet | Link::ObjectPut),
            in_flight: [0; Class::COUNT],
            in_flight_bytes: [0; Class::COUNT],
            waiting: Default::default(),
            waiting_bytes: [0; Class::COUNT],
            moved_bytes: [0; Class::COUNT],
            gauge: Gauge::new(Speed::assumed(link)),
            demanded: None,
        };
        Self { lanes: Link::ALL.map(lane) }
    }

    /// Starts or queues a transfer.
    pub fn offer(&mut self, now: Time, load: Load, transfer: T) -> Offer<T> {
        if load.class == Class::Demand {
            self.demanded(now, load.link);
        }
        let lane = &mut self.lanes[load.link.index()];
        let waiting = Waiting { transfer, bytes: load.bytes, since: now };
        let first = lane.waiting[..=load.class.index()].iter().all(VecDeque::is_empty);
        if first && lane.may_start(now, load.class, &waiting) {
            return Offer::Start(lane.start(now, load.class, waiting));
        }
        if lane.queued() >= lane.limits.queued_max {
            return Offer::Full(waiting.transfer);
        }
        lane.waiting_bytes[load.class.index()] += load.bytes;
        lane.waiting[load.class.index()].push_back(waiting);
        Offer::Queued
    }

    /// A store keeps an engine's blocks and nobody's answer waiting: it is heeded on its own link.
    fn demanded(&mut self, now: Time, link: Link) {
        let is_load = matches!(link, Link::DeviceUp | Link::NvmeRead | Link::ObjectGet);
        for (lane, of) in self.lanes.iter_mut().zip(Link::ALL) {
            if of == link || (is_load && lane.limits.shares_processors) {
                lane.demanded = Some(now);
            }
        }
    }

    /// A transfer that has just started with `load` does so without `bytes` of it.
    pub fn shrink(&mut self, load: Load, bytes: u64) {
        let lane = &mut self.lanes[load.link.index()];
        lane.in_flight_bytes[load.class.index()] -= bytes;
        if bytes > 0 && bytes == load.bytes {
            lane.gauge.withdrawn();
        }
    }

    /// A transfer that had started at `start` ended, of which so many bytes landed; only a whole one says
    /// how fast the link is, and one of no bytes says nothing. [`Self::next`] says what starts now.
    ///
    /// # Panics
    /// None of its class was in flight on the link, or none since then: a broken invariant of the caller.
    pub fn ended(&mut self, now: Time, load: Load, start: Time, landed_bytes: u64) {
        let lane = &mut self.lanes[load.link.index()];
        let class = load.class.index();
        assert!(lane.in_flight[class] > 0, "a transfer ended on {:?} where none was", load.link);
        lane.pass(now);
        lane.in_flight[class] -= 1;
        lane.in_flight_bytes[class] -= load.bytes;
        lane.moved_bytes[class] += landed_bytes;
        if load.bytes > 0 {
            lane.gauge.ended(now, start, load.bytes, landed_bytes < load.bytes);
        }
    }

    /// The next transfer that waits for the link and may start: it counts as started.
    pub fn next(&mut self, now: Time, link: Link) -> Option<T> {
        self.lanes[link.index()].next(now)
    }

    /// Goes through every waiting transfer, most urgent first, and takes out those of which `left_of`
    /// leaves nothing. It gives the bytes of what it left, and may change the transfer.
    pub fn cancel(&mut self, mut left_of: impl FnMut(&mut T) -> Option<u64>) -> Vec<T> {
        let mut cancelled = Vec::new();
        for lane in &mut self.lanes {
            for (waiting, bytes) in lane.waiting.iter_mut().zip(&mut lane.waiting_bytes) {
                for mut entry in std::mem::take(waiting) {
                    let left = left_of(&mut entry.transfer);
                    *bytes -= entry.bytes - left.unwrap_or(0);
                    match left {
                        Some(left) => waiting.push_back(Waiting { bytes: left, ..entry }),
                        None => cancelled.push(entry.transfer),
                    }
                }
            }
        }
        cancelled
    }

    /// The bytes that a transfer of this class should have at most.
    #[must_use]
    pub fn cut_bytes(&self, now: Time, link: Link, class: Class) -> u64 {
        let lane = &self.lanes[link.index()];
        if lane.is_tried_out(class) {
            return TRIAL_BYTES;
        }
        if lane.is_remote {
            return u64::MAX;
        }
        let yields = class != Class::Demand && lane.yields(now);
        lane.gauge.seen().bytes_within(if yields { CUT_YIELDING } else { CUT })
    }

    /// Whether one more transfer ahead of need would start at once.
    #[must_use]
    pub fn takes_prefetch(&self, now: Time, link: Link) -> bool {
        let lane = &self.lanes[link.index()];
        let urgent = &lane.waiting[..=Class::Prefetch.index()];
        urgent.iter().all(VecDeque::is_empty) && lane.has_room(now, Class::Prefetch)
    }

    /// What to expect of the link now.
    #[must_use]
    pub fn speed(&self, now: Time, link: Link) -> Speed {
        self.lanes[link.index()].gauge.expected(now)
    }

    /// Whether the link's speed was seen, not assumed.
    #[must_use]
    pub fn is_learned(&self, link: Link) -> bool {
        self.lanes[link.index()].gauge.is_learned()
    }

    /// Bytes that go before a new transfer of this class: what moves, and what waits as urgently.
    #[must_use]
    pub fn bytes_ahead(&self, link: Link, class: Class) -> u64 {
        let lane = &self.lanes[link.index()];
        let waiting: u64 = lane.waiting_bytes[..=class.index()].iter().sum();
        lane.in_flight_bytes.iter().sum::<u64>() + waiting
    }

    #[must_use]
    pub fn in_flight_bytes(&self, link: Link) -> u64 {
        self.lanes[link.index()].in_flight_bytes.iter().sum()
    }

    /// Bytes that landed so far, by class.
    #[must_use]
    pub fn moved_bytes(&self, link: Link) -> [u64; Class::COUNT] {
        self.lanes[link.index()].moved_bytes
    }

    #[must_use]
    pub fn queued(&self, link: Link) -> usize {
        self.lanes[link.index()].queued()
    }

    /// Transfers in flight and waiting, over all links.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        self.lanes
            .iter()
            .fold((0, 0), |(flying, queued), lane| (flying + lane.flying(), queued + lane.queued()))
    }
}

impl<T> Lane<T> {
    fn flying(&self) -> usize {
        self.in_flight.iter().sum()
    }

    fn queued(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// Whether requests used the link lately.
    fn yields(&self, now: Time) -> bool {
        self.demanded.is_some_and(|last| now.since(last) < DEMAND_MEMORY)
    }

    /// What can be called back goes in small parts, one at a time, until the link's speed is known:
    /// a link that is slower than assumed would hold seconds of it.
    fn is_tried_out(&self, class: Class) -> bool {
        class == Class::Prefetch && !self.gauge.is_learned()
    }

    /// Whether the link has room for one more transfer of this class.
    fn has_room(&self, now: Time, class: Class) -> bool {
        let flying = self.flying();
        if class == Class::Demand || flying == 0 {
            return flying < self.limits.in_flight_max;
        }
        if self.is_tried_out(class) {
            return false;
        }
        // The last places are for requests.
        let places = self.limits.in_flight_max.saturating_sub(self.limits.in_flight_max / 4);
        let time = if self.yields(now) { YIELD } else { OPEN };
        let budget_bytes = self.gauge.seen().bytes_within(time);
        let is_within = self.in_flight_bytes.iter().sum::<u64>() < budget_bytes;
        // What crosses a network is under way for long and takes little of it.
        flying < places && (is_within || self.is_remote)
    }

    fn pass(&mut self, now: Time) {
        self.gauge.pass(now, self.in_flight_bytes.iter().sum());
    }

    fn may_start(&self, now: Time, class: Class, first: &Waiting<T>) -> bool {
        if self.has_room(now, class) {
            return true;
        }
        // One at a time goes whatever the others do.
        let is_late = now.since(first.since) >= PATIENCE;
        is_late && self.in_flight[class.index()] == 0 && self.flying() < self.limits.in_flight_max
    }

    fn start(&mut self, now: Time, class: Class, waiting: Waiting<T>) -> T {
        self.pass(now);
        self.in_flight[class.index()] += 1;
        self.in_flight_bytes[class.index()] += waiting.bytes;
        if waiting.bytes > 0 {
            self.gauge.started(now);
        }
        waiting.transfer
    }

    /// What waited too long, or else the most urgent.
    fn next(&mut self, now: Time) -> Option<T> {
        let first_of = |class: &Class| self.waiting[class.index()].front();
        let may =
            |class: &Class| first_of(class).is_some_and(|first| self.may_start(now, *class, first));
        let is_late =
            |class: &Class| first_of(class).is_some_and(|first| now.since(first.since) >= PATIENCE);
        let late = Class::ALL
            .into_iter()
            .rev()
            .find(|class| is_late(class) && may(class) && self.in_flight[class.index()] == 0);
        let most_urgent = || {
            let waits = Class::ALL.into_iter().find(|class| first_of(class).is_some());
            waits.filter(may)
        };
        let class = late.or_else(most_urgent)?;
        let waiting = self.waiting[class.index()].pop_front()?;
        self.waiting_bytes[class.index()] -= waiting.bytes;
        Some(self.start(now, class, waiting))
    }
}

#[cfg(test)]
mod tests;
