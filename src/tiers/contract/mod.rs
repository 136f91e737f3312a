//! The contract of [`TierStore`], as one suite that every store passes.
//!
//! A store's own tests call [`check_store`] with a closure that makes a fresh, empty store:
//!
//! ```ignore
//! contract::check_store(|| {
//!     let arena = contract::arena(0);
//!     let folder = tempfile::tempdir().unwrap();
//!     let open = opener(folder.path(), &arena);
//!     Fixture::new(arena, open())
//!         .restarted_by(move |old| { drop(old); open() })
//!         .corrupted_by(move |key, place, byte| flip_a_bit_of_the_file(key, place, byte))
//!         .keeping(folder)
//! });
//! ```
//! The store needs [`CAPACITY_BYTES`], and takes any slot length that [`slot_bytes`] gives. Knows
//! no store by name.

mod cases;
mod concurrent;
mod liars;
mod promises;
mod random;
mod rig;

use std::any::Any;
use std::sync::Arc;

use crate::domain::block::Key;
use crate::domain::namespace::{KvShape, Namespace};
use crate::domain::tier::Tier;
use crate::domain::units::{CHUNK_BYTES, page_align};

use super::dram::{Arena, ArenaConfig};
use super::frame::HEADER_SPAN_BYTES;
use super::store::{Place, TierStore};

/// What a store under test must hold: two chunks.
pub(crate) const CAPACITY_BYTES: u64 = 2 * CHUNK_BYTES;

/// The payloads that the suite writes, in bytes: from a page to two MiB, and one that is not whole
/// pages.
pub(crate) const PAYLOADS_BYTES: [u32; 5] = [4 << 10, 20_000, 64 << 10, 1 << 20, 2 << 20];

/// Staging frames that the suite uses, each long enough for the largest payload and a guard page.
const STAGING_FRAMES: u32 = 16;
const STAGING_FRAME_BYTES: u32 = (2 << 20) + 2 * HEADER_SPAN_BYTES;

type Restart = Box<dyn FnMut(Arc<dyn TierStore>) -> Arc<dyn TierStore>>;
type Corrupt = Box<dyn Fn(Key, Place, usize)>;

/// A store to check, and what can be done to it from outside.
pub(crate) struct Fixture {
    arena: Arc<Arena>,
    store: Arc<dyn TierStore>,
    restart: Option<Restart>,
    corrupt: Option<Corrupt>,
    // Dropped last: the folder or server that the store stands on.
    _keep: Option<Box<dyn Any>>,
}

impl Fixture {
    /// `arena` is one made by [`arena`], and the store's own.
    pub(crate) fn new(arena: Arc<Arena>, store: Arc<dyn TierStore>) -> Self {
        Self { arena, store, restart: None, corrupt: None, _keep: None }
    }

    /// How the store is stopped and opened again, for stores that remember.
    pub(crate) fn restarted_by(
        self,
        restart: impl FnMut(Arc<dyn TierStore>) -> Arc<dyn TierStore> + 'static,
    ) -> Self {
        Self { restart: Some(Box::new(restart)), ..self }
    }

    /// How a bit of byte `byte` of the frame stored for this key at this place is flipped; byte 0
    /// is the header's first.
    pub(crate) fn corrupted_by(self, corrupt: impl Fn(Key, Place, usize) + 'static) -> Self {
        Self { corrupt: Some(Box::new(corrupt)), ..self }
    }

    /// Holds what the store needs until the check is over.
    pub(crate) fn keeping(self, keep: impl Any) -> Self {
        Self { _keep: Some(Box::new(keep)), ..self }
    }
}

/// Checks everything the contract says of stores that `make` makes.
///
/// # Panics
/// The store breaks the contract; the message names the case, and the seed where there is one.
pub(crate) fn check_store(make: impl Fn() -> Fixture) {
    cases::check(&make);
    concurrent::check(&make);
    random::check(&make);
    promises::check(&make);
}

/// An arena whose first `tier_bytes` are the store's, followed by what the suite needs.
pub(crate) fn arena(tier_bytes: u64) -> Arc<Arena> {
    let staging_bytes = u64::from(STAGING_FRAMES) * u64::from(STAGING_FRAME_BYTES);
    let config = ArenaConfig { tier_bytes, staging_bytes, pretouch_threads: 0 };
    Arc::new(Arena::new(config).expect("a test machine has 200 MiB"))
}

/// The namespace of the blocks whose payload is `payload_bytes` long, one of [`PAYLOADS_BYTES`].
pub(crate) fn namespace(payload_bytes: u32) -> Namespace {
    let shard_count = if payload_bytes == 64 << 10 { 2 } else { 1 };
    let page_bytes = payload_bytes / shard_count / 4;
    Namespace {
        shape: KvShape { layers: 2, planes: 2, page_bytes },
        shard_count,
        ..crate::domain::namespace::example()
    }
}

/// A slot's length in `tier` for such a block: HBM keeps the header elsewhere.
pub(crate) fn slot_bytes(tier: Tier, payload_bytes: u32) -> u32 {
    let header = if tier == Tier::Hbm { 0 } else { u64::from(HEADER_SPAN_BYTES) };
    u32::try_from(header + page_align(u64::from(payload_bytes))).expect("payloads are small")
}
