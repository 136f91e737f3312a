//! Chunks change hands: one is emptied as a whole where blocks of another length need a chunk and none
//! is free.
//!
//! Never lets go of more than one chunk's copies, and what hangs on them, before it has seen what that
//! gave; and never begins a second chunk of the tier while the first is not empty.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::domain::directory::{Block, BlockIndex};
use crate::domain::residency::CopyState;
use crate::domain::slots::{SlotKind, slots_per_chunk};
use crate::domain::tier::Tier;

use super::Manager;
use super::going::{Follows, Left, left_without, may_follow, may_go};
use super::ranks::Pick;
use super::room::Room;
use super::state::Want;

/// What one tier remembers of chunks that were to change hands.
#[derive(Default)]
pub(super) struct Recut {
    /// The step in which the last chunk was begun.
    begun: u64,
    /// The last search that found none.
    fruitless: Option<Fruitless>,
    /// Where to look on among the chunks.
    next: u32,
}

/// A search that found no chunk: no use to repeat it in the same step.
#[derive(Clone, Copy)]
struct Fruitless {
    step: u64,
    /// Whether shields and lifts could have been broken for it.
    is_needed: bool,
    /// For which class, if not for all.
    class: Option<usize>,
}

impl Fruitless {
    fn covers(&self, step: u64, is_needed: bool, class: usize) -> bool {
        self.step == step
            && (self.is_needed || !is_needed)
            && self.class.is_none_or(|whose| whose == class)
    }
}

/// So many of the copies that rank lowest have their chunks looked at.
const VICTIMS_MAX: usize = 8;
/// Rows looked at for one choice, a few milliseconds' worth: enough for one chunk of the shortest slots, twice,
/// and what hangs on it.
const LOOKS_MAX: usize = 65_536;

/// What has to go to empty a chunk.
struct Clearing {
    chunk: u32,
    /// Children before their parents.
    copies: Vec<BlockIndex>,
    shields: usize,
}

impl Clearing {
    fn cost(&self) -> (usize, usize) {
        (self.shields, self.copies.len())
    }
}

/// Which chunk to empty.
enum Choice {
    This(Clearing),
    /// Whoever the room is for is worth less than all that may go.
    Newcomer,
    None,
}

/// The search for a chunk of one kind.
struct Search {
    tier: Tier,
    kind: SlotKind,
    may_break: bool,
    looks_left: usize,
    seen: BTreeSet<u32>,
    best: Option<Clearing>,
}

impl Search {
    /// Whether what was found costs no more than so many chunks that are full.
    fn is_within(&self, chunks: usize) -> bool {
        let most = chunks * slots_per_chunk(self.kind.bytes) as usize;
        self.best.as_ref().is_some_and(|best| best.cost() <= (0, most))
    }
}

impl Manager {
    /// Empties a chunk of another class for the newcomer's, or waits for one that is being emptied.
    pub(super) fn recut(&mut self, tier: Tier, class: usize, newcomer: &Want) -> Room {
        if self.owes_room(tier) {
            return Room::None;
        }
        self.review_emptying(tier);
        if self.space(tier).slots.emptying().is_some() {
            return Room::Coming;
        }
        let classes = self.space(tier).classes.len();
        let others: Vec<usize> = (0..classes).filter(|other| *other != class).collect();
        let space = self.space(tier);
        let is_draining = others.iter().any(|other| space.classes[*other].draining > 0);
        let is_coming = is_draining || self.is_erasing_slots(tier);
        let otherwise = if is_coming { Room::Coming } else { Room::None };
        let is_needed = Self::is_needed(newcomer);
        let step = self.tick;
        let fruitless = self.space(tier).recut.fruitless;
        if fruitless.is_some_and(|search| search.covers(step, is_needed, class)) {
            return otherwise;
        }
        let rival = self.rival(newcomer, tier);
        let (mut losers, mut is_beaten) = (Vec::new(), false);
        for other in others {
            match self.choose(tier, other, rival) {
                Choice::This(clearing) => return self.clear(tier, (class, other), &clearing),
                Choice::None => losers.push(other),
                Choice::Newcomer => is_beaten = true,
            }
        }
        if is_needed && !losers.is_empty() {
            if self.break_lift(tier) {
                return Room::Made;
            }
            for other in losers {
                if let Some(clearing) = self.choose_shielded(tier, other) {
                    return self.clear(tier, (class, other), &clearing);
                }
            }
        }
        // Who waits before it may be worth more.
        if !is_beaten {
            self.space(tier).recut.fruitless =
                Some(Fruitless { step, is_needed, class: Some(class) });
        }
        otherwise
    }

    /// Whether all who wait for this class find room in its chunk once that is empty.
    pub(super) fn is_enough_coming(&mut self, tier: Tier, class: usize) -> bool {
        self.review_emptying(tier);
        let space = self.space(tier);
        let kind = space.classes[class].kind;
        let is_coming = space.slots.emptying().is_some_and(|(_, whose)| whose == kind);
        let slots = slots_per_chunk(kind.bytes) as usize + space.draining_for(class);
        is_coming && !space.slots.has_chunk(kind) && space.classes[class].waiting.len() <= slots
    }

    /// A chunk in which something stays after all, because it is read again or nothing below took it,
    /// is given up.
    pub(super) fn review_emptying(&mut self, tier: Tier) {
        self.stop_unwanted(tier);
        let Some((chunk, _)) = self.space(tier).slots.emptying() else { return };
        let leaves =
            |at: &BlockIndex| self.directory.get(*at).copy(tier).state == CopyState::Draining;
        if self.occupants(tier, chunk).iter().all(leaves) {
            return;
        }
        let step = self.tick;
        let space = self.space(tier);
        if space.recut.begun == step {
            space.recut.fruitless = Some(Fruitless { step, is_needed: true, class: None });
        }
        space.slots.stop_emptying();
        self.unsettle(tier);
    }

    /// A chunk that is emptied for those who wait no more goes back.
    pub(super) fn stop_unwanted(&mut self, tier: Tier) {
        let Some(space) = &mut self.tiers[tier.index()] else { return };
        let Some((_, kind)) = space.slots.emptying() else { return };
        let is_wanted =
            space.classes.iter().any(|class| class.kind == kind && !class.waiting.is_empty());
        if !is_wanted {
            space.slots.stop_emptying();
            self.unsettle(tier);
        }
    }

    /// Lets go of all that the chunk takes. What comes free in it is kept together from now on.
    fn clear(&mut self, tier: Tier, (class, other): (usize, usize), clearing: &Clearing) -> Room {
        let step = self.tick;
        let space = self.space(tier);
        space.recut.begun = step;
        space.slots.empty_out(clearing.chunk, space.classes[class].kind);
        for block in clearing.copies.iter().copied() {
            let row = self.directory.get(block);
            if !may_go(row, tier, self.ways()) {
                // The chunk is given up when it is looked at next.
                break;
            }
            let is_shielded = row.shielded && !row.copy(tier).waived;
            self.counters.broken_shields += u64::from(is_shielded);
            self.directory.get_mut(block).copy_mut(tier).listed = false;
            self.evict(block, tier, other);
        }
        Room::Made
    }

    /// The chunk of this class that costs least to empty, among those of the copies that rank lowest;
    /// among others only where these can't be emptied, or not without much of what lies elsewhere.
    fn choose(&mut self, tier: Tier, class: usize, rival: Option<BlockIndex>) -> Choice {
        let mut search = self.search(tier, class, false);
        let mut victims = Vec::new();
        let mut pick = self.next_victim(tier, class, rival, false);
        let first = pick;
        if let Some(chunk) = self.space(tier).slots.emptiest(search.kind)
            && matches!(first, Pick::Goes(_))
        {
            self.consider(&mut search, chunk);
        }
        while let Pick::Goes(victim) = pick {
            victims.push(victim);
            if let Some(page) = self.directory.get(victim).copy(tier).page {
                self.consider(&mut search, page.chunk());
            }
            if search.is_within(1) || victims.len() >= VICTIMS_MAX {
                break;
            }
            pick = self.next_victim(tier, class, rival, false);
        }
        // They were only asked for their chunks.
        for victim in victims.into_iter().rev() {
            self.reconsider(victim, tier);
        }
        match first {
            Pick::Newcomer => return Choice::Newcomer,
            Pick::Nobody => return Choice::None,
            Pick::Goes(_) => self.look_around(&mut search),
        }
        search.best.map_or(Choice::None, Choice::This)
    }

    /// The same where shields have to be broken, the fewer the better.
    fn choose_shielded(&mut self, tier: Tier, class: usize) -> Option<Clearing> {
        if !self.directory.has_shields() {
            return None;
        }
        let mut search = self.search(tier, class, true);
        self.look_around(&mut search);
        search.best
    }

    fn search(&mut self, tier: Tier, class: usize, may_break: bool) -> Search {
        let kind = self.space(tier).classes[class].kind;
        Search { tier, kind, may_break, looks_left: LOOKS_MAX, seen: BTreeSet::new(), best: None }
    }

    /// Looks at chunk after chunk until one costs little enough, or enough was looked at.
    fn look_around(&mut self, search: &mut Search) {
        let Search { tier, kind, .. } = *search;
        let mut next = self.space(tier).recut.next;
        let mut first = None;
        while search.looks_left > 0
            && !search.is_within(2)
            && let Some(chunk) = self.space(tier).slots.next_cut(kind, next)
            && first != Some(chunk)
        {
            first = first.or(Some(chunk));
            next = chunk + 1;
            self.consider(search, chunk);
        }
        self.space(tier).recut.next = next;
    }

    /// Keeps the chunk in mind if it costs less than the best so far.
    fn consider(&self, search: &mut Search, chunk: u32) {
        if search.seen.insert(chunk)
            && let Some(clearing) = self.clearing(search, chunk)
            && search.best.as_ref().is_none_or(|best| clearing.cost() < best.cost())
        {
            search.best = Some(clearing);
        }
    }

    /// What has to go to empty the chunk: what lies there and stays, and all that hangs on it in this
    /// tier. Nothing if some of it can't go, or a slot that is nobody's does not come free.
    fn clearing(&self, search: &mut Search, chunk: u32) -> Option<Clearing> {
        let tier = search.tier;
        if tier == Tier::Nvme && self.owed.is_stuck_in(chunk) {
            return None;
        }
        let ways = self.ways();
        let mut stack = self.occupants(tier, chunk);
        search.looks_left = search.looks_left.checked_sub(stack.len())?;
        let (mut found, mut shields) = (BTreeSet::new(), 0);
        while let Some(index) = stack.pop() {
            search.looks_left = search.looks_left.checked_sub(1)?;
            let block = self.directory.get(index);
            let copy = block.copy(tier);
            if copy.state == CopyState::Draining || !found.insert((Reverse(block.position), index))
            {
                continue;
            }
            shields += usize::from(block.shielded && !copy.waived);
            let costs_more =
                search.best.as_ref().is_some_and(|best| (shields, found.len()) >= best.cost());
            let is_kept = self.outages.is_kept((index, tier));
            if costs_more || is_kept || (shields > 0 && !search.may_break) {
                return None;
            }
            match may_follow(block, tier, ways) {
                Follows::No => return None,
                Follows::Yes if copy.children == 0 => {}
                follows => {
                    let goes_last = follows == Follows::Last;
                    stack.extend(self.children_here(search, index, goes_last)?);
                }
            }
        }
        let copies = found.into_iter().map(|(_, index)| index).collect();
        Some(Clearing { chunk, copies, shields })
    }

    /// The block's children that stay in the tier. Nothing if there are too many to look at, or if all
    /// must be gone altogether and one would not be.
    fn children_here(
        &self,
        search: &mut Search,
        index: BlockIndex,
        must_end: bool,
    ) -> Option<Vec<BlockIndex>> {
        let tier = search.tier;
        let mut here = Vec::new();
        for child in self.directory.children(index) {
            search.looks_left = search.looks_left.checked_sub(1)?;
            let block = self.directory.get(child);
            if must_end && !self.ends_with(block, tier) {
                return None;
            }
            if block.copy(tier).state.stays() {
                here.push(child);
            }
        }
        Some(here)
    }

    /// Whether nothing is left of the block when its copy in `tier` goes.
    fn ends_with(&self, block: &Block, tier: Tier) -> bool {
        let is_here = block.copy(tier).state == CopyState::Resident;
        is_here && left_without(block, tier, self.ways()) == Left::Nothing && !block.fills()
    }
}
