//! Any bytes as a frame's header: no panic, and what decodes says the same when written again, or
//! with another record.
#![no_main]

use libfuzzer_sys::fuzz_target;
use terrace::domain::block::Key;
use terrace::domain::retention::RetentionRecord;
use terrace::tiers::frame::{self, FrameHeader, HEADER_BYTES};

// Offsets of docs/frame.md.
const CHECKSUM: std::ops::Range<usize> = 16..24;
const RECORDS: [usize; 2] = [512, 1024];
const REST: usize = 1536;

fuzz_target!(|bytes: &[u8]| {
    let _ = FrameHeader::parse(bytes);
    let _ = frame::verify(bytes, Key([0; Key::BYTES]));
    // Random bytes never have the right checksum: give it to them, so that the fields are reached.
    let mut page = [0; HEADER_BYTES];
    let used = bytes.len().min(HEADER_BYTES);
    page[..used].copy_from_slice(&bytes[..used]);
    page[..8].copy_from_slice(b"TERRACEF");
    let summed = [&page[..16], &page[24..RECORDS[0]], &page[REST..]].concat();
    page[CHECKSUM].copy_from_slice(&frame::checksum(&summed).to_le_bytes());
    for at in RECORDS {
        let summed = [&page[CHECKSUM], &page[at + 8..at + 512]].concat();
        page[at..at + 8].copy_from_slice(&frame::checksum(&summed).to_le_bytes());
    }
    if let Ok(header) = FrameHeader::parse(&page) {
        let mut again = [0xff; HEADER_BYTES];
        header.encode(&mut again);
        assert_eq!(FrameHeader::parse(&again), Ok(header));
        let record = RetentionRecord::default();
        frame::restamp(&mut again, header.meta.key, &record).expect("it decodes");
        assert_eq!(FrameHeader::parse(&again).map(|found| found.meta.record), Ok(record));
    }
});
