//! Landing: what follows when one block's copy has landed, or has failed.

use crate::domain::directory::BlockIndex;
use crate::domain::residency::CopyEvent;
use crate::domain::tier::Tier;

use super::Manager;
use super::api::{FailureKind, Lost, NamespaceId};
use super::state::{FlightItem, Job, Part};

impl Manager {
    pub(super) fn item_landed(&mut self, item: FlightItem) {
        let FlightItem { block, to, job } = item;
        self.count_bytes(block, to, job);
        match job {
            Job::Store(part) if self.partials.contains_key(&block) => {
                self.shard_landed(block, filled(to), part);
            }
            Job::Store(part) => {
                self.commit(block, filled(to));
                self.stored(block, part.op, part.index);
                self.write_through(block);
            }
            Job::Seal => {
                self.commit(block, filled(to));
                self.write_through(block);
            }
            Job::Fill { from, .. } => {
                self.unpin(block, from);
                self.commit(block, filled(to));
            }
            Job::Persist { from } => {
                self.unpin(block, from);
                self.commit(block, filled(to));
                self.durable_landed(block, filled(to));
            }
            Job::Sync { tier } => self.sync_ended(block, tier, true),
            Job::Demote { from } => {
                self.commit(block, filled(to));
                self.drained(block, from);
            }
            Job::Deliver { part, from } => {
                self.unpin(block, from);
                // What was forgotten on its way counts as not served.
                let served = !self.directory.get(block).forgotten;
                self.op_block_done(part.op, part.index, served);
            }
        }
        self.sweep(block);
    }

    /// The copy's bytes are down: it is visible from now on, and served to whoever waited.
    pub(super) fn commit(&mut self, block: BlockIndex, tier: Tier) {
        self.directory.apply(block, tier, CopyEvent::FillLanded);
        if tier == Tier::Object {
            self.is_no_stray(block);
        }
        if self.directory.get(block).is_lifted(tier) {
            self.lift_landed(block, tier);
        }
        let waiting = self.joined.remove(&(block, tier)).unwrap_or_default();
        let wanted = !waiting.is_empty();
        for part in waiting {
            self.start_delivery(block, tier, part);
        }
        if wanted {
            self.promote(block, tier);
        }
        if self.directory.get(block).has_listed_below(tier) {
            // What is below is spare now.
            self.rank_changed(block);
        } else {
            self.reconsider_all(block);
        }
        self.durable_changed(block, tier, CopyEvent::FillLanded);
    }

    /// The block is down in the tier below: this copy goes, unless readers came meanwhile.
    fn drained(&mut self, block: BlockIndex, from: Tier) {
        self.end_drain(block, from);
        let copy = self.directory.get(block).copy(from);
        if copy.busy == 0 && copy.children == 0 {
            self.drop_evicted(block, from);
        } else {
            self.directory.apply(block, from, CopyEvent::DrainFailed);
            self.durable_changed(block, from, CopyEvent::DrainFailed);
        }
        self.reconsider_all(block);
    }

    fn count_bytes(&mut self, block: BlockIndex, to: Option<Tier>, job: Job) {
        let namespace = NamespaceId(self.directory.get(block).namespace);
        let bytes = self.copied_bytes(namespace, job);
        let from = job.source();
        let is_copy = !matches!(job, Job::Seal | Job::Sync { .. });
        if let Some(to) = to.filter(|_| is_copy) {
            self.space(to).stats.bytes_in += bytes;
            if to == Tier::Nvme {
                self.nvme_written(block, job);
            }
        }
        if let Some(from) = from {
            self.space(from).stats.bytes_out += bytes;
        }
    }

    pub(super) fn item_failed(&mut self, item: FlightItem, kind: FailureKind) {
        let FlightItem { block, to, job } = item;
        self.count_failure(to, job, kind);
        if to == Some(Tier::Nvme) && kind == FailureKind::NotDone {
            self.refund_write(block, job);
        }
        let is_write = to == Some(Tier::Object) && !matches!(job, Job::Sync { .. });
        if is_write && kind == FailureKind::TargetFailed {
            self.owe_unsure(block);
        }
        match job {
            Job::Store(part) => self.store_failed(block, filled(to), part),
            Job::Seal => self.abandon_fill(block, filled(to)),
            Job::Fill { from, .. } => self.fill_failed(block, filled(to), from, Some(kind)),
            Job::Persist { from } => self.persist_failed(block, (filled(to), from), Some(kind)),
            Job::Sync { tier } => {
                self.sync_ended(block, tier, false);
                self.sweep(block);
            }
            Job::Demote { from } => match kind.lost_source() {
                Some(lost) => self.demote_lost(block, filled(to), from, lost),
                None if kind == FailureKind::TargetFailed => {
                    self.demote_lower(block, filled(to), from);
                }
                None => self.demote_failed(block, filled(to), from),
            },
            Job::Deliver { part, from } => self.delivery_failed(block, part, from, kind),
        }
    }

    fn count_failure(&mut self, to: Option<Tier>, job: Job, kind: FailureKind) {
        let from = job.source();
        let at_fault = match kind {
            FailureKind::TargetFailed => to,
            FailureKind::NotDone => None,
            _ => from,
        };
        if let Some(tier) = at_fault {
            self.space(tier).stats.failures += 1;
        }
    }

    fn delivery_failed(&mut self, block: BlockIndex, part: Part, from: Tier, kind: FailureKind) {
        if kind.is_of_source() {
            self.deliver_below(block, from, part);
        } else {
            self.op_block_done(part.op, part.index, false);
        }
        self.unpin(block, from);
        if let Some(lost) = kind.lost_source() {
            self.drop_lost_copy(block, from, lost);
        }
        self.sweep(block);
    }

    /// The next copy below serves, if there is one; a bad one is not asked twice.
    pub(super) fn deliver_below(&mut self, block: BlockIndex, bad: Tier, part: Part) {
        let row = self.directory.get(block);
        let is_served = |tier: &Tier| row.copy(*tier).state.is_readable() && self.is_read(*tier);
        let next = bad.below().iter().copied().find(is_served);
        let wanted = !row.doomed && !self.pools[&part.pool].retired && !self.is_late(part.op);
        match next.filter(|_| wanted) {
            Some(next) => self.start_delivery(block, next, part),
            None => self.op_block_done(part.op, part.index, false),
        }
    }

    /// The copy on its way down turned out lost: both ends go.
    fn demote_lost(&mut self, block: BlockIndex, to: Tier, from: Tier, lost: Lost) {
        let waiting = self.joined.remove(&(block, to)).unwrap_or_default();
        self.release_copy(block, to, CopyEvent::FillFailed);
        self.end_drain(block, from);
        self.directory.apply(block, from, CopyEvent::DrainFailed);
        self.drop_lost_copy(block, from, lost);
        self.durable_changed(block, from, CopyEvent::DrainFailed);
        for part in waiting {
            self.op_block_done(part.op, part.index, false);
        }
    }
}

/// The tier that a job fills.
fn filled(to: Option<Tier>) -> Tier {
    to.expect("all but deliveries fill a tier")
}
