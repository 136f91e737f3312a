//! A store that fails as planned, from a seed.
//!
//! Never loses an answer and never calls wrong bytes right: what it does to bytes, verification
//! notices.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;

use super::later::Later;
use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::env::{SeededRng, seeded_rng};
use crate::tiers::dram::Arena;
use crate::tiers::frame::{self, FrameHeader, HEADER_BYTES};
use crate::tiers::health::Health;
use crate::tiers::store::{Done, FoundFrame, FrameSpan, Peeked, StoreError, StoreOp, TierStore};
use crate::tiers::ticket::{Gate, OPS_MAX_DEFAULT};

/// What goes wrong how often: rates from 0 (never, the default) to 1 (always). At most one fault
/// comes to an operation; the delay comes on top.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultPlan {
    pub seed: u64,
    /// Answered `Busy`, `Io` or `TierLost`, and not carried out.
    pub busy: f64,
    pub io: f64,
    pub lost: f64,
    /// Carried out, and then answered `Io`: nobody can tell that it was.
    pub io_after: f64,
    /// Reads and peeks only: answered `Missing`; or a bit of what was read is flipped.
    pub missing: f64,
    pub corrupt: f64,
    /// Answered later, by up to `delay_max`.
    pub delay: f64,
    pub delay_max: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Busy,
    Io,
    Lost,
    IoAfter,
    Missing,
    /// Where the bit is, as a share of the frame.
    Corrupt(u64),
}

/// A store that fails.
pub struct Faulty {
    store: Arc<dyn TierStore>,
    arena: Arc<Arena>,
    plan: FaultPlan,
    rng: Mutex<SeededRng>,
    gate: Arc<Gate>,
    later: Arc<Later>,
}

impl Faulty {
    /// `arena` is the one that `store` reads into.
    ///
    /// # Errors
    /// The machine refused a thread.
    pub fn new(store: Arc<dyn TierStore>, plan: FaultPlan, arena: Arc<Arena>) -> io::Result<Self> {
        let gate = Gate::new(OPS_MAX_DEFAULT);
        let later = Arc::new(Later::start(gate.ops_max())?);
        Ok(Self { store, arena, plan, rng: Mutex::new(seeded_rng(plan.seed)), gate, later })
    }

    /// What happens to this operation. The same seed and the same operations in the same order
    /// give the same.
    fn draw(&self, reads: bool) -> (Fault, Duration) {
        let plan = &self.plan;
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        // Always as many numbers, so that one operation's kind does not shift the next one's fate.
        let (mut fate, bit, late, delay): (f64, u64, f64, f64) = rng.random();
        let only_reads = |rate: f64| if reads { rate } else { 0.0 };
        let faults = [
            (Fault::Busy, plan.busy),
            (Fault::Io, plan.io),
            (Fault::Lost, plan.lost),
            (Fault::IoAfter, plan.io_after),
            (Fault::Missing, only_reads(plan.missing)),
            (Fault::Corrupt(bit), only_reads(plan.corrupt)),
        ];
        let mut fault = Fault::None;
        for (kind, rate) in faults {
            if fate < rate {
                fault = kind;
                break;
            }
            fate -= rate;
        }
        let delayed =
            if late < plan.delay { plan.delay_max.mul_f64(delay) } else { Duration::ZERO };
        (fault, delayed)
    }
}

impl TierStore for Faulty {
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
        let (fault, delay) = self.draw(matches!(op, StoreOp::Read { .. }));
        let later = Arc::clone(&self.later);
        let answer = move |result: Result<(), StoreError>| {
            let due = later.now() + delay;
            if delay.is_zero() {
                ticket.finish(result);
            } else {
                later.at(due, Box::new(move || ticket.finish(result)));
            }
        };
        match (fault, op) {
            (Fault::Busy, _) => answer(Err(StoreError::Busy)),
            (Fault::Lost, _) => answer(Err(StoreError::TierLost("as planned".into()))),
            (Fault::Missing, _) => answer(Err(StoreError::Missing("as planned".into()))),
            (Fault::Io, _) => answer(Err(planned_io())),
            (Fault::IoAfter, _) => {
                let after = move |result: Result<(), StoreError>| {
                    answer(result.and_then(|()| Err(planned_io())));
                };
                self.store.submit(op, Box::new(after));
            }
            (Fault::Corrupt(bit), StoreOp::Read { key, frame, .. }) => {
                let arena = Arc::clone(&self.arena);
                let after = move |result: Result<(), StoreError>| {
                    answer(result.and_then(|()| flip_bit(&arena, key, frame, bit)));
                };
                self.store.submit(op, Box::new(after));
            }
            (Fault::None | Fault::Corrupt(_), _) => self.store.submit(op, Box::new(answer)),
        }
    }

    fn peek(&self, key: Key, told: Peeked) {
        let fault = match self.draw(true).0 {
            Fault::None => return self.store.peek(key, told),
            Fault::Busy => StoreError::Busy,
            Fault::Lost => StoreError::TierLost("as planned".into()),
            Fault::Missing => StoreError::Missing("as planned".into()),
            Fault::Corrupt(_) => StoreError::Corrupt("as planned".into()),
            Fault::Io | Fault::IoAfter => planned_io(),
        };
        told(Err(fault));
    }

    fn sync(&self, done: Done) {
        self.store.sync(done);
    }

    fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        self.store.scan(found)
    }
}

fn planned_io() -> StoreError {
    StoreError::Io { what: "as planned".into(), source: io::Error::other("a planned fault") }
}

/// Flips one bit of the header or the payload, and verifies as the store inside would have.
fn flip_bit(arena: &Arena, key: Key, frame: FrameSpan, bit: u64) -> Result<(), StoreError> {
    // SAFETY: the read is over but not answered: this still owns its span.
    let bytes = unsafe { arena.bytes_mut(frame) };
    let payload_bytes = FrameHeader::decode(bytes)?.payload_bytes;
    // Not of the two records: a header without one of them is whole.
    let bit = bit % ((HEADER_BYTES as u64 - frame::RECORDS.len() as u64 + payload_bytes) * 8);
    let at = usize::try_from(bit / 8).unwrap_or(usize::MAX);
    let at = if at < frame::RECORDS.start { at } else { at.saturating_add(frame::RECORDS.len()) };
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (bit % 8);
    }
    frame::verify(bytes, key).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::decorators::check_contract;
    use crate::tiers::memory::MemoryStore;
    use crate::tiers::sample::{self, Sample};
    use crate::tiers::store::Place;

    const BLOCK: Sample = Sample { number: 1, payload_bytes: 4096 };
    const AT: Place = Place { offset: 0, slot_bytes: 8192 };

    fn faulty(plan: FaultPlan) -> (Faulty, Arc<Arena>) {
        let arena = sample::arena();
        let inside = Arc::new(MemoryStore::new(Tier::Nvme, Arc::clone(&arena)));
        sample::write(&*inside, &arena, BLOCK, AT).unwrap();
        (Faulty::new(inside, plan, Arc::clone(&arena)).unwrap(), arena)
    }

    #[test]
    fn keeps_the_contract_when_nothing_but_time_goes_wrong() {
        check_contract(|inside, arena| {
            let delay_max = Duration::from_millis(1);
            let plan = FaultPlan { seed: 3, delay: 0.5, delay_max, ..FaultPlan::default() };
            Faulty::new(inside, plan, Arc::clone(arena)).unwrap()
        });
    }

    #[test]
    fn each_fault_is_what_its_name_says() {
        let check = |plan: FaultPlan, is: fn(&StoreError) -> bool| {
            let (store, arena) = faulty(plan);
            let error = sample::read(&store, &arena, BLOCK, AT).unwrap_err();
            assert!(is(&error), "{plan:?} gave {error:?}");
        };
        let none = FaultPlan::default();
        check(FaultPlan { busy: 1.0, ..none }, |e| matches!(e, StoreError::Busy));
        check(FaultPlan { io: 1.0, ..none }, |e| matches!(e, StoreError::Io { .. }));
        check(FaultPlan { io_after: 1.0, ..none }, |e| matches!(e, StoreError::Io { .. }));
        check(FaultPlan { lost: 1.0, ..none }, |e| matches!(e, StoreError::TierLost(_)));
        check(FaultPlan { missing: 1.0, ..none }, |e| matches!(e, StoreError::Missing(_)));
        for seed in 0..200 {
            let plan = FaultPlan { seed, corrupt: 1.0, ..none };
            check(plan, |e| matches!(e, StoreError::Corrupt(_) | StoreError::Missing(_)));
        }
    }

    #[test]
    fn a_write_that_failed_after_the_fact_was_carried_out_and_one_before_was_not() {
        let other = Sample { number: 2, ..BLOCK };
        for (plan, landed) in [
            (FaultPlan { io_after: 1.0, ..FaultPlan::default() }, true),
            (FaultPlan { io: 1.0, ..FaultPlan::default() }, false),
        ] {
            let (store, arena) = faulty(plan);
            sample::write(&store, &arena, other, AT).unwrap_err();
            let found = sample::read(&*store.store, &arena, other, AT);
            assert_eq!(found.is_ok(), landed, "{found:?}");
        }
    }

    /// What 300 operations end as.
    fn ends(seed: u64) -> Vec<String> {
        let delay_max = Duration::from_micros(200);
        let plan = FaultPlan {
            busy: 0.1,
            io: 0.1,
            lost: 0.02,
            io_after: 0.1,
            missing: 0.1,
            corrupt: 0.1,
            delay: 0.2,
            delay_max,
            seed,
        };
        let (store, arena) = faulty(plan);
        let end = |_| match sample::read(&store, &arena, BLOCK, AT) {
            Ok(()) => "ok".into(),
            Err(error) => error.to_string(),
        };
        (0..300).map(end).collect()
    }

    #[test]
    fn the_same_seed_fails_the_same_way_at_the_planned_rates() {
        let (first, again, other) = (ends(7), ends(7), ends(8));
        assert_eq!(first, again);
        assert_ne!(first, other);
        let share = |word: &str| first.iter().filter(|end| end.contains(word)).count();
        assert!((110..=180).contains(&share("ok")), "{} of 300 ended well", share("ok"));
        assert!((10..=60).contains(&share("busy")), "{} of 300 were busy", share("busy"));
    }
}
