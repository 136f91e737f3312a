//! Where each field of the header page stands. All numbers are little-endian.
//!
//! Knows offsets and nothing else: no IO, no payload. What it does not use it writes as zero, and
//! what it cannot read it names.

use crate::domain::block::Key;
use crate::domain::namespace::{NamespaceDigest, PAYLOAD_BYTES_MAX};
use crate::domain::retention::record::PRIORITY_MAX;
use crate::domain::retention::{Kind, RetentionRecord, Scope};
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::store::FrameMeta;

use super::{FORMAT_VERSION, FrameError, FrameHeader, HEADER_BYTES};

type Page = [u8; HEADER_BYTES];

pub(super) const MAGIC: [u8; 8] = *b"TERRACEF";

// The first 24 bytes keep their places and meanings in every format version, so that any program
// can tell a damaged header from one of another version.
pub(super) const AT_MAGIC: usize = 0;
pub(super) const AT_VERSION: usize = 8;
pub(super) const AT_USED: usize = 12;
pub(super) const AT_CHECKSUM: usize = 16;
pub(super) const AT_FLAGS: usize = 24;
const AT_POSITION: usize = 28;
const AT_NAMESPACE: usize = 32;
const AT_KEY: usize = 64;
const AT_PARENT: usize = 80;
pub(super) const AT_PAYLOAD_BYTES: usize = 96;
const AT_PAYLOAD_CHECKSUM: usize = 104;
const AT_CREATED: usize = 112;
const AT_NODE: usize = 120;
// 136..160 is reserved.
pub(super) const AT_RECORD: usize = 160;
// 192..224 is reserved for the retention record, 224..256 for the header.

/// Bytes of the page that this version gives a meaning to or holds back.
pub(super) const USED_BYTES: u32 = 256;

pub(super) const FLAG_HAS_PARENT: u32 = 1;
pub(super) const FLAG_ERASED: u32 = 1 << 1;
/// Flags that a reader must know to read the frame; it may pass over the others.
pub(super) const FLAGS_CRITICAL: u32 = 0xffff;

const _: () = assert!(AT_RECORD + 64 + 32 == USED_BYTES as usize);
const _: () = assert!(AT_NODE + 16 <= AT_RECORD && HEADER_BYTES == 4096);

pub(super) fn encode(header: &FrameHeader, page: &mut Page) {
    let meta = &header.meta;
    page.fill(0);
    put(page, AT_POSITION, meta.position.to_le_bytes());
    put(page, AT_NAMESPACE, header.namespace.0);
    put(page, AT_KEY, meta.key.0);
    put(page, AT_PARENT, meta.parent.map_or([0; Key::BYTES], |parent| parent.0));
    put(page, AT_PAYLOAD_BYTES, header.payload_bytes.to_le_bytes());
    put(page, AT_PAYLOAD_CHECKSUM, header.payload_checksum.to_le_bytes());
    put(page, AT_CREATED, meta.created_at.micros.to_le_bytes());
    put(page, AT_NODE, header.node_id);
    put_record(page, &meta.record);
    finish(page, if meta.parent.is_some() { FLAG_HAS_PARENT } else { 0 });
}

pub(super) fn erased() -> Page {
    let mut page = [0; HEADER_BYTES];
    finish(&mut page, FLAG_ERASED);
    page
}

pub(super) fn decode(bytes: &[u8]) -> Result<FrameHeader, FrameError> {
    let flags = check_envelope(bytes)?;
    let page =
        bytes.first_chunk::<HEADER_BYTES>().expect("the envelope's check wants a whole page");
    let payload_bytes = get_u64(page, AT_PAYLOAD_BYTES);
    if !(1..=PAYLOAD_BYTES_MAX).contains(&payload_bytes) {
        return Err(corrupt(format!("the header says {payload_bytes} payload bytes")));
    }
    Ok(FrameHeader {
        namespace: NamespaceDigest(get(page, AT_NAMESPACE)),
        meta: FrameMeta {
            key: Key(get(page, AT_KEY)),
            parent: get_parent(page, flags)?,
            position: get_u32(page, AT_POSITION),
            created_at: Time { micros: get_u64(page, AT_CREATED) },
            record: get_record(page)?,
        },
        payload_bytes,
        payload_checksum: get_u64(page, AT_PAYLOAD_CHECKSUM),
        node_id: get(page, AT_NODE),
    })
}

/// Checks what every version shares, and gives the flags.
fn check_envelope(bytes: &[u8]) -> Result<u32, FrameError> {
    let Some(page) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Err(corrupt(format!("{} bytes are too few for a header page", bytes.len())));
    };
    if get::<8>(page, AT_MAGIC) != MAGIC {
        let blank = page.iter().all(|byte| *byte == 0);
        return Err(if blank {
            FrameError::Missing("no frame was ever written here")
        } else {
            corrupt("the page does not begin as a frame does".into())
        });
    }
    if get_u64(page, AT_CHECKSUM) != header_checksum(page) {
        return Err(corrupt("the header's checksum does not match".into()));
    }
    let version = get_u32(page, AT_VERSION);
    let flags = get_u32(page, AT_FLAGS);
    let unknown = flags & FLAGS_CRITICAL & !(FLAG_HAS_PARENT | FLAG_ERASED);
    match (version, get_u32(page, AT_USED)) {
        (FORMAT_VERSION, _) if unknown != 0 => {
            Err(corrupt(format!("the header has unknown flags {unknown:#x}")))
        }
        (FORMAT_VERSION, _) if flags & FLAG_ERASED != 0 => {
            Err(FrameError::Missing("the frame was erased"))
        }
        (FORMAT_VERSION, used) if used < USED_BYTES || used as usize > HEADER_BYTES => {
            Err(corrupt(format!("the header says it uses {used} bytes")))
        }
        (FORMAT_VERSION, _) => Ok(flags),
        (found, _) => Err(FrameError::UnsupportedVersion { found }),
    }
}

/// Fills in what every version shares; the checksum comes last.
fn finish(page: &mut Page, flags: u32) {
    put(page, AT_MAGIC, MAGIC);
    put(page, AT_VERSION, FORMAT_VERSION.to_le_bytes());
    put(page, AT_USED, USED_BYTES.to_le_bytes());
    put(page, AT_FLAGS, flags.to_le_bytes());
    put(page, AT_CHECKSUM, header_checksum(page).to_le_bytes());
}

/// CRC-64/NVME over the page without the checksum's own field.
pub(super) fn header_checksum(page: &Page) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    digest.update(&page[..AT_CHECKSUM]);
    digest.update(&page[AT_FLAGS..]);
    digest.finalize()
}

fn put_record(page: &mut Page, record: &RetentionRecord) {
    let at = AT_RECORD;
    page[at] = record.priority.min(PRIORITY_MAX);
    page[at + 1] = record.kind as u8;
    page[at + 2] = record.floor as u8;
    page[at + 3] = record.scope as u8;
    put(page, at + 4, record.refresh_on_hit_ms.to_le_bytes());
    put(page, at + 8, record.priority_until.micros.to_le_bytes());
    put(page, at + 16, record.shield_until.micros.to_le_bytes());
    put(page, at + 24, record.delete_after.micros.to_le_bytes());
}

fn get_record(page: &Page) -> Result<RetentionRecord, FrameError> {
    let at = AT_RECORD;
    let number = |offset: usize| usize::from(page[at + offset]);
    let unknown = |what: &str, value: usize| corrupt(format!("the record's {what} is {value}"));
    let priority = page[at];
    if priority > PRIORITY_MAX {
        return Err(unknown("priority", number(0)));
    }
    Ok(RetentionRecord {
        priority,
        priority_until: Time { micros: get_u64(page, at + 8) },
        shield_until: Time { micros: get_u64(page, at + 16) },
        refresh_on_hit_ms: get_u32(page, at + 4),
        delete_after: Time { micros: get_u64(page, at + 24) },
        // A kind that a later program knows only steers its eviction: the block is as good.
        kind: Kind::ALL.get(number(1)).copied().unwrap_or_default(),
        floor: *Tier::ALL.get(number(2)).ok_or_else(|| unknown("floor", number(2)))?,
        scope: *Scope::ALL.get(number(3)).ok_or_else(|| unknown("scope", number(3)))?,
    })
}

fn get_parent(page: &Page, flags: u32) -> Result<Option<Key>, FrameError> {
    let parent = Key(get(page, AT_PARENT));
    match flags & FLAG_HAS_PARENT != 0 {
        true => Ok(Some(parent)),
        false if parent.0 == [0; Key::BYTES] => Ok(None),
        false => Err(corrupt("the header names a parent and says that it has none".into())),
    }
}

fn corrupt(why: String) -> FrameError {
    FrameError::Corrupt(why)
}

fn put<const N: usize>(page: &mut Page, at: usize, bytes: [u8; N]) {
    page[at..at + N].copy_from_slice(&bytes);
}

fn get<const N: usize>(page: &Page, at: usize) -> [u8; N] {
    page[at..at + N].try_into().expect("offsets are constants inside the page")
}

fn get_u32(page: &Page, at: usize) -> u32 {
    u32::from_le_bytes(get(page, at))
}

fn get_u64(page: &Page, at: usize) -> u64 {
    u64::from_le_bytes(get(page, at))
}
