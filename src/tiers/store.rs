//! The contract of a tier's store.

use std::io;

use crate::domain::block::{HashTail, Key};
use crate::domain::retention::RetentionRecord;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

use super::frame::FrameHeader;
use super::health::Health;

/// An address inside a tier: bytes from its start, and the length of the slot there. The manager
/// hands places out; chunks of [`crate::domain::units::CHUNK_BYTES`] hold slots of one length, so
/// a slot never crosses a chunk's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub offset: u64,
    pub slot_bytes: u32,
}

/// A frame's bytes in the arena: offset from the arena's start and length, both in whole pages.
///
/// Who holds a span for an operation owns those bytes until the operation is done: exclusively for
/// a read into it, shared for a write from it. The manager keeps this true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameSpan {
    pub offset: u64,
    pub bytes: u32,
}

/// One operation on one block. Stores that address by key (object) ignore the place, stores that
/// address by place (all others) use the key only to check what they read.
#[derive(Clone, Copy, Debug)]
pub enum StoreOp {
    /// Copies the sealed frame at `frame` to `place`. Where another node has written it already, a sooner
    /// promise to forget stands: `Outdone`.
    Write { key: Key, place: Place, frame: FrameSpan },
    /// Copies the frame at `place` into `frame` and verifies it: header, key and payload checksum.
    Read { key: Key, place: Place, frame: FrameSpan },
    /// Makes the frame at `place` unreadable, for good and across restarts. Like a write it is for whoever
    /// has the slot: frames of another length in the same chunk are ended by it.
    Erase { key: Key, place: Place, why: Erasure },
    /// Makes `record` the one in the frame's header. Whatever happens meanwhile, the header then has
    /// this record or the one before it, and the payload is untouched. Where other nodes write too, the
    /// sooner promise to forget stands, unless the other one is `known`; whose own does not is told so:
    /// `Outdone`.
    Restamp { key: Key, place: Place, record: RetentionRecord, known: Time },
}

/// Why a frame is erased: what that means for what other nodes wrote, and for its bytes, where several
/// nodes share a store. All others do the same for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erasure {
    /// Its room is wanted: what another node wrote is that node's.
    ForRoom,
    /// It serves nobody.
    Unusable,
    /// Its owner was promised that it goes, with its bytes.
    Promised,
}

/// Why an operation failed, named by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store has no room in its queues: try again later.
    #[error("the store is busy")]
    Busy,
    /// The copy is not there: drop it from the directory, try the next tier.
    #[error("no such frame: {0}")]
    Missing(String),
    /// The bytes are not what was written: drop this copy, try the next tier.
    #[error("corrupt frame: {0}")]
    Corrupt(String),
    /// Done, but for a promise to forget that stood in the header and was not known: it holds. This is what
    /// the header says now.
    #[error("the sooner promise to forget that stood there holds")]
    Outdone(Box<FrameHeader>),
    /// The operation failed and may work later: the copy stays, this load tries the next tier.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// The tier is gone: plan without it.
    #[error("the tier is lost: {0}")]
    TierLost(String),
}

/// Told once, from any thread, how an operation ended. Must not block.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Told once, from any thread, what a frame's header says. Must not block.
pub type Peeked = Box<dyn FnOnce(Result<FrameHeader, StoreError>) + Send>;

/// A frame found by a scan after a restart.
#[derive(Clone, Debug)]
pub struct FoundFrame {
    pub place: Place,
    pub header: FrameHeader,
}

impl FoundFrame {
    /// One of a store that addresses by key: objects have no place.
    #[must_use]
    pub const fn object(header: FrameHeader) -> Self {
        Self { place: Place { offset: 0, slot_bytes: 0 }, header }
    }
}

/// A tier's store: keeps frames, gives the same bytes back.
///
/// The contract, which `tiers::contract` checks of every store:
/// - `submit` returns at once; `done` is called exactly once, also when the store is dropped;
/// - a read after a write's `done` gives the bytes written, header and payload;
/// - a read of a place or key never written, or erased, is `Missing`; altered bytes, or those of
///   another key, are `Corrupt`; neither ever ends as `Ok`;
/// - after a restamp's `done` reads, scans and peeks give the new record, and a write's record
///   replaces it, but in a store that nodes share for a promise to forget
///   ([`NewRecord`](crate::domain::retention::NewRecord)); what a restamp does not find, or finds to be another block's, is `Missing` or
///   `Corrupt` as for a read, and stays as it is. Reads may run beside one restamp of the same
///   frame; who submits two sees to it that no read lasts from the first into the second;
/// - operations on different places may end in any order;
/// - `sync` answers once, as `submit` does, and changes nothing that reads or scans find.
pub trait TierStore: Send + Sync + 'static {
    /// Which tier this is.
    fn tier(&self) -> Tier;

    /// Starts `op`; `done` hears how it ended.
    fn submit(&self, op: StoreOp, done: Done);

    /// Has the store keep what it was given: `done` hears when every operation that had ended before
    /// this call is proof against a loss of power. Stores that forget, and those whose every answer
    /// says as much, have nothing to do.
    fn sync(&self, done: Done) {
        done(Ok(()));
    }

    /// Asks what the header of `key`'s frame says, without its payload: only of stores that address
    /// by key.
    fn peek(&self, key: Key, told: Peeked) {
        told(Err(StoreError::Missing(format!("{key}: this store is not asked by key"))));
    }

    /// How many erasures it takes at a time without keeping others waiting.
    fn erasures_max(&self) -> usize {
        64
    }

    /// Whether an erasure for room leaves by itself what other nodes wrote. Of any other store whoever wants
    /// room asks first who wrote the frame.
    fn leaves_others(&self) -> bool {
        false
    }

    /// How the store is. Stores that can't tell are well.
    fn health(&self) -> Health {
        Health::Well
    }

    /// Reports every whole frame found from before a restart, by reading headers only. Stores that
    /// forget find nothing, and so do those that ask money for each header. Single unreadable headers are
    /// passed over. Where slots would be written over, a store that can't be read at all is waited for, and
    /// its health says so. Blocks: call it from a thread of its own.
    ///
    /// # Errors
    /// The scan did not end: frames that it did not report may be there, and must not be written over.
    fn scan(&self, _found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What the manager knows of a block and a frame's header needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMeta {
    pub key: Key,
    /// What routers know the block by.
    pub tail: HashTail,
    pub parent: Option<Key>,
    /// The block's index in its chain: the root block is 0.
    pub position: u32,
    pub created_at: Time,
    pub record: RetentionRecord,
}
