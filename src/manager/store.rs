//! Store: blocks come in from a client's pool and are placed in the fastest tier that takes them.

use crate::domain::block::{HashTail, Key};
use crate::domain::directory::{BlockIndex, NewBlock};
use crate::domain::residency::{CopyEvent, CopyState};
use crate::domain::retention::Directives;
use crate::domain::retention::value::TipId;
use crate::domain::session::{SessionIndex, SessionName};
use crate::domain::tier::Tier;

use super::api::{ClientId, Labels, NamespaceId, OpKind, PoolId, Reply, RequestId};
use super::state::{Job, Part, Partial};
use super::{Answer, Manager};

impl Manager {
    pub(super) fn store(
        &mut self,
        (client, request): (ClientId, RequestId),
        (session, directives, durable): (Option<&SessionName>, &Directives, bool),
        parent: Option<Key>,
        (keys, labels): (&[Key], &Labels),
        (pool, slots): (PoolId, &[u32]),
    ) -> Answer {
        self.check_slots(client, keys.len(), (pool, slots))?;
        let op = self.begin_op(client, request, OpKind::Store, keys.len(), None)?;
        self.ops.get_mut(&op).expect("just begun").durable = durable;
        self.await_engine(op, pool);
        let namespace = self.clients[&client].namespace;
        let shard = self.pools[&pool].shard;
        let session = self.session_of_store((client, request), namespace, session);
        let claim = self.requests.tip(self.request_name((client, request)));
        let (mut new, mut here) = (Vec::new(), Vec::new());
        self.take_in_named(parent.as_slice());
        let mut previous = parent.map(|key| self.directory.find(key));
        let above = previous.flatten();
        let mut tip = above;
        for (index, (key, slot)) in (0_u32..).zip(keys.iter().zip(slots)) {
            let part = Part { op, index, pool, shard, slot: *slot };
            let (tail, tokens) = labels.of(index);
            // Without its parent a block would be a hole's far side: never found, so not kept.
            let placed = match previous {
                Some(None) => None,
                parent => {
                    let asked = (session, directives, claim);
                    self.store_block(namespace, (parent.flatten(), asked), *key, part)
                }
            };
            if let Some((block, _)) = placed {
                self.directory.label(block, tail, tokens);
            }
            match placed {
                Some((block, Placed::Taken)) => new.push(block),
                Some((_, Placed::Again)) => {}
                Some((block, Placed::Present)) => here.push((block, index)),
                None => self.op_block_done(op, index, false),
            }
            previous = Some(placed.map(|(block, _)| block));
            tip = previous.flatten().or(tip);
        }
        new.sort_unstable();
        let clipped = tip.map_or(0, |tip| {
            self.settle_retention((client, request), session, directives, (tip, &new))
        });
        self.await_records_above(op, above, directives);
        // After the directives: what is written down for good is what they ask for.
        for (block, index) in here {
            self.stored(block, op, index);
        }
        self.settle_all();
        let entry = &self.ops[&op];
        let (taken, dropped) = (entry.pending - entry.hardening, entry.failed.len());
        let dropped = u32::try_from(dropped).expect("at most as many as were sent");
        // The others are here, if not all where the engine's copy would have them.
        let present = entry.blocks - taken - dropped;
        Ok(Reply::Store { op, taken, present, dropped, clipped })
    }

    /// Takes in one block, or says that it is here; nothing if it can't be had now.
    fn store_block(
        &mut self,
        namespace: NamespaceId,
        (parent, (session, directives, tip)): (Option<BlockIndex>, Asked<'_>),
        key: Key,
        part: Part,
    ) -> Option<(BlockIndex, Placed)> {
        if parent.is_some_and(|parent| self.directory.get(parent).doomed) {
            return None;
        }
        if let Some(block) = self.directory.find_after(parent, key) {
            self.claim_for(block, tip);
            return self.store_known(block, parent, part).map(|placed| (block, placed));
        }
        let above = parent.map(|parent| self.directory.get(parent));
        let position = above.map_or(0, |above| above.position + 1);
        let block_tokens = self.namespace(namespace).block_tokens();
        let (record, owner) = self.first_record(session, directives, (position, block_tokens));
        let floor = self.directory.floor_behind(parent, record.floor);
        let tier = self.first_tier(namespace, (record.kind, floor))?;
        let created_at = self.now;
        let new = NewBlock {
            key,
            tail: HashTail::UNKNOWN,
            namespace: namespace.0,
            parent,
            created_at,
            record,
            owner,
            tip,
        };
        let block = self.directory.insert(new);
        self.directory.get_mut(block).scratch = self.is_subagent(session);
        self.take_in(block, tier, part);
        Some((block, Placed::Taken))
    }

    /// The first copy of a block, of which this is the first shard.
    fn take_in(&mut self, block: BlockIndex, tier: Tier, part: Part) {
        self.watch(block);
        self.begin_fill(block, tier, self.tick);
        let namespace = NamespaceId(self.directory.get(block).namespace);
        if self.namespace(namespace).shard_count() > 1 {
            let started = 1 << part.shard;
            let deadline = self.now + self.config.store_timeout;
            let (landed, waiting, failed) = (0, Vec::new(), false);
            let partial = Partial { tier, landed, started, waiting, deadline, failed };
            self.partials.insert(block, partial);
        }
        self.want(tier, block, Job::Store(part));
    }

    /// Nothing is left of the block, for a copy of it or of an ancestor was bad, but those who hold it: it
    /// comes anew.
    fn take_in_anew(&mut self, block: BlockIndex, part: Part) -> Option<Placed> {
        let known = self.directory.get(block);
        let is_gone = known.is_absent() && known.is_quiet() && !self.partials.contains_key(&block);
        if !is_gone || known.forgotten || known.record.is_due(self.now) {
            return None;
        }
        let (namespace, kind) = (NamespaceId(known.namespace), known.record.kind);
        let tier = self.first_tier(namespace, (kind, known.floor))?;
        self.directory.revive(block);
        self.take_in(block, tier, part);
        Some(Placed::Again)
    }

    /// The block is in the directory: perhaps all of it, perhaps only other ranks' shards.
    fn store_known(
        &mut self,
        block: BlockIndex,
        parent: Option<BlockIndex>,
        part: Part,
    ) -> Option<Placed> {
        let known = self.directory.get(block);
        if known.parent() != parent {
            return None;
        }
        if known.doomed {
            return self.take_in_anew(block, part);
        }
        let fastest = known.fastest();
        if let Some(tier) = fastest {
            self.directory.get_mut(block).copy_mut(tier).tick = self.tick;
        }
        match (self.partials.get(&block), fastest) {
            (Some(partial), None) if partial.failed => None,
            // Also where the block was found in a cold tier meanwhile: the shards that have come wait for this.
            (Some(partial), _) if !partial.failed => Some(self.store_shard(block, part)),
            (_, Some(tier)) => Some(self.store_above(block, tier, part)),
            // Another client's store of the same block is under way.
            (_, None) => Some(Placed::Present),
        }
    }

    /// One more shard of a block that comes shard by shard.
    fn store_shard(&mut self, block: BlockIndex, part: Part) -> Placed {
        let known = self.directory.get(block);
        let partial = self.partials.get_mut(&block).expect("the caller found it");
        let bit = 1_u64 << part.shard;
        if partial.started & bit != 0 {
            return Placed::Present;
        }
        partial.started |= bit;
        let tier = partial.tier;
        if known.copy(tier).page.is_some() {
            self.start_item(Some(tier), block, Job::Store(part));
        } else {
            partial.waiting.push(part);
        }
        // The first shard's store counts for the block.
        Placed::Again
    }

    /// The block is here already. Where that is a cold tier only, the engine computed it anew: what
    /// it has at hand need not be read from there the next time.
    fn store_above(&mut self, block: BlockIndex, fastest: Tier, part: Part) -> Placed {
        let row = self.directory.get(block);
        let is_whole = self.namespace(NamespaceId(row.namespace)).shard_count() == 1;
        let memory = [Tier::Hbm, Tier::Dram];
        let none_comes = memory.iter().all(|tier| row.copy(*tier).state == CopyState::Absent);
        let top = self.takers().next().filter(|top| *top < fastest && memory.contains(top));
        match top.filter(|_| is_whole && none_comes) {
            Some(top) => {
                self.begin_fill(block, top, self.tick);
                self.behind.fills_spare(part.op, (block, top));
                self.want(top, block, Job::Store(part));
                Placed::Again
            }
            None => Placed::Present,
        }
    }

    /// Tiers that take copies now, fastest first.
    pub(super) fn takers(&self) -> impl Iterator<Item = Tier> + '_ {
        Tier::ALL.into_iter().filter(|tier| self.takes(*tier))
    }

    /// Marks the copy as filling; it is visible only when it has landed.
    pub(super) fn begin_fill(&mut self, block: BlockIndex, tier: Tier, tick: u64) {
        self.directory.apply(block, tier, CopyEvent::FillStarted);
        self.directory.get_mut(block).copy_mut(tier).tick = tick;
        self.lies_below(block, tier);
    }

    /// The block has a copy below the floor of what it hangs on: that may sink as low now.
    pub(super) fn lies_below(&mut self, block: BlockIndex, tier: Tier) {
        if let Some(parent) = self.directory.get(block).parent()
            && self.directory.get(parent).floor < tier
        {
            self.reconsider_all(parent);
        }
    }

    /// A store's copy will not land, for want of room or by a failure.
    pub(super) fn store_failed(&mut self, block: BlockIndex, tier: Tier, part: Part) {
        // What is in a cold tier is kept, whatever became of the copy above.
        let kept = self.directory.get(block).fastest().is_some();
        if kept {
            self.stored(block, part.op, part.index);
        } else {
            self.op_block_done(part.op, part.index, false);
        }
        if let Some(partial) = self.partials.get_mut(&block) {
            partial.started &= !(1 << part.shard);
            self.abandon_partial(block);
            return;
        }
        self.abandon_fill(block, tier);
    }

    /// A block that never was whole goes; so does whatever already hangs on it.
    pub(super) fn abandon_fill(&mut self, block: BlockIndex, tier: Tier) {
        debug_assert_eq!(self.directory.get(block).copy(tier).state, CopyState::Filling);
        for part in self.joined.remove(&(block, tier)).unwrap_or_default() {
            self.redeliver(block, part);
        }
        self.release_copy(block, tier, CopyEvent::FillFailed);
        if !self.directory.get(block).is_absent() {
            self.reconsider_all(block);
        }
        self.let_go(block);
    }

    /// Gives up a block of several shards once nothing of it moves any more.
    pub(super) fn abandon_partial(&mut self, block: BlockIndex) {
        let partial = self.partials.get_mut(&block).expect("the caller found it");
        partial.failed = true;
        let waiting = std::mem::take(&mut partial.waiting);
        for part in &waiting {
            partial.started &= !(1 << part.shard);
        }
        let (tier, quiet) = (partial.tier, partial.started == partial.landed);
        for part in waiting {
            self.op_block_done(part.op, part.index, false);
        }
        if quiet {
            self.partials.remove(&block);
            self.abandon_fill(block, tier);
        }
    }

    /// One rank's shard is in place; the last one seals the frame.
    pub(super) fn shard_landed(&mut self, block: BlockIndex, tier: Tier, part: Part) {
        let whole = self.partials.get(&block).is_some_and(|partial| !partial.failed);
        if whole {
            self.stored(block, part.op, part.index);
        } else {
            self.op_block_done(part.op, part.index, false);
        }
        let namespace = NamespaceId(self.directory.get(block).namespace);
        let all = u64::MAX >> (64 - self.namespace(namespace).shard_count());
        let partial = self.partials.get_mut(&block).expect("shards land only while it lives");
        partial.landed |= 1 << part.shard;
        if partial.failed {
            self.abandon_partial(block);
        } else if partial.landed == all {
            self.partials.remove(&block);
            if tier == Tier::Hbm {
                self.commit(block, tier);
                self.write_through(block);
            } else {
                self.start_item(Some(tier), block, Job::Seal);
            }
        }
    }

    /// Blocks whose other shards never came are let go.
    pub(super) fn expire_partials(&mut self) {
        let now = self.now;
        let late = self.partials.iter().filter(|(_, partial)| partial.deadline <= now);
        let late: Vec<BlockIndex> = late.map(|(block, _)| *block).collect();
        for block in late {
            self.abandon_partial(block);
        }
    }

    /// Withdraws parts that have not started; a block that then lacks them can't become whole.
    pub(super) fn cancel_partials(&mut self, unwanted: &impl Fn(&Part) -> bool) {
        let hit: Vec<BlockIndex> = self
            .partials
            .iter()
            .filter(|(_, partial)| partial.waiting.iter().any(unwanted))
            .map(|(block, _)| *block)
            .collect();
        for block in hit {
            self.abandon_partial(block);
        }
    }
}

/// In whose name a block is stored, what is asked for it, and the tip of its chain.
type Asked<'a> = (Option<SessionIndex>, &'a Directives, Option<TipId>);

enum Placed {
    Present,
    Taken,
    /// Known, with a record that others asked for: one more shard of it, present in a cold tier and taken
    /// into memory as well, or gone from all and taken in anew.
    Again,
}
