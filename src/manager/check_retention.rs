//! The invariants of sessions and records, by counting everything anew.

use std::collections::BTreeMap;

use crate::domain::directory::BlockIndex;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

use super::Manager;
use super::api::NamespaceId;
use super::check::Tally;

impl Manager {
    /// Every block is claimed by exactly the sessions whose tip it is or lies above.
    pub(super) fn check_claims(&self) -> Result<(), String> {
        let mut claims = Tally::<BlockIndex>::default();
        let namespaces = (0..u32::try_from(self.namespaces.len()).unwrap_or(0)).map(NamespaceId);
        for session in namespaces.flat_map(|namespace| self.sessions.iter(namespace)) {
            let tip = self.sessions.get(session).tip;
            for block in self.directory.chain_up(tip) {
                claims.add(block, 1);
            }
        }
        for (index, block) in self.directory.iter() {
            claims.settle(&index, block.claims).map_err(|counted| {
                format!("{} has {} claims, {counted} sessions reach it", block.key, block.claims)
            })?;
            if block.dead && block.claims > 0 {
                return Err(format!("{} is dead though a session reaches it", block.key));
            }
        }
        claims.finish("are claimed")
    }

    /// Shields are counted right, floors follow the chain, and whatever a record asks for is
    /// waited for.
    pub(super) fn check_shields(&self) -> Result<(), String> {
        let mut shields: BTreeMap<u32, (u64, [u64; Tier::COUNT])> = BTreeMap::new();
        for (_, block) in self.directory.iter() {
            let (blocks, copies) = shields.entry(block.namespace).or_default();
            *blocks += u64::from(block.shielded);
            for tier in Tier::ALL {
                let copy = block.copy(tier);
                let counts = block.shielded && copy.state.stays() && !copy.waived;
                copies[tier.index()] += u64::from(counts);
            }
            if block.floor != self.directory.floor_behind(block.parent(), block.record.floor) {
                return Err(format!("{} has floor {}", block.key, block.floor));
            }
            let record = &block.record;
            let asks = [record.delete_after, record.priority_until];
            let asks = asks.iter().any(|time| *time > Time::ZERO) || block.shielded;
            if asks && block.wake == Time::ZERO && !block.doomed {
                return Err(format!("{} is not woken for its record", block.key));
            }
        }
        for (namespace, (blocks, copies)) in shields {
            let counted = Tier::ALL.map(|tier| self.directory.shielded_copies(namespace, tier));
            if self.directory.shielded_blocks(namespace) != blocks || counted != copies {
                return Err(format!(
                    "namespace {namespace} has {copies:?} shields, not {counted:?}"
                ));
            }
        }
        Ok(())
    }
}
