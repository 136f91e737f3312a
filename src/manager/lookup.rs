//! Lookup: the longest stored prefix of a chain, tier by tier, and a lease on it.

use crate::domain::block::Key;
use crate::domain::directory::BlockIndex;
use crate::domain::session::SessionName;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

use super::api::{ClientId, Refusal, Reply, RequestId, Run};
use super::clients::RETRY_AFTER;
use super::{Answer, Manager};

impl Manager {
    pub(super) fn lookup(
        &mut self,
        (client, request): (ClientId, RequestId),
        session: Option<&SessionName>,
        keys: &[Key],
        queued: bool,
    ) -> Answer {
        let entry = self.client(client)?;
        let namespace = entry.namespace;
        if self.leases.len() >= self.config.leases_max
            || entry.leases.len() >= self.config.leases_per_client_max
        {
            return Err(Refusal::Busy { what: "too many leases", retry_after: RETRY_AFTER });
        }
        self.counters.lookups += 1;
        self.counters.lookup_blocks += keys.len() as u64;
        let session = self.session_of((client, request), namespace, session);
        let mut prefix = self.longest_prefix(keys);
        if self.take_in_strays(keys, prefix.len()) {
            prefix = self.longest_prefix(keys);
        }
        let Prefix { runs, tips, stirred } = prefix;
        for block in stirred {
            self.revive(block);
            self.renew(block);
        }
        for run in &runs {
            let space = self.tiers[run.tier.index()].as_mut().expect("a copy's tier is present");
            space.stats.hit_blocks += u64::from(run.blocks);
        }
        // Touching the deepest block of each tier touches its ancestors there: see
        // `Directory::apply`.
        for tier in Tier::ALL {
            if let Some(tip) = tips[tier.index()] {
                self.directory.get_mut(tip).copy_mut(tier).tick = self.tick;
            }
        }
        let deepest =
            tips.into_iter().flatten().max_by_key(|tip| self.directory.get(*tip).position);
        if let Some(deepest) = deepest {
            self.directory.get_mut(deepest).was_read = true;
        }
        self.request_read((client, request), keys.len(), &runs);
        if let Some(session) = session {
            self.session_reached(session, deepest);
        }
        self.heed_lookup((client, request), session, keys, &runs);
        let lease = deepest.map(|tip| self.grant_lease(client, request, tip));
        let lease_expires =
            if lease.is_some() { self.now + self.config.lease_ttl } else { Time::ZERO };
        let plan = self.plan((client, request), keys.len(), &runs);
        if let Some(deepest) = deepest.filter(|_| queued) {
            self.lift_queued(client, session, deepest);
        }
        Ok(Reply::Lookup { runs, lease, lease_expires, plan })
    }

    /// How many of the chain's first blocks are in the directory, wherever; nothing if what follows
    /// them is not to be had, whoever has it.
    #[must_use]
    pub fn known_prefix(&self, keys: &[Key]) -> Option<usize> {
        let mut previous = None;
        for (known, key) in keys.iter().enumerate() {
            let Some(index) = self.directory.find_after(previous, *key) else {
                return Some(known);
            };
            let block = self.directory.get(index);
            if block.parent() != previous || !block.may_be_served(self.now) {
                return None;
            }
            previous = Some(index);
        }
        Some(keys.len())
    }

    pub(super) fn longest_prefix(&self, keys: &[Key]) -> Prefix {
        let mut stirred = Vec::new();
        let mut runs: Vec<Run> = Vec::new();
        let mut tips = [None; Tier::COUNT];
        let mut previous: Option<BlockIndex> = None;
        for key in keys {
            let Some(index) = self.directory.find_after(previous, *key) else { break };
            let block = self.directory.get(index);
            // A chain is its root's first: anything else was not named from the root, or not by
            // its own hashes.
            if block.parent() != previous || !block.may_be_served(self.now) {
                break;
            }
            if block.dead || block.shielded || block.cold_above.is_some() {
                stirred.push(index);
            }
            let Some(tier) = self.serving(block) else { break };
            match runs.last_mut() {
                Some(run) if run.tier == tier => run.blocks += 1,
                _ => runs.push(Run { tier, blocks: 1 }),
            }
            tips[tier.index()] = Some(index);
            previous = Some(index);
        }
        Prefix { runs, tips, stirred }
    }
}

/// The longest prefix of a chain that can be served.
pub(super) struct Prefix {
    pub(super) runs: Vec<Run>,
    /// The deepest block found in each tier.
    pub(super) tips: [Option<BlockIndex>; Tier::COUNT],
    /// Blocks that a hit changes: shields are renewed, the dead live again.
    stirred: Vec<BlockIndex>,
}

impl Prefix {
    /// How many blocks it has.
    fn len(&self) -> usize {
        self.runs.iter().map(|run| run.blocks as usize).sum()
    }
}
