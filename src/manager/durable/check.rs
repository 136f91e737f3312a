//! What must hold of blocks on their way to being durable.

use crate::domain::directory::Block;
use crate::domain::residency::CopyState;
use crate::domain::tier::Tier;
use crate::manager::Manager;

use super::{DURABLE, Entry, Stage};

impl Manager {
    /// Checks that whoever waits here waits for something, and that what is called durable hangs on
    /// nothing that is not.
    ///
    /// # Errors
    /// The first broken invariant, in a sentence.
    pub(in crate::manager) fn check_durables(&self) -> Result<(), String> {
        for (at, entry) in &self.durables.entries {
            let row = self.directory.get(*at);
            if row.doomed || !self.is_coming(row, entry) {
                let Entry { tier, stage, .. } = entry;
                let doomed = if row.doomed { "doomed, " } else { "" };
                return Err(format!("{} {doomed}waits for nothing, {stage:?} in {tier}", row.key));
            }
        }
        for (_, row) in self.directory.iter() {
            DURABLE.into_iter().try_for_each(|tier| self.check_durable(row, tier))?;
        }
        Ok(())
    }

    fn is_coming(&self, row: &Block, entry: &Entry) -> bool {
        let copy = row.copy(entry.tier);
        match entry.stage {
            Stage::Waiting => {
                let restamps = self.rewrites.under_way.contains(&(row.key, entry.tier));
                row.fills() || row.drains() || restamps || !row.stamp(entry.tier).is_current()
            }
            Stage::Copying => copy.state == CopyState::Filling,
            Stage::Syncing => copy.busy > 0,
            Stage::Down => {
                let parent = row.parent();
                parent.is_some_and(|parent| self.durables.entries.contains_key(&parent))
            }
        }
    }

    fn check_durable(&self, row: &Block, tier: Tier) -> Result<(), String> {
        if !row.is_durable(tier) || row.doomed {
            return Ok(());
        }
        let parent = row.parent().map(|parent| self.directory.get(parent));
        let hangs = parent.is_none_or(|parent| parent.is_durable(tier));
        if hangs && row.copy(tier).state == CopyState::Resident {
            return Ok(());
        }
        Err(format!("{} is called durable in {tier}, and a restart would not find it", row.key))
    }
}
