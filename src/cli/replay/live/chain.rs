//! One request's blocks by id and by engine hash.

use std::ops::Range;

use bytes::Bytes;

use crate::client::Run;
use crate::domain::tier::Tier;
use crate::workload::Request;
use crate::workload::content::{Content, ENGINE_HASH_BYTES};

/// A chain from its root, as much of it as one lookup takes.
pub(super) struct Chain {
    ids: Vec<u64>,
    hashes: Bytes,
    /// Blocks beyond that.
    left_out: u64,
}

/// A stretch of a chain that was found in one tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) tier: Tier,
    pub(super) blocks: Range<usize>,
}

impl Chain {
    pub(super) fn of(request: &Request, content: Content, blocks_max: u32) -> Self {
        let ids: Vec<u64> = request.block_ids().take(blocks_max as usize).collect();
        let hashes: Vec<u8> = ids.iter().flat_map(|id| content.engine_hash(*id)).collect();
        let left_out = request.block_count() - ids.len() as u64;
        Self { ids, hashes: hashes.into(), left_out }
    }

    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn ids(&self, blocks: Range<usize>) -> &[u64] {
        &self.ids[blocks]
    }

    pub(super) fn hashes(&self, blocks: Range<usize>) -> Bytes {
        self.hashes.slice(blocks.start * ENGINE_HASH_BYTES..blocks.end * ENGINE_HASH_BYTES)
    }

    /// The hash of the block before this one; none before the root.
    pub(super) fn parent(&self, block: usize) -> Option<Bytes> {
        let parent = block.checked_sub(1)?;
        Some(self.hashes(parent..block))
    }
}

/// The found prefix cut into pieces of one tier and of at most `blocks_max` blocks.
pub(super) fn stretches(runs: &[Run], blocks_max: usize) -> Vec<Stretch> {
    let mut start = 0;
    let mut pieces = Vec::new();
    for run in runs {
        let end = start + run.blocks as usize;
        while start < end {
            let until = end.min(start + blocks_max);
            pieces.push(Stretch { tier: run.tier, blocks: start..until });
            start = until;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::request::push_id;

    #[test]
    fn stretches_cover_the_prefix_in_order() {
        let run = |tier, blocks| Run { tier, blocks };
        let cut = stretches(&[run(Tier::Hbm, 5), run(Tier::Object, 1), run(Tier::Hbm, 3)], 3);
        let said: Vec<_> = cut.into_iter().map(|piece| (piece.tier, piece.blocks)).collect();
        let expected =
            [(Tier::Hbm, 0..3), (Tier::Hbm, 3..5), (Tier::Object, 5..6), (Tier::Hbm, 6..9)];
        assert_eq!(said, expected);
    }

    #[test]
    fn hashes_go_with_their_ids() {
        let content = Content::new(1);
        let mut request = Request::default();
        for id in [7, 8, 3, 4] {
            push_id(&mut request.blocks, id);
        }
        let chain = Chain::of(&request, content, 3);
        assert_eq!((chain.len(), chain.ids(1..3)), (3, &[8, 3][..]));
        assert_eq!((chain.left_out(), Chain::of(&request, content, 4).left_out()), (1, 0));
        assert_eq!(chain.hashes(1..2), content.engine_hash(8)[..]);
        assert_eq!(chain.parent(0), None);
        assert_eq!(chain.parent(2).unwrap(), content.engine_hash(8)[..]);
    }
}
