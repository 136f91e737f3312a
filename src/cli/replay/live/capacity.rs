//! Capacities in blocks, as people think of them, to whole chunks, as tiers have them.

use crate::cli::daemon::TierSize;
use crate::domain::namespace::Namespace;
use crate::domain::slots::slots_per_chunk;
use crate::domain::tier::Tier;
use crate::domain::units::{CHUNK_BYTES, page_align};

/// The tier that holds exactly so many blocks of this namespace.
pub(crate) fn size_of(tier: Tier, blocks: u64, namespace: &Namespace) -> TierSize {
    let chunks = blocks.div_ceil(blocks_per_chunk(namespace, tier));
    TierSize { bytes: chunks.saturating_mul(CHUNK_BYTES), blocks_max: Some(blocks) }
}

/// A slot of the HBM tier holds the payload, those of the others a whole frame.
fn blocks_per_chunk(namespace: &Namespace, tier: Tier) -> u64 {
    let slot_bytes = match tier {
        Tier::Hbm => page_align(namespace.payload_bytes()),
        Tier::Dram | Tier::Nvme | Tier::Object => namespace.frame_bytes(),
    };
    let slot_bytes = u32::try_from(slot_bytes).expect("a checked namespace's frame fits a chunk");
    u64::from(slots_per_chunk(slot_bytes))
}

#[cfg(test)]
mod tests {
    use super::super::windows::namespace_of;
    use super::*;

    #[test]
    fn blocks_round_up_to_chunks() {
        let namespace = namespace_of(64 << 10, 64);
        let chunks = |tier, blocks| size_of(tier, blocks, &namespace).bytes / CHUNK_BYTES;
        assert_eq!((chunks(Tier::Hbm, 1024), chunks(Tier::Hbm, 1025)), (1, 2));
        assert_eq!((chunks(Tier::Dram, 963), chunks(Tier::Dram, 964)), (1, 2));
        assert_eq!(chunks(Tier::Nvme, 0), 0);
        assert_eq!(size_of(Tier::Object, 5, &namespace).blocks_max, Some(5));
    }
}
