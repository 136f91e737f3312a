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
    /// Headers written at a time, and a tick, in each tier; of what is urgent the next starts where one has
    /// ended.
    pub under_way_max: usize,
    /// Blocks in line for each tier. Those that find it full are looked for when it is half empty. Of objects
    /// that are to be erased as many. What is urgent always finds its place.
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

/// Blocks whose records are to be written again in one tier. Each tier has its own, and its own pace: a disk
/// does not wait for an object store.
#[derive(Default)]
pub(super) struct Lines {
    line: Line,
    /// Changed promises to forget, and what somebody waits for. Bounded by what is in the directory: who
    /// found it full would be kept waiting for as long as a search takes.
    urgent: Line,
    under_way: usize,
    /// Somebody found the line full; where the search for those goes on.
    missed: bool,
    next_row: usize,
}

/// What is to be written where.
#[derive(Default)]
pub(super) struct Rewrites {
    tiers: [Lines; COLD.len()],
    pub(super) under_way: BTreeSet<(Key, Tier)>,
    /// The daemon stops: nothing waits for further changes.
    pub(super) hurried: bool,
}

impl Rewrites {
    fn of(&mut self, tier: Tier) -> &mut Lines {
        let at = COLD.iter().position(|cold| *cold == tier).expect("only cold tiers keep headers");
        &mut self.tiers[at]
    }
}

impl Manager {
    /// The block's record changed from `before` to what it is.
    pub(super) fn record_changed(&mut self, at: BlockIndex, before: &RetentionRecord) {
        if self.is_small_renewal(at, before) {
            return;
        }
        for tier in COLD {
            self.header_says(at, tier, before);
        }
    }

    /// The header of the block's copy in the tier says what is `there`: it is to say what the record does.
    pub(super) fn header_says(&mut self, at: BlockIndex, tier: Tier, there: &RetentionRecord) {
        let block = self.directory.get(at);
        let copy = block.copy(tier);
        // A header that nobody has read may hold a promise that this record knows nothing of. When it is
        // read it is written, if it must be.
        let is_read = copy.state != CopyState::Absent && copy.writer != Writer::Unknown;
        if !is_read || block.doomed {
            return;
        }
        let (old, new) = (there.standing(self.now), block.record.standing(self.now));
        if old == new {
            return;
        }
        if old.delete_after == new.delete_after {
            return self.queue_rewrite(at, tier, self.config.rewrites.delay);
        }
        if tier == Tier::Object {
            self.known.differs(at, old.delete_after);
        }
        self.hurry_rewrite(at, tier);
    }

    /// A copy into NVMe is going to bring the header along that the object has by then.
    pub(super) fn header_goes_up(&mut self, at: BlockIndex) {
        let block = self.directory.get(at);
        let is_written = self.rewrites.under_way.contains(&(block.key, Tier::Object));
        // What was asked for a block whose header nobody has read stands in none.
        let is_asked = self.unread.is_asked(at)
            || block.copy(Tier::Object).writer == Writer::Unknown
                && block.record != RetentionRecord::default();
        if is_written || is_asked || !block.stamp(Tier::Object).is_current() {
            let promises = block.record.delete_after != Time::ZERO;
            self.requeue(at, Tier::Nvme, Duration::ZERO, promises);
        }
    }

    /// Every hit renews: what a restart would lose by what is not written is less than a quarter. What is in line
    /// takes it along.
    fn is_small_renewal(&mut self, at: BlockIndex, before: &RetentionRecord) -> bool {
        let now = self.now;
        let block = self.directory.get_mut(at);
        let (old, new) = (before.standing(now), block.record.standing(now));
        let renewed = RetentionRecord { shield_until: new.shield_until, ..old } == new
            && new.shield_until > old.shield_until;
        let is_cold = COLD.into_iter().any(|tier| block.copy(tier).state != CopyState::Absent);
        if !renewed || !is_cold {
            return false;
        }
        let more = new.shield_until.since(old.shield_until).as_millis();
        let lag_ms = block.shield_lag_ms.saturating_add(u32::try_from(more).unwrap_or(u32::MAX));
        block.shield_lag_ms = lag_ms;
        lag_ms <= new.refresh_on_hit_ms / 4
    }

    fn queue_rewrite(&mut self, at: BlockIndex, tier: Tier, delay: Duration) {
        let (due, most) = (self.now + delay, self.config.rewrites.queued_max);
        let block = self.directory.get_mut(at);
        let stamp = block.stamp(tier);
        if stamp.is_in_line() {
            return;
        }
        let lines = self.rewrites.of(tier);
        if lines.line.len() < most {
            block.set_stamp(tier, Stamp::Queued);
            lines.line.insert((due, at));
        } else if stamp == Stamp::Current {
            block.set_stamp(tier, Stamp::Missed);
            lines.missed = true;
        }
    }

    /// The block's record is to be written there before those that nobody waits for.
    pub(super) fn hurry_rewrite(&mut self, at: BlockIndex, tier: Tier) {
        self.queue_urgent(at, tier, Duration::ZERO);
    }

    fn queue_urgent(&mut self, at: BlockIndex, tier: Tier, delay: Duration) {
        self.directory.get_mut(at).set_stamp(tier, Stamp::Urgent);
        let due = self.now + delay;
        let lines = self.rewrites.of(tier);
        lines.urgent.insert((due, at));
        // Entries of blocks that went, or are written sooner, go when they prevail.
        if lines.urgent.len() > 2 * self.directory.len() + 1024 {
            let (directory, mut kept) = (&self.directory, BTreeSet::new());
            lines.urgent.retain(|(_, at)| {
                directory.is_here(*at)
                    && directory.get(*at).stamp(tier) == Stamp::Urgent
                    && kept.insert(*at)
            });
        }
    }

    /// How long those lines are.
    #[cfg(test)]
    pub(super) fn urgent_rewrites(&self) -> usize {
        self.rewrites.tiers.iter().map(|lines| lines.urgent.len()).sum()
    }

    /// Starts the writes that are due, as many as there may be.
    pub(super) fn rewrite_records(&mut self) {
        let now = self.now;
        // What is due at all comes before what has to wait for something, also where nothing waits for its time.
        let until = if self.rewrites.hurried { Time::MAX } else { now };
        for tier in COLD {
            self.start_rewrites(tier, |Lines { line, urgent, .. }| {
                let due = pop_due(urgent, now).or_else(|| pop_due(line, until));
                due.or_else(|| pop_due(urgent, until))
            });
            self.queue_missed(tier);
        }
    }

    /// Starts the urgent ones of them: these wait for no tick.
    fn rewrite_urgent(&mut self, tier: Tier) {
        let now = self.now;
        self.start_rewrites(tier, |lines| pop_due(&mut lines.urgent, now));
    }

    fn start_rewrites(&mut self, tier: Tier, next: impl Fn(&mut Lines) -> Option<BlockIndex>) {
        let most = self.config.rewrites.under_way_max;
        // Entries of blocks that went, or were written meanwhile, cost a look and no write.
        for _ in 0..4 * most {
            let lines = self.rewrites.of(tier);
            if lines.under_way == most {
                break;
            }
            let Some(at) = next(lines) else { break };
            self.rewrite(at, tier);
        }
    }

    fn rewrite(&mut self, at: BlockIndex, tier: Tier) {
        let block = self.directory.get_mut(at);
        let (copy, stamp) = (*block.copy(tier), block.stamp(tier));
        if !stamp.is_in_line() || block.doomed {
            // Written already; or the row serves another block, which has its own entry.
            return;
        }
        block.set_stamp(tier, Stamp::Current);
        if copy.state != CopyState::Resident || copy.busy > 0 {
            // Whoever reads a header sees at most one record change: that is what keeps it whole.
            return self.requeue(at, tier, self.config.rewrites.delay, stamp == Stamp::Urgent);
        }
        if !is_current_elsewhere(block, tier) {
            block.shield_lag_ms = 0;
        }
        let (key, record) = (block.key, block.record);
        self.pin(at, tier);
        self.rewrites.under_way.insert((key, tier));
        self.rewrites.of(tier).under_way += 1;
        let (place, known) = match tier {
            Tier::Nvme => (Some(self.place_of(at, tier)), Time::ZERO),
            _ => (None, self.known.write(at, record.delete_after)),
        };
        self.out.push(Effect::Restamp { tier, place, key, record, known });
    }

    fn requeue(&mut self, at: BlockIndex, tier: Tier, delay: Duration, is_urgent: bool) {
        if is_urgent {
            self.queue_urgent(at, tier, delay);
        } else {
            self.queue_rewrite(at, tier, delay);
        }
    }

    /// The write of a record ended.
    pub(super) fn restamped(&mut self, tier: Tier, key: Key, end: RestampEnd) {
        // An unknown one can only be a shell's mistake; answering twice must not be fatal.
        if !self.rewrites.under_way.remove(&(key, tier)) {
            return;
        }
        self.rewrites.of(tier).under_way -= 1;
        let at = self.directory.find(key).expect("a block stays while a copy of it is pinned");
        if let RestampEnd::Outdone(there) = end {
            self.outdone(at, tier, &there);
        } else if tier == Tier::Object {
            self.promise_written(at, end);
        }
        self.unpin(at, tier);
        let is_written = matches!(end, RestampEnd::Written | RestampEnd::Outdone(_));
        self.durable_restamped(at, tier, is_written);
        match end {
            RestampEnd::Written | RestampEnd::Outdone(_) => self.record_written(tier),
            // A daemon that stops does not try for ever.
            RestampEnd::Failed if self.rewrites.hurried => {}
            RestampEnd::Failed => {
                let promises = self.directory.get(at).record.delete_after != Time::ZERO;
                self.requeue(at, tier, self.config.rewrites.retry_delay, promises);
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
            self.rewrite_urgent(tier);
        }
    }

    fn promise_written(&mut self, at: BlockIndex, end: RestampEnd) {
        if end == RestampEnd::Written {
            self.known.written(at, None);
        } else {
            self.known.failed(at);
        }
    }

    /// A sooner promise stood there, and stays. It is another's, or one of this node's own that a write has
    /// left there which was taken for failed.
    fn outdone(&mut self, at: BlockIndex, tier: Tier, there: &RetentionRecord) {
        self.promise_read(at, there);
        self.known.written(at, Some(there.delete_after));
        self.header_says(at, tier, there);
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
    fn queue_missed(&mut self, tier: Tier) {
        let most = self.config.rewrites.queued_max;
        let lines = self.rewrites.of(tier);
        let searching = lines.missed || lines.next_row > 0;
        if !searching || lines.line.len() > most / 2 {
            return;
        }
        if lines.next_row == 0 {
            lines.missed = false;
        }
        let from = lines.next_row;
        let end = self.directory.rows().min(from + ROWS_A_TICK);
        for row in from..end {
            if let Some(at) = self.directory.at_row(row)
                && self.directory.get(at).stamp(tier) == Stamp::Missed
            {
                self.queue_rewrite(at, tier, self.config.rewrites.delay);
                let is_missed = self.directory.get(at).stamp(tier) == Stamp::Missed;
                self.rewrites.of(tier).missed |= is_missed;
            }
        }
        self.rewrites.of(tier).next_row = if end == self.directory.rows() { 0 } else { end };
    }

    /// # Errors
    /// A block counts as being in line, and is not: no further change of its record would be written.
    pub(super) fn check_rewrites(&self) -> Result<(), String> {
        let blocks = |line: &Line| line.iter().map(|(_, at)| *at).collect::<BTreeSet<BlockIndex>>();
        for (tier, lines) in COLD.into_iter().zip(&self.rewrites.tiers) {
            let (line, urgent) = (blocks(&lines.line), blocks(&lines.urgent));
            let is_lost = |(at, block): &(BlockIndex, &Block)| {
                let is_in_line = match block.stamp(tier) {
                    Stamp::Queued => line.contains(at),
                    Stamp::Urgent => urgent.contains(at),
                    Stamp::Current | Stamp::Missed => true,
                };
                !is_in_line && !block.doomed
            };
            if let Some((_, block)) = self.directory.iter().find(is_lost) {
                return Err(format!("{} is not in line for its record in {tier}", block.key));
            }
            let of_tier = self.rewrites.under_way.iter().filter(|(_, at)| *at == tier);
            if of_tier.count() != lines.under_way {
                return Err(format!("{} records are not written in {tier}", lines.under_way));
            }
        }
        Ok(())
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
            self.forget_strays_below(key);
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

/// Whether the block has a header in another tier that is not to be written.
fn is_current_elsewhere(block: &Block, tier: Tier) -> bool {
    let is_current = |other: &Tier| {
        block.copy(*other).state != CopyState::Absent && block.stamp(*other).is_current()
    };
    COLD.iter().any(|other| *other != tier && is_current(other))
}
