//! Records that changed are written again where the block's cold copies are, and promises to forget
//! are kept in every tier.
//!
//! Writes the newest record once, however often it changed, and a bounded number at a time. Never
//! writes for a block that has no copy on NVMe or in an object: a copy on its way there takes the
//! record along.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::directory::{Block, BlockIndex, Stamp, Writer};
use crate::domain::residency::CopyState;
use crate::domain::retention::RetentionRecord;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

use super::Manager;
use super::api::{Effect, Lost, RestampEnd};

/// Bounds of the work that changed records make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewriteLimits {
    /// How long a record may change further before it is written. A changed promise to forget does
    /// not wait.
    pub delay: Duration,
    /// When a write that failed is tried again.
    pub retry_delay: Duration,
    /// Headers written at a time, and a tick.
    pub under_way_max: usize,
    /// Blocks in line. Those that find it full are looked for when it is half empty. Of objects that are
    /// to be erased as many.
    pub queued_max: usize,
    /// Objects that the store failed to erase, from which number on none goes to make room.
    pub owed_max: usize,
}

impl Default for RewriteLimits {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(1),
            retry_delay: Duration::from_secs(30),
            under_way_max: 128,
            queued_max: 65_536,
            owed_max: 4096,
        }
    }
}

/// The tiers whose copies outlive the daemon.
pub(super) const COLD: [Tier; 2] = [Tier::Nvme, Tier::Object];

/// Rows looked at a tick for blocks that found the line full.
const ROWS_A_TICK: usize = 16_384;

/// Blocks whose records are to be written again.
#[derive(Default)]
pub(super) struct Rewrites {
    line: BTreeSet<(Time, BlockIndex)>,
    pub(super) under_way: BTreeSet<(Key, Tier)>,
    /// Somebody found the line full; where the search for those goes on.
    missed: bool,
    next_row: usize,
    /// The daemon stops: nothing waits for further changes.
    pub(super) hurried: bool,
}

impl Manager {
    /// The block's record changed from `before` to what it is.
    pub(super) fn record_changed(&mut self, at: BlockIndex, before: &RetentionRecord) {
        let now = self.now;
        let block = self.directory.get_mut(at);
        if !is_cold(block) || block.doomed {
            return;
        }
        let (old, new) = (before.standing(now), block.record.standing(now));
        if old == new {
            return;
        }
        let renewed = RetentionRecord { shield_until: new.shield_until, ..old } == new
            && new.shield_until > old.shield_until;
        if renewed && block.stamp == Stamp::Current {
            let more = new.shield_until.since(old.shield_until).as_millis();
            let lag_ms =
                block.shield_lag_ms.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
            block.shield_lag_ms = lag_ms;
            // Every hit renews: what a restart would lose by it is less than a quarter.
            if lag_ms <= new.refresh_on_hit_ms / 4 {
                return;
            }
        }
        let promised = old.delete_after != new.delete_after;
        self.queue_rewrite(at, if promised { Duration::ZERO } else { self.config.rewrites.delay });
    }

    fn queue_rewrite(&mut self, at: BlockIndex, delay: Duration) {
        let due = self.now + delay;
        let block = self.directory.get_mut(at);
        if block.stamp == Stamp::Queued && !delay.is_zero() {
            return;
        }
        if self.rewrites.line.len() < self.config.rewrites.queued_max {
            block.stamp = Stamp::Queued;
            self.rewrites.line.insert((due, at));
        } else if block.stamp == Stamp::Current {
            block.stamp = Stamp::Missed;
            self.rewrites.missed = true;
        }
    }

    /// Somebody waits for the block's record to be written.
    pub(super) fn hurry_rewrite(&mut self, at: BlockIndex) {
        self.queue_rewrite(at, Duration::ZERO);
    }

    /// Starts the writes that are due, as many as there may be.
    pub(super) fn rewrite_records(&mut self) {
        let most = self.config.rewrites.under_way_max;
        // Entries of blocks that went, or were written meanwhile, cost a look and no write.
        for _ in 0..4 * most {
            if self.rewrites.under_way.len() + COLD.len() > most {
                break;
            }
            match self.rewrites.line.first().copied() {
                Some((due, at)) if due <= self.now || self.rewrites.hurried => {
                    self.rewrites.line.pop_first();
                    self.rewrite(at);
                }
                _ => break,
            }
        }
        self.queue_missed();
    }

    fn rewrite(&mut self, at: BlockIndex) {
        let block = self.directory.get_mut(at);
        if block.stamp != Stamp::Queued || block.doomed {
            // Written already; or the row serves another block, which has its own entry.
            return;
        }
        block.stamp = Stamp::Current;
        let (key, record, row) = (block.key, block.record, &*block);
        // A header that nobody has read may hold a promise that this record knows nothing of. When it is
        // read it is written, if it must be; the others do not wait for that.
        let is_known = |tier: &Tier| {
            let copy = row.copy(*tier);
            copy.state != CopyState::Absent && copy.writer != Writer::Unknown
        };
        let here: Vec<Tier> = COLD.into_iter().filter(is_known).collect();
        let is_idle = |tier: &Tier| {
            let copy = row.copy(*tier);
            copy.state == CopyState::Resident && copy.busy == 0
        };
        if !here.iter().all(is_idle) {
            // Whoever reads a header sees at most one record change: that is what keeps it whole.
            self.queue_rewrite(at, self.config.rewrites.delay);
            return;
        }
        self.directory.get_mut(at).shield_lag_ms = 0;
        for tier in here {
            self.pin(at, tier);
            self.rewrites.under_way.insert((key, tier));
            let place = (tier == Tier::Nvme).then(|| self.place_of(at, tier));
            self.out.push(Effect::Restamp { tier, place, key, record });
        }
    }

    /// The write of a record ended.
    pub(super) fn restamped(&mut self, tier: Tier, key: Key, end: RestampEnd) {
        // An unknown one can only be a shell's mistake; answering twice must not be fatal.
        if !self.rewrites.under_way.remove(&(key, tier)) {
            return;
        }
        let at = self.directory.find(key).expect("a block stays while a copy of it is pinned");
        self.unpin(at, tier);
        self.durable_restamped(at, tier, end == RestampEnd::Written);
        match end {
            RestampEnd::Written => self.record_written(tier),
            // A daemon that stops does not try for ever.
            RestampEnd::Failed if self.rewrites.hurried => {}
            RestampEnd::Failed => self.queue_rewrite(at, self.config.rewrites.retry_delay),
            RestampEnd::Missing => self.drop_lost_copy(at, tier, Lost::Missing),
            RestampEnd::Corrupt => self.drop_lost_copy(at, tier, Lost::Corrupt),
        }
        if self.directory.find(key) == Some(at) {
            self.sweep(at);
        }
        if self.rewrites.hurried {
            self.rewrite_records();
        }
    }

    /// Nothing waits any longer, nor does what is owed: the next start would find it.
    pub(super) fn hurry_rewrites(&mut self) {
        self.rewrites.hurried = true;
        for tier in COLD {
            self.hurry_owed(tier);
        }
    }

    /// A daemon that stops goes on as soon as what was in the way has ended.
    pub(super) fn finish_before_stop(&mut self) {
        if self.rewrites.hurried {
            self.rewrite_records();
            self.erase_owed();
        }
    }

    /// Puts blocks that found the line full into it, once there is room.
    fn queue_missed(&mut self) {
        let rewrites = &mut self.rewrites;
        let searching = rewrites.missed || rewrites.next_row > 0;
        if !searching || rewrites.line.len() > self.config.rewrites.queued_max / 2 {
            return;
        }
        if rewrites.next_row == 0 {
            rewrites.missed = false;
        }
        let from = rewrites.next_row;
        let end = self.directory.rows().min(from + ROWS_A_TICK);
        for row in from..end {
            if let Some(at) = self.directory.at_row(row)
                && self.directory.get(at).stamp == Stamp::Missed
            {
                self.queue_rewrite(at, self.config.rewrites.delay);
                self.rewrites.missed |= self.directory.get(at).stamp == Stamp::Missed;
            }
        }
        self.rewrites.next_row = if end == self.directory.rows() { 0 } else { end };
    }

    /// # Errors
    /// A block counts as being in line, and is not: no further change of its record would be written.
    pub(super) fn check_rewrites(&self) -> Result<(), String> {
        let in_line: BTreeSet<BlockIndex> = self.rewrites.line.iter().map(|(_, at)| *at).collect();
        let waits = |block: &Block| block.stamp == Stamp::Queued && !block.doomed;
        match self.directory.iter().find(|(at, block)| waits(block) && !in_line.contains(at)) {
            Some((_, block)) => Err(format!("{} is not in line for its record", block.key)),
            None => Ok(()),
        }
    }

    /// The block and all that hangs on it is gone from now on, in every tier.
    pub(super) fn forget(&mut self, at: BlockIndex) {
        let mut stack = vec![at];
        while let Some(next) = stack.pop() {
            let block = self.directory.get_mut(next);
            // What hangs on a forgotten block was forgotten with it. All of a chain may be due at once, and
            // stay for as long as somebody holds it: a walk down from each would hold everybody up.
            if std::mem::replace(&mut block.forgotten, true) {
                continue;
            }
            // One that is doomed already is gone for another reason.
            self.counters.forgotten_blocks += u64::from(!block.doomed);
            let (key, object) = (block.key, block.copy(Tier::Object).state);
            if object == CopyState::Absent {
                self.erase_unseen(key);
            }
            stack.extend(self.directory.children(next));
        }
        self.doom(at);
        self.sweep(at);
    }
}

/// Whether a copy that outlives the daemon is there or on its way.
fn is_cold(block: &Block) -> bool {
    COLD.into_iter().any(|tier| block.copy(tier).state != CopyState::Absent)
}
