//! The invariant that whoever is said to be on a list is on it: a copy that is marked as listed is
//! never listed again, so one that its list lost would stay for ever.

use std::collections::BTreeSet;

use crate::domain::tier::Tier;

use super::Manager;

impl Manager {
    /// Every copy that is marked as listed is on a list of its tier and kind of slot, and entries are
    /// counted right. Goes through every list, which changes none.
    ///
    /// # Errors
    /// The first copy or list that is not so, in a sentence.
    pub fn check_ranks(&mut self) -> Result<(), String> {
        let mut entries = BTreeSet::new();
        for (tier, space) in Tier::ALL.into_iter().zip(&mut self.tiers) {
            for class in space.iter_mut().flat_map(|space| &mut space.classes) {
                let (kind, counted) = (class.kind, class.ranks.entries());
                class.ranks.tidy(|block| {
                    entries.insert((tier, kind, block));
                    true
                });
                let listed = class.ranks.entries();
                if listed != counted {
                    return Err(format!("{tier} has {listed} entries in lists, counts {counted}"));
                }
            }
        }
        for (index, block) in self.directory.iter() {
            let namespace = &self.namespaces[block.namespace as usize];
            let is_lost = |tier: &Tier| {
                block.copy(*tier).listed
                    && !entries.contains(&(*tier, namespace.slot_kind(*tier), index))
            };
            if let Some(tier) = Tier::ALL.into_iter().find(is_lost) {
                return Err(format!("{} is said to be on a list of {tier}, and is not", block.key));
            }
        }
        Ok(())
    }
}
