//! Shields inside their budgets: what a namespace or a tenant may hold against eviction.
//!
//! Counts only; whose shield gives way first is `ranks`' to say.

use crate::domain::directory::BlockIndex;
use crate::domain::tier::Tier;

use super::Manager;
use super::api::NamespaceId;
use super::ranks::Group;

/// How much of a tier shields may hold, in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShieldShares {
    pub namespace_percent: u8,
    /// Of all namespaces with the same tenant salt.
    pub tenant_percent: u8,
}

impl Default for ShieldShares {
    fn default() -> Self {
        Self { namespace_percent: 50, tenant_percent: 75 }
    }
}

impl Manager {
    /// Whether one more block of this kind can be shielded in some tier that it may live in, down to `floor`.
    pub(super) fn shield_fits(&self, at: BlockIndex, floor: Tier) -> bool {
        let namespace = NamespaceId(self.directory.get(at).namespace);
        let tiers = Tier::ALL.into_iter().filter(|tier| *tier <= floor);
        let shares = self.config.shields;
        let (mut own_room, mut tenant_room) = (0_u64, 0_u64);
        for tier in tiers {
            own_room += self.shield_room(namespace, tier, shares.namespace_percent);
            tenant_room += self.shield_room(namespace, tier, shares.tenant_percent);
        }
        let block_bytes = u64::from(self.namespace(namespace).slot_bytes(Tier::Dram));
        let tenant: u64 = self.tenant_of(namespace).map(|ns| self.shielded_bytes(ns)).sum();
        self.shielded_bytes(namespace) + block_bytes <= own_room
            && tenant + block_bytes <= tenant_room
    }

    /// Bytes that shields may hold in a tier, counted in this namespace's frames.
    fn shield_room(&self, namespace: NamespaceId, tier: Tier, percent: u8) -> u64 {
        let Some(space) = &self.tiers[tier.index()] else { return 0 };
        let slot_bytes = u64::from(self.namespace(namespace).slot_bytes(Tier::Dram));
        let capacity = space.config.capacity_bytes;
        let capacity = capacity.min(space.config.slots_max.saturating_mul(slot_bytes));
        u64::try_from(u128::from(capacity) * u128::from(percent) / 100).unwrap_or(u64::MAX)
    }

    fn shielded_bytes(&self, namespace: NamespaceId) -> u64 {
        let slot_bytes = u64::from(self.namespace(namespace).slot_bytes(Tier::Dram));
        self.directory.shielded_blocks(namespace.0) * slot_bytes
    }

    /// The namespaces of the same tenant, this one included.
    fn tenant_of(&self, namespace: NamespaceId) -> impl Iterator<Item = NamespaceId> + '_ {
        let salt = |ns: NamespaceId| {
            let entry = &self.namespace(ns).namespace;
            entry.as_ref().map(|namespace| &namespace.tenant_salt)
        };
        let own = salt(namespace);
        let all = (0..u32::try_from(self.namespaces.len()).unwrap_or(0)).map(NamespaceId);
        all.filter(move |other| *other == namespace || (own.is_some() && salt(*other) == own))
    }

    /// Whether the shielded copies in `tier` are more than the namespace or its tenant may have
    /// there.
    fn over_budget(&self, namespace: NamespaceId, tier: Tier) -> bool {
        let bytes = |ns: NamespaceId| {
            let slot_bytes = u64::from(self.namespace(ns).slot_bytes(Tier::Dram));
            self.directory.shielded_copies(ns.0, tier) * slot_bytes
        };
        let shares = self.config.shields;
        let room = |percent: u8| self.shield_room(namespace, tier, percent);
        bytes(namespace) > room(shares.namespace_percent)
            || self.tenant_of(namespace).map(bytes).sum::<u64>() > room(shares.tenant_percent)
    }

    /// Takes from the tier's shields what is over a budget: those that expire first rank with the
    /// ordinary copies.
    pub(super) fn waive_shields(&mut self, tier: Tier, class: usize) {
        if !self.directory.has_shields() {
            return;
        }
        for namespace in self.space(tier).classes[class].ranks.shielding() {
            while self.over_budget(NamespaceId(namespace), tier)
                && let Some((listed_until, at)) =
                    self.space(tier).classes[class].ranks.pop_shielded(namespace)
            {
                let Some(candidate) = self.candidate(at, tier, class) else { continue };
                let is_listed_so = match candidate.group {
                    Group::Shielded { until } => {
                        until <= listed_until && candidate.namespace == namespace
                    }
                    _ => false,
                };
                if !is_listed_so {
                    // Renewed since, or another block's row by now: it is listed as it stands.
                    self.space(tier).classes[class].ranks.list(at, candidate);
                    continue;
                }
                self.directory.waive_shield(at, tier);
                if let Some(candidate) = self.candidate(at, tier, class) {
                    self.space(tier).classes[class].ranks.list(at, candidate);
                }
            }
        }
    }
}
