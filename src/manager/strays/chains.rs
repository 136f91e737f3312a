//! What the headers of objects say of them, and of those that they hang on or that hang on them.

use std::collections::BTreeMap;

use super::Stray;
use crate::domain::block::Key;
use crate::domain::units::Time;
use crate::tiers::frame::FrameHeader;

impl Stray {
    /// The object with this header, if it may be one of `node_id`'s, or was promised to be forgotten.
    #[must_use]
    pub fn of(header: FrameHeader, node_id: [u8; 16]) -> Option<Self> {
        let record = header.meta.record;
        let kept_until = header.meta.created_at.max(record.shield_until);
        let stray = Self { header, kept_until, forget_at: record.delete_after };
        (header.node_id == node_id || stray.forget_at != Time::ZERO).then_some(stray)
    }

    /// All that were found: what hangs on a promised one is forgotten with it, and what others hang on is kept
    /// for their sake.
    #[must_use]
    pub fn linked(mut found: BTreeMap<Key, Self>) -> Vec<Self> {
        let place = |stray: &Self| (stray.header.meta.position, stray.header.meta.key);
        let mut order: Vec<(u32, Key)> = found.values().map(place).collect();
        order.sort_unstable();
        let parent_of = |found: &BTreeMap<Key, Self>, key| {
            let meta = found[key].header.meta;
            meta.parent.filter(|parent| found.contains_key(parent))
        };
        for (_, key) in &order {
            if let Some(parent) = parent_of(&found, key) {
                let before = found[&parent].forget_at;
                found
                    .entry(*key)
                    .and_modify(|stray| stray.forget_at = sooner(stray.forget_at, before));
            }
        }
        for (_, key) in order.iter().rev() {
            if let Some(parent) = parent_of(&found, key) {
                let until = found[key].kept_until;
                found
                    .entry(parent)
                    .and_modify(|stray| stray.kept_until = stray.kept_until.max(until));
            }
        }
        found.into_values().collect()
    }
}

/// Of two dates, each of which may be none.
fn sooner(one: Time, other: Time) -> Time {
    [one, other].into_iter().filter(|at| *at != Time::ZERO).min().unwrap_or(Time::ZERO)
}
