//! Any bytes as a frame's header: no panic, and what decodes says the same when written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use terrace::domain::block::Key;
use terrace::tiers::frame::{self, FrameHeader, HEADER_BYTES};

// Offsets of docs/frame.md.
const CHECKSUM: std::ops::Range<usize> = 16..24;

fuzz_target!(|bytes: &[u8]| {
    let _ = FrameHeader::parse(bytes);
    let _ = frame::verify(bytes, Key([0; Key::BYTES]));
    // Random bytes never have the right checksum: give it to them, so that the fields are reached.
    let mut page = [0; HEADER_BYTES];
    let used = bytes.len().min(HEADER_BYTES);
    page[..used].copy_from_slice(&bytes[..used]);
    page[..8].copy_from_slice(b"TERRACEF");
    let summed = [&page[..CHECKSUM.start], &page[CHECKSUM.end..]].concat();
    page[CHECKSUM].copy_from_slice(&frame::checksum(&summed).to_le_bytes());
    if let Ok(header) = FrameHeader::parse(&page) {
        let mut again = [0xff; HEADER_BYTES];
        header.encode(&mut again);
        assert_eq!(FrameHeader::parse(&again), Ok(header));
    }
});
