//! Durable stores: who asked to be told, and what is still to be done for that.
//!
//! A block is durable once its frame is in a tier that outlives the daemon, that tier has said that it
//! keeps it, and so it is for all its ancestors: a restart takes in no block whose parent is missing.
//! Copies down what was asked for and what that hangs on, nothing else. Never keeps a copy from being
//! evicted later, and never waits for a tier that takes nothing: then the block is not durable, and its
//! client hears so.

mod check;

use std::collections::BTreeMap;

use crate::domain::directory::{Block, BlockIndex, Writer};
use crate::domain::residency::{CopyEvent, CopyState};
use crate::domain::retention::Directives;
use crate::domain::tier::Tier;

use super::Manager;
use super::api::{FailureKind, OpId};
use super::state::{Job, Op, Want};

/// The tiers that outlive the daemon, nearest first.
const DURABLE: [Tier; 2] = [Tier::Nvme, Tier::Object];

/// Blocks that are on their way to being durable.
#[derive(Default)]
pub(super) struct Durables {
    entries: BTreeMap<BlockIndex, Entry>,
}

impl Durables {
    /// Blocks of operations that wait here, by operation.
    pub(super) fn asked(&self) -> impl Iterator<Item = OpId> + '_ {
        self.entries.values().flat_map(|entry| &entry.asked).map(|(op, _)| *op)
    }
}

struct Entry {
    /// Where it is to be.
    tier: Tier,
    stage: Stage,
    /// The operations that wait for it, each with the block's index there: nobody for an ancestor that was not
    /// asked for by itself.
    asked: Vec<(OpId, Asked)>,
}

impl Entry {
    fn new(tier: Tier) -> Self {
        Self { tier, stage: Stage::Waiting, asked: Vec::new() }
    }

    fn ask(&mut self, asked: (OpId, Asked)) {
        self.asked.push(asked);
        if self.stage == Stage::Down {
            // Its record may have changed since.
            self.stage = Stage::Waiting;
        }
    }
}

/// What a block is to an operation that waits for it.
#[derive(Clone, Copy)]
enum Asked {
    /// One of its own, by its index.
    Block(u32),
    /// An ancestor of them whose record it changed.
    Above,
}

/// How far a block has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Something is under way that has to end first: a copy, or the write of a record.
    Waiting,
    /// It is being copied to the tier.
    Copying,
    /// The tier is asked to keep what it has.
    Syncing,
    /// The tier keeps it, but not yet all its ancestors.
    Down,
}

/// How it ended for whoever asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Durable,
    /// The block is here, and a restart may lose it.
    Volatile,
    /// The block is gone.
    Lost,
}

impl Manager {
    /// A block of a store is in a tier: that is the end of it, unless it is to be durable.
    pub(super) fn stored(&mut self, block: BlockIndex, op: OpId, index: u32) {
        if !self.ops[&op].durable {
            self.op_block_done(op, index, true);
            return;
        }
        self.ops.get_mut(&op).expect("looked up above").hardening += 1;
        let asked = (op, Asked::Block(index));
        if self.directory.get(block).doomed {
            self.tell_asked(&[asked], End::Lost);
            return;
        }
        let Some(tier) = self.durable_tier().filter(|tier| self.may_be_in(block, *tier)) else {
            self.tell_asked(&[asked], End::Volatile);
            return;
        };
        let mut chain = self.not_durable_up(block, tier);
        self.entry(block, tier).ask(asked);
        for ancestor in &chain {
            self.entry(*ancestor, tier);
        }
        // The root first: what lies nearer to it is written first.
        chain.reverse();
        for at in chain {
            self.pursue_durable(at);
        }
    }

    fn entry(&mut self, at: BlockIndex, tier: Tier) -> &mut Entry {
        self.durables.entries.entry(at).or_insert_with(|| Entry::new(tier))
    }

    /// The directives of a durable store that hangs on `parent` count for what is above it too: what a restart
    /// would find there is to have the records they asked for. What is not durable and not on its way is seen
    /// to with the blocks that hang on it.
    pub(super) fn await_records_above(
        &mut self,
        op: OpId,
        parent: Option<BlockIndex>,
        directives: &Directives,
    ) {
        let Op { durable, pending, .. } = &self.ops[&op];
        let Some((parent, tier)) = parent.zip(self.durable_tier()) else { return };
        if !durable || *pending == 0 {
            return;
        }
        let mut above = self.covered(parent, directives);
        above.dedup_by_key(|(at, _)| *at);
        for (at, _) in above {
            let row = self.directory.get(at);
            let is_found = row.is_durable(tier) || self.durables.entries.contains_key(&at);
            if row.doomed || !is_found || self.is_stamped(at, tier) {
                continue;
            }
            self.entry(at, tier).ask((op, Asked::Above));
            let entry = self.ops.get_mut(&op).expect("looked up above");
            (entry.pending, entry.hardening) = (entry.pending + 1, entry.hardening + 1);
            self.pursue_durable(at);
        }
    }

    /// Where blocks are made durable. A tier that is still scanned takes nothing, and what hangs on
    /// its blocks can't be kept elsewhere; one that is lost is passed by.
    fn durable_tier(&self) -> Option<Tier> {
        let present = DURABLE.into_iter().find(|tier| self.tiers[tier.index()].is_some())?;
        self.taker_flags()[present.index()].then_some(present)
    }

    /// Whether the block's floor lets it be in the tier, or it is there already. Where the floor does not, its
    /// ancestors are not written for its sake either; where it does, so do theirs.
    fn may_be_in(&self, block: BlockIndex, tier: Tier) -> bool {
        let row = self.directory.get(block);
        tier <= row.floor || row.copy(tier).state != CopyState::Absent
    }

    /// The block and those of its ancestors that are not durable in the tier and not on their way.
    fn not_durable_up(&self, block: BlockIndex, tier: Tier) -> Vec<BlockIndex> {
        let known = |at: &BlockIndex| {
            self.directory.get(*at).is_durable(tier) || self.durables.entries.contains_key(at)
        };
        let parent = self.directory.get(block).parent();
        let above = self.directory.chain_up(parent).take_while(|at| !known(at));
        std::iter::once(block).chain(above).collect()
    }

    /// Does what can be done next for a block that waits.
    pub(super) fn pursue_durable(&mut self, at: BlockIndex) {
        let Some(entry) = self.durables.entries.get(&at) else { return };
        if entry.stage != Stage::Waiting {
            return;
        }
        let tier = entry.tier;
        let row = self.directory.get(at);
        match row.copy(tier).state {
            // Its landing, or the end of its way out, comes back here.
            CopyState::Filling | CopyState::Draining => {}
            // Nobody has seen that it is there.
            CopyState::Resident if row.copy(tier).writer == Writer::Unknown => {
                self.give_up_durable(at);
            }
            CopyState::Resident if self.is_stamped(at, tier) => self.start_sync(at, tier),
            // The end of the write comes back here.
            CopyState::Resident if row.stamp(tier).is_current() => {}
            CopyState::Resident => self.hurry_rewrite(at, tier),
            // One copy on its way down at a time: the end of that one comes back here.
            CopyState::Absent if row.drains() => {}
            CopyState::Absent => match source_of(row, tier) {
                Some(from) => self.start_persist(at, (from, tier)),
                None if row.fastest().is_none() && row.fills() => {}
                None => self.give_up_durable(at),
            },
        }
    }

    /// Whether the copy's header says what is asked for the block.
    fn is_stamped(&self, at: BlockIndex, tier: Tier) -> bool {
        let row = self.directory.get(at);
        row.stamp(tier).is_current() && !self.rewrites.under_way.contains(&(row.key, tier))
    }

    fn start_persist(&mut self, at: BlockIndex, (from, tier): (Tier, Tier)) {
        self.set_stage(at, Stage::Copying);
        let tick = self.directory.get(at).copy(from).tick;
        self.pin(at, from);
        self.begin_fill(at, tier, tick);
        self.want(tier, at, Job::Persist { from });
    }

    fn start_sync(&mut self, at: BlockIndex, tier: Tier) {
        self.set_stage(at, Stage::Syncing);
        self.pin(at, tier);
        self.start_item(Some(tier), at, Job::Sync { tier });
    }

    fn set_stage(&mut self, at: BlockIndex, stage: Stage) {
        self.durables.entries.get_mut(&at).expect("the caller found it").stage = stage;
    }

    /// The block's copy in the tier is written, and the tier keeps it.
    pub(super) fn durable_landed(&mut self, at: BlockIndex, tier: Tier) {
        if self.durables.entries.get(&at).is_none_or(|entry| entry.tier != tier) {
            return;
        }
        if self.is_stamped(at, tier) {
            self.set_stage(at, Stage::Down);
            self.settle_durable(at);
        } else {
            // Another store asked for a record that came too late for this header.
            self.set_stage(at, Stage::Waiting);
            self.pursue_durable(at);
        }
    }

    /// A copy to the tier found no room there, or failed.
    pub(super) fn persist_failed(
        &mut self,
        at: BlockIndex,
        (to, from): (Tier, Tier),
        failure: Option<FailureKind>,
    ) {
        self.give_up_durable(at);
        self.fill_failed(at, to, from, failure);
    }

    pub(super) fn sync_ended(&mut self, at: BlockIndex, tier: Tier, synced: bool) {
        self.unpin(at, tier);
        if synced {
            self.durable_landed(at, tier);
        } else {
            self.give_up_durable(at);
        }
    }

    /// The write of a record into the copy's header ended.
    pub(super) fn durable_restamped(&mut self, at: BlockIndex, tier: Tier, written: bool) {
        let waits = |entry: &Entry| entry.tier == tier && entry.stage == Stage::Waiting;
        if !self.durables.entries.get(&at).is_some_and(waits) {
            return;
        }
        if written {
            // The record may have changed again since the write began.
            self.pursue_durable(at);
        } else {
            self.give_up_durable(at);
        }
    }

    /// A copy of the block came or went, by `event`.
    pub(super) fn durable_changed(&mut self, at: BlockIndex, tier: Tier, event: CopyEvent) {
        let Some(entry) = self.durables.entries.get(&at) else { return };
        if event == CopyEvent::Dropped && entry.tier == tier {
            self.give_up_durable(at);
        } else {
            self.pursue_durable(at);
        }
    }

    /// A block is durable if its parent is; and then so may be its children.
    fn settle_durable(&mut self, at: BlockIndex) {
        let mut ready = vec![at];
        while let Some(at) = ready.pop() {
            let Some(entry) = self.durables.entries.get(&at) else { continue };
            if entry.stage != Stage::Down {
                continue;
            }
            let tier = entry.tier;
            let row = self.directory.get(at);
            let (parent, stays) = (row.parent(), row.copy(tier).state == CopyState::Resident);
            match parent.filter(|parent| !self.directory.get(*parent).is_durable(tier)) {
                Some(parent) if self.durables.entries.contains_key(&parent) => {}
                // A copy went, or is on its way out: this one, or the parent's.
                _ if !stays => self.give_up_durable(at),
                Some(_) => self.give_up_durable(at),
                None => {
                    self.directory.get_mut(at).set_durable(tier, true);
                    let asked = self.durables.entries.remove(&at).map(|entry| entry.asked);
                    self.tell_asked(&asked.unwrap_or_default(), End::Durable);
                    ready.extend(self.directory.children(at));
                }
            }
        }
    }

    /// The block is not going to be durable, nor is what hangs on it.
    pub(super) fn give_up_durable(&mut self, at: BlockIndex) {
        if !self.durables.entries.contains_key(&at) {
            return;
        }
        let mut stack = vec![at];
        while let Some(at) = stack.pop() {
            let Some(entry) = self.durables.entries.remove(&at) else { continue };
            let row = self.directory.get(at);
            // One whose other shards are still to come lands all the same.
            let is_here = !row.doomed && (row.fastest().is_some() || row.fills());
            self.tell_asked(&entry.asked, if is_here { End::Volatile } else { End::Lost });
            stack.extend(self.directory.children(at));
        }
    }

    fn tell_asked(&mut self, asked: &[(OpId, Asked)], end: End) {
        for (op, asked) in asked {
            let entry = self.ops.get_mut(op).expect("an operation lives until its last block");
            entry.hardening -= 1;
            match asked {
                Asked::Block(index) => {
                    if end == End::Volatile {
                        entry.not_durable.push(*index);
                    }
                    self.op_block_done(*op, *index, end != End::Lost);
                }
                Asked::Above => {
                    entry.hangs_loose |= end != End::Durable;
                    self.op_part_done(*op);
                }
            }
        }
    }

    /// The copy in `tier` turned out lost, so what hangs on it would not come back after a restart.
    pub(super) fn soften(&mut self, at: BlockIndex, tier: Tier) {
        let mut stack = vec![at];
        while let Some(at) = stack.pop() {
            let row = self.directory.get_mut(at);
            if row.is_durable(tier) {
                row.set_durable(tier, false);
                stack.extend(self.directory.children(at));
            }
        }
    }

    /// Whether room for this block is made whatever it is worth: its client asked for it.
    pub(super) fn is_asked_for(want: &Want) -> bool {
        matches!(want.job, Job::Persist { .. })
    }
}

/// The copy to write down from: the frame in memory if there is one. None if there is nothing to read,
/// or the block's floor keeps it higher.
fn source_of(row: &Block, tier: Tier) -> Option<Tier> {
    let frame = Some(Tier::Dram).filter(|dram| row.copy(*dram).state.is_readable());
    frame.or(row.fastest()).filter(|_| tier <= row.floor && !row.doomed)
}
