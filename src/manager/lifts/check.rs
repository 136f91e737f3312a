//! What must hold of lifts after every step.

use std::collections::BTreeMap;

use crate::domain::residency::CopyState;
use crate::domain::tier::Tier;

use super::{Hold, Lifts, Manager};
use crate::manager::api::OpId;

impl Manager {
    /// Every held copy is a lift's, is there or on its way, and is counted once.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub(in crate::manager) fn check_lifts(&self) -> Result<(), String> {
        let mut copies: BTreeMap<OpId, ([u32; Tier::COUNT], [u32; Tier::COUNT])> = BTreeMap::new();
        let mut in_tiers = [0_u64; Tier::COUNT];
        for (index, block) in self.directory.iter() {
            for tier in Tier::ALL {
                // Those that are held by half the other way are too many at the end.
                if !block.is_lifted(tier) {
                    continue;
                }
                let copy = block.copy(tier);
                let Some(Hold { op, .. }) = self.lifts.holds.get(&(index, tier)) else {
                    return Err(format!("{}: its copy in {tier} is held by half", block.key));
                };
                if copy.state == CopyState::Absent {
                    return Err(format!("{}: its held copy in {tier} is not there", block.key));
                }
                in_tiers[tier.index()] += 1;
                let (by_tier, moving) = copies.entry(*op).or_default();
                by_tier[tier.index()] += 1;
                moving[tier.index()] += u32::from(copy.state == CopyState::Filling);
            }
        }
        if in_tiers != self.lifts.copies {
            return Err(format!("lifts hold {in_tiers:?} copies, counted {:?}", self.lifts.copies));
        }
        if in_tiers.iter().sum::<u64>() != self.lifts.holds.len() as u64 {
            return Err("a lift holds a copy that does not know, or is not there".into());
        }
        for (op, lift) in &self.lifts.open {
            let counted = copies.remove(op).unwrap_or_default();
            if counted != (lift.copies, lift.moving) {
                return Err(format!("lift {}: {counted:?} are held or move", op.0));
            }
            let is_queued = self.lifts.queue.contains(&Lifts::rank(*op, lift));
            let waits = self.lifts.timers.contains(&(lift.what.times.begin, *op));
            if !lift.is_all_begun() && !is_queued && !waits {
                return Err(format!("lift {} is forgotten", op.0));
            }
            // One that was stopped begins nothing any more, and the session may have another one.
            let is_own = |session| self.lifts.by_session.get(session) == Some(op);
            if (is_queued || waits) && !lift.what.session.as_ref().is_none_or(is_own) {
                return Err(format!("lift {} begins when its session knows nothing of it", op.0));
            }
        }
        match copies.keys().next() {
            Some(op) => Err(format!("lift {} has ended and holds copies", op.0)),
            None => Ok(()),
        }
    }
}
