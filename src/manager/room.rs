//! Room: who gets a slot, what goes to make one, and what becomes of those who get none.
//!
//! Copies sink: the last copy of a block moves to the tier below before its slot is given away,
//! and is dropped only where nothing is below, children always before their parents.

use crate::domain::directory::BlockIndex;
use crate::domain::residency::{CopyEvent, CopyState};
use crate::domain::slots::SlotKind;
use crate::domain::tier::Tier;
use crate::movement::Class;

use super::Manager;
use super::api::FailureKind;
use super::going::{Judge, Left, candidate_of, is_missed_below, left_without, sink_of};
use super::ranks::Pick;
use super::state::{Job, Part, SizeClass, Want};

/// Whether room was made.
pub(super) enum Room {
    /// Something was freed or is draining: look again.
    Made,
    /// Nothing more can go, but what drains already may free a chunk.
    Coming,
    None,
}

impl Manager {
    /// Puts the block in line for a slot of `tier`. The copy is filling already. A refusal waits for
    /// the step to settle: callers go on with the block and must find it where they left it.
    pub(super) fn want(&mut self, tier: Tier, block: BlockIndex, job: Job) {
        debug_assert_eq!(self.directory.get(block).copy(tier).state, CopyState::Filling);
        let class = self.class_of(block, tier);
        let want = Want { block, job };
        let erasing =
            tier == Tier::Object && self.erasing.contains_key(&self.directory.get(block).key);
        let waiting_max = self.config.waiting_blocks_max;
        let out = !self.takes(tier);
        let line = &mut self.space(tier).classes[class].waiting;
        if erasing || out || line.len() >= waiting_max {
            self.refused.push((tier, want));
            return;
        }
        line.push_back(want);
        self.unsettled.insert((tier, class));
    }

    /// The tier takes nothing for now: whoever waits for room in it is refused.
    pub(super) fn refuse_line(&mut self, tier: Tier) {
        let Self { tiers, refused, .. } = self;
        let Some(space) = &mut tiers[tier.index()] else { return };
        for class in &mut space.classes {
            refused.extend(class.waiting.drain(..).map(|want| (tier, want)));
        }
        self.stop_unwanted(tier);
    }

    /// Gives out free slots in order, makes room for those still waiting, and refuses, from the
    /// tail, those for whom none can be made.
    pub(super) fn settle(&mut self, tier: Tier, class: usize) {
        self.review_emptying(tier);
        loop {
            self.stop_unwanted(tier);
            let space = self.space(tier);
            let kind = space.classes[class].kind;
            let room = space.slots.has_room(kind);
            let draining = space.draining_for(class);
            let line = &mut space.classes[class];
            if room && let Some(want) = line.waiting.pop_front() {
                self.grant(tier, want, kind);
            } else if line.waiting.len() <= draining {
                return;
            } else {
                let last = *line.waiting.back().expect("more wait than drain");
                match self.make_room(tier, class, &last) {
                    Room::Made => {}
                    Room::Coming => return,
                    Room::None => {
                        let want = self.space(tier).classes[class].waiting.pop_back();
                        self.refuse(tier, want.expect("more wait than drain"));
                    }
                }
            }
        }
    }

    fn grant(&mut self, tier: Tier, want: Want, kind: SlotKind) {
        let slots = &mut self.space(tier).slots;
        let was_emptying = slots.emptying().is_some();
        let page = slots.alloc(kind).expect("the caller saw room");
        if was_emptying && slots.emptying().is_none() {
            // Another class may have a chunk emptied now.
            self.unsettle(tier);
        }
        self.directory.get_mut(want.block).copy_mut(tier).page = Some(page);
        self.note_holder(want.block, tier);
        self.start_item(Some(tier), want.block, want.job);
        if let Some(partial) = self.partials.get_mut(&want.block) {
            for part in std::mem::take(&mut partial.waiting) {
                self.start_item(Some(tier), want.block, Job::Store(part));
            }
        }
    }

    /// Starts one copy of this class on its way out, for the sake of who waits if that is known. False
    /// if none may go.
    pub(super) fn evict_one(&mut self, tier: Tier, class: usize, newcomer: Option<&Want>) -> bool {
        if self.owes_room(tier) {
            return false;
        }
        // Nobody waits for what is copied ahead of need.
        let is_needed = newcomer.is_none_or(Self::is_needed);
        let newcomer = newcomer.and_then(|want| self.rival(want, tier));
        loop {
            match self.next_victim(tier, class, newcomer, false) {
                Pick::Goes(victim) => {
                    self.evict(victim, tier, class);
                    return true;
                }
                Pick::Newcomer => return false,
                Pick::Nobody if !is_needed => return false,
                Pick::Nobody => {}
            }
            if !self.break_lift(tier) {
                break;
            }
        }
        let Pick::Goes(victim) = self.next_victim(tier, class, newcomer, true) else {
            return false;
        };
        self.evict(victim, tier, class);
        true
    }

    pub(super) fn is_needed(want: &Want) -> bool {
        !matches!(want.job, Job::Fill { class, .. } if class != Class::Demand)
    }

    /// The block that has to be worth more than what goes for its sake; nothing where it takes its
    /// room whatever that costs.
    pub(super) fn rival(&self, want: &Want, tier: Tier) -> Option<BlockIndex> {
        // Shards are put together in memory: to a colder tier there is no other way.
        let is_partial = self.partials.contains_key(&want.block);
        let passes_by =
            !is_partial || self.sink(want.block, tier).is_none_or(|sink| sink == Tier::Dram);
        (!Self::is_asked_for(want) && passes_by).then_some(want.block)
    }

    pub(super) fn evict(&mut self, block: BlockIndex, tier: Tier, class: usize) {
        let ways = self.ways();
        let row = self.directory.get(block);
        let sinks_into_memory = tier == Tier::Hbm
            && !row.drains()
            && sink_of(row, tier, ways.takers) == Some(Tier::Dram);
        let is_missed = is_missed_below(row, tier, ways);
        let left = left_without(row, tier, ways);
        // What nobody could read for now goes down first while a tier below takes it, unless it is on
        // its way somewhere already.
        let is_moving = row.drains() || row.fills();
        let is_spare = left.is_served() || (left == Left::Unread && is_moving);
        if is_spare && !sinks_into_memory && !is_missed {
            self.drop_evicted(block, tier);
        } else if let Some(sink) = self.admitted_sink(block, tier) {
            let row = self.directory.get(block);
            let (tick, parent) = (row.copy(tier).tick, row.parent());
            self.inherit_use(block);
            self.directory.apply(block, tier, CopyEvent::DrainStarted);
            self.directory.get_mut(block).set_durable(tier, false);
            // A chain drains as a whole: its next block need not wait for this one to land.
            if let Some(parent) = parent {
                self.reconsider(parent, tier);
            }
            self.pin(block, tier);
            self.space(tier).classes[class].draining += 1;
            self.begin_fill(block, sink, tick);
            self.want(sink, block, Job::Demote { from: tier });
        } else if left == Left::Nothing {
            self.evict_last(block, tier);
        } else {
            self.drop_evicted(block, tier);
        }
    }

    /// Drops a copy for its room. Only here and with a block's last copy are the evicted counted: one that
    /// is on its way out may stay after all.
    pub(super) fn drop_evicted(&mut self, block: BlockIndex, tier: Tier) {
        self.space(tier).stats.evicted_copies += 1;
        self.release_copy(block, tier, CopyEvent::Dropped);
    }

    /// Makes room in this class, or else at the cost of the others.
    fn make_room(&mut self, tier: Tier, class: usize, newcomer: &Want) -> Room {
        if self.is_enough_coming(tier, class) {
            return Room::Coming;
        }
        if self.evict_one(tier, class, Some(newcomer)) {
            return Room::Made;
        }
        let space = self.space(tier);
        if space.slots.has_chunk(space.classes[class].kind) {
            self.uncount_one(tier, class, newcomer)
        } else {
            self.recut(tier, class, newcomer)
        }
    }

    /// Slots are counted out, and there would be room: a slot of any class that comes free helps.
    fn uncount_one(&mut self, tier: Tier, class: usize, newcomer: &Want) -> Room {
        let mut coming = self.is_erasing_slots(tier);
        let space = self.space(tier);
        let waiting = space.classes[class].waiting.len();
        for other in (0..space.classes.len()).filter(|other| *other != class) {
            let draining = self.space(tier).classes[other].draining;
            if draining >= waiting {
                return Room::Coming;
            }
            coming |= draining > 0;
            if self.evict_one(tier, other, Some(newcomer)) {
                return Room::Made;
            }
        }
        if coming { Room::Coming } else { Room::None }
    }

    /// The copy that goes next to make room for `newcomer`, shielded ones only if they may be broken.
    pub(super) fn next_victim(
        &mut self,
        tier: Tier,
        class: usize,
        newcomer: Option<BlockIndex>,
        may_break: bool,
    ) -> Pick {
        self.waive_shields(tier, class);
        let ways = self.ways();
        let newcomer = newcomer.filter(|_| self.learned.is_on()).map(|newcomer| {
            let block = self.directory.get(newcomer);
            let left = left_without(block, tier, ways);
            candidate_of(block, tier, (left, ways), &self.learned)
        });
        let Self { directory, namespaces, learned, outages, tiers, .. } = self;
        let space = tiers[tier.index()].as_mut().expect("the caller settles a tier");
        let SizeClass { ranks, kind, .. } = &mut space.classes[class];
        let mut judge = Judge { directory, namespaces, learned, outages, ways, tier, kind: *kind };
        let mut judge = |at| judge.judge(at);
        let mut pick = ranks.victim(newcomer.as_ref(), &mut judge);
        if may_break
            && pick == Pick::Nobody
            && let Some((victim, broken)) = ranks.shielded_victim(&mut judge)
        {
            self.counters.broken_shields += u64::from(broken);
            pick = Pick::Goes(victim);
        }
        if let Pick::Goes(victim) = pick {
            self.directory.get_mut(victim).copy_mut(tier).listed = false;
        }
        pick
    }

    /// The copy's way down ended, well or not: its reader is gone, its class counts one less.
    pub(super) fn end_drain(&mut self, block: BlockIndex, from: Tier) {
        let class = self.class_of(block, from);
        self.space(from).classes[class].draining -= 1;
        self.directory.get_mut(block).copy_mut(from).busy -= 1;
        self.unsettle(from);
    }

    /// Something about the tier's room changed: whoever waits is looked at again.
    pub(super) fn unsettle(&mut self, tier: Tier) {
        self.stop_unwanted(tier);
        let Some(space) = &self.tiers[tier.index()] else { return };
        let waiting = (0..space.classes.len()).filter(|i| !space.classes[*i].waiting.is_empty());
        self.unsettled.extend(waiting.map(|class| (tier, class)));
    }

    /// Drops a block's last copy; its children are gone already.
    fn evict_last(&mut self, block: BlockIndex, tier: Tier) {
        let stats = &mut self.space(tier).stats;
        stats.evicted_copies += 1;
        stats.evicted_blocks += 1;
        self.drop_whole(block, tier);
    }

    /// There is no room for it.
    pub(super) fn refuse(&mut self, tier: Tier, want: Want) {
        let Want { block, job } = want;
        if tier == Tier::Nvme {
            self.refund_write(block, job);
        }
        match job {
            Job::Store(part) => self.store_lower(block, tier, part),
            Job::Fill { from, .. } => self.fill_failed(block, tier, from, None),
            Job::Demote { from } => self.demote_lower(block, tier, from),
            Job::Persist { from } => self.persist_failed(block, (tier, from), None),
            Job::Deliver { .. } | Job::Seal | Job::Sync { .. } => {
                unreachable!("none of them waits for a slot")
            }
        }
    }

    /// A store that finds no room in `tier` tries the next one: shards are put together in memory.
    fn store_lower(&mut self, block: BlockIndex, tier: Tier, part: Part) {
        let sink = if self.partials.contains_key(&block) {
            self.sink(block, tier).filter(|sink| *sink == Tier::Dram)
        } else {
            self.admitted_sink(block, tier)
        };
        let Some(sink) = sink else { return self.store_failed(block, tier, part) };
        if let Some(partial) = self.partials.get_mut(&block) {
            partial.tier = sink;
        }
        self.want_lower(block, (tier, sink), Job::Store(part));
    }

    pub(super) fn sink(&self, block: BlockIndex, tier: Tier) -> Option<Tier> {
        sink_of(self.directory.get(block), tier, self.taker_flags())
    }

    /// A copy on its way down that finds no room in `tier`, or was not written there, passes it by: dropping
    /// it would forget the block while a lower tier has room.
    pub(super) fn demote_lower(&mut self, block: BlockIndex, tier: Tier, from: Tier) {
        // What is in a colder tier already goes no further down for want of room in this one.
        let row = self.directory.get(block);
        let is_last = !row.doomed && !row.resident_elsewhere(from);
        match is_last.then(|| self.admitted_sink(block, tier)).flatten() {
            Some(sink) => self.want_lower(block, (tier, sink), Job::Demote { from }),
            None => self.demote_failed(block, tier, from),
        }
    }

    /// The copy that was to fill `tier` is to fill `sink` instead; who waited for it goes along.
    fn want_lower(&mut self, block: BlockIndex, (tier, sink): (Tier, Tier), job: Job) {
        for waiting in self.joined.remove(&(block, tier)).unwrap_or_default() {
            self.joined.entry((block, sink)).or_default().push(waiting);
        }
        let tick = self.directory.get(block).copy(tier).tick;
        self.begin_fill(block, sink, tick);
        self.release_copy(block, tier, CopyEvent::FillFailed);
        self.want(sink, block, job);
    }

    /// The copy below did not come to be: the copy above stays if children need it, else the block
    /// goes. It is not proposed again until something about it changes, or some time has passed, so this
    /// ends.
    pub(super) fn demote_failed(&mut self, block: BlockIndex, to: Tier, from: Tier) {
        let waiting = self.joined.remove(&(block, to)).unwrap_or_default();
        self.release_copy(block, to, CopyEvent::FillFailed);
        self.end_drain(block, from);
        self.directory.apply(block, from, CopyEvent::DrainFailed);
        self.durable_changed(block, from, CopyEvent::DrainFailed);
        for part in waiting {
            self.redeliver(block, part);
        }
        let row = self.directory.get(block);
        let copy = row.copy(from);
        let idle = copy.busy == 0 && copy.children == 0 && row.leases == 0;
        if idle && !row.has_children() && !row.resident_elsewhere(from) && !row.doomed {
            self.evict_last(block, from);
            return;
        }
        if idle && row.resident_elsewhere(from) && !row.is_lifted(from) {
            self.drop_evicted(block, from);
        }
        // Listing it for want of room alone would propose it again at once, for ever.
        let row = self.directory.get(block);
        let spare = row.resident_elsewhere(from);
        if !spare && row.copy(from).state == CopyState::Resident {
            self.outages.keep((block, from));
        }
        for tier in Tier::ALL.into_iter().filter(|tier| spare || *tier != from) {
            self.reconsider(block, tier);
        }
        self.sweep(block);
    }

    /// A fill on the way up did not come to be, for want of room or by a failure; who waited for
    /// it is served from where the block was, or from the next tier if that is at fault.
    pub(super) fn fill_failed(
        &mut self,
        block: BlockIndex,
        to: Tier,
        from: Tier,
        failure: Option<FailureKind>,
    ) {
        let waiting = self.joined.remove(&(block, to)).unwrap_or_default();
        self.release_copy(block, to, CopyEvent::FillFailed);
        let source_bad = failure.is_some_and(FailureKind::is_of_source);
        for part in waiting {
            if source_bad {
                self.deliver_below(block, from, part);
            } else {
                self.start_delivery(block, from, part);
            }
        }
        self.unpin(block, from);
        if let Some(lost) = failure.and_then(FailureKind::lost_source) {
            self.drop_lost_copy(block, from, lost);
        }
        self.sweep(block);
    }

    /// Copies the block into a faster tier, unless it is there or on its way.
    pub(super) fn fill(&mut self, block: BlockIndex, to: Tier, from: Tier, class: Class) {
        if self.directory.get(block).copy(to).state != CopyState::Absent {
            return;
        }
        self.pin(block, from);
        self.begin_fill(block, to, self.tick);
        self.want(to, block, Job::Fill { from, class });
    }
}
