//! Operations whose engines' streams have not come as far as their calls.
//!
//! Their transfers are put aside, and take neither a link's places nor its time, until the engine has come
//! so far: one that is late, or stands still, holds up nobody else.

use super::Manager;
use super::api::{Effect, OpId, PoolId, Transfer};

impl Manager {
    /// Has the operation's transfers wait for the engine, if the pool's engine says how far it has come.
    pub(super) fn await_engine(&mut self, op: OpId, pool: PoolId) {
        if self.pools[&pool].has_events {
            self.ops.get_mut(&op).expect("just begun").aside = Some(Vec::new());
            self.out.push(Effect::AwaitEngine { op, pool });
        }
    }

    /// The operation that a transfer's copies wait with, if it does not start before its engine has come.
    pub(super) fn is_behind(&self, op: OpId) -> bool {
        self.ops.get(&op).is_some_and(|op| op.aside.is_some())
    }

    pub(super) fn put_aside(&mut self, op: OpId, transfer: Transfer) {
        let aside = self.ops.get_mut(&op).and_then(|op| op.aside.as_mut());
        aside.expect("the operation waits for its engine").push(transfer);
    }

    /// The engine has come as far as the operation's call, or nobody will ever know that it has.
    pub(super) fn engine_came(&mut self, op: OpId, came: bool) {
        if !came {
            self.cancel(|part| part.op == op);
        }
        // It may have ended meanwhile, by its time or with its client.
        let Some(entry) = self.ops.get_mut(&op) else { return };
        for transfer in entry.aside.take().unwrap_or_default() {
            self.offer(transfer);
        }
    }

    /// Transfers that are put aside.
    pub(super) fn aside(&self) -> usize {
        self.ops.values().filter_map(|op| op.aside.as_ref()).map(Vec::len).sum()
    }
}
