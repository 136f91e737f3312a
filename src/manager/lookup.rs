//! Lookup: the longest stored prefix of a chain, tier by tier, and a lease on it.

use crate::domain::block::Key;
use crate::domain::directory::BlockIndex;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

use super::api::{ClientId, Refusal, Reply, RequestId, Run};
use super::clients::RETRY_AFTER;
use super::{Answer, Manager};

impl Manager {
    pub(super) fn lookup(&mut self, client: ClientId, request: RequestId, keys: &[Key]) -> Answer {
        self.client(client)?;
        if self.leases.len() >= self.config.leases_max {
            return Err(Refusal::Busy { what: "too many leases", retry_after: RETRY_AFTER });
        }
        self.counters.lookups += 1;
        self.counters.lookup_blocks += keys.len() as u64;
        let (runs, tips) = self.longest_prefix(keys);
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
        let lease = deepest.map(|tip| self.grant_lease(client, request, tip));
        let lease_expires =
            if lease.is_some() { self.now + self.config.lease_ttl } else { Time::ZERO };
        Ok(Reply::Lookup { runs, lease, lease_expires })
    }

    /// The runs of the longest prefix that can be served, and the deepest block found in each tier.
    fn longest_prefix(&self, keys: &[Key]) -> (Vec<Run>, [Option<BlockIndex>; Tier::COUNT]) {
        let mut runs: Vec<Run> = Vec::new();
        let mut tips = [None; Tier::COUNT];
        let mut previous: Option<BlockIndex> = None;
        for key in keys {
            let Some(index) = self.directory.find_after(previous, *key) else { break };
            let block = self.directory.get(index);
            // A chain is its root's first: anything else was not named from the root, or not by
            // its own hashes.
            if block.doomed || block.parent() != previous {
                break;
            }
            let Some(tier) = block.fastest() else { break };
            match runs.last_mut() {
                Some(run) if run.tier == tier => run.blocks += 1,
                _ => runs.push(Run { tier, blocks: 1 }),
            }
            tips[tier.index()] = Some(index);
            previous = Some(index);
        }
        (runs, tips)
    }
}
