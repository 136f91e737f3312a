//! The door of a store: bounds the operations under way and answers each of them exactly once.
//!
//! Never starts or orders operations; it only counts them and keeps their `done`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::store::{Done, StoreError, StoreOp};

/// Operations that a store takes before it answers `Busy`, unless its config says otherwise.
pub const OPS_MAX_DEFAULT: usize = 4096;

/// Counts the operations under way in one store. Every queue behind the gate holds `ops_max`, so
/// none of them can ever be full.
#[derive(Debug)]
pub struct Gate {
    under_way: AtomicUsize,
    ops_max: usize,
}

impl Gate {
    #[must_use]
    pub fn new(ops_max: usize) -> Arc<Self> {
        Arc::new(Self { under_way: AtomicUsize::new(0), ops_max })
    }

    #[must_use]
    pub fn ops_max(&self) -> usize {
        self.ops_max
    }

    /// Lets the operation in, or answers it with `Busy` and returns nothing.
    #[must_use]
    pub fn admit(self: &Arc<Self>, op: StoreOp, done: Done) -> Option<Ticket> {
        let took = self.under_way.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
            (count < self.ops_max).then_some(count + 1)
        });
        if took.is_err() {
            answer(done, Err(StoreError::Busy));
            return None;
        }
        Some(Ticket { op, done: Some(done), gate: Arc::clone(self) })
    }
}

/// One admitted operation. Dropped without an answer, it answers `TierLost`: so an operation whose
/// thread died or whose store closed is still answered, and none is answered twice.
pub struct Ticket {
    pub op: StoreOp,
    done: Option<Done>,
    gate: Arc<Gate>,
}

impl Ticket {
    /// Answers the operation. Its place in the gate is free before its `done` runs, so that `done`
    /// may submit the next one.
    pub fn finish(mut self, result: Result<(), StoreError>) {
        self.end(result);
    }

    fn end(&mut self, result: Result<(), StoreError>) {
        if let Some(done) = self.done.take() {
            self.gate.under_way.fetch_sub(1, Ordering::AcqRel);
            answer(done, result);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Err(StoreError::TierLost("the store closed before the operation ended".into())));
    }
}

/// Runs `done`; one that panics costs its own operation, never the store's thread.
pub fn answer(done: Done, result: Result<(), StoreError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a store operation's `done` panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::domain::block::Key;
    use crate::tiers::store::{Erasure, Place};

    fn erase() -> StoreOp {
        StoreOp::Erase {
            key: Key([7; 16]),
            place: Place { offset: 0, slot_bytes: 8192 },
            why: Erasure::Unusable,
        }
    }

    fn heard(answers: &mpsc::SyncSender<Result<(), StoreError>>) -> Done {
        let answers = answers.clone();
        Box::new(move |result| answers.send(result).expect("the test listens"))
    }

    #[test]
    fn the_gate_is_busy_beyond_its_bound_and_opens_again() {
        let (answers, answered) = mpsc::sync_channel(8);
        let gate = Gate::new(1);
        let first = gate.admit(erase(), heard(&answers)).expect("there is room");
        assert!(gate.admit(erase(), heard(&answers)).is_none());
        assert!(matches!(answered.try_recv(), Ok(Err(StoreError::Busy))));
        first.finish(Ok(()));
        assert!(matches!(answered.try_recv(), Ok(Ok(()))));
        assert!(gate.admit(erase(), heard(&answers)).is_some());
    }

    #[test]
    fn a_dropped_ticket_answers_once_and_frees_its_place() {
        let (answers, answered) = mpsc::sync_channel(8);
        let gate = Gate::new(1);
        drop(gate.admit(erase(), heard(&answers)));
        assert!(matches!(answered.try_recv(), Ok(Err(StoreError::TierLost(_)))));
        assert!(answered.try_recv().is_err());
        assert!(gate.admit(erase(), heard(&answers)).is_some());
    }

    #[test]
    fn a_panicking_done_stays_with_its_operation() {
        let gate = Gate::new(1);
        let ticket = gate.admit(erase(), Box::new(|_| panic!("on purpose"))).expect("room");
        ticket.finish(Ok(()));
        assert_eq!(gate.under_way.load(Ordering::Acquire), 0);
    }
}
