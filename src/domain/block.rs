//! What a block is called.

use std::fmt;
use std::hash::{Hash, Hasher};

/// A block's name inside the daemon: 128 bits, BLAKE3 keyed by the namespace's digest over the
/// engine's own sequence hash.
///
/// Made only by [`super::namespace::NamespaceDigest::key`] and by reading a frame back, so no
/// tenant can name another's block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Key(pub [u8; Key::BYTES]);

impl Key {
    pub const BYTES: usize = 16;

    /// The first half as a number: keys are uniform, so this is hash enough for a table.
    #[inline]
    #[must_use]
    pub fn low_bits(&self) -> u64 {
        let (head, _) = self.0.split_at(8);
        u64::from_le_bytes(head.try_into().expect("a key has 16 bytes"))
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.low_bits());
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// What routers know a block by: the last eight bytes of the engine's own hash, as a big-endian
/// number.
///
/// Source: vLLM's `maybe_convert_block_hash`, which cuts hashes down so for its events. Names blocks
/// to others only; nothing here is found by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashTail(pub u64);

impl HashTail {
    /// Nobody said the engine's hash. One in 2^64 hashes ends like this, and counts as not said.
    pub const UNKNOWN: Self = Self(0);

    /// The tail of an engine's hash of any length.
    #[must_use]
    pub fn of(engine_hash: &[u8]) -> Self {
        let tail = engine_hash.iter().rev().take(8).rev();
        Self(tail.fold(0, |tail, byte| tail << 8 | u64::from(*byte)))
    }

    /// The number, if the hash is known.
    #[must_use]
    pub const fn known(self) -> Option<u64> {
        match self.0 {
            0 => None,
            tail => Some(tail),
        }
    }
}

/// A hasher for tables keyed by [`Key`]: passes the key's own bits through, since they are a hash.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only reached by keys of another type; FNV-1a keeps it a correct hasher for them too.
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_u64(&mut self, bits: u64) {
        self.0 = bits;
    }
}

/// Builds [`KeyHasher`]s.
pub type BuildKeyHasher = std::hash::BuildHasherDefault<KeyHasher>;

/// A map from keys; iteration order depends only on the keys and the order of insertion.
pub type KeyMap<V> = hashbrown::HashMap<Key, V, BuildKeyHasher>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_end_of_the_hash_as_a_number() {
        let long: Vec<u8> = (1..=32).collect();
        assert_eq!(HashTail::of(&long).known(), Some(0x191a_1b1c_1d1e_1f20));
        assert_eq!(HashTail::of(&[0x12, 0x34]).known(), Some(0x1234));
        assert_eq!(HashTail::of(&[0xff; 9]).known(), Some(u64::MAX));
        assert_eq!(HashTail::of(&[0; 32]), HashTail::UNKNOWN);
    }
}
