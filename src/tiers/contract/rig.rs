//! The one place in the suite that knows the store's API: makes blocks, runs operations, compares.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use crate::domain::block::{HashTail, Key};
use crate::domain::retention::RetentionRecord;
use crate::domain::tier::Tier;
use crate::domain::units::{CHUNK_BYTES, Time};
use crate::tiers::frame::{
    self, FrameHeader, HEADER_BYTES, HEADER_SPAN_BYTES, HeaderDraft, RECORDS,
};
use crate::tiers::store::{Erasure, FrameMeta, FrameSpan, Place, StoreError, StoreOp, TierStore};

use super::{Fixture, STAGING_FRAME_BYTES, STAGING_FRAMES};

/// Long enough for a loaded machine; a store that takes longer has lost the operation.
const PATIENCE: Duration = Duration::from_mins(1);

/// What untouched staging memory holds.
const GUARD: u8 = 0xee;

/// The priority in the record of every frame that the suite writes.
pub(super) const WRITTEN: u8 = 70;

/// A block of the suite: its number decides its key and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) number: u32,
    pub(super) payload_bytes: u32,
}

impl Block {
    pub(super) fn key(self) -> Key {
        let name = [self.number.to_le_bytes(), self.payload_bytes.to_le_bytes()].concat();
        super::namespace(self.payload_bytes).digest().key(&name)
    }

    pub(super) fn record(priority: u8) -> RetentionRecord {
        RetentionRecord { priority, ..RetentionRecord::default() }
    }

    fn draft(self) -> HeaderDraft {
        let namespace = super::namespace(self.payload_bytes).digest();
        let parent = (self.number % 2 == 1).then(|| namespace.key(b"parent"));
        let created_at = Time { micros: 1_700_000_000_000_000 + u64::from(self.number) };
        let record = Self::record(WRITTEN);
        let position = self.number;
        let tail = HashTail(self.number.into());
        let meta = FrameMeta { key: self.key(), tail, parent, position, created_at, record };
        HeaderDraft { namespace, meta, payload_bytes: self.payload_bytes.into(), node_id: [5; 16] }
    }

    /// Bytes that differ between any two blocks and any two words of one.
    fn fill_payload(self, payload: &mut [u8]) {
        let seed = u64::from(self.number) << 32 | u64::from(self.payload_bytes);
        // Not a loop of ours: most of the suite's time is here, and tests are little optimised.
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(payload);
    }

    fn frame_bytes(self) -> u32 {
        super::slot_bytes(Tier::Dram, self.payload_bytes)
    }
}

/// How an operation ended, without its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Ok,
    Busy,
    Missing,
    Corrupt,
    Io,
    TierLost,
}

impl From<&Result<(), StoreError>> for Ended {
    fn from(result: &Result<(), StoreError>) -> Self {
        match result {
            Ok(()) | Err(StoreError::Outdone(_)) => Self::Ok,
            Err(StoreError::Busy) => Self::Busy,
            Err(StoreError::Missing(_)) => Self::Missing,
            Err(StoreError::Corrupt(_)) => Self::Corrupt,
            Err(StoreError::Io { .. }) => Self::Io,
            Err(StoreError::TierLost(_)) => Self::TierLost,
        }
    }
}

/// An operation under way.
pub(super) struct Pending(Receiver<Result<(), StoreError>>);

impl Pending {
    pub(super) fn start(store: &dyn TierStore, op: StoreOp) -> Self {
        let (tell, told) = sync_channel(1);
        store.submit(op, Box::new(move |result| tell.send(result).unwrap_or_default()));
        Self(told)
    }

    pub(super) fn wait(self) -> Result<(), StoreError> {
        match self.0.recv_timeout(PATIENCE) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => panic!("`done` was not called in {PATIENCE:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("`done` was dropped without a call"),
        }
    }
}

pub(super) struct Rig {
    pub(super) fixture: Fixture,
    staging_offset: u64,
}

impl Rig {
    pub(super) fn new(fixture: Fixture) -> Self {
        let staging_bytes = u64::from(STAGING_FRAMES) * u64::from(STAGING_FRAME_BYTES);
        let staging_offset = fixture.arena.len_bytes().checked_sub(staging_bytes);
        Self { fixture, staging_offset: staging_offset.expect("the arena is contract::arena()") }
    }

    pub(super) fn tier(&self) -> Tier {
        self.fixture.store.tier()
    }

    pub(super) fn store(&self) -> &Arc<dyn TierStore> {
        &self.fixture.store
    }

    /// The place of slot `slot` in chunk `chunk`, whose slots fit `payload_bytes`.
    pub(super) fn place(&self, chunk: u64, slot: u32, payload_bytes: u32) -> Place {
        let slot_bytes = super::slot_bytes(self.tier(), payload_bytes);
        let place = Place {
            offset: chunk * CHUNK_BYTES + u64::from(slot) * u64::from(slot_bytes),
            slot_bytes,
        };
        assert!(place.offset % CHUNK_BYTES + u64::from(slot_bytes) <= CHUNK_BYTES);
        place
    }

    /// The staging frame `index`, cut for `block`.
    pub(super) fn span(&self, index: u32, block: Block) -> FrameSpan {
        assert!(index < STAGING_FRAMES);
        let offset = self.staging_offset + u64::from(index) * u64::from(STAGING_FRAME_BYTES);
        FrameSpan { offset, bytes: block.frame_bytes() }
    }

    /// Makes the block's frame in staging frame `index`.
    pub(super) fn fill(&self, index: u32, block: Block) -> FrameSpan {
        let span = self.span(index, block);
        // SAFETY: the suite gives a staging frame to one operation at a time.
        let bytes = unsafe { self.fixture.arena.bytes_mut(span) };
        block.fill_payload(&mut bytes[HEADER_BYTES..]);
        frame::seal(bytes, block.draft());
        span
    }

    /// Makes staging frame `index` ready to be read into: guard bytes there and behind it.
    pub(super) fn blank(&self, index: u32, block: Block) -> FrameSpan {
        let span = self.span(index, block);
        // SAFETY: as in `fill`.
        unsafe { self.fixture.arena.bytes_mut(guarded(span)) }.fill(GUARD);
        span
    }

    /// Whether staging frame `index` holds the block as it was written.
    pub(super) fn holds(&self, index: u32, block: Block) -> bool {
        self.holds_with(index, block) == Some(WRITTEN)
    }

    /// The priority in the record of the block that staging frame `index` holds, if that is the
    /// block, header and payload, and nothing behind it was touched.
    fn holds_with(&self, index: u32, block: Block) -> Option<u8> {
        let span = self.span(index, block);
        // SAFETY: as in `fill`; no operation is under way on this frame.
        let found = unsafe { self.fixture.arena.bytes(guarded(span)) };
        let spare = self.fill(STAGING_FRAMES - 1, block);
        // SAFETY: as above; the last frame is used only here.
        let wanted = unsafe { self.fixture.arena.bytes(spare) };
        let used = HEADER_BYTES + block.payload_bytes as usize;
        let whole = found[..RECORDS.start] == wanted[..RECORDS.start]
            && found[RECORDS.end..used] == wanted[RECORDS.end..used]
            && found[span.bytes as usize..].iter().all(|byte| *byte == GUARD);
        let record = FrameHeader::parse(found).ok()?.meta.record;
        (whole && record == Block::record(record.priority)).then_some(record.priority)
    }

    pub(super) fn write(&self, block: Block, place: Place) -> Ended {
        let frame = self.fill(0, block);
        self.run(|| StoreOp::Write { key: block.key(), place, frame })
    }

    /// Reads, and checks the bytes of what ends as `Ok`; gives the record's priority.
    pub(super) fn read(&self, block: Block, place: Place) -> (Ended, Option<u8>) {
        let frame = self.blank(1, block);
        let ended = self.run(|| StoreOp::Read { key: block.key(), place, frame });
        if ended != Ended::Ok {
            return (ended, None);
        }
        let found = self.holds_with(1, block);
        assert!(found.is_some(), "{block:?} came back with other bytes");
        (ended, found)
    }

    pub(super) fn read_at(&self, (block, place): (Block, Place)) -> (Ended, Option<u8>) {
        self.read(block, place)
    }

    pub(super) fn restamp(&self, block: Block, place: Place, priority: u8) -> Ended {
        let record = Block::record(priority);
        self.run(|| StoreOp::Restamp { key: block.key(), place, record, known: Time::ZERO })
    }

    /// What the header says when it is asked for alone: of stores that are asked by key.
    pub(super) fn peek(&self, block: Block) -> (Ended, Option<u8>) {
        let (tell, told) = sync_channel(1);
        let heard = Box::new(move |found| tell.send(found).unwrap_or_default());
        self.fixture.store.peek(block.key(), heard);
        let found = told.recv_timeout(PATIENCE).expect("whoever peeks is told");
        let meta = found.as_ref().ok().map(|header| header.meta);
        assert!(meta.is_none_or(|meta| meta.key == block.key()), "{block:?} is another one");
        ((&found.map(drop)).into(), meta.map(|meta| meta.record.priority))
    }

    pub(super) fn erase(&self, block: Block, place: Place) -> Ended {
        self.run(|| StoreOp::Erase { key: block.key(), place, why: Erasure::Unusable })
    }

    /// Has the store keep what it has.
    pub(super) fn sync(&self) -> Ended {
        let (tell, told) = sync_channel(1);
        self.fixture.store.sync(Box::new(move |result| tell.send(result).unwrap_or_default()));
        (&Pending(told).wait()).into()
    }

    /// Runs an operation alone: a store that is busy with nothing to do never gets better.
    fn run(&self, op: impl Fn() -> StoreOp) -> Ended {
        let result = Pending::start(&*self.fixture.store, op()).wait();
        (&result).into()
    }

    /// Restarts the store; false if it is none that remembers.
    pub(super) fn restart(&mut self) -> bool {
        let Some(restart) = &mut self.fixture.restart else { return false };
        let gone = Arc::new(Gone(self.fixture.store.tier()));
        let old = std::mem::replace(&mut self.fixture.store, gone);
        self.fixture.store = restart(old);
        true
    }

    /// The keys that a scan finds, sorted, each with its place unless the tier has none, and the
    /// record's priority.
    pub(super) fn scan(&self) -> Vec<(Key, Option<Place>, u8)> {
        let mut found = Vec::new();
        let by_key = self.tier() == Tier::Object;
        self.fixture
            .store
            .scan(&mut |frame| {
                let place = (!by_key).then_some(frame.place);
                found.push((frame.header.meta.key, place, frame.header.meta.record.priority));
            })
            .expect("a store that was just opened can be scanned");
        found.sort_unstable();
        found
    }
}

/// The span and the page behind it, which nobody may touch.
fn guarded(span: FrameSpan) -> FrameSpan {
    FrameSpan { bytes: span.bytes + HEADER_SPAN_BYTES, ..span }
}

/// Stands where a store was while it restarts.
struct Gone(Tier);

impl TierStore for Gone {
    fn tier(&self) -> Tier {
        self.0
    }

    fn submit(&self, _op: StoreOp, done: crate::tiers::store::Done) {
        done(Err(StoreError::TierLost("restarting".into())));
    }
}
