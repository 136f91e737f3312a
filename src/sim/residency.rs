//! Holds the manager to what it tells of residency: the changes add up, one by one, to what is
//! served.

use std::collections::BTreeMap;

use crate::domain::block::Key;
use crate::domain::directory::Change;
use crate::domain::tier::TierSet;

use super::machine::Checked;

/// What whoever heard every change believes.
#[derive(Default)]
pub(super) struct Residency {
    served: BTreeMap<Key, TierSet>,
}

impl Residency {
    pub(super) fn hear(&mut self, changes: &[Change]) -> Checked {
        changes.iter().try_for_each(|change| self.hear_one(change))
    }

    fn hear_one(&mut self, change: &Change) -> Checked {
        let &Change { key, before, after, .. } = change;
        let believed = self.served.remove(&key).unwrap_or_default();
        if believed != before {
            return Err(format!("{key} was told as served from {believed:?}, then {before:?}"));
        }
        if !after.is_empty() {
            self.served.insert(key, after);
        }
        Ok(())
    }

    pub(super) fn check(&self, residents: &[Change]) -> Checked {
        for block in residents {
            let told = self.served.get(&block.key).copied().unwrap_or_default();
            if told != block.after {
                let (key, served) = (block.key, block.after);
                return Err(format!(
                    "{key} was told as served from {told:?}, and is from {served:?}"
                ));
            }
        }
        if self.served.len() == residents.len() {
            return Ok(());
        }
        let (told, served) = (self.served.len(), residents.len());
        Err(format!("{told} blocks were told as served from somewhere, and {served} are"))
    }
}
