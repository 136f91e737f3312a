//! Heads are read back as they were written, and nothing else is.

use proptest::prelude::*;

use super::*;
use crate::tiers::sample::Sample;

fn frame(number: u8) -> PackedFrame {
    let sample = Sample { number: number.into(), payload_bytes: 20_000 };
    let header = FrameHeader::decode(&sample.bytes()).unwrap();
    let at = 8192 + u64::from(number) * u64::from(sample.frame_bytes());
    let (id, version) = (FrameId([number; 16]), Version(number.into()));
    PackedFrame { id, version, at, bytes: sample.frame_bytes(), header }
}

fn change(number: u8, what: What) -> Change {
    Change { id: FrameId([number; 16]), key: Key([9; 16]), version: Version(77), what }
}

fn heads() -> [(Name, Head); 2] {
    let frames: Vec<PackedFrame> = (0..30).map(frame).collect();
    let record =
        RetentionRecord { priority: 80, delete_after: Time { micros: 5 }, ..Default::default() };
    let whats =
        [What::Record(record), What::Erased { promised: false }, What::Erased { promised: true }];
    let changes: Vec<Change> = (0..).zip(whats).map(|(at, what)| change(at, what)).collect();
    let named = |holds, count| Name::new([3; 16], 7, holds, head_pages(holds, count));
    [
        (named(Holds::Frames, frames.len()), Head::Frames(frames)),
        (named(Holds::Changes, changes.len()), Head::Changes(changes)),
    ]
}

#[test]
fn heads_come_back_as_they_were() {
    for (name, head) in heads() {
        let bytes = encode(&name, &head);
        assert_eq!(bytes.len(), name.head_bytes());
        assert_eq!(decode(&name, &bytes).unwrap(), head);
        // What follows it is not looked at.
        assert_eq!(decode(&name, &[&bytes[..], &[7; 999]].concat()).unwrap(), head);
    }
}

#[test]
fn another_version_says_what_to_do() {
    let (name, head) = heads()[1].clone();
    let mut bytes = encode(&name, &head);
    bytes[AT_VERSION] = 2;
    let sum = checksum(&bytes).to_le_bytes();
    bytes[AT_CHECKSUM..AT_CHECKSUM + 8].copy_from_slice(&sum);
    let said = decode(&name, &bytes).unwrap_err().to_string();
    assert!(said.contains("pack format 2") && said.contains("name another prefix"), "{said}");
}

#[test]
fn a_head_under_another_name_is_refused() {
    for (name, head) in heads() {
        let bytes = encode(&name, &head);
        for other in [Name { number: 8, ..name }, Name { writer: [4; 16], ..name }] {
            assert!(matches!(decode(&other, &bytes), Err(StoreError::Corrupt(_))));
        }
    }
}

/// A head whose sum is right and whose entries are not.
fn check_entry(spoil: impl Fn(&mut [u8])) {
    let (name, head) = heads()[0].clone();
    let mut bytes = encode(&name, &head);
    spoil(&mut bytes[ENTRIES_AT..]);
    let sum = checksum(&bytes).to_le_bytes();
    bytes[AT_CHECKSUM..AT_CHECKSUM + 8].copy_from_slice(&sum);
    let said = decode(&name, &bytes).unwrap_err().to_string();
    assert!(said.contains("an entry that no pack has"), "{said}");
}

#[test]
fn frames_outside_the_object_are_refused() {
    check_entry(|entry| put(entry, 24, u64::MAX.to_le_bytes()));
    check_entry(|entry| put(entry, 24, 100_u64.to_le_bytes()));
    check_entry(|entry| put(entry, 32, u32::MAX.to_le_bytes()));
    check_entry(|entry| put(entry, 32, 4096_u32.to_le_bytes()));
    check_entry(|entry| put(entry, 128, u64::MAX.to_le_bytes()));
    check_entry(|entry| entry[160] = 101);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_and_any_flipped_bit_is_seen(
        noise in prop::collection::vec(any::<u8>(), 0..9000),
        at in 0..4096_usize * 2,
        bit in 0..8_u8,
    ) {
        for (name, head) in heads() {
            prop_assert!(decode(&name, &noise).is_err());
            let mut bytes = encode(&name, &head);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&name, &bytes).is_err());
        }
    }
}
