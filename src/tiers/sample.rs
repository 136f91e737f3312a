//! Sample blocks for the tests that a store has beyond the contract: made, written and read back.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use super::dram::{Arena, ArenaConfig};
use super::frame::{self, FrameHeader, HEADER_BYTES, HEADER_SPAN_BYTES, HeaderDraft};
use super::store::{Done, FoundFrame, FrameMeta, FrameSpan, Place, StoreError, StoreOp, TierStore};
use crate::domain::block::{HashTail, Key};
use crate::domain::namespace::example;
use crate::domain::retention::RetentionRecord;
use crate::domain::units::{Time, page_align};

/// Long enough for a loaded machine; an operation that takes longer is lost.
const PATIENCE: Duration = Duration::from_mins(1);

/// The longest sample payload, in bytes.
pub(crate) const PAYLOAD_BYTES_MAX: u32 = 1 << 20;
const LANE_BYTES: u32 = HEADER_SPAN_BYTES + PAYLOAD_BYTES_MAX;
pub(crate) const LANES: u32 = 16;

/// An arena of [`LANES`] frames.
pub(crate) fn arena() -> Arc<Arena> {
    let staging_bytes = u64::from(LANES) * u64::from(LANE_BYTES);
    let config = ArenaConfig { tier_bytes: 0, staging_bytes, pretouch_threads: 0 };
    Arc::new(Arena::new(config).expect("a test machine has 20 MiB"))
}

/// A block: its number decides its key and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) number: u32,
    pub(crate) payload_bytes: u32,
}

impl Sample {
    pub(crate) fn key(self) -> Key {
        example().digest().key(&self.number.to_le_bytes())
    }

    pub(crate) fn frame_bytes(self) -> u32 {
        let payload = u32::try_from(page_align(self.payload_bytes.into())).expect("it is short");
        HEADER_SPAN_BYTES + payload
    }

    /// Slot `index` of the chunk at `chunk_start`, cut for this block.
    pub(crate) fn place(self, chunk_start: u64, index: u32) -> Place {
        let slot_bytes = self.frame_bytes();
        Place { offset: chunk_start + u64::from(index) * u64::from(slot_bytes), slot_bytes }
    }

    pub(crate) fn span(self, lane: u32) -> FrameSpan {
        assert!(lane < LANES && self.payload_bytes <= PAYLOAD_BYTES_MAX);
        FrameSpan { offset: u64::from(lane) * u64::from(LANE_BYTES), bytes: self.frame_bytes() }
    }

    /// Makes the sealed frame in the lane.
    pub(crate) fn fill(self, arena: &Arena, lane: u32) -> FrameSpan {
        let span = self.span(lane);
        // SAFETY: a test gives a lane to one operation at a time.
        let bytes = unsafe { arena.bytes_mut(span) };
        let mut words = u64::from(self.number);
        for word in bytes[HEADER_BYTES..].chunks_mut(8) {
            words = words.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            word.copy_from_slice(&words.to_le_bytes()[..word.len()]);
        }
        frame::seal(bytes, self.draft());
        span
    }

    /// The frame as it must come back.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let arena = arena();
        let span = self.fill(&arena, 0);
        // SAFETY: nobody else has this arena.
        unsafe { arena.bytes(span) }.to_vec()
    }

    fn draft(self) -> HeaderDraft {
        let meta = FrameMeta {
            key: self.key(),
            tail: HashTail(self.number.into()),
            parent: None,
            position: self.number,
            created_at: Time::from_millis(1),
            record: RetentionRecord::default(),
        };
        let payload_bytes = self.payload_bytes.into();
        HeaderDraft { namespace: example().digest(), meta, payload_bytes, node_id: [3; 16] }
    }
}

/// A `done` and the way to hear it.
pub(crate) fn heard() -> (Done, Receiver<Result<(), StoreError>>) {
    let (tell, told) = sync_channel(1);
    (Box::new(move |result| tell.send(result).unwrap_or_default()), told)
}

/// Runs one operation to its end.
pub(crate) fn run(store: &dyn TierStore, op: StoreOp) -> Result<(), StoreError> {
    let (done, told) = heard();
    store.submit(op, done);
    told.recv_timeout(PATIENCE).expect("every operation is answered")
}

pub(crate) fn write(
    store: &dyn TierStore,
    arena: &Arena,
    sample: Sample,
    place: Place,
) -> Result<(), StoreError> {
    let frame = sample.fill(arena, 0);
    run(store, StoreOp::Write { key: sample.key(), place, frame })
}

/// Writes the block as one that was stored at that time with that record.
pub(crate) fn write_of(
    store: &dyn TierStore,
    arena: &Arena,
    sample: Sample,
    (record, created_at): (RetentionRecord, Time),
) -> Result<(), StoreError> {
    let frame = sample.fill(arena, 0);
    let mut draft = sample.draft();
    (draft.meta.record, draft.meta.created_at) = (record, created_at);
    // SAFETY: a test gives a lane to one operation at a time.
    frame::seal(unsafe { arena.bytes_mut(frame) }, draft);
    let place = Place { offset: 0, slot_bytes: 0 };
    run(store, StoreOp::Write { key: sample.key(), place, frame })
}

/// Gives the block's stored frame a record with this priority.
pub(crate) fn restamp(
    store: &dyn TierStore,
    sample: Sample,
    place: Place,
    priority: u8,
) -> Result<(), StoreError> {
    let record = RetentionRecord { priority, ..RetentionRecord::default() };
    run(store, StoreOp::Restamp { key: sample.key(), place, record, known: Time::ZERO })
}

/// The priority in the record of the block's stored header.
pub(crate) fn peek(store: &dyn TierStore, sample: Sample) -> Result<u8, StoreError> {
    header(store, sample).map(|header| header.meta.record.priority)
}

/// The block's stored header.
pub(crate) fn header(store: &dyn TierStore, sample: Sample) -> Result<FrameHeader, StoreError> {
    let (tell, told) = sync_channel(1);
    store.peek(sample.key(), Box::new(move |found| tell.send(found).unwrap_or_default()));
    told.recv_timeout(PATIENCE).expect("whoever peeks is told")
}

/// Reads the block back; what ends well has the right bytes.
pub(crate) fn read(
    store: &dyn TierStore,
    arena: &Arena,
    sample: Sample,
    place: Place,
) -> Result<(), StoreError> {
    let frame = sample.span(1);
    // SAFETY: a test gives a lane to one operation at a time.
    unsafe { arena.bytes_mut(frame) }.fill(0xee);
    let result = run(store, StoreOp::Read { key: sample.key(), place, frame });
    // SAFETY: the operation is over.
    let found = unsafe { arena.bytes(frame) };
    assert!(result.is_err() || found == sample.bytes(), "{sample:?} came back with other bytes");
    result
}

/// Everything a scan finds, by place.
pub(crate) fn scan(store: &dyn TierStore) -> Vec<(Place, Key)> {
    let mut found = Vec::new();
    store
        .scan(&mut |frame: FoundFrame| found.push((frame.place, frame.header.meta.key)))
        .expect("the store can be scanned");
    found.sort_unstable();
    found
}
