//! Records that changed are written again where the block's cold copies are, and promises to forget
//! are kept in every tier.
//!
//! Writes the newest record once, however often it changed, and a bounded number at a time: what is urgent
//! before all else. Never writes for a block that has no copy on NVMe or in an object: a copy on its way
//! there takes the record along.

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
    /// How long a record may change further before it is written. What is urgent does not wait.
    pub delay: Duration,
    /// When a write that failed is tried again.
    pub retry_delay: Duration,
    /// Headers written at a time, and a tick; of what is urgent the next starts where one has ended.
    pub under_way_max: usize,
    /// Blocks in line. Those that find it full are looked for when it is half empty. Of objects that are
    /// to be erased as many. What is urgent always finds its place.
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

/// Blocks by when their records may be written.
type Line = BTreeSet<(Time, BlockIndex)>;

/// Blocks whose records are to be written again.
#[derive(Default)]
pub(super) struct Rewrites {
    line: Line,
    /// Changed promises to forget, and what somebody waits for. Bounded by what is in the directory: who
    /// found it full would be kept waiting for as long as a search takes.
    urgent: Line,
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
        if old.delete_after == new.delete_after {
            self.queue_rewrite(at, self.config.rewrites.delay);
        } else {
            self.promise_changed(at, old.delete_after);
            self.hurry_rewrite(at);
        }
    }

    /// A promise that stands in the object's header may only be put off by who knows of it: there may be
    /// another node's by then. The first counts of those that were put off since it was written.
    fn promise_changed(&mut self, at: BlockIndex, before: Time) {
        let block = self.directory.get_mut(at);
        let is_put_off = before != Time::ZERO
            && !(block.record.delete_after != Time::ZERO && block.record.delete_after < before);
        let is_written = block.stamp.is_current()
            && !self.rewrites.under_way.contains(&(block.key, Tier::Object));
        let is_there = block.copy(Tier::Object).state != CopyState::Absent;
        if is_put_off && is_there && (is_written || block.put_off == Time::ZERO) {
            block.put_off = before;
        }
    }

    fn queue_rewrite(&mut self, at: BlockIndex, delay: Duration) {
        let due = self.now + delay;
        let block = self.directory.get_mut(at);
        if block.stamp.is_in_line() {
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

    /// The block's record is to be written before those that nobody waits for.
    pub(super) fn hurry_rewrite(&mut self, at: BlockIndex) {
        self.queue_urgent(at, Duration::ZERO);
    }

    fn queue_urgent(&mut self, at: BlockIndex, delay: Duration) {
        self.directory.get_mut(at).stamp = Stamp::Urgent;
        self.rewrites.urgent.insert((self.now + delay, at));
        // Entries of blocks that went, or are written sooner, go when they prevail.
        if self.rewrites.urgent.len() > 2 * self.directory.len() + 1024 {
            let (directory, mut kept) = (&self.directory, BTreeSet::new());
            self.rewrites.urgent.retain(|(_, at)| {
                directory.is_here(*at)
                    && directory.get(*at).stamp == Stamp::Urgent
                    && kept.insert(*at)
            });
        }
    }

    /// How long that line is.
    #[cfg(test)]
    pub(super) fn urgent_rewrites(&self) -> usize {
        self.rewrites.urgent.len()
    }

    /// Starts the writes that are due, as many as there may be.
    pub(super) fn rewrite_records(&mut self) {
        let now = self.now;
        // What is due at all comes before what has to wait for something, also where nothing waits for its time.
        let until = if self.rewrites.hurried { Time::MAX } else { now };
        self.start_rewrites(|Rewrites { line, urgent, .. }| {
            let due = pop_due(urgent, now).or_else(|| pop_due(line, until));
            due.or_else(|| pop_due(urgent, until))
        });
        self.queue_missed();
    }

    /// Starts the urgent ones of them: these wait for no tick.
    fn rewrite_urgent(&mut self) {
        let now = self.now;
        self.start_rewrites(|rewrites| pop_due(&mut rewrites.urgent, now));
    }

    fn start_rewrites(&mut self, next: impl Fn(&mut Rewrites) -> Option<BlockIndex>) {
        let most = self.config.rewrites.under_way_max;
        // Entries of blocks that went, or were written meanwhile, cost a look and no write.
        for _ in 0..4 * most {
            if self.rewrites.under_way.len() + COLD.len() > most {
                break;
            }
            let Some(at) = next(&mut self.rewrites) else { break };
            self.rewrite(at);
        }
    }

    fn rewrite(&mut self, at: BlockIndex) {
        let block = self.directory.get_mut(at);
        if !block.stamp.is_in_line() || block.doomed {
            // Written already; or the row serves another block, which has its own entry.
            return;
        }
        let stamp = std::mem::replace(&mut block.stamp, Stamp::Current);
        let (key, record, known, row) = (block.key, block.record, block.put_off, &*block);
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
            self.requeue(at, self.config.rewrites.delay, stamp == Stamp::Urgent);
            return;
        }
        self.directory.get_mut(at).shield_lag_ms = 0;
        for tier in here {
            self.pin(at, tier);
            self.rewrites.under_way.insert((key, tier));
            let place = (tier == Tier::Nvme).then(|| self.place_of(at, tier));
            self.out.push(Effect::Restamp { tier, place, key, record, known });
        }
    }

    fn requeue(&mut self, at: BlockIndex, delay: Duration, is_urgent: bool) {
        if is_urgent {
            self.queue_urgent(at, delay);
        } else {
            self.queue_rewrite(at, delay);
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
            RestampEnd::Written => {
                self.promise_written(tier, at);
                self.record_written(tier);
            }
            // A daemon that stops does not try for ever.
            RestampEnd::Failed if self.rewrites.hurried => {}
            RestampEnd::Failed => {
                let promises = self.directory.get(at).record.delete_after != Time::ZERO;
                self.requeue(at, self.config.rewrites.retry_delay, promises);
            }
            RestampEnd::Missing => self.drop_lost_copy(at, tier, Lost::Missing),
            RestampEnd::Corrupt => self.drop_lost_copy(at, tier, Lost::Corrupt),
        }
        if self.directory.find(key) == Some(at) {
            self.sweep(at);
        }
        if self.rewrites.hurried {
            self.rewrite_records();
        } else {
            self.rewrite_urgent();
        }
    }

    /// Who reads the object by now may tell of a header from before.
    fn promise_written(&mut self, tier: Tier, at: BlockIndex) {
        let block = self.directory.get_mut(at);
        if tier == Tier::Object && block.stamp.is_current() && block.copy(tier).busy == 0 {
            block.put_off = Time::ZERO;
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
        let blocks = |line: &Line| line.iter().map(|(_, at)| *at).collect::<BTreeSet<BlockIndex>>();
        let (line, urgent) = (blocks(&self.rewrites.line), blocks(&self.rewrites.urgent));
        let is_lost = |(at, block): &(BlockIndex, &Block)| {
            let is_in_line = match block.stamp {
                Stamp::Queued => line.contains(at),
                Stamp::Urgent => urgent.contains(at),
                Stamp::Current | Stamp::Missed => true,
            };
            !is_in_line && !block.doomed
        };
        match self.directory.iter().find(is_lost) {
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

/// The block that may be written first, if it may be by then.
fn pop_due(line: &mut Line, until: Time) -> Option<BlockIndex> {
    let (due, at) = line.first().copied()?;
    (due <= until).then(|| {
        line.pop_first();
        at
    })
}

/// Whether a copy that outlives the daemon is there or on its way.
fn is_cold(block: &Block) -> bool {
    COLD.into_iter().any(|tier| block.copy(tier).state != CopyState::Absent)
}
