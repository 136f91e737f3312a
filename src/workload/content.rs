//! The bytes that a block of a workload holds, and what an engine would call it.
//!
//! Made from (seed, block id, shard) alone, so a reader can check what it was given without
//! anything having been kept. Fast enough to disappear beside the copy it checks.

use crate::domain::namespace::{KvShape, Namespace};

/// Mixes 64 bits so that every input bit moves every output bit, and no two inputs meet:
/// the finaliser of `SplitMix64` (Steele, Lea and Flood, 2014).
#[must_use]
pub const fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The odd number nearest to 2^64 over the golden ratio: steps by it visit every number once.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Width in bytes of the hashes of [`Content::engine_hash`].
pub const ENGINE_HASH_BYTES: usize = 32;

/// A namespace of such blocks, of 16 tokens each and whole on one rank.
///
/// # Panics
/// Never: a hash is short.
#[must_use]
pub fn namespace(model: &str, shape: KvShape) -> Namespace {
    Namespace {
        model: model.into(),
        revision: String::new(),
        dtype: "u8".into(),
        layout: "NHD".into(),
        shape,
        block_tokens: 16,
        shard_count: 1,
        hash_scheme: "numbers".into(),
        hash_bytes: u32::try_from(ENGINE_HASH_BYTES).expect("a hash is short"),
        tenant_salt: Vec::new(),
    }
}

/// A workload's bytes, by seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    seed: u64,
}

impl Content {
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed: mix(seed ^ GOLDEN) }
    }

    /// The engine's sequence hash of the block.
    #[must_use]
    pub fn engine_hash(&self, block_id: u64) -> [u8; ENGINE_HASH_BYTES] {
        let mut hash = [0; ENGINE_HASH_BYTES];
        let base = mix(self.seed ^ mix(block_id));
        for (word, bytes) in (1_u64..).zip(hash.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&mix(base.wrapping_add(GOLDEN.wrapping_mul(word))).to_le_bytes());
        }
        hash
    }

    /// Writes the block's payload of one shard to the whole of `bytes`.
    pub fn fill(&self, block_id: u64, shard: u32, bytes: &mut [u8]) {
        self.fill_at(block_id, shard, 0, bytes);
    }

    /// Whether `bytes` is the block's payload of one shard, every byte of it.
    #[must_use]
    pub fn matches(&self, block_id: u64, shard: u32, bytes: &[u8]) -> bool {
        self.matches_at(block_id, shard, 0, bytes)
    }

    /// Writes the stretch of the payload that starts `offset_bytes` into it, which must be a
    /// multiple of 8: for pools whose pages lie apart.
    pub fn fill_at(&self, block_id: u64, shard: u32, offset_bytes: u64, bytes: &mut [u8]) {
        let words = self.words(block_id, shard, offset_bytes);
        let (whole, tail) = bytes.as_chunks_mut::<8>();
        for (index, bytes) in whole.iter_mut().enumerate() {
            *bytes = words.at(index).to_le_bytes();
        }
        let last = words.at(whole.len()).to_le_bytes();
        tail.copy_from_slice(&last[..tail.len()]);
    }

    /// Whether `bytes` is the stretch of the payload that starts `offset_bytes` (a multiple of 8)
    /// into it.
    #[must_use]
    pub fn matches_at(&self, block_id: u64, shard: u32, offset_bytes: u64, bytes: &[u8]) -> bool {
        let words = self.words(block_id, shard, offset_bytes);
        let (whole, tail) = bytes.as_chunks::<8>();
        // Differences are gathered, not branched on: the loop stays as fast as the reads.
        let mut difference = 0;
        for (index, bytes) in whole.iter().enumerate() {
            difference |= u64::from_le_bytes(*bytes) ^ words.at(index);
        }
        let last = words.at(whole.len()).to_le_bytes();
        difference == 0 && tail == &last[..tail.len()]
    }

    fn words(self, block_id: u64, shard: u32, offset_bytes: u64) -> Words {
        debug_assert!(offset_bytes.is_multiple_of(8), "payloads are made of whole words");
        let base = mix(self.seed ^ mix(block_id).wrapping_add(mix(!u64::from(shard))));
        Words { start: base.wrapping_add(GOLDEN.wrapping_mul(offset_bytes / 8)) }
    }
}

/// A stretch of a payload: word by word a Weyl sequence with its halves folded, which is one add
/// and one shift a word and so runs at the speed of memory.
#[derive(Clone, Copy)]
struct Words {
    start: u64,
}

impl Words {
    #[inline]
    const fn at(self, index: usize) -> u64 {
        let word = self.start.wrapping_add(GOLDEN.wrapping_mul(index as u64));
        word ^ (word >> 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_matches_and_nothing_else() {
        let content = Content::new(1);
        for len in [0, 1, 7, 8, 9, 4096, 4099] {
            let mut bytes = vec![0; len];
            content.fill(5, 1, &mut bytes);
            assert!(content.matches(5, 1, &bytes), "{len} bytes");
            if len > 0 {
                let others = [
                    content.matches(6, 1, &bytes),
                    content.matches(5, 0, &bytes),
                    Content::new(2).matches(5, 1, &bytes),
                    content.matches_at(5, 1, 8, &bytes),
                ];
                // One byte may agree by chance; a word may not.
                assert!(len < 8 || others == [false; 4], "{len} bytes: {others:?}");
            }
        }
    }

    #[test]
    fn every_single_altered_byte_is_seen() {
        let content = Content::new(1);
        let mut bytes = vec![0; 133];
        content.fill(9, 0, &mut bytes);
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(!content.matches(9, 0, &bytes), "byte {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn stretches_join() {
        let content = Content::new(3);
        let (mut whole, mut parts) = (vec![0; 64], vec![0; 64]);
        content.fill(2, 0, &mut whole);
        let (head, tail) = parts.split_at_mut(24);
        content.fill_at(2, 0, 24, tail);
        content.fill_at(2, 0, 0, head);
        assert_eq!(whole, parts);
    }

    #[test]
    fn hashes_differ_by_id_and_seed() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..4 {
            for id in 0..1000 {
                assert!(seen.insert(Content::new(seed).engine_hash(id)), "{seed} {id}");
            }
        }
    }
}
