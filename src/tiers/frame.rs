//! Frames: a block's bytes as they are stored. One 4 KiB header page, then the payload.
//!
//! The same bytes stand in DRAM, on NVMe and in an object's body, so moving a block is copying a
//! frame. `docs/frame.md` draws the header byte by byte.
//!
//! Never panics on bytes read back, whatever they are, and never calls a frame whole whose header,
//! key or payload is not what was written.

mod layout;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::domain::block::Key;
use crate::domain::namespace::NamespaceDigest;
use crate::domain::retention::{NewRecord, RetentionRecord};
use crate::domain::units::page_align;

use super::store::{FrameMeta, StoreError};

/// The header page, in bytes.
pub const HEADER_BYTES: usize = crate::domain::units::PAGE_BYTES;

/// [`HEADER_BYTES`], as spans count.
pub const HEADER_SPAN_BYTES: u32 = 4096;
const _: () = assert!(HEADER_SPAN_BYTES as usize == HEADER_BYTES);

/// The bytes of the header page in which its two records stand, apart from the rest: one of them
/// may be damaged while the frame is whole.
pub const RECORDS: Range<usize> = layout::RECORDS;

/// A record's bytes, as the header has them.
pub(crate) const RECORD_BYTES: usize = layout::RECORD_BYTES;

/// The format that this program writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 1;

/// A frame's header, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub namespace: NamespaceDigest,
    pub meta: FrameMeta,
    pub payload_bytes: u64,
    /// CRC-64/NVME over the payload.
    pub payload_checksum: u64,
    /// The node that wrote the frame.
    pub node_id: [u8; 16],
}

/// A header but for its payload's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderDraft {
    pub namespace: NamespaceDigest,
    pub meta: FrameMeta,
    pub payload_bytes: u64,
    pub node_id: [u8; 16],
}

/// Why a page is not a header of ours, named by what the caller does next.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Nothing is stored here.
    #[error("{0}")]
    Missing(&'static str),
    /// The bytes are not what was written: drop this copy.
    #[error("{0}")]
    Corrupt(String),
    /// A whole header of another format: leave it alone, and tell the operator.
    #[error(
        "frame format {found} is not known to this program, which reads format {FORMAT_VERSION}: \
         start the version of terrace that wrote it, or give this one an empty folder or prefix"
    )]
    UnsupportedVersion { found: u32 },
}

impl From<FrameError> for StoreError {
    /// A frame of another format can't be served, so for one copy it counts as corrupt; a scan that
    /// must tell the two apart calls [`FrameHeader::parse`].
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Missing(why) => Self::Missing(why.into()),
            FrameError::Corrupt(why) => Self::Corrupt(why),
            FrameError::UnsupportedVersion { .. } => Self::Corrupt(error.to_string()),
        }
    }
}

impl FrameHeader {
    /// Writes the header page, every byte of it.
    pub fn encode(&self, page: &mut [u8; HEADER_BYTES]) {
        layout::encode(self, page);
    }

    /// Reads the first [`HEADER_BYTES`] of `page`; total over any bytes of any length.
    ///
    /// # Errors
    /// Named by what the caller does next.
    pub fn parse(page: &[u8]) -> Result<Self, FrameError> {
        layout::decode(page)
    }

    /// [`Self::parse`] with a store's errors: a header of another format is `Corrupt`.
    ///
    /// # Errors
    /// `Missing` for a page that never held a frame (all zero) or was erased, `Corrupt` for
    /// everything else.
    pub fn decode(page: &[u8]) -> Result<Self, StoreError> {
        Ok(Self::parse(page)?)
    }

    /// The frame's length with its payload in whole pages: what a slot must hold.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + page_align(self.payload_bytes)
    }

    /// Checks that this is `key`'s header and that `payload` (which may be longer: the rest is
    /// padding) is the one that was summed.
    ///
    /// # Errors
    /// `Corrupt` when either is not so.
    pub fn verify_payload(&self, key: Key, payload: &[u8]) -> Result<(), StoreError> {
        self.verify_key(key)?;
        let payload = usize::try_from(self.payload_bytes)
            .ok()
            .and_then(|bytes| payload.get(..bytes))
            .ok_or_else(|| {
                StoreError::Corrupt(format!(
                    "its header says {} payload bytes, {} are here",
                    self.payload_bytes,
                    payload.len()
                ))
            })?;
        let found = checksum(payload);
        if found != self.payload_checksum {
            return Err(StoreError::Corrupt(format!(
                "block {key}: the payload's checksum is {found:#018x}, its header says {:#018x}",
                self.payload_checksum
            )));
        }
        Ok(())
    }

    /// How the write of a record ends after which the frame has this header.
    ///
    /// # Errors
    /// `Outdone`: a promise to forget stands there that was not known.
    pub fn has_taken(mut self, new: &NewRecord, after: RetentionRecord) -> Result<(), StoreError> {
        self.meta.record = after;
        if after == new.record { Ok(()) } else { Err(StoreError::Outdone(Box::new(self))) }
    }

    /// Checks that this is `key`'s header.
    ///
    /// # Errors
    /// `Corrupt` when it is another block's.
    pub fn verify_key(&self, key: Key) -> Result<(), StoreError> {
        if self.meta.key == key {
            return Ok(());
        }
        Err(StoreError::Corrupt(format!("the frame holds block {}, not {key}", self.meta.key)))
    }
}

/// CRC-64/NVME, the checksum of headers and payloads.
///
/// Source: NVM Express NVM Command Set Specification 1.0, section 5.2.1.3.4.
#[must_use]
pub fn checksum(payload: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, payload)
}

/// [`checksum`] of bytes that come one part after the other.
pub struct Checksum(crc_fast::Digest);

impl Checksum {
    #[must_use]
    pub fn of_nothing() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme))
    }

    pub fn add(&mut self, part: &[u8]) {
        self.0.update(part);
    }

    #[must_use]
    pub fn of_all(&self) -> u64 {
        self.0.finalize()
    }
}

/// Makes `frame` whole: sums the payload behind the header page, and does what [`seal_summed`] does.
///
/// # Panics
/// As [`seal_summed`].
pub fn seal(frame: &mut [u8], draft: HeaderDraft) -> FrameHeader {
    let [_, payload, _] = cut(frame, draft.payload_bytes);
    let payload_checksum = checksum(payload);
    seal_summed(frame, draft, payload_checksum)
}

/// Makes `frame` whole, whose payload has been summed: writes the header, and zeroes what follows the
/// payload, so that no other block's bytes leave the machine as padding.
///
/// # Panics
/// `frame` is shorter than the header page and the payload, or the payload's length is none that a
/// namespace allows: whoever cut the frame is wrong.
pub fn seal_summed(frame: &mut [u8], draft: HeaderDraft, payload_checksum: u64) -> FrameHeader {
    let HeaderDraft { namespace, meta, payload_bytes, node_id } = draft;
    let [page, _, padding] = cut(frame, payload_bytes);
    padding.fill(0);
    let header = FrameHeader { namespace, meta, payload_bytes, payload_checksum, node_id };
    header.encode(page.try_into().expect("a header page is one"));
    header
}

/// The header page, the payload, and what follows.
fn cut(frame: &mut [u8], payload_bytes: u64) -> [&mut [u8]; 3] {
    let payload_bytes = usize::try_from(payload_bytes).expect("a payload fits the address space");
    let (page, rest) =
        frame.split_at_mut_checked(HEADER_BYTES).expect("a frame holds a header page");
    let (payload, padding) =
        rest.split_at_mut_checked(payload_bytes).expect("a frame holds its whole payload");
    [page, payload, padding]
}

/// Checks header, key and payload checksum of a whole frame.
///
/// # Errors
/// `Missing` for a page that never held a frame (all zero) or was erased, `Corrupt` for everything
/// else.
pub fn verify(frame: &[u8], key: Key) -> Result<FrameHeader, StoreError> {
    let header = FrameHeader::decode(frame)?;
    // A header that decodes was read from a whole page, so the frame has one.
    header.verify_payload(key, frame.get(HEADER_BYTES..).unwrap_or_default())?;
    Ok(header)
}

/// Puts `record` into the header page of `key`'s frame, so that it counts from now on; nothing else
/// changes. Gives the bytes of the page that changed: the record that counted so far stands
/// elsewhere, so a write of them that is torn loses neither the block nor that record.
///
/// # Errors
/// `Missing` for a page that holds no frame, `Corrupt` for one that is not this block's header.
pub fn restamp(
    frame: &mut [u8],
    key: Key,
    record: &RetentionRecord,
) -> Result<Range<usize>, StoreError> {
    FrameHeader::decode(frame)?.verify_key(key)?;
    let page = frame.first_chunk_mut::<HEADER_BYTES>().expect("a header that decodes has a page");
    Ok(layout::restamp(page, record)?)
}

/// A record as the header has it: for what else keeps records.
pub(crate) fn record_bytes(record: &RetentionRecord) -> [u8; RECORD_BYTES] {
    layout::record_bytes(record)
}

/// Reads what [`record_bytes`] wrote.
///
/// # Errors
/// `Corrupt` for a field outside its range.
pub(crate) fn record_of(bytes: &[u8; RECORD_BYTES]) -> Result<RetentionRecord, StoreError> {
    Ok(layout::record_of(bytes)?)
}

/// The page that a store writes over a frame's header to erase the frame: it reads back as
/// `Missing`, and tells an erased slot from one never used.
#[must_use]
pub fn erased_page() -> [u8; HEADER_BYTES] {
    layout::erased()
}
