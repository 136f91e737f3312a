//! The head of a pack's object, byte by byte: `docs/packs.md` draws it. All numbers are little-endian.
//!
//! Knows offsets and nothing else: no IO. Never panics on bytes read back, and never calls a head whole
//! that is not what was written under that name.

use super::name::{Holds, Name};
use crate::domain::block::{HashTail, Key};
use crate::domain::namespace::NamespaceDigest;
use crate::domain::retention::RetentionRecord;
use crate::domain::units::Time;
use crate::tiers::frame::{self, FrameHeader, HEADER_BYTES};
use crate::tiers::store::{FrameMeta, StoreError};

const MAGIC: [u8; 8] = *b"TERRACEP";
const FORMAT_VERSION: u32 = 1;

/// Tells a frame in packs from every other one, also of the same block; it stays when the frame moves to
/// another pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FrameId(pub [u8; 16]);

/// Of two states of a frame's record the one with the greater version counts, wherever it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub u64);

/// A frame as a pack's table of contents has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PackedFrame {
    pub id: FrameId,
    pub version: Version,
    /// From the object's start.
    pub at: u64,
    pub bytes: u32,
    pub header: FrameHeader,
}

/// What happened to a frame since it was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub id: FrameId,
    pub key: Key,
    pub version: Version,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It has this record now.
    Record(RetentionRecord),
    /// It is erased, for good. `promised`: its bytes are to go soon.
    Erased { promised: bool },
}

/// What a head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Head {
    Frames(Vec<PackedFrame>),
    Changes(Vec<Change>),
}

const AT_VERSION: usize = 8;
const AT_HOLDS: usize = 12;
const AT_CHECKSUM: usize = 16;
const AT_HEAD_BYTES: usize = 24;
const AT_COUNT: usize = 28;
const AT_WRITER: usize = 32;
const AT_NUMBER: usize = 48;
const AT_OBJECT_BYTES: usize = 56;
const AT_STRIDE: usize = 64;
const ENTRIES_AT: usize = 96;

const FRAME_STRIDE: usize = 192;
const CHANGE_STRIDE: usize = 80;

const HAS_PARENT: u32 = 1;
const WHAT_RECORD: u32 = 1;
const WHAT_ERASED: u32 = 2;
const WHAT_FORGOTTEN: u32 = 3;

/// How many pages a head with so many entries has.
pub(super) fn head_pages(holds: Holds, count: usize) -> u16 {
    let pages = (ENTRIES_AT + count * stride(holds)).div_ceil(HEADER_BYTES);
    u16::try_from(pages).expect("a pack's frames and changes are bounded")
}

/// At most so many entries a head of so many pages has.
pub(super) const fn entries_max(name: &Name) -> usize {
    (name.head_bytes() - ENTRIES_AT) / stride(name.holds)
}

const fn stride(holds: Holds) -> usize {
    match holds {
        Holds::Frames => FRAME_STRIDE,
        Holds::Changes => CHANGE_STRIDE,
    }
}

/// The head that goes under this name.
pub(super) fn encode(name: &Name, head: &Head) -> Vec<u8> {
    let mut page = vec![0; name.head_bytes()];
    let (count, object_bytes) = match head {
        Head::Frames(frames) => {
            let end = frames.iter().map(|frame| frame.at + u64::from(frame.bytes)).max();
            (frames.len(), end.unwrap_or(0).max(page.len() as u64))
        }
        Head::Changes(changes) => (changes.len(), page.len() as u64),
    };
    assert!(count <= entries_max(name), "the name was made for these entries");
    put(&mut page, 0, MAGIC);
    put(&mut page, AT_VERSION, FORMAT_VERSION.to_le_bytes());
    put(&mut page, AT_HOLDS, holds_number(name.holds).to_le_bytes());
    put(&mut page, AT_HEAD_BYTES, short(name.head_bytes()).to_le_bytes());
    put(&mut page, AT_COUNT, short(count).to_le_bytes());
    put(&mut page, AT_WRITER, name.writer);
    put(&mut page, AT_NUMBER, name.number.to_le_bytes());
    put(&mut page, AT_OBJECT_BYTES, object_bytes.to_le_bytes());
    put(&mut page, AT_STRIDE, short(stride(name.holds)).to_le_bytes());
    let entries = page[ENTRIES_AT..].chunks_exact_mut(stride(name.holds));
    match head {
        Head::Frames(frames) => entries.zip(frames).for_each(|(at, frame)| put_frame(at, frame)),
        Head::Changes(changes) => entries.zip(changes).for_each(|(at, one)| put_change(at, one)),
    }
    let sum = checksum(&page);
    put(&mut page, AT_CHECKSUM, sum.to_le_bytes());
    page
}

/// Reads the head of the object of this name.
///
/// # Errors
/// `Corrupt`, with what is wrong and, where that is another format's, what to do.
pub(super) fn decode(name: &Name, bytes: &[u8]) -> Result<Head, StoreError> {
    let wrong = |what: &str| StoreError::Corrupt(format!("{name} {what}"));
    let page = bytes.get(..name.head_bytes()).ok_or_else(|| wrong("is shorter than its head"))?;
    if page[..8] != MAGIC {
        return Err(wrong("does not begin as a pack does"));
    }
    if get_u64(page, AT_CHECKSUM) != checksum(page) {
        return Err(wrong("has a head whose checksum does not match"));
    }
    let version = get_u32(page, AT_VERSION);
    if version != FORMAT_VERSION {
        return Err(wrong(&format!(
            "has pack format {version}, and this program reads {FORMAT_VERSION}: start the version of \
             terrace that wrote it, or name another prefix"
        )));
    }
    let (stride_found, count) = (long(get_u32(page, AT_STRIDE)), long(get_u32(page, AT_COUNT)));
    if (get(page, AT_WRITER), get_u64(page, AT_NUMBER)) != (name.writer, name.number)
        || get_u32(page, AT_HOLDS) != holds_number(name.holds)
        || long(get_u32(page, AT_HEAD_BYTES)) != name.head_bytes()
    {
        return Err(wrong("was written under another name"));
    }
    if stride_found < stride(name.holds) || count > (page.len() - ENTRIES_AT) / stride_found {
        return Err(wrong("has a head with more entries than it has room for"));
    }
    let entries = page[ENTRIES_AT..].chunks_exact(stride_found).take(count);
    let room = name.head_bytes() as u64..get_u64(page, AT_OBJECT_BYTES);
    match name.holds {
        Holds::Frames => {
            let frames = entries.map(|at| get_frame(at).filter(|frame| fits(frame, &room)));
            frames.collect::<Option<_>>().map(Head::Frames)
        }
        Holds::Changes => entries.map(get_change).collect::<Option<_>>().map(Head::Changes),
    }
    .ok_or_else(|| wrong("has an entry that no pack has"))
}

fn fits(frame: &PackedFrame, room: &std::ops::Range<u64>) -> bool {
    let end = frame.at.checked_add(frame.bytes.into());
    frame.bytes as usize > HEADER_BYTES
        && frame.at >= room.start
        && end.is_some_and(|end| end <= room.end)
        && frame.header.frame_bytes() <= frame.bytes.into()
}

fn put_frame(to: &mut [u8], frame: &PackedFrame) {
    let FrameHeader { namespace, meta, payload_bytes, payload_checksum, node_id } = frame.header;
    put(to, 0, frame.id.0);
    put(to, 16, frame.version.0.to_le_bytes());
    put(to, 24, frame.at.to_le_bytes());
    put(to, 32, frame.bytes.to_le_bytes());
    put(to, 36, meta.position.to_le_bytes());
    put(to, 40, namespace.0);
    put(to, 72, meta.key.0);
    put(to, 88, meta.parent.map_or([0; Key::BYTES], |parent| parent.0));
    put(to, 104, u32::from(meta.parent.is_some()).to_le_bytes());
    put(to, 112, meta.tail.0.to_le_bytes());
    put(to, 120, meta.created_at.micros.to_le_bytes());
    put(to, 128, payload_bytes.to_le_bytes());
    put(to, 136, payload_checksum.to_le_bytes());
    put(to, 144, node_id);
    put(to, 160, frame::record_bytes(&meta.record));
}

fn get_frame(from: &[u8]) -> Option<PackedFrame> {
    let has_parent = get_u32(from, 104) & HAS_PARENT != 0;
    let meta = FrameMeta {
        key: Key(get(from, 72)),
        tail: HashTail(get_u64(from, 112)),
        parent: has_parent.then(|| Key(get(from, 88))),
        position: get_u32(from, 36),
        created_at: Time { micros: get_u64(from, 120) },
        record: frame::record_of(&get(from, 160)).ok()?,
    };
    let header = FrameHeader {
        namespace: NamespaceDigest(get(from, 40)),
        meta,
        payload_bytes: get_u64(from, 128),
        payload_checksum: get_u64(from, 136),
        node_id: get(from, 144),
    };
    Some(PackedFrame {
        id: FrameId(get(from, 0)),
        version: Version(get_u64(from, 16)),
        at: get_u64(from, 24),
        bytes: get_u32(from, 32),
        header,
    })
    // A payload's length is checked against the frame's; a sum beyond any number is none.
    .filter(|frame| frame.header.payload_bytes <= u64::from(frame.bytes))
}

fn put_change(to: &mut [u8], change: &Change) {
    let (what, record) = match change.what {
        What::Record(record) => (WHAT_RECORD, frame::record_bytes(&record)),
        What::Erased { promised: false } => (WHAT_ERASED, [0; frame::RECORD_BYTES]),
        What::Erased { promised: true } => (WHAT_FORGOTTEN, [0; frame::RECORD_BYTES]),
    };
    put(to, 0, change.id.0);
    put(to, 16, change.version.0.to_le_bytes());
    put(to, 24, change.key.0);
    put(to, 40, what.to_le_bytes());
    put(to, 48, record);
}

fn get_change(from: &[u8]) -> Option<Change> {
    let what = match get_u32(from, 40) {
        WHAT_RECORD => What::Record(frame::record_of(&get(from, 48)).ok()?),
        WHAT_ERASED => What::Erased { promised: false },
        WHAT_FORGOTTEN => What::Erased { promised: true },
        _ => return None,
    };
    let (id, key) = (FrameId(get(from, 0)), Key(get(from, 24)));
    Some(Change { id, key, version: Version(get_u64(from, 16)), what })
}

const fn holds_number(holds: Holds) -> u32 {
    match holds {
        Holds::Frames => 1,
        Holds::Changes => 2,
    }
}

/// CRC-64/NVME over the head without the checksum's own field.
fn checksum(head: &[u8]) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    digest.update(&head[..AT_CHECKSUM]);
    digest.update(&head[AT_HEAD_BYTES..]);
    digest.finalize()
}

fn short(number: usize) -> u32 {
    u32::try_from(number).expect("heads are bounded")
}

fn long(number: u32) -> usize {
    number as usize
}

fn put<const N: usize>(to: &mut [u8], at: usize, bytes: [u8; N]) {
    to[at..at + N].copy_from_slice(&bytes);
}

fn get<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from[at..at + N].try_into().expect("offsets are constants inside an entry")
}

fn get_u32(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(from, at))
}

fn get_u64(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(from, at))
}

#[cfg(test)]
mod tests;
