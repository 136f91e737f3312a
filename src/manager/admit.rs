//! Writes to NVMe: the gate is asked before they begin, and told when they are down.
//!
//! Never leaves a hole: what the gate refuses goes to the tier below, or is the tail of its chain. What
//! makes room goes from the tail, and all that it hangs on has to follow; what is written through is written
//! from the root, and obliges to nothing.

use crate::domain::admission::{Case, Reason, Spared, WriteMode};
use crate::domain::directory::{Block, BlockIndex};
use crate::domain::residency::CopyState;
use crate::domain::retention::Kind;
use crate::domain::retention::record::PRIORITY_DEFAULT;
use crate::domain::tier::Tier;
use crate::domain::units::PAGE_BYTES;
use crate::movement::Class;

use super::Manager;
use super::api::NamespaceId;
use super::going::sink_of;
use super::state::Job;

/// Why a job writes to NVMe, if it does.
fn reason_of(job: Job) -> Option<Reason> {
    match job {
        Job::Store(_) => Some(Reason::Stored),
        Job::Demote { .. } => Some(Reason::Demoted),
        Job::Fill { from, .. } if from < Tier::Nvme => Some(Reason::Through),
        Job::Fill { .. } => Some(Reason::Lifted),
        Job::Persist { .. } => Some(Reason::Durable),
        Job::Deliver { .. } | Job::Seal | Job::Sync { .. } => None,
    }
}

/// Whether its owner asked for the block to be kept.
fn is_asked(block: &Block) -> bool {
    block.shielded || block.record.priority > PRIORITY_DEFAULT
}

impl Manager {
    /// The tier that takes the block when its copy in `tier` goes; NVMe only if it is worth the write,
    /// which is charged then.
    pub(super) fn admitted_sink(&mut self, at: BlockIndex, tier: Tier) -> Option<Tier> {
        let takers = self.taker_flags();
        let row = self.directory.get(at);
        let sink = sink_of(row, tier, takers);
        let is_new_there =
            row.copy(Tier::Nvme).state == CopyState::Absent && takers[Tier::Nvme.index()];
        if sink.is_none() && tier < Tier::Nvme && is_new_there {
            let why = if row.dead { Spared::Dead } else { Spared::Floor };
            let bytes = self.write_bytes(NamespaceId(row.namespace));
            self.gate.spare(why, bytes);
        }
        let sink = sink?;
        if sink != Tier::Nvme || self.admits(at) {
            return Some(sink);
        }
        self.sink(at, Tier::Nvme)
    }

    /// Whether the copy of what sinks is worth the write, or others need it, and is charged.
    fn admits(&mut self, at: BlockIndex) -> bool {
        let row = self.directory.get(at);
        let can_pass_by = sink_of(row, Tier::Nvme, self.taker_flags()).is_some();
        let forced = row.copy(Tier::Nvme).children > 0 || (row.has_children() && !can_pass_by);
        self.gate_admits(at, forced)
    }

    /// Whether the copy is worth the write, and the budget has it. It is charged then.
    fn gate_admits(&mut self, at: BlockIndex, forced: bool) -> bool {
        let row = self.directory.get(at);
        let case = Case {
            forced,
            asked: is_asked(row),
            claimed: row.claims > 0,
            was_read: row.was_read,
            chance: self.learned.chance(row.tip),
            kind: row.record.kind,
        };
        let bytes = self.write_bytes(NamespaceId(row.namespace));
        self.gate.admits(self.now, &case, bytes)
    }

    /// The fastest tier that takes a new block of the kind, if its floor lets it sink so low. Where that is
    /// NVMe nothing is known of the block yet, but the budget counts.
    pub(super) fn first_tier(
        &mut self,
        namespace: NamespaceId,
        (kind, floor): (Kind, Tier),
    ) -> Option<Tier> {
        let mut takers = self.takers();
        let (first, next) = (takers.next()?, takers.next());
        drop(takers);
        let bytes = self.write_bytes(namespace);
        if first > floor {
            if first == Tier::Nvme {
                self.gate.spare(Spared::Floor, bytes);
            }
            return None;
        }
        if first != Tier::Nvme || self.gate.takes(self.now, kind, bytes) {
            return Some(first);
        }
        next.filter(|tier| *tier <= floor)
    }

    /// A new block is in memory: where that is asked for it is written down at once, and then what has waited
    /// for it.
    pub(super) fn write_through(&mut self, at: BlockIndex) {
        if self.gate.mode() != WriteMode::Through {
            return;
        }
        let mut stack = vec![at];
        while let Some(at) = stack.pop() {
            let Some(from) = self.through_from(at) else { continue };
            if self.gate_admits(at, false) {
                self.fill(at, Tier::Nvme, from, Class::Background);
                stack.extend(self.directory.children(at));
            }
        }
    }

    /// The copy in memory that the block may be written through from. A chain is written from its root: a
    /// restart would not take in what hangs on nothing, and that waits until memory needs its room.
    fn through_from(&self, at: BlockIndex) -> Option<Tier> {
        let row = self.directory.get(at);
        let is_there = |at| self.directory.get(at).copy(Tier::Nvme).state.stays();
        let may_be = self.takes(Tier::Nvme)
            && Tier::Nvme <= row.floor
            && row.copy(Tier::Nvme).state == CopyState::Absent
            && row.parent().is_none_or(is_there);
        // What is on its way down already, or out, is not copied besides.
        let is_wanted = !row.doomed && !row.drains() && (!row.dead || row.shielded);
        let mut memory = [Tier::Dram, Tier::Hbm].into_iter();
        let from = memory.find(|tier| row.copy(*tier).state == CopyState::Resident);
        from.filter(|_| may_be && is_wanted)
    }

    /// What was admitted is not written after all.
    pub(super) fn refund_write(&mut self, at: BlockIndex, job: Job) {
        let bytes = self.write_bytes(NamespaceId(self.directory.get(at).namespace));
        if reason_of(job).is_some_and(Reason::is_judged) {
            self.gate.refund(bytes);
        }
    }

    /// A copy of the block is down on NVMe.
    pub(super) fn nvme_written(&mut self, at: BlockIndex, job: Job) {
        let bytes = self.write_bytes(NamespaceId(self.directory.get(at).namespace));
        if let Some(reason) = reason_of(job) {
            self.gate.written(self.now, reason, bytes);
        }
    }

    /// A header's record was written anew.
    pub(super) fn record_written(&mut self, tier: Tier) {
        if tier == Tier::Nvme {
            self.gate.written(self.now, Reason::Record, PAGE_BYTES as u64);
        }
    }

    /// Bytes that one block of the namespace takes on NVMe.
    fn write_bytes(&self, namespace: NamespaceId) -> u64 {
        self.namespace(namespace).slot_bytes(Tier::Nvme).into()
    }
}
