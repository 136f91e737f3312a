//! The manager's invariants, checked against each other by counting everything anew.
//!
//! For the simulator and tests: it takes time in proportion to everything there is.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::directory::{Block, BlockIndex};
use crate::domain::residency::CopyState;
use crate::domain::tier::Tier;

use super::Manager;
use super::going::{may_go, waits_for_a_tier};
use super::state::{Job, SizeClass};

impl Manager {
    /// Checks every invariant.
    ///
    /// # Errors
    /// The first broken one, in a sentence.
    pub fn check_invariants(&self) -> Result<(), String> {
        let busy = self.count_readers();
        let leases = self.count_leases();
        for (index, block) in self.directory.iter() {
            self.check_chain(index, block)?;
            if block.leases != leases.get(&index).copied().unwrap_or(0) {
                return Err(format!("{} has a wrong count of leases", block.key));
            }
            for tier in Tier::ALL {
                let readers = busy.get(&(index, tier)).copied().unwrap_or(0);
                self.check_copy(index, block, tier, readers)?;
            }
        }
        Tier::ALL.into_iter().try_for_each(|tier| self.check_space(tier))?;
        self.check_claims()?;
        self.check_shields()?;
        self.check_lifts()?;
        self.check_lent()?;
        self.check_durables()?;
        self.check_owed()?;
        self.check_links()?;
        self.check_ops()
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
        for tier in Tier::ALL {
            let children = self.directory.children(index);
            let with_copy = children
                .filter(|child| self.directory.get(*child).copy(tier).state.stays())
                .count();
            if with_copy != block.copy(tier).children as usize {
                return Err(format!("{} miscounts its children in {tier}", block.key));
            }
        }
        Ok(())
    }

    fn check_copy(
        &self,
        index: BlockIndex,
        block: &Block,
        tier: Tier,
        readers: u32,
    ) -> Result<(), String> {
        let copy = block.copy(tier);
        let name = || format!("{} in {tier}", block.key);
        if copy.busy != readers {
            return Err(format!("{} counts {} readers, has {readers}", name(), copy.busy));
        }
        if copy.state.is_readable() != copy.page.is_some() && copy.state != CopyState::Filling {
            return Err(format!("{} is {:?} with slot {:?}", name(), copy.state, copy.page));
        }
        if copy.state != CopyState::Absent && self.tiers[tier.index()].is_none() {
            return Err(format!("{} is in a tier that is absent", name()));
        }
        let ways = self.ways();
        let may_go = may_go(block, tier, ways) || waits_for_a_tier(block, tier, ways);
        let known = copy.listed || self.outages.is_kept((index, tier));
        if may_go && !known && self.tier_is_ready(tier) {
            return Err(format!("{} may go but its policy does not know ({index:?})", name()));
        }
        Ok(())
    }

    fn tier_is_ready(&self, tier: Tier) -> bool {
        self.tiers[tier.index()].as_ref().is_some_and(|space| space.ready)
    }

    /// Slots used are those that copies hold, each once; no bound is exceeded.
    fn check_space(&self, tier: Tier) -> Result<(), String> {
        let Some(space) = &self.tiers[tier.index()] else { return Ok(()) };
        let held = self.directory.iter().filter_map(|(_, block)| block.copy(tier).page);
        let mut pages: Vec<_> = held.collect();
        // What is erased is no block any more.
        let too_many = pages.len() as u64 > space.config.slots_max;
        let erasing = self.erasing_slots.iter().filter(|(at, _)| *at == tier);
        pages.extend(erasing.map(|(_, page)| *page));
        let distinct: BTreeSet<_> = pages.iter().collect();
        if distinct.len() != pages.len() {
            return Err(format!("two copies share a slot of {tier}"));
        }
        if pages.len() as u64 != space.slots.slots_used() {
            let (held, used) = (pages.len(), space.slots.slots_used());
            return Err(format!("{tier}: copies hold {held} slots, {used} are taken"));
        }
        if too_many || space.slots.bytes_used() > space.config.capacity_bytes {
            return Err(format!("{tier} holds more than its capacity"));
        }
        self.check_holders(tier)?;
        let draining = self.directory.iter();
        let draining =
            draining.filter(|(_, block)| block.copy(tier).state == CopyState::Draining).count();
        let counted: usize = space.classes.iter().map(|class| class.draining).sum();
        (draining == counted)
            .then_some(())
            .ok_or_else(|| format!("{tier}: {draining} copies drain, {counted} are counted"))
    }

    /// Who has a slot is known by it, and a chunk is emptied for somebody, by what is on its way out.
    fn check_holders(&self, tier: Tier) -> Result<(), String> {
        let Some(space) = &self.tiers[tier.index()] else { return Ok(()) };
        let mut known = BTreeMap::<u32, BTreeSet<BlockIndex>>::new();
        for (index, block) in self.directory.iter() {
            let Some(page) = block.copy(tier).page else { continue };
            let chunk = page.chunk();
            let occupants = known
                .entry(chunk)
                .or_insert_with(|| self.occupants(tier, chunk).into_iter().collect());
            if !occupants.contains(&index) {
                return Err(format!("nobody is known to have {}'s slot of {tier}", block.key));
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

    fn count_readers(&self) -> BTreeMap<(BlockIndex, Tier), u32> {
        let mut readers = BTreeMap::new();
        let wants = self.tiers.iter().flatten().flat_map(|space| &space.classes);
        let wants = wants.flat_map(|class| &class.waiting).map(|want| (want.block, want.job));
        let flights = self.flights.values().flat_map(|flight| &flight.items);
        let flights = flights.map(|item| (item.block, item.job));
        for (block, job) in wants.chain(flights) {
            let synced = if let Job::Sync { tier } = job { Some(tier) } else { None };
            if let Some(read) = job.source().or(synced) {
                *readers.entry((block, read)).or_default() += 1;
            }
        }
        for (block, holders) in self.lent.holders() {
            *readers.entry((block, Tier::Hbm)).or_default() += holders;
        }
        for (key, tier) in &self.rewrites.under_way {
            if let Some(block) = self.directory.find(*key) {
                *readers.entry((block, *tier)).or_default() += 1;
            }
        }
        readers
    }

    fn count_leases(&self) -> BTreeMap<BlockIndex, u32> {
        let mut leases = BTreeMap::new();
        for lease in self.leases.values() {
            *leases.entry(lease.block).or_default() += 1;
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
        let wants = self.tiers.iter().flatten().flat_map(|space| &space.classes);
        let wants = wants.flat_map(|class| &class.waiting).filter_map(|want| want.job.part());
        let flights = self.flights.values().flat_map(|flight| &flight.items);
        let flights = flights.filter_map(|item| item.job.part());
        let joined = self.joined.values().flatten();
        let partial = self.partials.values().flat_map(|partial| &partial.waiting);
        for part in wants.chain(flights).chain(joined).chain(partial) {
            *pending.entry(part.op).or_default() += 1;
        }
        for op in self.durables.asked() {
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
