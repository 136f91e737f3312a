//! What the retention policy hears of requests and sessions.
//!
//! Passes on what happened; never decides anything. Where the policy learns nothing, nothing is
//! passed on and nothing is paid.

use crate::domain::block::Key;
use crate::domain::directory::BlockIndex;
use crate::domain::retention::value::{Guard, Linked, Reuse, Seen, TipId, Worth};
use crate::domain::session::{SessionEvent, SessionIndex, Stop};
use crate::domain::tier::{Tier, TierSet};
use crate::domain::units::Time;

use super::Manager;
use super::api::{ClientId, RequestId, Run};
use super::config::PolicyName;
use super::state::TierSpace;

/// What is known of chains' reuse, if the policy learns it.
pub(super) struct Learned(Option<Box<Knowledge>>);

#[derive(Default)]
struct Knowledge {
    reuse: Reuse,
    /// Of the fastest tier alone, and of all tiers together.
    guards: [Guard; 2],
    lru_decides: [bool; 2],
}

impl Learned {
    pub fn new(policy: PolicyName) -> Self {
        Self(policy.learns().then(Box::default))
    }

    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The tip and what its claim is worth, if it is still known.
    pub fn claim(&self, tip: Option<TipId>) -> Option<(TipId, Worth)> {
        let tip = tip?;
        Some((tip, self.0.as_ref()?.reuse.worth(tip)?))
    }

    /// How likely the tip's chain is to be asked for again, if anything is known of it.
    pub fn chance(&self, tip: Option<TipId>) -> Option<f32> {
        self.0.as_ref()?.reuse.chance(tip?)
    }
}

impl Manager {
    /// A request asked for the blocks of `keys` and found those of `runs`.
    pub(super) fn heed_lookup(
        &mut self,
        request: (ClientId, RequestId),
        session: Option<SessionIndex>,
        keys: &[Key],
        runs: &[Run],
    ) {
        let found = runs.iter().map(|run| run.blocks as usize).sum();
        let subagent = self.is_subagent(session);
        let seen = Seen { chain: keys, found, session, subagent };
        // A request that asks again before it has stored its chain, and one that asks while a tier can't be
        // read, finds less than LRU's shadow, which knows of neither.
        let is_new = self.requests.tip(self.request_name(request)).is_none();
        let is_fair = is_new && Tier::ALL.into_iter().all(|tier| self.is_read(tier));
        if self.heed_chain(request, &seen) && is_fair {
            self.stand_guard(keys, runs);
        }
    }

    /// A request's chain was seen. False: nothing is learned of it.
    fn heed_chain(&mut self, request: (ClientId, RequestId), seen: &Seen<'_>) -> bool {
        let Some(Linked { tip, stem }) = self.link(request, seen) else { return false };
        // A chain's blocks are all looked at again when they come up to go, but the deepest may be
        // on a list already, under a tip that is worth less.
        let deepest = seen.found.checked_sub(1).map(|last| seen.chain[last]);
        if let Some(at) = deepest.and_then(|key| self.directory.find(key)) {
            self.claim_for(at, Some(tip));
        }
        if let Some((len, stem)) = stem
            && let Some(at) = self.directory.find(seen.chain[len - 1])
        {
            self.claim_for(at, Some(stem));
        }
        self.pass_on_moves();
        true
    }

    /// Links a request that was not seen before; one that asks again only grows.
    fn link(&mut self, request: (ClientId, RequestId), seen: &Seen<'_>) -> Option<Linked> {
        let name = self.request_name(request);
        let knowledge = self.learned.0.as_mut()?;
        if seen.chain.is_empty() {
            return None;
        }
        if let Some(tip) = self.requests.tip(name) {
            knowledge.reuse.again(tip, seen);
            return Some(Linked { tip, stem: None });
        }
        let linked = knowledge.reuse.request(self.now, seen);
        self.requests.set_tip(name, linked.tip);
        Some(linked)
    }

    /// The tiers in which LRU decides, since it would have found more than the policy did.
    pub(super) fn lru_decides(&self) -> TierSet {
        let Some(knowledge) = self.learned.0.as_ref() else { return TierSet::EMPTY };
        let [fastest, others] = knowledge.lru_decides;
        let decides = std::iter::once(fastest).chain(std::iter::repeat(others));
        let present = Tier::ALL.into_iter().filter(|tier| self.tiers[tier.index()].is_some());
        present.zip(decides).filter_map(|(tier, decides)| decides.then_some(tier)).collect()
    }

    /// A request's chain now reaches down to `tip`; its blocks are here or on their way in.
    pub(super) fn heed_store(
        &mut self,
        request: (ClientId, RequestId),
        session: Option<SessionIndex>,
        tip: BlockIndex,
    ) {
        if !self.learned.is_on() {
            return;
        }
        let name = self.request_name(request);
        if self.requests.tip(name).is_none() {
            // It never looked anything up, so this is the first that is seen of its chain.
            let mut chain: Vec<BlockIndex> = self.directory.chain_up(Some(tip)).collect();
            chain.reverse();
            let keys: Vec<Key> = chain.iter().map(|at| self.directory.get(*at).key).collect();
            let subagent = self.is_subagent(session);
            let seen = Seen { chain: &keys, found: 0, session, subagent };
            self.heed_chain(request, &seen);
            let claim = self.requests.tip(name);
            for at in chain {
                self.claim_for(at, claim);
            }
        }
        self.claim_for(tip, self.requests.tip(name));
    }

    /// The model answered the request whose chain ends in `tip`.
    pub(super) fn heed_answer(&mut self, tip: Option<TipId>, stop: Stop, output_tokens: u32) {
        let Some(knowledge) = self.learned.0.as_mut() else { return };
        if let Some(tip) = tip {
            knowledge.reuse.answered(self.now, tip, stop, output_tokens);
            self.pass_on_moves();
        }
    }

    /// `yields_until`: until then the session's blocks make room, since they are lifted back.
    pub(super) fn heed_session(
        &mut self,
        session: SessionIndex,
        event: SessionEvent,
        yields_until: Option<Time>,
    ) {
        let Some(knowledge) = self.learned.0.as_mut() else { return };
        let reuse = &mut knowledge.reuse;
        match event {
            SessionEvent::ToolStart { expected } => {
                reuse.tool_started(self.now, session, expected, yields_until);
            }
            SessionEvent::ToolReturn => reuse.tool_returned(self.now, session),
            SessionEvent::Reset => reuse.reset(session),
            // Requests and answers are heeded where their chains are known.
            SessionEvent::Request | SessionEvent::Answered(_) => {}
        }
        self.pass_on_moves();
    }

    /// What waits is worth what it is at this age.
    pub(super) fn heed_time(&mut self) {
        let Some(knowledge) = self.learned.0.as_mut() else { return };
        knowledge.reuse.advance(self.now);
        self.pass_on_moves();
    }

    /// The session's number is about to be used for another. `ended`: by its own word.
    pub(super) fn heed_session_gone(&mut self, session: SessionIndex, ended: bool) {
        let Some(knowledge) = self.learned.0.as_mut() else { return };
        knowledge.reuse.session_gone(self.now, session, ended);
        self.pass_on_moves();
    }

    /// The block belongs to the chain that ends in `tip`, too.
    pub(super) fn claim_for(&mut self, at: BlockIndex, tip: Option<TipId>) {
        let Some(knowledge) = &self.learned.0 else { return };
        let block = self.directory.get_mut(at);
        block.tip = knowledge.reuse.better(tip, block.tip);
    }

    /// A copy of the block is about to go: who claims it claims its parent, and who read it read its
    /// parent, too.
    pub(super) fn inherit_use(&mut self, at: BlockIndex) {
        let block = self.directory.get(at);
        if let (Some(parent), true) = (block.parent(), block.was_read) {
            self.directory.get_mut(parent).was_read = true;
        }
        if !self.learned.is_on() {
            return;
        }
        let block = self.directory.get(at);
        if let (Some(parent), tip @ Some(_)) = (block.parent(), block.tip) {
            self.claim_for(parent, tip);
        }
    }

    /// Holds what was found against what LRU would have found.
    fn stand_guard(&mut self, keys: &[Key], runs: &[Run]) {
        let Some(fastest) = self.tiers.iter().position(Option::is_some) else { return };
        let in_fastest = |run: &&Run| run.tier.index() == fastest;
        let found = runs.iter().take_while(in_fastest).map(|run| run.blocks as usize).sum();
        let found_in_all = runs.iter().map(|run| run.blocks as usize).sum();
        let held = self.tiers[fastest].as_ref().map_or(0, |space| space.slots.slots_used());
        // As long as the slowest tier has room, no order of going loses a block.
        let loses_by_choice =
            self.tiers.iter().flatten().last().is_some_and(TierSpace::is_all_but_full);
        let Some(knowledge) = self.learned.0.as_mut() else { return };
        let [top, all] = &mut knowledge.guards;
        let mut decides = [top.asked(keys, found, held); 2];
        if self.tiers.iter().flatten().count() > 1 {
            decides[1] = all.asked(keys, found_in_all, self.directory.len() as u64);
            if !loses_by_choice {
                all.forgive();
                decides[1] = false;
            }
        }
        // While LRU decides, classes of slots that are new hear of it too.
        if decides == knowledge.lru_decides && decides == [false; 2] {
            return;
        }
        knowledge.lru_decides = decides;
        for tier in Tier::ALL {
            let Some(space) = self.tiers[tier.index()].as_mut() else { continue };
            let lru = decides[usize::from(tier.index() != fastest)];
            space.classes.iter_mut().for_each(|class| class.ranks.let_lru_decide(lru));
        }
    }

    /// Every tier's order hears of the tips whose worth changed.
    fn pass_on_moves(&mut self) {
        let Some(knowledge) = self.learned.0.as_mut().filter(|k| k.reuse.has_moved()) else {
            return;
        };
        for (tip, worth) in knowledge.reuse.drain_moved() {
            for class in self.tiers.iter_mut().flatten().flat_map(|space| &mut space.classes) {
                class.ranks.tip_moved(tip, worth);
            }
        }
    }
}
