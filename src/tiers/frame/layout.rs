//! Where each field of the header page stands. All numbers are little-endian.
//!
//! Knows offsets and nothing else: no IO, no payload. What it does not use it writes as zero, and
//! what it cannot read it names.

use crate::domain::block::{HashTail, Key};
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
/// Zero in frames of programs that did not know it, and in those nobody named.
const AT_TAIL: usize = 136;
// 144..256 is reserved.

/// Bytes of the page, from its start, that this version gives a meaning to or holds back; the two
/// records stand behind them.
pub(super) const USED_BYTES: u32 = 256;

/// What a device writes whole or not at all, at the least.
const SECTOR_BYTES: usize = 512;
/// Where the two records stand: a sector each, so that a torn write of the page costs one of them.
pub(super) const RECORDS_AT: [usize; 2] = [SECTOR_BYTES, 2 * SECTOR_BYTES];
/// What stands between the header's fields and the rest of the page, outside the header's checksum.
pub(super) const RECORDS: std::ops::Range<usize> = RECORDS_AT[0]..RECORDS_AT[1] + SECTOR_BYTES;

// Inside a record's sector.
pub(super) const IN_CHECKSUM: usize = 0;
pub(super) const IN_SEQUENCE: usize = 8;
pub(super) const IN_RECORD: usize = 16;
/// A record's own bytes.
pub(super) const RECORD_BYTES: usize = 32;
// 48..80 is reserved for the record, 80..512 for what stands beside it.

pub(super) const FLAG_HAS_PARENT: u32 = 1;
pub(super) const FLAG_ERASED: u32 = 1 << 1;
/// Flags that a reader must know to read the frame; it may pass over the others.
pub(super) const FLAGS_CRITICAL: u32 = 0xffff;

const _: () = assert!(AT_TAIL + 8 <= USED_BYTES as usize && HEADER_BYTES == 4096);
const _: () = assert!(USED_BYTES as usize <= RECORDS.start && RECORDS.end < HEADER_BYTES);

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
    put(page, AT_TAIL, meta.tail.0.to_le_bytes());
    finish(page, if meta.parent.is_some() { FLAG_HAS_PARENT } else { 0 });
    put_record(page, RECORDS_AT[0], 1, &meta.record);
}

/// Writes `record` beside the one that counts, so that it counts from now on. Gives the bytes of
/// the page that changed. The page decodes.
pub(super) fn restamp(
    page: &mut Page,
    record: &RetentionRecord,
) -> Result<std::ops::Range<usize>, FrameError> {
    let (at, sequence) = newest_record(page)?;
    let spare = if at == RECORDS_AT[0] { RECORDS_AT[1] } else { RECORDS_AT[0] };
    put_record(page, spare, sequence.saturating_add(1), record);
    Ok(spare..spare + SECTOR_BYTES)
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
            tail: HashTail(get_u64(page, AT_TAIL)),
            parent: get_parent(page, flags)?,
            position: get_u32(page, AT_POSITION),
            created_at: Time { micros: get_u64(page, AT_CREATED) },
            record: record_of(&get(page, newest_record(page)?.0 + IN_RECORD))?,
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

/// CRC-64/NVME over the page without the checksum's own field and without the records.
pub(super) fn header_checksum(page: &Page) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    digest.update(&page[..AT_CHECKSUM]);
    digest.update(&page[AT_FLAGS..RECORDS.start]);
    digest.update(&page[RECORDS.end..]);
    digest.finalize()
}

/// CRC-64/NVME over the header's checksum and the record's sector behind its own: so a record that
/// another frame left in the slot is none of this one's.
pub(super) fn record_checksum(page: &Page, at: usize) -> u64 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    digest.update(&page[AT_CHECKSUM..AT_FLAGS]);
    digest.update(&page[at + IN_SEQUENCE..at + SECTOR_BYTES]);
    digest.finalize()
}

/// Where the record that counts stands, and its number: the whole one written last.
fn newest_record(page: &Page) -> Result<(usize, u64), FrameError> {
    let whole = |at: &usize| get_u64(page, *at) == record_checksum(page, *at);
    let number = |at: usize| (at, get_u64(page, at + IN_SEQUENCE));
    let found = RECORDS_AT.into_iter().filter(whole).map(number);
    // Of two with one number the first counts, whoever reads.
    let newest = found.rev().max_by_key(|(_, sequence)| *sequence);
    newest.ok_or_else(|| corrupt("neither of the header's two records is whole".into()))
}

fn put_record(page: &mut Page, at: usize, sequence: u64, record: &RetentionRecord) {
    let sector = at;
    page[sector..sector + SECTOR_BYTES].fill(0);
    put(page, sector + IN_SEQUENCE, sequence.to_le_bytes());
    put(page, sector + IN_RECORD, record_bytes(record));
    put(page, sector + IN_CHECKSUM, record_checksum(page, sector).to_le_bytes());
}

/// A record as its sector has it.
pub(super) fn record_bytes(record: &RetentionRecord) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[0] = record.priority.min(PRIORITY_MAX);
    bytes[1] = record.kind as u8;
    bytes[2] = record.floor as u8;
    bytes[3] = record.scope as u8;
    bytes[4..8].copy_from_slice(&record.refresh_on_hit_ms.to_le_bytes());
    bytes[8..16].copy_from_slice(&record.priority_until.micros.to_le_bytes());
    bytes[16..24].copy_from_slice(&record.shield_until.micros.to_le_bytes());
    bytes[24..].copy_from_slice(&record.delete_after.micros.to_le_bytes());
    bytes
}

pub(super) fn record_of(bytes: &[u8; RECORD_BYTES]) -> Result<RetentionRecord, FrameError> {
    let number = |offset: usize| usize::from(bytes[offset]);
    let time = |at: usize| {
        let micros = bytes[at..at + 8].try_into().expect("offsets are constants inside the record");
        Time { micros: u64::from_le_bytes(micros) }
    };
    let unknown = |what: &str, value: usize| corrupt(format!("the record's {what} is {value}"));
    let priority = bytes[0];
    if priority > PRIORITY_MAX {
        return Err(unknown("priority", number(0)));
    }
    Ok(RetentionRecord {
        priority,
        priority_until: time(8),
        shield_until: time(16),
        refresh_on_hit_ms: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        delete_after: time(24),
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
