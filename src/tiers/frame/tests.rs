//! What decoding promises, as data and as properties.

use proptest::prelude::*;

use super::layout::{
    self, AT_CHECKSUM, AT_FLAGS, AT_PAYLOAD_BYTES, AT_USED, AT_VERSION, IN_RECORD, IN_SEQUENCE,
    RECORDS_AT,
};
use super::*;
use crate::domain::block::HashTail;
use crate::domain::namespace::PAYLOAD_BYTES_MAX;
use crate::domain::retention::{Kind, RetentionRecord, Scope};
use crate::domain::tier::Tier;
use crate::domain::units::Time;

fn header() -> FrameHeader {
    FrameHeader {
        namespace: NamespaceDigest([3; 32]),
        meta: FrameMeta {
            key: Key([1; 16]),
            tail: HashTail(0x1122_3344_5566_7788),
            parent: Some(Key([2; 16])),
            position: 7,
            created_at: Time { micros: 99 },
            record: RetentionRecord::default(),
        },
        payload_bytes: 65_536,
        payload_checksum: 0x1234_5678_9abc_def0,
        node_id: [9; 16],
    }
}

fn page_of(header: &FrameHeader) -> [u8; HEADER_BYTES] {
    let mut page = [0xaa; HEADER_BYTES];
    header.encode(&mut page);
    page
}

/// Writes `bytes` at `at` of a good page and makes its checksums right again.
fn resealed(at: usize, bytes: &[u8]) -> [u8; HEADER_BYTES] {
    let mut page = page_of(&header());
    page[at..at + bytes.len()].copy_from_slice(bytes);
    resum(&mut page);
    page
}

fn resum(page: &mut [u8; HEADER_BYTES]) {
    let sum = layout::header_checksum(page);
    page[AT_CHECKSUM..AT_FLAGS].copy_from_slice(&sum.to_le_bytes());
    for at in RECORDS_AT {
        if page[at + IN_SEQUENCE] > 0 {
            let sum = layout::record_checksum(page, at);
            page[at..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

/// The first record's bytes.
const AT_RECORD: usize = RECORDS_AT[0] + IN_RECORD;

fn said(page: &[u8]) -> String {
    match FrameHeader::parse(page) {
        Ok(_) => "ok".into(),
        Err(FrameError::Missing(why)) => format!("missing: {why}"),
        Err(FrameError::Corrupt(why)) => format!("corrupt: {why}"),
        Err(error @ FrameError::UnsupportedVersion { .. }) => format!("unsupported: {error}"),
    }
}

#[test]
fn pages_are_told_apart() {
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("whole", page_of(&header()).into(), "ok"),
        ("nothing", vec![], "corrupt: 0 bytes are too few"),
        ("a byte short", page_of(&header())[1..].into(), "corrupt: 4095 bytes are too few"),
        ("blank", vec![0; HEADER_BYTES], "missing: no frame was ever written here"),
        ("erased", erased_page().into(), "missing: the frame was erased"),
        ("other bytes", vec![7; HEADER_BYTES], "corrupt: the page does not begin"),
        ("version 2", resealed(AT_VERSION, &[2]).into(), "unsupported: frame format 2 is not"),
        ("unknown critical flag", resealed(AT_FLAGS, &[5]).into(), "corrupt: the header has unkno"),
        ("unknown other flag", resealed(AT_FLAGS + 2, &[1]).into(), "ok"),
        ("parent without flag", resealed(AT_FLAGS, &[0]).into(), "corrupt: the header names a par"),
        ("used too little", resealed(AT_USED, &[0, 0]).into(), "corrupt: the header says it uses"),
        ("used too much", resealed(AT_USED, &[1, 16]).into(), "corrupt: the header says it uses"),
        ("grown inside the page", resealed(AT_USED, &[0, 2]).into(), "ok"),
        ("no payload", resealed(AT_PAYLOAD_BYTES, &[0; 8]).into(), "corrupt: the header says 0"),
        ("huge payload", resealed(AT_PAYLOAD_BYTES, &[255; 8]).into(), "corrupt: the header says"),
        ("priority 101", resealed(AT_RECORD, &[101]).into(), "corrupt: the record's priority"),
        ("kind of later", resealed(AT_RECORD + 1, &[200]).into(), "ok"),
        ("floor 4", resealed(AT_RECORD + 2, &[4]).into(), "corrupt: the record's floor is 4"),
        ("scope 3", resealed(AT_RECORD + 3, &[3]).into(), "corrupt: the record's scope is 3"),
    ];
    for (name, page, want) in cases {
        let got = said(page);
        assert!(got.starts_with(want), "{name}: `{got}`, wanted `{want}`");
    }
}

#[test]
fn another_format_says_what_to_do() {
    let found = FrameHeader::decode(&resealed(AT_VERSION, &[9])).unwrap_err();
    let text = found.to_string();
    assert!(matches!(found, StoreError::Corrupt(_)));
    assert!(text.contains("format 9") && text.contains("start the version"), "{text}");
}

#[test]
fn the_drawing_holds() {
    // The offsets of docs/frame.md, by hand: a change of layout without a new version fails here.
    let page = page_of(&header());
    assert_eq!(&page[..8], b"TERRACEF");
    assert_eq!(page[8..16], [1, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(page[24..32], [1, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(page[32..64], [3; 32]);
    assert_eq!(page[64..80], [1; 16]);
    assert_eq!(page[80..96], [2; 16]);
    assert_eq!(page[96..104], 65_536_u64.to_le_bytes());
    assert_eq!(page[104..112], 0x1234_5678_9abc_def0_u64.to_le_bytes());
    assert_eq!(page[112..120], 99_u64.to_le_bytes());
    assert_eq!(page[120..136], [9; 16]);
    assert_eq!(page[136..144], 0x1122_3344_5566_7788_u64.to_le_bytes());
    assert_eq!(page[520..528], 1_u64.to_le_bytes());
    assert_eq!(page[528..536], [35, 0, 3, 0, 0, 0, 0, 0]);
    assert!(page[144..512].iter().chain(&page[536..]).all(|byte| *byte == 0));
    let [header, record] = [16, 512].map(|at| page[at..at + 8].to_vec());
    let summed = [&page[..16], &page[24..512], &page[1536..]].concat();
    assert_eq!(header, checksum(&summed).to_le_bytes());
    assert_eq!(record, checksum(&[&header, &page[520..1024]].concat()).to_le_bytes());
}

#[test]
fn the_checksum_is_crc64_nvme() {
    // The check value of CRC-64/NVME over "123456789", from the catalogue of parametrised CRCs.
    assert_eq!(checksum(b"123456789"), 0xae8b_1486_0a79_9888);
}

#[test]
fn a_priority_over_the_limit_is_written_as_the_limit() {
    let mut high = header();
    high.meta.record.priority = 255;
    assert_eq!(FrameHeader::parse(&page_of(&high)).unwrap().meta.record.priority, 100);
}

fn sealed(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xee; HEADER_BYTES];
    frame.extend_from_slice(payload);
    frame.resize(frame.len().next_multiple_of(HEADER_BYTES), 0xee);
    let FrameHeader { namespace, meta, node_id, .. } = header();
    let payload_bytes = payload.len() as u64;
    seal(&mut frame, HeaderDraft { namespace, meta, payload_bytes, node_id });
    frame
}

#[test]
fn a_sealed_frame_verifies_and_its_padding_is_clean() {
    let frame = sealed(&[5; 5000]);
    let found = verify(&frame, Key([1; 16])).unwrap();
    assert_eq!(found.payload_bytes, 5000);
    assert_eq!(found.frame_bytes(), frame.len() as u64);
    assert!(frame[HEADER_BYTES + 5000..].iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_not_the_frame_asked_for_is_corrupt() {
    let frame = sealed(&[5; 5000]);
    let mut flipped = frame.clone();
    flipped[HEADER_BYTES + 4999] ^= 1;
    let cases: &[(&str, &[u8], u8)] = &[
        ("another key", &frame, 8),
        ("a flipped payload", &flipped, 1),
        ("cut inside the payload", &frame[..HEADER_BYTES + 4999], 1),
        ("the header alone", &frame[..HEADER_BYTES], 1),
    ];
    for (name, bytes, key) in cases {
        let found = verify(bytes, Key([*key; 16]));
        assert!(matches!(found, Err(StoreError::Corrupt(_))), "{name}: {found:?}");
    }
}

fn any_record() -> impl Strategy<Value = RetentionRecord> {
    let times = (any::<u64>(), any::<u64>(), any::<u64>());
    (0..=100_u8, times, any::<u32>(), 0..8_usize, 0..4_usize, 0..3_usize).prop_map(
        |(priority, (until, shield, delete), refresh_on_hit_ms, kind, floor, scope)| {
            RetentionRecord {
                priority,
                priority_until: Time { micros: until },
                shield_until: Time { micros: shield },
                refresh_on_hit_ms,
                delete_after: Time { micros: delete },
                kind: Kind::ALL[kind],
                floor: Tier::ALL[floor],
                scope: Scope::ALL[scope],
            }
        },
    )
}

prop_compose! {
    fn any_header()(
        namespace in any::<[u8; 32]>(),
        key in any::<[u8; 16]>(),
        tail in any::<u64>(),
        parent in any::<Option<[u8; 16]>>(),
        position in any::<u32>(),
        created in any::<u64>(),
        record in any_record(),
        payload_bytes in 1..=PAYLOAD_BYTES_MAX,
        payload_checksum in any::<u64>(),
        node_id in any::<[u8; 16]>(),
    ) -> FrameHeader {
        let meta = FrameMeta {
            key: Key(key),
            tail: HashTail(tail),
            parent: parent.map(Key),
            position,
            created_at: Time { micros: created },
            record,
        };
        let namespace = NamespaceDigest(namespace);
        FrameHeader { namespace, meta, payload_bytes, payload_checksum, node_id }
    }
}

fn record(priority: u8) -> RetentionRecord {
    RetentionRecord { priority, ..RetentionRecord::default() }
}

fn priority_of(page: &[u8]) -> Option<u8> {
    FrameHeader::parse(page).ok().map(|header| header.meta.record.priority)
}

#[test]
fn the_record_written_last_counts_and_each_takes_the_others_place() {
    let mut frame = sealed(&[5; 5000]);
    let before = frame.clone();
    for (priority, wanted) in [(1, 1024..1536), (2, 512..1024), (3, 1024..1536)] {
        assert_eq!(restamp(&mut frame, Key([1; 16]), &record(priority)).unwrap(), wanted);
        let found = verify(&frame, Key([1; 16])).unwrap();
        assert_eq!(found.meta.record, record(priority));
    }
    assert_eq!((&frame[..512], &frame[1536..]), (&before[..512], &before[1536..]));
    assert_eq!(frame[520], 3, "the one before the last is still there");
}

#[test]
fn another_block_s_page_and_no_page_take_no_record() {
    let missing = |result| matches!(result, Err(StoreError::Missing(_)));
    let corrupt = |result| matches!(result, Err(StoreError::Corrupt(_)));
    let mut frame = page_of(&header()).to_vec();
    let before = frame.clone();
    assert!(corrupt(restamp(&mut frame, Key([8; 16]), &record(1))));
    assert_eq!(frame, before);
    assert!(corrupt(restamp(&mut frame[..4000], Key([1; 16]), &record(1))));
    assert!(missing(restamp(&mut vec![0; HEADER_BYTES], Key([1; 16]), &record(1))));
    assert!(missing(restamp(&mut erased_page(), Key([1; 16]), &record(1))));
}

#[test]
fn a_record_that_another_frame_left_behind_does_not_count() {
    let mut other = page_of(&FrameHeader { payload_checksum: 77, ..header() });
    restamp(&mut other, Key([1; 16]), &record(90)).unwrap();
    let mut page = page_of(&header());
    page[1024..1536].copy_from_slice(&other[1024..1536]);
    assert_eq!(priority_of(&page), Some(35));
}

proptest! {
    #[test]
    fn a_torn_restamp_leaves_the_old_record_or_the_new_one(
        header in any_header(),
        records in prop::collection::vec(any_record(), 1..4),
        torn in 0..=HEADER_BYTES,
        backwards in any::<bool>(),
    ) {
        let mut page = page_of(&header);
        for (index, record) in records.iter().enumerate() {
            let old = page;
            restamp(&mut page, header.meta.key, record).unwrap();
            let wanted = FrameHeader { meta: FrameMeta { record: *record, ..header.meta }, ..header };
            prop_assert_eq!(FrameHeader::parse(&page), Ok(wanted));
            // Half of the page is the new one's, wherever the cut lies.
            let (mut mixed, range) = (old, if backwards { torn..HEADER_BYTES } else { 0..torn });
            mixed[range.clone()].copy_from_slice(&page[range]);
            let before = if index == 0 { header.meta.record } else { records[index - 1] };
            let found = FrameHeader::parse(&mixed).unwrap();
            prop_assert!([before, *record].contains(&found.meta.record));
            let rest = FrameHeader { meta: FrameMeta { record: *record, ..found.meta }, ..found };
            prop_assert_eq!(rest, wanted);
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..2 * HEADER_BYTES)) {
        let _ = FrameHeader::parse(&bytes);
        let _ = verify(&bytes, Key([0; 16]));
    }

    #[test]
    fn any_fields_behind_a_right_checksum_are_answered(
        fields in prop::collection::vec(any::<u8>(), 232),
        records in prop::collection::vec(any::<u8>(), 1024),
    ) {
        // Random pages never pass the checksums; these do, and what decodes says the same again.
        let mut page = resealed(AT_FLAGS, &fields);
        page[RECORDS_AT[0]..RECORDS_AT[0] + 1024].copy_from_slice(&records);
        resum(&mut page);
        if let Ok(header) = FrameHeader::parse(&page) {
            prop_assert_eq!(FrameHeader::parse(&page_of(&header)), Ok(header));
            let mut again = page;
            restamp(&mut again, header.meta.key, &record(1)).unwrap();
            let tied = page[RECORDS_AT[0] + IN_SEQUENCE..][..8] == [255; 8];
            prop_assert!(tied || priority_of(&again) == Some(1));
        }
    }

    #[test]
    fn a_header_comes_back(header in any_header()) {
        prop_assert_eq!(FrameHeader::parse(&page_of(&header)), Ok(header));
    }

    #[test]
    fn a_flipped_bit_is_seen(header in any_header(), bit in 0..HEADER_BYTES * 8) {
        let mut page = page_of(&header);
        page[bit / 8] ^= 1 << (bit % 8);
        let found = FrameHeader::parse(&page);
        // Nothing was written to the second record yet, and nothing there can count.
        let spare = (RECORDS_AT[1]..RECORDS_AT[1] + 512).contains(&(bit / 8));
        let corrupt = matches!(found, Err(FrameError::Corrupt(_)));
        let as_wanted = if spare { found == Ok(header) } else { corrupt };
        prop_assert!(as_wanted);
    }
}
