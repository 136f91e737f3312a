//! The manager's invariants, checked against each other by counting everything anew.
//!
//! For the simulator and tests: it takes time in proportion to everything there is.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::domain::directory::{Block, BlockIndex, TierCopy};
use crate::domain::residency::CopyState;
use crate::domain::slots::SlotPage;
use crate::domain::tier::Tier;

use super::Manager;
use super::going::{Ways, may_go, waits_for_a_tier};
use super::state::{FlightItem, Job, SizeClass};

/// Counts anew, to be compared with those that are kept: most are zero on both sides, so that only
/// the others are looked up.
pub(super) struct Tally<K>(BTreeMap<K, u32>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Debug> Tally<K> {
    pub(super) fn add(&mut self, of: K, count: u32) {
        *self.0.entry(of).or_default() += count;
    }

    /// Compares the count that is kept, once for each.
    ///
    /// # Errors
    /// The count that it should be.
    pub(super) fn settle(&mut self, of: &K, kept: u32) -> Result<(), u32> {
        if kept == 0 {
            return Ok(());
        }
        let counted = self.0.remove(of).unwrap_or(0);
        if counted == kept { Ok(()) } else { Err(counted) }
    }

    /// # Errors
    /// One that was counted and that nothing is kept for.
    pub(super) fn finish(self, what: &str) -> Result<(), String> {
        match self.0.iter().find(|(_, count)| **count > 0) {
            Some((of, count)) => Err(format!("{of:?} {what} {count} times and count it as none")),
            None => Ok(()),
        }
    }
}

/// What the blocks hold of one tier.
#[derive(Default)]
struct Held {
    pages: Vec<(BlockIndex, SlotPage)>,
    draining: usize,
}

impl Held {
    fn note(&mut self, index: BlockIndex, copy: &TierCopy) {
        self.pages.extend(copy.page.map(|page| (index, page)));
        self.draining += usize::from(copy.state == CopyState::Draining);
    }
}

impl Manager {
    /// Checks every invariant.
    ///
    /// # Errors
    /// The first broken one, in a sentence.
    pub fn check_invariants(&self) -> Result<(), String> {
        let held = self.check_blocks()?;
        for tier in Tier::ALL {
            self.check_space(tier, &held[tier.index()])?;
        }
        self.check_claims()?;
        self.check_shields()?;
        self.check_lifts()?;
        self.check_lent()?;
        self.check_durables()?;
        self.check_owed()?;
        self.check_strays()?;
        self.check_rewrites()?;
        self.check_moves()?;
        self.check_links()?;
        self.check_ops()
    }

    /// Each block by itself and with those around it; gives what they hold of each tier.
    fn check_blocks(&self) -> Result<[Held; Tier::COUNT], String> {
        let mut readers = self.count_readers();
        let mut leases = self.count_leases();
        let mut held: [Held; Tier::COUNT] = Default::default();
        let ways = self.ways();
        for (index, block) in self.directory.iter() {
            self.check_chain(index, block)?;
            leases.settle(&index, block.leases).map_err(|counted| {
                format!("{} counts {} leases, has {counted}", block.key, block.leases)
            })?;
            for tier in Tier::ALL {
                let busy = block.copy(tier).busy;
                readers.settle(&(index, tier), busy).map_err(|counted| {
                    format!("{} in {tier} counts {busy} readers, has {counted}", block.key)
                })?;
                self.check_copy((index, tier), block, ways)?;
                held[tier.index()].note(index, block.copy(tier));
            }
        }
        readers.finish("are read")?;
        leases.finish("are leased")?;
        Ok(held)
    }

    /// Prefix closure: a block with copies has a parent with copies; counts of children agree.
    fn check_chain(&self, index: BlockIndex, block: &Block) -> Result<(), String> {
        if block.is_absent() && !block.doomed {
            return Err(format!("{} is in the directory without a copy", block.key));
        }
        if let Some(parent) = block.parent() {
            let above = self.directory.get(parent);
            if above.is_absent() && !above.doomed {
                return Err(format!("{} hangs on {}, which is gone", block.key, above.key));
            }
            if above.doomed && !block.doomed {
                return Err(format!("{} is served though its parent is doomed", block.key));
            }
            if !self.directory.children(parent).any(|child| child == index) {
                return Err(format!("{} is not among its parent's children", block.key));
            }
        }
        let mut with_copy = [0_u32; Tier::COUNT];
        for child in self.directory.children(index) {
            let child = self.directory.get(child);
            for tier in Tier::ALL {
                with_copy[tier.index()] += u32::from(child.copy(tier).state.stays());
            }
        }
        let is_wrong = |tier: &Tier| block.copy(*tier).children != with_copy[tier.index()];
        match Tier::ALL.into_iter().find(is_wrong) {
            Some(tier) => Err(format!("{} miscounts its children in {tier}", block.key)),
            None => Ok(()),
        }
    }

    fn check_copy(&self, at: (BlockIndex, Tier), block: &Block, ways: Ways) -> Result<(), String> {
        let (index, tier) = at;
        let copy = block.copy(tier);
        let name = || format!("{} in {tier}", block.key);
        if copy.state.is_readable() != copy.page.is_some() && copy.state != CopyState::Filling {
            return Err(format!("{} is {:?} with slot {:?}", name(), copy.state, copy.page));
        }
        if copy.state != CopyState::Absent && self.tiers[tier.index()].is_none() {
            return Err(format!("{} is in a tier that is absent", name()));
        }
        if copy.listed || !copy.state.is_readable() || !self.tier_is_ready(tier) {
            return Ok(());
        }
        let may_go = may_go(block, tier, ways) || waits_for_a_tier(block, tier, ways);
        if may_go && !self.outages.is_kept(at) {
            return Err(format!("{} may go but its policy does not know ({index:?})", name()));
        }
        Ok(())
    }

    fn tier_is_ready(&self, tier: Tier) -> bool {
        self.tiers[tier.index()].as_ref().is_some_and(|space| space.ready)
    }

    /// Slots used are those that copies hold, each once; no bound is exceeded.
    fn check_space(&self, tier: Tier, held: &Held) -> Result<(), String> {
        let Some(space) = &self.tiers[tier.index()] else { return Ok(()) };
        let mut pages: Vec<_> = held.pages.iter().map(|(_, page)| *page).collect();
        // What is erased is no block any more.
        let too_many = pages.len() as u64 > space.config.slots_max;
        let erasing = self.erasing_slots.iter().filter(|(at, _)| *at == tier);
        pages.extend(erasing.map(|(_, page)| *page));
        pages.extend(self.owed.pages().filter(|_| tier == Tier::Nvme));
        pages.sort_unstable();
        if pages.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(format!("two copies share a slot of {tier}"));
        }
        if pages.len() as u64 != space.slots.slots_used() {
            let (held, used) = (pages.len(), space.slots.slots_used());
            return Err(format!("{tier}: copies hold {held} slots, {used} are taken"));
        }
        if too_many || space.slots.bytes_used() > space.config.capacity_bytes {
            return Err(format!("{tier} holds more than its capacity"));
        }
        self.check_holders(tier, held)?;
        let (draining, classes) = (held.draining, space.classes.iter());
        let counted: usize = classes.map(|class| class.draining).sum();
        (draining == counted)
            .then_some(())
            .ok_or_else(|| format!("{tier}: {draining} copies drain, {counted} are counted"))
    }

    /// Who has a slot is known by it, and a chunk is emptied for somebody, by what is on its way out.
    fn check_holders(&self, tier: Tier, held: &Held) -> Result<(), String> {
        let Some(space) = &self.tiers[tier.index()] else { return Ok(()) };
        for (index, page) in &held.pages {
            let at = space.slots.slot_at(*page);
            if at.is_none_or(|at| space.holders.last(at) != Some(*index)) {
                let key = self.directory.get(*index).key;
                return Err(format!("nobody is known to have {key}'s slot of {tier}"));
            }
        }
        let Some((chunk, kind)) = space.slots.emptying() else { return Ok(()) };
        let stays =
            |index: &BlockIndex| self.directory.get(*index).copy(tier).state != CopyState::Draining;
        if let Some(index) = self.occupants(tier, chunk).into_iter().find(stays) {
            let key = self.directory.get(index).key;
            return Err(format!("{key} stays in a chunk of {tier} that is being emptied"));
        }
        let waits = |class: &SizeClass| class.kind == kind && !class.waiting.is_empty();
        space
            .classes
            .iter()
            .any(waits)
            .then_some(())
            .ok_or_else(|| format!("a chunk of {tier} is emptied for nobody"))
    }

    /// What waits for a slot and what is under way, queued or put aside.
    pub(super) fn moves(&self) -> impl Iterator<Item = FlightItem> {
        let spaces = Tier::ALL.into_iter().zip(&self.tiers);
        let wants = spaces.filter_map(|(tier, space)| Some((tier, space.as_ref()?)));
        let wants = wants.flat_map(|(tier, space)| {
            let waiting = space.classes.iter().flat_map(|class| &class.waiting);
            waiting.map(move |want| FlightItem { block: want.block, to: Some(tier), job: want.job })
        });
        wants.chain(self.flights.values().flat_map(|flight| &flight.items).copied())
    }

    fn count_readers(&self) -> Tally<(BlockIndex, Tier)> {
        let mut readers = Tally::default();
        for FlightItem { block, job, .. } in self.moves() {
            let synced = if let Job::Sync { tier } = job { Some(tier) } else { None };
            if let Some(read) = job.source().or(synced) {
                readers.add((block, read), 1);
            }
        }
        for (block, holders) in self.lent.holders() {
            readers.add((block, Tier::Hbm), holders);
        }
        for (key, tier) in &self.rewrites.under_way {
            if let Some(block) = self.directory.find(*key) {
                readers.add((block, *tier), 1);
            }
        }
        readers
    }

    fn count_leases(&self) -> Tally<BlockIndex> {
        let mut leases = Tally::default();
        for lease in self.leases.values() {
            leases.add(lease.block, 1);
        }
        leases
    }

    /// A transfer moves, waits for its link, or is put aside.
    fn check_links(&self) -> Result<(), String> {
        let (moving, queued) = self.links.counts();
        let aside = self.behind.transfers();
        let flights = self.flights.len();
        (moving + queued + aside == flights).then_some(()).ok_or_else(|| {
            format!("of {flights} transfers {moving} move, {queued} wait, {aside} are put aside")
        })
    }

    /// Every operation waits for exactly the parts that are queued, joined or under way for it.
    fn check_ops(&self) -> Result<(), String> {
        let mut pending: BTreeMap<_, u32> = BTreeMap::new();
        let moving = self.moves().filter_map(|item| item.job.part().map(|part| part.op));
        let joined = self.joined.values().flatten();
        let partial = self.partials.values().flat_map(|partial| &partial.waiting);
        let waiting = joined.chain(partial).map(|part| part.op);
        for op in moving.chain(waiting).chain(self.durables.asked()) {
            *pending.entry(op).or_default() += 1;
        }
        for (id, op) in &self.ops {
            let counted = pending.get(id).copied().unwrap_or(0);
            if op.pending != counted {
                return Err(format!("{id:?} waits for {} blocks, {counted} move", op.pending));
            }
        }
        Ok(())
    }
}
