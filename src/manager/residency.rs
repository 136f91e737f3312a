//! Residency: which tiers serve which blocks, told as it changes, and answered when asked.
//!
//! Only looks. Whoever asks leaves no trace: no lease, no tick, no hit, and nothing that a policy
//! could hear of.

use crate::domain::block::Key;
use crate::domain::directory::Change;
use crate::domain::tier::Tier;

use super::Manager;
use super::api::{Effect, NamespaceId, Overlap};
use super::lookup::Prefix;

/// Changes of one effect, at most.
const CHANGES_MAX: usize = 1024;

impl Manager {
    /// Tells what this step changed, before all else: whoever hears of an end finds told what it changed.
    pub(super) fn tell_residency(&mut self) {
        let others = self.out.len();
        let changes = self.directory.take_changes();
        for of_one in changes.chunk_by(|one, next| one.namespace == next.namespace) {
            for some in of_one.chunks(CHANGES_MAX) {
                let namespace = NamespaceId(some[0].namespace);
                self.out.push(Effect::Residency { namespace, changes: some.to_vec() });
            }
        }
        self.out.rotate_left(others);
    }

    /// The blocks of so many rows of the directory that are served from somewhere, as changes from
    /// nowhere, and the row to go on with.
    ///
    /// Row by row this is what all changes told so far add up to. What changes between two calls is
    /// told as ever, so a reader who takes both in order ends up right.
    #[must_use]
    pub fn residents(&self, first_row: u32, rows_max: u32) -> (Vec<Change>, Option<u32>) {
        self.directory.residents(first_row, rows_max)
    }

    pub(super) fn overlap(&self, keys: &[Key]) -> Overlap {
        let Prefix { runs, tips, .. } = self.longest_prefix(keys);
        let deepest =
            tips.into_iter().flatten().max_by_key(|tip| self.directory.get(*tip).position);
        let mut held_blocks = [0; Tier::COUNT];
        for block in self.directory.chain_up(deepest) {
            let served = self.directory.get(block).served_from();
            for tier in served.iter().filter(|tier| self.is_read(*tier)) {
                held_blocks[tier.index()] += 1;
            }
        }
        let namespace = deepest.map(|tip| NamespaceId(self.directory.get(tip).namespace));
        let known = namespace.and_then(|id| self.namespace(id).namespace.as_ref());
        Overlap { runs, held_blocks, block_tokens: known.map(|known| known.block_tokens) }
    }
}
