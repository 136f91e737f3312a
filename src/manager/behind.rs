//! Operations whose engines' streams have not come as far as their calls.
//!
//! Their transfers are put aside, and take neither a link's places nor its time, until the engine has come
//! so far: one that is late, or stands still, holds up nobody else.

use std::collections::{BTreeMap, BTreeSet};

use super::Manager;
use super::api::{Effect, OpId, OpKind, PoolId, Transfer};
use crate::domain::directory::BlockIndex;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

/// All of them.
#[derive(Default)]
pub(super) struct Behind {
    ops: BTreeMap<OpId, Waiting>,
    transfers: usize,
    /// Copies that they fill beside others that can be read.
    spare: BTreeSet<(BlockIndex, Tier)>,
}

#[derive(Default)]
struct Waiting {
    aside: Vec<Transfer>,
    spare: Vec<(BlockIndex, Tier)>,
}

impl Behind {
    pub fn has(&self, op: OpId) -> bool {
        self.ops.contains_key(&op)
    }

    /// Transfers that are put aside.
    pub const fn transfers(&self) -> usize {
        self.transfers
    }

    /// The operation fills this copy, and another one serves meanwhile.
    pub fn fills_spare(&mut self, op: OpId, copy: (BlockIndex, Tier)) {
        if let Some(waiting) = self.ops.get_mut(&op) {
            waiting.spare.push(copy);
            self.spare.insert(copy);
        }
    }

    /// Whether the copy is one that comes only when an engine has come so far, and another serves.
    pub fn is_spare(&self, copy: (BlockIndex, Tier)) -> bool {
        self.spare.contains(&copy)
    }

    /// The operation waits no longer, or has ended: gives its transfers.
    pub fn end(&mut self, op: OpId) -> Vec<Transfer> {
        let Waiting { aside, spare } = self.ops.remove(&op).unwrap_or_default();
        self.transfers -= aside.len();
        for copy in spare {
            self.spare.remove(&copy);
        }
        aside
    }

    /// Takes out every transfer of which `leaves` leaves nothing.
    pub fn cancel(&mut self, mut leaves: impl FnMut(&mut Transfer) -> bool) -> Vec<Transfer> {
        let mut taken = Vec::new();
        for waiting in self.ops.values_mut() {
            taken.extend(waiting.aside.extract_if(.., |transfer| !leaves(transfer)));
        }
        self.transfers -= taken.len();
        taken
    }
}

impl Manager {
    /// Has the operation's transfers wait for the engine, if the pool's engine says how far it has come.
    pub(super) fn await_engine(&mut self, op: OpId, pool: PoolId) {
        if !self.pools[&pool].has_events {
            return;
        }
        self.behind.ops.insert(op, Waiting::default());
        let entry = self.ops.get_mut(&op).expect("just begun");
        // A load has its own time. What a store began holds room, and others may count on it.
        if entry.deadline == Time::MAX {
            entry.deadline = self.now + self.config.store_timeout;
        }
        self.out.push(Effect::AwaitEngine { op, pool });
    }

    /// Keeps the transfer until its operation's engine has come; as many as would wait for a link.
    pub(super) fn put_aside(&mut self, op: OpId, transfer: Transfer) {
        let has_room = self.behind.transfers < self.config.links[transfer.link.index()].queued_max;
        match self.behind.ops.get_mut(&op).filter(|_| has_room) {
            Some(waiting) => {
                waiting.aside.push(transfer);
                self.behind.transfers += 1;
            }
            None => self.bounced.push(transfer.id),
        }
    }

    /// The engine has come as far as the operation's call, or nobody will ever know that it has.
    pub(super) fn engine_came(&mut self, op: OpId, came: bool) {
        // It may have ended meanwhile, by its time or with its client.
        if !self.behind.has(op) {
            return;
        }
        if !came {
            self.cancel(|part| part.op == op);
        }
        if let Some(entry) = self.ops.get_mut(&op).filter(|entry| entry.kind == OpKind::Store) {
            entry.deadline = Time::MAX;
        }
        for transfer in self.behind.end(op) {
            let load = self.flights[&transfer.id].load;
            if let Some(transfer) = self.offer(load, transfer) {
                self.begin(transfer);
            }
        }
    }
}
