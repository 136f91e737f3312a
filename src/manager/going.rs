//! Which copies may go, where to, and how each stands among those that may.
//!
//! Asks only, but for taking off the lists what may go no more.

use crate::domain::directory::{Block, BlockIndex, Directory};
use crate::domain::residency::CopyState;
use crate::domain::retention::Standing;
use crate::domain::slots::SlotKind;
use crate::domain::tier::{Tier, TierSet};

use super::heed::Learned;
use super::outages::Outages;
use super::ranks::{Candidate, Group};
use super::state::NamespaceEntry;

/// What can be done with each tier now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    /// Whether the tier takes copies.
    pub takers: [bool; Tier::COUNT],
    /// Those that would, were they not out.
    pub out: TierSet,
    /// Those whose copies nobody can read.
    pub unread: TierSet,
}

impl Ways {
    /// The same when no tier is out.
    fn once_all_are_back(self) -> Self {
        let takers = Tier::ALL.map(|tier| self.takers[tier.index()] || self.out.has(tier));
        Self { takers, out: TierSet::EMPTY, unread: TierSet::EMPTY }
    }
}

/// What is left of a block when one of its copies goes: the one question behind whether a copy may go,
/// what that costs, and whether its bytes are moved first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    /// Copies in tiers that are out: the block is not lost, and nobody can read it for now.
    Unread,
    /// The copy is spare: a slower tier serves the block.
    Below,
    /// The copy is spare: a faster tier serves the block.
    Above,
}

impl Left {
    pub const fn is_served(self) -> bool {
        matches!(self, Self::Below | Self::Above)
    }
}

/// What is left of the block without its copy in `tier`. What is on its way in or out is not there to
/// stay, and does not count.
pub(super) fn left_without(block: &Block, tier: Tier, ways: Ways) -> Left {
    let mut left = Left::Nothing;
    for other in Tier::ALL {
        if other == tier || block.copy(other).state != CopyState::Resident {
            continue;
        }
        if !ways.unread.has(other) {
            return if other < tier { Left::Above } else { Left::Below };
        }
        left = Left::Unread;
    }
    left
}

/// What is left of the block if the copy goes now; nothing where it may not.
pub(super) fn left_if_gone(block: &Block, tier: Tier, ways: Ways) -> Option<Left> {
    if block.copy(tier).children > 0 || !is_at_rest(block, tier) {
        return None;
    }
    let left = left_without(block, tier, ways);
    (left != Left::Nothing || may_leave(block, tier, ways)).then_some(left)
}

/// Whether the copy may go now.
pub(super) fn may_go(block: &Block, tier: Tier, ways: Ways) -> bool {
    left_if_gone(block, tier, ways).is_some()
}

/// Whether nobody reads the copy, writes it or holds it.
fn is_at_rest(block: &Block, tier: Tier) -> bool {
    let copy = block.copy(tier);
    let held = block.leases > 0 || block.doomed || block.is_lifted(tier);
    copy.state == CopyState::Resident && copy.busy == 0 && !held
}

/// Whether a copy may go once no child of it stays in the tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Yes,
    /// If its children are gone from all tiers by then: it is the block's last copy.
    Last,
    No,
}

/// Whether the copy may go after its children.
pub(super) fn may_follow(block: &Block, tier: Tier, ways: Ways) -> Follows {
    if !is_at_rest(block, tier) {
        return Follows::No;
    }
    if left_without(block, tier, ways) != Left::Nothing || may_leave(block, tier, ways) {
        return Follows::Yes;
    }
    if block.drains() || block.fills() { Follows::No } else { Follows::Last }
}

/// Whether it may not go now, and may once no tier is out.
pub(super) fn waits_for_a_tier(block: &Block, tier: Tier, ways: Ways) -> bool {
    !ways.out.is_empty()
        && !may_go(block, tier, ways)
        && may_go(block, tier, ways.once_all_are_back())
}

/// Whether the block's only copy may leave its tier.
fn may_leave(block: &Block, tier: Tier, ways: Ways) -> bool {
    // A copy that drains or fills elsewhere may yet fail to land: until then this one is not spare,
    // and moving it down as well would pass the other on the way.
    let is_moving = block.drains() || block.fills();
    !is_moving && (!block.has_children() || sink_of(block, tier, ways.takers).is_some())
}

/// The tier that takes the block when its copy in `tier` goes: the nearest below that works, where
/// nothing of it is yet, and no lower than it may lie. What is dead is not worth writing down, but
/// children need it.
pub(super) fn sink_of(block: &Block, tier: Tier, takers: [bool; Tier::COUNT]) -> Option<Tier> {
    if block.dead && !block.shielded && !block.has_children() {
        return None;
    }
    let lowest = block.lowest();
    tier.below()
        .iter()
        .copied()
        .take_while(|below| *below <= lowest)
        .find(|below| takers[below.index()] && block.copy(*below).state == CopyState::Absent)
}

/// Whether a copy goes down though another one serves the block. Memory does not outlive the daemon, and a
/// restart takes in no block whose parent is missing: what was told durable stays so, and what lies below
/// keeps what it hangs on, while a tier below takes it.
pub(super) fn is_missed_below(block: &Block, tier: Tier, ways: Ways) -> bool {
    if block.drains() || block.fills() {
        return false;
    }
    let sink = sink_of(block, tier, ways.takers);
    sink.is_some_and(|sink| block.is_durable(tier) || block.copy(sink).children > 0)
}

/// How a copy stands among those that may go, where `left` is what is left without it. `learned`: what is
/// known of reuse, if anything learns it.
pub(super) fn candidate_of(
    block: &Block,
    tier: Tier,
    (left, ways): (Left, Ways),
    learned: &Learned,
) -> Candidate {
    let cold = block.cold_above.is_some_and(|below| tier < below);
    let group = if block.shielded && !block.copy(tier).waived {
        Group::Shielded { until: block.record.shield_until }
    } else if block.dead || cold {
        Group::Dead
    } else {
        Group::Ordinary
    };
    let standing = Standing {
        tick: block.copy(tier).tick,
        key_bits: block.key.low_bits(),
        priority: block.record.priority,
        claim: learned.claim(block.tip),
        cost: if learned.is_on() { cost_of(block, tier, (left, ways)) } else { 0 },
    };
    Candidate { group, standing, namespace: block.namespace }
}

/// What losing the copy costs, in eighths of an octave: one that is above as well costs nothing while
/// that stays, but on NVMe it will have to be written again, one that is below already costs the way
/// back, one that can still go below must be written there first, and the last one costs the model's
/// work, as does one whose block nobody could read.
fn cost_of(block: &Block, tier: Tier, (left, ways): (Left, Ways)) -> i16 {
    const SPARE: i16 = -64;
    const WRITTEN: i16 = 4;
    const RECOMPUTED: i16 = 16;
    match left {
        Left::Above if tier == Tier::Nvme => WRITTEN,
        Left::Above => SPARE,
        Left::Below => 0,
        Left::Unread | Left::Nothing if sink_of(block, tier, ways.takers).is_some() => WRITTEN,
        Left::Unread | Left::Nothing => RECOMPUTED,
    }
}

/// Says how listed copies of one tier and slot kind stand now.
pub(super) struct Judge<'a> {
    pub directory: &'a mut Directory,
    pub namespaces: &'a [NamespaceEntry],
    pub learned: &'a Learned,
    pub outages: &'a mut Outages,
    pub ways: Ways,
    pub tier: Tier,
    pub kind: SlotKind,
}

impl Judge<'_> {
    /// How the copy stands; nothing if it may not go, and then it is listed no more.
    pub fn judge(&mut self, index: BlockIndex) -> Option<Candidate> {
        let Self { tier, ways, .. } = *self;
        let block = self.directory.get(index);
        if self.namespaces[block.namespace as usize].slot_kind(tier) != self.kind {
            // What was listed is gone, and its row serves a block of another kind.
            return None;
        }
        if let Some(left) = left_if_gone(block, tier, ways) {
            return Some(candidate_of(block, tier, (left, ways), self.learned));
        }
        if waits_for_a_tier(block, tier, ways) {
            self.outages.keep((index, tier));
        }
        self.directory.get_mut(index).copy_mut(tier).listed = false;
        None
    }
}
