//! The invariant that whatever is said to move does move: a copy that fills or drains with nobody
//! at it would have its slot for ever, and whoever waits for it would wait as long.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::directory::BlockIndex;
use crate::domain::residency::CopyState;
use crate::domain::tier::Tier;

use super::Manager;
use super::state::{FlightItem, Job, Partial};

impl Manager {
    /// Every copy that fills has something that fills it, every one that drains a way down, and who
    /// joined a fill joined one.
    pub(super) fn check_moves(&self) -> Result<(), String> {
        let (mut filled, mut drained) = (BTreeSet::new(), BTreeSet::new());
        let mut shards = BTreeMap::<BlockIndex, u64>::new();
        for FlightItem { block, to, job } in self.moves() {
            match job {
                Job::Sync { .. } => continue,
                Job::Demote { from } => _ = drained.insert((block, from)),
                Job::Store(part) => *shards.entry(block).or_default() |= 1 << part.shard,
                _ => {}
            }
            filled.extend(to.map(|to| (block, to)));
        }
        for (block, partial) in &self.partials {
            self.check_partial(*block, partial, shards.get(block).copied().unwrap_or(0))?;
            filled.insert((*block, partial.tier));
        }
        for (block, tier) in self.joined.keys() {
            let block = self.directory.get(*block);
            if block.copy(*tier).state != CopyState::Filling {
                return Err(format!(
                    "{} is waited for in {tier}, where it does not fill",
                    block.key
                ));
            }
        }
        for (index, block) in self.directory.iter() {
            for tier in Tier::ALL {
                let (moving, what) = match block.copy(tier).state {
                    CopyState::Filling => (&filled, "fills"),
                    CopyState::Draining => (&drained, "drains"),
                    CopyState::Absent | CopyState::Resident => continue,
                };
                if !moving.contains(&(index, tier)) {
                    return Err(format!("{} {what} in {tier} for ever", block.key));
                }
            }
        }
        Ok(())
    }

    /// Of a block of several shards those that have begun and not landed are `moving`, or wait for
    /// its slot. One that failed goes with the last of them; others have until their deadline.
    fn check_partial(
        &self,
        block: BlockIndex,
        partial: &Partial,
        moving: u64,
    ) -> Result<(), String> {
        let waiting = partial.waiting.iter().fold(0, |bits, part| bits | 1_u64 << part.shard);
        let begun = partial.started & !partial.landed;
        let key = self.directory.get(block).key;
        if begun & !(moving | waiting) != 0 {
            return Err(format!("{key} waits for a shard that nobody brings"));
        }
        if partial.failed && begun == 0 {
            return Err(format!("{key} failed, and its shards are still waited for"));
        }
        Ok(())
    }
}
