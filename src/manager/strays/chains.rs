//! What the headers of objects say of them, and of those that hang on them.

use std::collections::BTreeMap;

use super::Stray;
use crate::domain::block::Key;
use crate::domain::units::Time;
use crate::tiers::frame::FrameHeader;

impl Stray {
    /// The object with this header, if it is one of `node_id`'s, or was promised to be forgotten.
    #[must_use]
    pub fn of(header: FrameHeader, node_id: [u8; 16]) -> Option<Self> {
        let record = header.meta.record;
        let kept_until = header.meta.created_at.max(record.shield_until);
        let is_wanted = header.node_id == node_id || record.delete_after != Time::ZERO;
        is_wanted.then_some(Self { header, kept_until })
    }

    /// All that were found: what others hang on is kept for their sake.
    #[must_use]
    pub fn linked(mut found: BTreeMap<Key, Self>) -> Vec<Self> {
        let place = |stray: &Self| (stray.header.meta.position, stray.header.meta.key);
        let mut order: Vec<(u32, Key)> = found.values().map(place).collect();
        order.sort_unstable();
        for (_, key) in order.iter().rev() {
            let stray = found[key];
            if let Some(parent) = stray.header.meta.parent.and_then(|parent| found.get_mut(&parent))
            {
                parent.kept_until = parent.kept_until.max(stray.kept_until);
            }
        }
        found.into_values().collect()
    }
}
