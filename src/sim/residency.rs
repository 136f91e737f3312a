//! Holds the manager to what it tells of residency: the changes add up, one by one, to what is
//! served, under the names that it is known by.

use std::collections::BTreeMap;

use crate::domain::block::{HashTail, Key};
use crate::domain::directory::Change;
use crate::domain::tier::TierSet;

use super::machine::Checked;

/// What whoever heard every change believes.
#[derive(Default)]
pub(super) struct Residency {
    served: BTreeMap<Key, Change>,
}

impl Residency {
    pub(super) fn hear(&mut self, changes: &[Change]) -> Checked {
        changes.iter().try_for_each(|change| self.hear_one(change))
    }

    fn hear_one(&mut self, change: &Change) -> Checked {
        let key = change.key;
        let told = self.served.remove(&key);
        let believed = told.as_ref().map_or(TierSet::EMPTY, |told| told.after);
        // Under a name that it has got only now nobody has heard of it.
        let is_new = told.as_ref().is_some_and(|told| is_renamed(told, change));
        let before = if is_new { TierSet::EMPTY } else { believed };
        if change.before != before {
            return Err(format!(
                "{key} was told as served from {before:?}, then {:?}",
                change.before
            ));
        }
        if let Some(told) = told.filter(|told| !is_same(told, change)) {
            return Err(format!("{told:?} was told, then {change:?}: that is another name"));
        }
        if !change.after.is_empty() {
            self.served.insert(key, change.clone());
        }
        Ok(())
    }

    pub(super) fn check(&self, residents: &[Change]) -> Checked {
        for block in residents {
            let (key, now) = (block.key, &block.after);
            let told = self.served.get(&key);
            let served = told.map_or(TierSet::EMPTY, |told| told.after);
            if served != *now {
                return Err(format!(
                    "{key} was told as served from {served:?}, and is from {now:?}"
                ));
            }
            if let Some(told) = told.filter(|told| is_renamed(told, block) || !is_same(told, block))
            {
                return Err(format!("{told:?} was told, which is known as {block:?}"));
            }
        }
        if self.served.len() == residents.len() {
            return Ok(());
        }
        let (told, served) = (self.served.len(), residents.len());
        Err(format!("{told} blocks were told as served from somewhere, and {served} are"))
    }
}

/// What routers know it by. They know nothing of a block without a name.
fn names(change: &Change) -> [HashTail; 2] {
    let is_named = change.tail != HashTail::UNKNOWN;
    [change.tail, if is_named { change.parent_tail } else { HashTail::UNKNOWN }]
}

/// Whether it, or its parent, has got a name since, or a nameless one its tokens.
fn is_renamed(told: &Change, now: &Change) -> bool {
    names(told) != names(now) || told.tail == HashTail::UNKNOWN && told.tokens != now.tokens
}

/// Whether it is the same block, as far as it was named: names and tokens come, and do not change.
fn is_same(told: &Change, now: &Change) -> bool {
    let kept = |told: HashTail, now: HashTail| told == HashTail::UNKNOWN || told == now;
    let names_kept = names(told).into_iter().zip(names(now)).all(|(told, now)| kept(told, now));
    let place = |change: &Change| (change.namespace, change.position);
    let is_nameless = told.tail == HashTail::UNKNOWN && told.tokens.is_empty();
    // One that is taken back is taken back by its name.
    let spelt = is_nameless || now.after.is_empty() || told.tokens == now.tokens;
    names_kept && spelt && place(told) == place(now)
}
