//! How lifts move: which block is next, whether it finds a link and room, and what goes for it.
//!
//! Nothing waits in line for a slot or in a link's queue here: a lift goes on when there is room, so
//! that what was cancelled, or is needed sooner, finds nothing in its way.

use std::collections::BTreeMap;

use crate::domain::block::Key;
use crate::domain::directory::{Block, BlockIndex};
use crate::domain::residency::CopyState;
use crate::domain::tier::Tier;
use crate::movement::{Class, Link};

use super::{Hold, Lift, Manager, Rank, count};
use crate::manager::api::{NamespaceId, OpId, Transfer};
use crate::manager::state::{Job, Want};
use crate::manager::transfers::tier_link;

/// Lifts that can't go on now, beyond which no others are tried.
const BLOCKED_MAX: usize = 8;

/// What became of one block of a lift.
enum Moved {
    /// It is there, on its way, or passed over: the next one.
    Next,
    /// Its link is busy, or room is coming.
    Blocked,
    /// As many began as fit one transfer: they start first.
    Enough,
    /// There is no room that it may take.
    Refused,
    /// It is not here any more, and what follows it hangs on nothing.
    Gone,
}

/// Which leg of a lift.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leg {
    /// Cold blocks into DRAM, on their way to HBM.
    Below,
    Last,
}

/// Bytes and copies that began on each link in this round.
type Begun = BTreeMap<Link, (u64, usize)>;

impl Manager {
    /// Lets every lift that may move on do so, the most urgent first.
    pub(in crate::manager) fn move_lifts(&mut self) {
        self.lifts.stirred = false;
        let mut begun = Begun::new();
        let mut blocked = 0;
        let mut after = None;
        while let Some(rank) = self.next_in_queue(after)
            && blocked < BLOCKED_MAX
        {
            after = Some(rank);
            let op = rank.2;
            match self.move_lift(op, &mut begun) {
                Moved::Blocked => blocked += 1,
                Moved::Enough => {
                    // What began is launched, then this goes on.
                    self.lifts.stirred = true;
                    return;
                }
                Moved::Next | Moved::Refused | Moved::Gone => self.settle_lift(op),
            }
        }
    }

    fn next_in_queue(&self, after: Option<Rank>) -> Option<Rank> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.lifts.queue.range((from, Unbounded)).next().copied()
    }

    /// Moves one lift's legs as far as they go.
    fn move_lift(&mut self, op: OpId, begun: &mut Begun) -> Moved {
        let below = self.move_leg(op, Leg::Below, begun);
        if matches!(below, Moved::Enough) {
            return below;
        }
        let last = self.move_leg(op, Leg::Last, begun);
        if matches!(last, Moved::Next) { below } else { last }
    }

    fn move_leg(&mut self, op: OpId, leg: Leg, begun: &mut Begun) -> Moved {
        let mut previous = None;
        loop {
            let Some(lift) = self.lifts.open.get(&op) else { return Moved::Next };
            let at = if leg == Leg::Below { lift.below } else { lift.next };
            let Some(key) = lift.what.keys.get(at).copied() else { return Moved::Next };
            let before = previous.or_else(|| self.block_before(lift, at));
            let moved = self.lift_block((op, leg), (at, key), before, begun);
            match moved {
                Moved::Next | Moved::Enough => {
                    previous = self.directory.find_after(before, key);
                    self.step_leg(op, leg);
                    if matches!(moved, Moved::Enough) {
                        return moved;
                    }
                }
                Moved::Blocked => return moved,
                Moved::Refused | Moved::Gone => {
                    self.stop_leg(op, leg, &moved);
                    return moved;
                }
            }
        }
    }

    /// The block before the one at `at` in the lift's list: most blocks are its child.
    fn block_before(&self, lift: &Lift, at: usize) -> Option<BlockIndex> {
        self.directory.find(*lift.what.keys.get(at.checked_sub(1)?)?)
    }

    fn step_leg(&mut self, op: OpId, leg: Leg) {
        let Some(lift) = self.lifts.open.get_mut(&op) else { return };
        match leg {
            Leg::Below => lift.below += 1,
            Leg::Last => lift.next += 1,
        }
    }

    /// No further: cold blocks that find no room in DRAM may still go straight up; a lift that has time
    /// tries again.
    fn stop_leg(&mut self, op: OpId, leg: Leg, why: &Moved) {
        let now = self.now;
        let Some(lift) = self.lifts.open.get_mut(&op) else { return };
        if matches!(why, Moved::Refused)
            && let Some(begin) = lift.next_try(now)
        {
            lift.looks_again = lift.what.times.begin <= now;
            lift.what.times.begin = begin;
            self.wait_for_time(op);
        } else if leg == Leg::Below {
            lift.below = lift.what.keys.len();
        } else {
            lift.clip_rest();
        }
    }

    fn lift_block(
        &mut self,
        (op, leg): (OpId, Leg),
        (at, key): (usize, Key),
        before: Option<BlockIndex>,
        begun: &mut Begun,
    ) -> Moved {
        let Some(block) = self.directory.find_after(before, key) else { return Moved::Gone };
        let row = self.directory.get(block);
        if !row.may_be_served(self.now) {
            return Moved::Gone;
        }
        let lift = &self.lifts.open[&op];
        let to = if leg == Leg::Below { Tier::Dram } else { lift.what.to };
        if let Some(tier) = found_within(row, to) {
            self.found_there((op, leg), (at, block), tier);
            return Moved::Next;
        }
        let Some(from) = self.serving(row) else { return Moved::Gone };
        // Another leg brings it nearer first.
        if leg == Leg::Last && from != Tier::Dram && at >= lift.below {
            return Moved::Blocked;
        }
        if leg == Leg::Last && row.copy(Tier::Dram).state == CopyState::Filling && to < Tier::Dram {
            return Moved::Blocked;
        }
        let link = tier_link(from, to);
        if !self.links.takes_prefetch(self.now, link) {
            return Moved::Blocked;
        }
        let want = Want { block, job: Job::Fill { from, class: Class::Prefetch } };
        match self.room_for_lift(want, to, op) {
            Moved::Next => {}
            other => return other,
        }
        self.fill(block, to, from, Class::Prefetch);
        self.hold(block, to, Hold { op, index: count(at), moved: true });
        let class = self.class_of(block, to);
        self.settle(to, class);
        if leg == Leg::Last {
            self.landed(op);
        }
        let (bytes, copies) = begun.entry(link).or_default();
        *bytes += self.block_bytes(block);
        *copies += 1;
        let cut_bytes = self.links.cut_bytes(self.now, link, Class::Prefetch);
        let is_full = *bytes >= cut_bytes || *copies >= Transfer::items_max(link);
        if is_full { Moved::Enough } else { Moved::Next }
    }

    /// The block needs no lifting. The last one is held when the lift's time has come, and its whole
    /// chain with it, since a tier gives up children before their parents.
    fn found_there(
        &mut self,
        (op, leg): (OpId, Leg),
        (at, block): (usize, BlockIndex),
        tier: Tier,
    ) {
        let lift = &self.lifts.open[&op];
        let is_kept = at + 1 == lift.what.keys.len() && lift.what.times.begin <= self.now;
        if leg == Leg::Below {
            return;
        }
        self.landed(op);
        let row = self.directory.get(block);
        if is_kept && row.copy(tier).state == CopyState::Resident && !row.is_lifted(tier) {
            self.hold(block, tier, Hold { op, index: count(at), moved: false });
        }
    }

    fn landed(&mut self, op: OpId) {
        if let Some(lift) = self.lifts.open.get_mut(&op) {
            lift.landed += 1;
        }
    }

    /// Whether there is room for the block in `tier` that a lift may take, made if need be by what is
    /// worth less.
    fn room_for_lift(&mut self, want: Want, tier: Tier, op: OpId) -> Moved {
        let block = want.block;
        if self.lifts.copies[tier.index()] >= self.lift_copies_max(tier, block) {
            return Moved::Refused;
        }
        let takes_free_room_only = self.lifts.open[&op].what.times.begin > self.now;
        let class = self.class_of(block, tier);
        loop {
            let space = self.space(tier);
            let kind = space.classes[class].kind;
            let line = &space.classes[class];
            if !line.waiting.is_empty() {
                // Who can't wait goes first.
                return Moved::Blocked;
            }
            if space.slots.has_room(kind) {
                return Moved::Next;
            }
            if takes_free_room_only {
                return Moved::Refused;
            }
            if line.draining > 0 {
                return Moved::Blocked;
            }
            if !self.evict_one(tier, class, Some(&want)) {
                return Moved::Refused;
            }
        }
    }

    /// How many copies of this block's length lifts may have in a tier.
    fn lift_copies_max(&self, tier: Tier, block: BlockIndex) -> u64 {
        let Some(space) = &self.tiers[tier.index()] else { return 0 };
        let namespace = NamespaceId(self.directory.get(block).namespace);
        let slot_bytes = u64::from(self.namespace(namespace).slot_bytes(tier));
        let slots = (space.config.capacity_bytes / slot_bytes).min(space.config.slots_max);
        slots * u64::from(self.config.lift_percent) / 100
    }
}

/// The fastest tier, no slower than `to`, that has a copy of the block or is about to.
pub(super) fn found_within(row: &Block, to: Tier) -> Option<Tier> {
    let there = |tier: &Tier| row.copy(*tier).state != CopyState::Absent;
    Tier::ALL.into_iter().take_while(|tier| *tier <= to).find(there)
}
