//! A store that is as slow as it is told: for trying out slow tiers, and for keeping a shared one
//! from being flooded.
//!
//! Never blocks whoever submits, and never drops an operation.

use std::io;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::later::Later;
use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::frame::FrameHeader;
use crate::tiers::health::Health;
use crate::tiers::store::{Done, FoundFrame, Peeked, StoreError, StoreOp, TierStore};
use crate::tiers::ticket::{Gate, OPS_MAX_DEFAULT};

/// How slow. The default is no limit at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    pub read_bytes_per_s: Option<NonZeroU64>,
    pub write_bytes_per_s: Option<NonZeroU64>,
    /// What every operation takes at least, on top of its bytes' time.
    pub latency: Duration,
}

/// A slow store.
pub struct Throttled {
    store: Arc<dyn TierStore>,
    limits: Limits,
    lanes: Mutex<Lanes>,
    gate: Arc<Gate>,
    later: Arc<Later>,
}

/// When the reads and the writes so far are over.
#[derive(Default)]
struct Lanes {
    reads_end: Time,
    writes_end: Time,
}

impl Throttled {
    /// # Errors
    /// The machine refused a thread.
    pub fn new(store: Arc<dyn TierStore>, limits: Limits) -> io::Result<Self> {
        let gate = Gate::new(OPS_MAX_DEFAULT);
        let later = Arc::new(Later::start(gate.ops_max())?);
        Ok(Self { store, limits, lanes: Mutex::default(), gate, later })
    }

    /// When an operation that starts now may end: reads wait for reads, writes for writes.
    fn due(&self, op: &StoreOp) -> Time {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let (lane, bytes, rate) = match op {
            StoreOp::Read { frame, .. } => {
                (&mut lanes.reads_end, frame.bytes, self.limits.read_bytes_per_s)
            }
            StoreOp::Write { frame, .. } => {
                (&mut lanes.writes_end, frame.bytes, self.limits.write_bytes_per_s)
            }
            StoreOp::Erase { .. } | StoreOp::Restamp { .. } => (&mut lanes.writes_end, 0, None),
        };
        let now = self.later.now();
        let taken = rate.map_or(Duration::ZERO, |rate| {
            Duration::from_micros(u64::from(bytes).saturating_mul(1_000_000) / rate.get())
        });
        *lane = (*lane).max(now) + taken;
        (*lane).max(now) + self.limits.latency
    }
}

impl TierStore for Throttled {
    fn tier(&self) -> Tier {
        self.store.tier()
    }

    fn erasures_max(&self) -> usize {
        self.store.erasures_max()
    }

    fn leaves_others(&self) -> bool {
        self.store.leaves_others()
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    fn submit(&self, op: StoreOp, done: Done) {
        let Some(ticket) = self.gate.admit(op, done) else { return };
        let (due, later) = (self.due(&op), Arc::clone(&self.later));
        let done = move |result: Result<(), StoreError>| {
            later.at(due, Box::new(move || ticket.finish(result)));
        };
        self.store.submit(op, Box::new(done));
    }

    fn peek(&self, key: Key, told: Peeked) {
        let (due, later) = (self.later.now() + self.limits.latency, Arc::clone(&self.later));
        let told = move |found: Result<FrameHeader, StoreError>| {
            later.at(due, Box::new(move || told(found)));
        };
        self.store.peek(key, Box::new(told));
    }

    fn sync(&self, done: Done) {
        self.store.sync(done);
    }

    fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        self.store.scan(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::decorators::check_contract;
    use crate::tiers::memory::MemoryStore;
    use crate::tiers::sample::{self, Sample};

    fn limits(bytes_per_s: u64, latency_ms: u64) -> Limits {
        let rate = NonZeroU64::new(bytes_per_s);
        let latency = Duration::from_millis(latency_ms);
        Limits { read_bytes_per_s: rate, write_bytes_per_s: rate, latency }
    }

    #[test]
    fn keeps_the_contract() {
        check_contract(|inside, _| Throttled::new(inside, limits(1 << 33, 0)).unwrap());
    }

    #[test]
    fn bytes_and_latency_take_their_time_and_submit_none() {
        let arena = sample::arena();
        let inside = Arc::new(MemoryStore::new(Tier::Nvme, Arc::clone(&arena)));
        let block = Sample { number: 1, payload_bytes: 1 << 20 };
        // Ten blocks a second and 50 ms: the third ends after 350 ms.
        let rate = u64::from(block.frame_bytes()) * 10;
        let store = Throttled::new(inside, limits(rate, 50)).unwrap();
        let start = store.later.now();
        let told: Vec<_> = (0..3)
            .map(|lane| {
                let frame = block.fill(&arena, lane);
                let place = block.place(0, lane);
                let (done, told) = sample::heard();
                store.submit(StoreOp::Write { key: block.key(), place, frame }, done);
                told
            })
            .collect();
        assert!(told[0].try_recv().is_err(), "submit waited");
        for (index, told) in (1..).zip(told) {
            told.recv().unwrap().unwrap();
            let least = Duration::from_millis(100 * index + 49);
            assert!(store.later.now().since(start) >= least, "operation {index}");
        }
        // Reads have a lane of their own.
        sample::read(&store, &arena, block, block.place(0, 0)).unwrap();
    }

    #[test]
    fn what_waits_when_the_store_is_dropped_is_answered() {
        let arena = sample::arena();
        let inside = Arc::new(MemoryStore::new(Tier::Nvme, Arc::clone(&arena)));
        let block = Sample { number: 1, payload_bytes: 4096 };
        let store = Throttled::new(inside, limits(1 << 30, 3_600_000)).unwrap();
        let (done, told) = sample::heard();
        let frame = block.fill(&arena, 0);
        store.submit(StoreOp::Write { key: block.key(), place: block.place(0, 0), frame }, done);
        drop(store);
        told.recv().unwrap().unwrap();
    }
}
