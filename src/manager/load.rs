//! Load: blocks go out to a client's pool, from wherever they are, and up to the fastest tier.

use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::directory::BlockIndex;
use crate::domain::residency::CopyState;
use crate::domain::tier::Tier;
use crate::movement::Class;

use super::api::{ClientId, OpKind, PoolId, Reply, RequestId};
use super::state::{Job, Part};
use super::{Answer, Manager};

impl Manager {
    pub(super) fn load(
        &mut self,
        client: ClientId,
        request: RequestId,
        keys: &[Key],
        (pool, slots): (PoolId, &[u32]),
        timeout: Duration,
    ) -> Answer {
        self.check_slots(client, keys.len(), (pool, slots))?;
        self.load_called(client, request);
        let op = self.begin_op(client, request, OpKind::Load, keys.len(), Some(timeout))?;
        self.await_engine(op, pool);
        let shard = self.pools[&pool].shard;
        let claim = self.requests.tip(self.request_name((client, request)));
        self.take_in_named(keys);
        let mut previous = None;
        for (index, (key, slot)) in (0_u32..).zip(keys.iter().zip(slots)) {
            let part = Part { op, index, pool, shard, slot: *slot };
            let found = self.directory.find_after(previous, *key);
            let may_serve = |block: &BlockIndex| self.directory.get(*block).may_be_served(self.now);
            match found.filter(may_serve) {
                Some(block) => {
                    self.claim_for(block, claim);
                    self.load_block(block, part);
                }
                None => self.op_block_done(op, index, false),
            }
            previous = found;
        }
        Ok(Reply::Load { op })
    }

    fn load_block(&mut self, block: BlockIndex, part: Part) {
        self.lift_used(block);
        let row = self.directory.get(block);
        match self.serving(row) {
            Some(from @ (Tier::Hbm | Tier::Dram)) => {
                self.start_delivery(block, from, part);
                self.promote(block, from);
            }
            Some(from) => self.load_from_below(block, from, part),
            None => {
                match Tier::ALL.into_iter().find(|t| row.copy(*t).state == CopyState::Filling) {
                    Some(tier) => self.joined.entry((block, tier)).or_default().push(part),
                    None => self.op_block_done(part.op, part.index, false),
                }
            }
        }
    }

    /// Lifts a block from a cold tier into memory once, however many wait for it, and delivers it
    /// from there.
    fn load_from_below(&mut self, block: BlockIndex, from: Tier, part: Part) {
        let landing = if self.taker_flags()[Tier::Dram.index()] { Tier::Dram } else { Tier::Hbm };
        // What an engine has yet to compute, or another rank to store, may never come; this copy serves now.
        let is_partial = self.partials.get(&block).is_some_and(|partial| partial.tier == landing);
        let is_spare = is_partial || self.behind.is_spare((block, landing));
        if !self.taker_flags()[landing.index()] || is_spare {
            self.start_delivery(block, from, part);
            return;
        }
        self.joined.entry((block, landing)).or_default().push(part);
        self.fill(block, landing, from, Class::Demand);
    }

    /// Brings a used block up to the fastest tier.
    pub(super) fn promote(&mut self, block: BlockIndex, from: Tier) {
        let top = self.takers().next();
        if let Some(top) = top.filter(|top| *top < from) {
            self.fill(block, top, from, Class::Background);
        }
    }

    /// Of a block that is forgotten by now nothing goes out, whoever waited for it.
    pub(super) fn start_delivery(&mut self, block: BlockIndex, from: Tier, part: Part) {
        if self.directory.get(block).forgotten {
            self.op_block_done(part.op, part.index, false);
            return;
        }
        self.pin(block, from);
        self.start_item(None, block, Job::Deliver { part, from });
    }

    /// Delivers from the best copy there still is, or reports the block as failed.
    pub(super) fn redeliver(&mut self, block: BlockIndex, part: Part) {
        let row = self.directory.get(block);
        match self.serving(row) {
            Some(from) => self.start_delivery(block, from, part),
            None => self.op_block_done(part.op, part.index, false),
        }
    }
}
