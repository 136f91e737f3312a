//! Lifts: blocks on their way up ahead of the request that needs them, and held until it comes.
//!
//! A lift names a chain, a tier and a deadline. It moves only what finds room without breaking a
//! shield, and what it evicts is worth less ([`moves`]). What it lifted stays until it is asked for,
//! the deadline passes, or room is needed for what can't wait; what nobody asked for goes first.

mod check;

mod moves;

mod timing;

mod triggers;

mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::directory::BlockIndex;
use crate::domain::hint::LiftReason;
use crate::domain::residency::CopyState;
use crate::domain::session::SessionIndex;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

use super::Manager;
use super::api::{ClientId, LiftCounts, LiftState, LiftStatus, NamespaceId, OpId};

/// The order in which lifts move: what is needed first, then the highest priority.
type Rank = (Time, u8, OpId);

/// Lifts that have ended and can still be asked about.
const ENDED_MAX: usize = 1024;

/// Lifts of one client at a time: its completions' stream holds as many.
pub const LIFTS_PER_CLIENT_MAX: usize = 256;

/// What is to be lifted, for whom and why.
pub(super) struct NewLift {
    /// With whom it ends.
    pub client: Option<ClientId>,
    /// The client knows its number, and waits for its end.
    pub is_watched: bool,
    pub session: Option<SessionIndex>,
    pub reason: LiftReason,
    pub to: Tier,
    pub keys: Vec<Key>,
    pub times: LiftTimes,
    pub priority: u8,
}

/// When a lift moves, and how long it holds what it moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct LiftTimes {
    /// Until then it takes free room only, and keeps nothing that is there already.
    pub begin: Time,
    /// When the blocks are expected to be asked for: who needs them first moves first.
    pub needed: Time,
    /// What nobody asked for by then is let go.
    pub deadline: Time,
}

impl LiftTimes {
    /// At once, for a request that comes within `deadline`.
    pub fn now(now: Time, deadline: Duration) -> Self {
        Self { begin: now, needed: now + deadline, deadline: now + deadline }
    }
}

pub(super) struct Lift {
    what: NewLift,
    state: LiftState,
    /// Cold blocks pass through DRAM on their way to HBM.
    is_indirect: bool,
    /// How far cold blocks have been brought into DRAM on their way to HBM, and blocks to where they
    /// are to be: the next block of each leg.
    below: usize,
    next: usize,
    /// Copies under way; and copies under way or held, by tier.
    moving: [u32; Tier::COUNT],
    copies: [u32; Tier::COUNT],
    /// Blocks that are where they are to be, or on the last leg there.
    landed: u32,
    used: u32,
    /// Blocks that are not lifted, by index.
    clipped: Vec<u32>,
    /// It found no room after its time had come, and looks again.
    looks_again: bool,
    told: bool,
}

/// One copy that a lift made or keeps.
#[derive(Clone, Copy)]
struct Hold {
    op: OpId,
    index: u32,
    /// It was moved; else it was there before, and is only kept.
    moved: bool,
}

/// All lifts.
#[derive(Default)]
pub(super) struct Lifts {
    open: BTreeMap<OpId, Lift>,
    /// What has not begun to move all its blocks, and does not wait for its time.
    queue: BTreeSet<Rank>,
    /// When each open lift is to be looked at: to begin, or to end.
    timers: BTreeSet<(Time, OpId)>,
    /// The lift that a session's own doings began.
    by_session: BTreeMap<SessionIndex, OpId>,
    holds: BTreeMap<(BlockIndex, Tier), Hold>,
    /// Copies held or under way, by tier.
    copies: [u64; Tier::COUNT],
    ended: VecDeque<(ClientId, LiftStatus)>,
    pub counts: LiftCounts,
    /// Something changed that may let a lift move on.
    pub stirred: bool,
}

impl Lifts {
    fn rank(op: OpId, lift: &Lift) -> Rank {
        (lift.what.times.needed, u8::MAX - lift.what.priority, op)
    }

    fn of_client(&self, client: ClientId) -> impl Iterator<Item = OpId> + '_ {
        let own = move |(_, lift): &(&OpId, &Lift)| lift.what.client == Some(client);
        self.open.iter().filter(own).map(|(op, _)| *op)
    }
}

impl Lift {
    fn is_all_begun(&self) -> bool {
        self.next >= self.what.keys.len() && self.below >= self.what.keys.len()
    }

    fn status(&self, op: OpId) -> LiftStatus {
        LiftStatus {
            op,
            state: self.state,
            reason: self.what.reason,
            to: self.what.to,
            deadline: self.what.times.deadline,
            blocks: count(self.what.keys.len()),
            // A walk begun anew has not counted yet what the one before moves.
            landed: self.landed.saturating_sub(self.moving[self.what.to.index()]),
            clipped: count(self.clipped.len()),
            used: self.used,
        }
    }

    fn moves(&self) -> bool {
        self.moving != [0; Tier::COUNT]
    }

    /// Whether the block is among those that this walk found there or began to move.
    fn has_counted(&self, index: u32) -> bool {
        index < count(self.next) && !self.clipped.contains(&index)
    }

    /// From the first block on; what it holds it keeps.
    fn start_over(&mut self) {
        self.state = LiftState::Moving;
        self.next = 0;
        self.below = if self.is_indirect { 0 } else { self.what.keys.len() };
        self.landed = 0;
        self.clipped.clear();
    }

    /// What has not begun is not lifted any more.
    fn clip_rest(&mut self) {
        self.clipped.extend(count(self.next)..count(self.what.keys.len()));
        (self.next, self.below) = (self.what.keys.len(), self.what.keys.len());
    }
}

impl Manager {
    /// Begins a lift, if there may be one more; its first copies start in this step.
    pub(super) fn begin_lift(&mut self, what: NewLift) -> Result<OpId, String> {
        if self.config.lifts_max == 0 {
            return Err("this daemon lifts nothing ahead of need: set prefetch.lifts_max".into());
        }
        let own = what.client.map_or(0, |client| self.lifts.of_client(client).count());
        if self.lifts.open.len() >= self.config.lifts_max || own >= LIFTS_PER_CLIENT_MAX {
            return Err(format!(
                "{} lifts are under way or held, {own} of them this client's, which is as many as \
                 there may be: cancel some, or try again when they have ended",
                self.lifts.open.len()
            ));
        }
        self.counters.ops += 1;
        let op = OpId(self.counters.ops);
        let is_indirect = what.to == Tier::Hbm && self.taker_flags()[Tier::Dram.index()];
        let mut lift = Lift {
            state: LiftState::Moving,
            is_indirect,
            below: 0,
            next: 0,
            moving: [0; Tier::COUNT],
            copies: [0; Tier::COUNT],
            landed: 0,
            used: 0,
            clipped: Vec::new(),
            looks_again: false,
            told: false,
            what,
        };
        lift.start_over();
        self.lifts.queue.insert(Lifts::rank(op, &lift));
        self.lifts.timers.insert((lift.what.times.deadline, op));
        self.lifts.open.insert(op, lift);
        self.lifts.counts.begun += 1;
        self.move_lifts();
        Ok(op)
    }

    /// Ends a lift: what it holds is let go, what moves lands by itself.
    pub(super) fn end_lift(&mut self, op: OpId, end: LiftState) {
        let Some(lift) = self.lifts.open.get_mut(&op) else { return };
        lift.clip_rest();
        lift.state = end;
        let keys = std::mem::take(&mut lift.what.keys);
        let mut previous = None;
        for key in &keys {
            previous = self.directory.find_after(previous, *key);
            if let Some(block) = previous {
                self.drop_holds(block, op);
            }
        }
        if let Some(lift) = self.lifts.open.get_mut(&op) {
            lift.what.keys = keys;
        }
        self.close_lift(op);
    }

    /// Tells the client that nothing moves any more, and closes what holds nothing either.
    fn settle_lift(&mut self, op: OpId) {
        let now = self.now;
        let Some(lift) = self.lifts.open.get_mut(&op) else { return };
        if !lift.is_all_begun() {
            return;
        }
        let rank = Lifts::rank(op, lift);
        self.lifts.queue.remove(&rank);
        if lift.what.times.begin > now {
            self.wait_for_time(op);
            return;
        }
        if lift.moves() {
            return;
        }
        lift.state = LiftState::Held;
        let holds_none = lift.copies == [0; Tier::COUNT];
        self.tell_lift(op);
        if holds_none {
            if let Some(lift) = self.lifts.open.get_mut(&op) {
                lift.state = LiftState::Ended;
            }
            self.close_lift(op);
        }
    }

    fn close_lift(&mut self, op: OpId) {
        self.tell_lift(op);
        let Some(lift) = self.lifts.open.remove(&op) else { return };
        self.lifts.queue.remove(&Lifts::rank(op, &lift));
        self.lifts.timers.remove(&(lift.what.times.begin, op));
        self.lifts.timers.remove(&(lift.what.times.deadline, op));
        if let Some(session) = lift.what.session
            && self.lifts.by_session.get(&session) == Some(&op)
        {
            self.lifts.by_session.remove(&session);
        }
        self.lifts.counts.cancelled += u64::from(lift.state == LiftState::Cancelled);
        self.lifts.counts.clipped_blocks += lift.clipped.len() as u64;
        if let Some(client) = lift.what.client.filter(|_| lift.what.is_watched) {
            if self.lifts.ended.len() >= ENDED_MAX {
                self.lifts.ended.pop_front();
            }
            self.lifts.ended.push_back((client, lift.status(op)));
        }
    }

    /// A request asks for the block: what was lifted for it has served.
    pub(super) fn lift_used(&mut self, block: BlockIndex) {
        for tier in Tier::ALL {
            if !self.directory.get(block).is_lifted(tier) {
                continue;
            }
            let Some((hold, bytes)) = self.take_hold(block, tier) else { continue };
            let is_there = self.directory.get(block).copy(tier).state != CopyState::Filling;
            if hold.moved && is_there {
                self.lifts.counts.timely_bytes += bytes;
            } else if hold.moved {
                self.lifts.counts.late_bytes += bytes;
            }
            if let Some(lift) = self.lifts.open.get_mut(&hold.op) {
                lift.used += u32::from(tier == lift.what.to);
            }
            self.reconsider(block, tier);
            self.settle_lift(hold.op);
        }
    }

    /// The lift lets go of the block's copies: nobody asked for them.
    fn drop_holds(&mut self, block: BlockIndex, op: OpId) {
        for tier in Tier::ALL {
            if self.lifts.holds.get(&(block, tier)).is_none_or(|hold| hold.op != op) {
                continue;
            }
            let Some((hold, bytes)) = self.take_hold(block, tier) else { continue };
            if hold.moved {
                self.lifts.counts.wasted_bytes += bytes;
                let row = self.directory.get_mut(block);
                let source =
                    tier.below().iter().copied().find(|t| row.copy(*t).state.is_readable());
                row.cold_above = source.or(row.cold_above);
                self.rank_changed(block);
            }
            self.reconsider(block, tier);
        }
    }

    /// A copy that a lift made or kept goes, whoever wanted that.
    pub(super) fn lift_lost(&mut self, block: BlockIndex, tier: Tier) {
        let is_there = self.directory.get(block).copy(tier).state != CopyState::Filling;
        let Some((hold, bytes)) = self.take_hold(block, tier) else { return };
        // What never landed may have moved in part; it is counted with what served nobody.
        if hold.moved {
            self.lifts.counts.wasted_bytes += bytes;
        }
        if let Some(lift) = self.lifts.open.get_mut(&hold.op).filter(|_| !is_there)
            && lift.what.to == tier
            && lift.has_counted(hold.index)
        {
            lift.landed -= 1;
            lift.clipped.push(hold.index);
        }
        self.settle_lift(hold.op);
    }

    /// A copy that a lift began has landed.
    pub(super) fn lift_landed(&mut self, block: BlockIndex, tier: Tier) {
        let Some(hold) = self.lifts.holds.get(&(block, tier)).copied() else { return };
        if let Some(lift) = self.lifts.open.get_mut(&hold.op) {
            lift.moving[tier.index()] -= 1;
        }
        self.lifts.stirred = true;
        self.settle_lift(hold.op);
    }

    fn hold(&mut self, block: BlockIndex, tier: Tier, hold: Hold) {
        self.directory.get_mut(block).set_lifted(tier, true);
        self.lifts.copies[tier.index()] += 1;
        self.lifts.holds.insert((block, tier), hold);
        let bytes = self.block_bytes(block);
        let Some(lift) = self.lifts.open.get_mut(&hold.op) else { return };
        lift.copies[tier.index()] += 1;
        if hold.moved {
            self.lifts.counts.bytes += bytes;
            lift.moving[tier.index()] += 1;
        }
    }

    /// The copy is held no longer; the block's bytes come along.
    fn take_hold(&mut self, block: BlockIndex, tier: Tier) -> Option<(Hold, u64)> {
        let hold = self.lifts.holds.remove(&(block, tier))?;
        self.lifts.copies[tier.index()] -= 1;
        let bytes = self.block_bytes(block);
        let row = self.directory.get_mut(block);
        row.set_lifted(tier, false);
        let fills = row.copy(tier).state == CopyState::Filling;
        if let Some(lift) = self.lifts.open.get_mut(&hold.op) {
            lift.copies[tier.index()] -= 1;
            lift.moving[tier.index()] -= u32::from(fills);
        }
        Some((hold, bytes))
    }

    fn block_bytes(&self, block: BlockIndex) -> u64 {
        self.namespace(NamespaceId(self.directory.get(block).namespace)).payload_bytes
    }

    /// Room is needed in the tier, and nothing else may go: the lift that is needed last lets go of
    /// what it holds. False if none holds anything there.
    pub(super) fn break_lift(&mut self, tier: Tier) -> bool {
        if self.lifts.copies[tier.index()] == 0 {
            return false;
        }
        let has_copies = |op: &OpId| self.lifts.open[op].copies[tier.index()] > 0;
        let mut by_need = self.lifts.timers.iter().rev().map(|(_, op)| *op);
        let Some(last) = by_need.find(has_copies) else { return false };
        self.end_lift(last, LiftState::Ended);
        true
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
