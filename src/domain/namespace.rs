//! Namespaces: everything that makes two blocks interchangeable.
//!
//! Nothing is ever shared across namespaces: the digest keys every block's name, so equal engine
//! hashes of two namespaces give different keys.

use std::fmt;

use super::block::Key;
use super::units::{PAGE_BYTES, page_align};

/// The largest block the daemon takes, in payload bytes: one chunk less its frame's header page.
pub const PAYLOAD_BYTES_MAX: u64 = super::units::CHUNK_BYTES - PAGE_BYTES as u64;

/// How one rank's part of a block lies in an engine's paged KV cache: `layers` x `planes` pages of
/// `page_bytes` each (planes: 2 for K and V, 1 for MLA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KvShape {
    pub layers: u32,
    pub planes: u32,
    pub page_bytes: u32,
}

impl KvShape {
    /// Pages of one rank's part of a block.
    #[must_use]
    pub const fn pages(self) -> u32 {
        self.layers * self.planes
    }

    /// Bytes of one rank's part of a block.
    #[must_use]
    pub const fn shard_bytes(self) -> u64 {
        self.layers as u64 * self.planes as u64 * self.page_bytes as u64
    }
}

/// Everything that makes two blocks interchangeable. Validated by [`Namespace::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Model and weights revision, as the engine names them.
    pub model: String,
    pub revision: String,
    /// Element type of the KV cache, as the engine names it (`bf16`, `fp8_e4m3`).
    pub dtype: String,
    /// The engine's name for the order of elements inside a page (`NHD`, `HND`, `MLA`).
    pub layout: String,
    pub shape: KvShape,
    pub block_tokens: u32,
    /// Tensor parallel ranks: how many shards make a block.
    pub shard_count: u32,
    /// How the engine hashes blocks (`sha256_cbor`), and the width of its hashes in bytes.
    pub hash_scheme: String,
    pub hash_bytes: u32,
    /// Separates tenants that must not share; empty when there is only one.
    pub tenant_salt: Vec<u8>,
}

impl Namespace {
    /// Says what is wrong with this namespace and what to send instead, or nothing.
    ///
    /// # Errors
    /// A sentence naming the field, its value and its limits.
    pub fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: u32, max: u32| {
            (1..=max).contains(&value).then_some(()).ok_or_else(|| {
                format!("namespace.{name} is {value}: it must be between 1 and {max}")
            })
        };
        within("block_tokens", self.block_tokens, 65_536)?;
        within("shard_count", self.shard_count, 64)?;
        within("hash_bytes", self.hash_bytes, 64)?;
        within("layers", self.shape.layers, 4096)?;
        within("planes", self.shape.planes, 16)?;
        within("page_bytes", self.shape.page_bytes, 64 << 20)?;
        if self.model.is_empty() {
            return Err("namespace.model is empty: name the model and its weights".into());
        }
        let texts = [&self.model, &self.revision, &self.dtype, &self.layout, &self.hash_scheme];
        if texts.iter().any(|text| text.len() > 512) || self.tenant_salt.len() > 512 {
            return Err("a namespace field is longer than 512 bytes: shorten or hash it".into());
        }
        if self.payload_bytes() > PAYLOAD_BYTES_MAX {
            return Err(format!(
                "a block of this namespace is {} bytes over all shards: the limit is {} bytes; \
                 lower block_tokens",
                self.payload_bytes(),
                PAYLOAD_BYTES_MAX
            ));
        }
        Ok(())
    }

    /// A block's payload over all its shards, in bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.shape.shard_bytes() * u64::from(self.shard_count)
    }

    /// A block's frame in bytes: the header page and the payload in whole pages.
    #[must_use]
    pub fn frame_bytes(&self) -> u64 {
        PAGE_BYTES as u64 + page_align(self.payload_bytes())
    }

    /// The 256-bit BLAKE3 digest of the fields, each preceded by its length, in declared order.
    #[must_use]
    pub fn digest(&self) -> NamespaceDigest {
        let mut hasher = blake3::Hasher::new_derive_key("terrace 2026-11 namespace v1");
        let mut text = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        text(self.model.as_bytes());
        text(self.revision.as_bytes());
        text(self.dtype.as_bytes());
        text(self.layout.as_bytes());
        for number in [
            self.shape.layers,
            self.shape.planes,
            self.shape.page_bytes,
            self.block_tokens,
            self.shard_count,
            self.hash_bytes,
        ] {
            text(&number.to_le_bytes());
        }
        text(self.hash_scheme.as_bytes());
        text(&self.tenant_salt);
        NamespaceDigest(*hasher.finalize().as_bytes())
    }
}

/// The digest of a [`Namespace`]; it stands in every frame's header and keys every block's name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceDigest(pub [u8; 32]);

impl NamespaceDigest {
    /// The key of the block that the engine calls `engine_hash`.
    #[must_use]
    pub fn key(&self, engine_hash: &[u8]) -> Key {
        let hash = blake3::keyed_hash(&self.0, engine_hash);
        let (head, _) = hash.as_bytes().split_at(Key::BYTES);
        Key(head.try_into().expect("a BLAKE3 hash has 32 bytes"))
    }
}

impl fmt::Display for NamespaceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NamespaceDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamespaceDigest({self})")
    }
}

#[cfg(test)]
pub(crate) fn example() -> Namespace {
    Namespace {
        model: "meta-llama/Llama-3.1-8B".into(),
        revision: "main".into(),
        dtype: "bf16".into(),
        layout: "NHD".into(),
        shape: KvShape { layers: 4, planes: 2, page_bytes: 8192 },
        block_tokens: 64,
        shard_count: 1,
        hash_scheme: "sha256_cbor".into(),
        hash_bytes: 32,
        tenant_salt: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_separates() {
        let base = example();
        let mut others = vec![base.clone(); 12];
        others[0].model.push('x');
        others[1].revision.push('x');
        others[2].dtype.push('x');
        others[3].layout.push('x');
        others[4].shape.layers += 1;
        others[5].shape.planes += 1;
        others[6].shape.page_bytes *= 2;
        others[7].block_tokens += 1;
        others[8].shard_count += 1;
        others[9].hash_scheme.push('x');
        others[10].hash_bytes += 1;
        others[11].tenant_salt.push(0);
        for other in &others {
            assert_ne!(base.digest(), other.digest(), "{other:?}");
            assert_ne!(base.digest().key(b"h"), other.digest().key(b"h"));
        }
    }

    #[test]
    fn a_moved_boundary_changes_the_digest() {
        let (mut a, mut b) = (example(), example());
        (a.model, a.revision) = ("ab".into(), "c".into());
        (b.model, b.revision) = ("a".into(), "bc".into());
        assert_ne!(a.digest(), b.digest());
    }

    #[test]
    fn limits_are_named() {
        let mut namespace = example();
        namespace.block_tokens = 0;
        let said = namespace.check().unwrap_err();
        assert!(said.contains("block_tokens") && said.contains("65536"), "{said}");
        namespace = example();
        namespace.shape.page_bytes = 64 << 20;
        assert!(namespace.check().unwrap_err().contains("lower block_tokens"));
    }
}
