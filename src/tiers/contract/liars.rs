//! Stores that break the contract, each in one way: the suite must catch every one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::memory::MemoryStore;
use crate::tiers::store::{Done, FrameSpan, StoreError, StoreOp, TierStore};

use super::Fixture;
use crate::tiers::dram::Arena;

#[derive(Clone, Copy, Debug)]
enum Lie {
    /// Ends an operation without saying so.
    Silent,
    /// Serves whatever is there.
    NeverVerifies,
    /// Calls an absent frame corrupt.
    MissingIsCorrupt,
    /// Says that it erased.
    NeverErases,
    /// Writes behind the frame that it was given.
    WritesTooFar,
    /// Changes a byte of the header on its way.
    ChangesTheHeader,
    /// Says that it wrote the record.
    NeverRestamps,
    /// Says that it wrote the record of what is not there.
    RestampsAnything,
    /// Never says that it keeps anything.
    NeverSyncs,
}

struct Liar {
    lie: Lie,
    truth: MemoryStore,
    arena: Arc<Arena>,
}

impl TierStore for Liar {
    fn tier(&self) -> Tier {
        Tier::Nvme
    }

    fn submit(&self, op: StoreOp, done: Done) {
        let lie = self.lie;
        let touch = |span: FrameSpan, at: u32| {
            let byte = FrameSpan { offset: span.offset + u64::from(at), bytes: 1 };
            // SAFETY: the suite waits for the operation before it looks at the frame.
            unsafe { self.arena.bytes_mut(byte) }.iter_mut().for_each(|byte| *byte ^= 0x55);
        };
        match (lie, op) {
            (Lie::Silent, StoreOp::Erase { .. }) => drop(done),
            (Lie::NeverErases, StoreOp::Erase { .. }) => done(Ok(())),
            (Lie::NeverRestamps, StoreOp::Restamp { key, place, .. }) => {
                let record = super::rig::Block::record(super::rig::WRITTEN);
                self.truth.submit(StoreOp::Restamp { key, place, record, known: Time::ZERO }, done);
            }
            (Lie::RestampsAnything, StoreOp::Restamp { .. }) => {
                self.truth.submit(op, Box::new(move |_| done(Ok(()))));
            }
            (Lie::NeverVerifies, StoreOp::Read { .. }) => self.truth.submit(
                op,
                Box::new(move |result| match result {
                    Err(StoreError::Corrupt(_)) => done(Ok(())),
                    other => done(other),
                }),
            ),
            (Lie::MissingIsCorrupt, StoreOp::Read { .. }) => self.truth.submit(
                op,
                Box::new(move |result| match result {
                    Err(StoreError::Missing(why)) => done(Err(StoreError::Corrupt(why))),
                    other => done(other),
                }),
            ),
            (Lie::WritesTooFar, StoreOp::Read { frame, .. }) => {
                touch(frame, frame.bytes);
                self.truth.submit(op, done);
            }
            (Lie::ChangesTheHeader, StoreOp::Read { frame, .. }) => {
                self.truth.submit(op, Box::new(|_| ()));
                touch(frame, 120);
                done(Ok(()));
            }
            _ => self.truth.submit(op, done),
        }
    }

    fn sync(&self, done: Done) {
        match self.lie {
            Lie::NeverSyncs => drop(done),
            _ => self.truth.sync(done),
        }
    }
}

#[test]
fn every_liar_is_caught() {
    let lies = [
        (Lie::Silent, "dropped without a call"),
        (Lie::NeverVerifies, "came back with other bytes"),
        (Lie::MissingIsCorrupt, "ended as Corrupt"),
        (Lie::NeverErases, "ended as Ok"),
        (Lie::WritesTooFar, "came back with other bytes"),
        (Lie::ChangesTheHeader, "came back with other bytes"),
        (Lie::NeverRestamps, "ended as (Ok, Some(70))"),
        (Lie::RestampsAnything, "ended as Ok"),
        (Lie::NeverSyncs, "dropped without a call"),
    ];
    for (lie, want) in lies {
        let check = || {
            super::check_store(|| {
                let arena = super::arena(0);
                let truth = MemoryStore::new(Tier::Nvme, Arc::clone(&arena));
                Fixture::new(Arc::clone(&arena), Arc::new(Liar { lie, truth, arena }))
            });
        };
        let said = catch_unwind(AssertUnwindSafe(check)).expect_err("the suite must fail");
        let text = said.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| said.downcast_ref::<&str>().copied()).expect("a panic's text");
        assert!(text.contains(want), "{lie:?}: {text}");
    }
}
