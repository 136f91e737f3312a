//! Slots are handed out, taken back, and chunks change hands. Never looks inside a chunk.

use super::*;
use proptest::prelude::*;

const MIB: u32 = 1 << 20;

#[test]
fn a_full_map_refuses_and_recovers() {
    let mut map = SlotMap::new(2 * CHUNK_BYTES, u64::MAX);
    let pages: Vec<_> = std::iter::from_fn(|| map.alloc(SlotKind::whole(16 * MIB))).collect();
    assert_eq!(pages.len(), 8);
    assert!(!map.has_room(SlotKind::whole(16 * MIB)));
    map.free(pages[3]);
    assert_eq!(map.alloc(SlotKind::whole(16 * MIB)), Some(pages[3]));
}

#[test]
#[should_panic(expected = "was freed twice")]
fn a_slot_is_not_freed_twice() {
    let mut map = SlotMap::new(CHUNK_BYTES, u64::MAX);
    let page = map.alloc(SlotKind::whole(MIB)).expect("empty");
    let _another = map.alloc(SlotKind::whole(MIB));
    map.free(page);
    map.free(page);
}

#[test]
fn an_emptied_chunk_serves_another_length() {
    let mut map = SlotMap::new(CHUNK_BYTES, u64::MAX);
    let page = map.alloc(SlotKind::whole(MIB)).expect("empty");
    assert_eq!(map.alloc(SlotKind::whole(2 * MIB)), None);
    map.free(page);
    assert!(map.alloc(SlotKind::whole(2 * MIB)).is_some());
}

#[test]
fn slots_that_lie_differently_never_share_a_chunk() {
    let mut map = SlotMap::new(CHUNK_BYTES, u64::MAX);
    let kind = |interleave_bytes| SlotKind { bytes: MIB, interleave_bytes };
    assert!(map.alloc(kind(4096)).is_some());
    assert_eq!(map.alloc(kind(8192)), None);
    assert!(map.alloc(kind(4096)).is_some());
}

#[test]
fn stripes_take_turns_and_a_full_one_is_passed_by() {
    let half = SlotKind::whole(32 * MIB);
    let mut map = SlotMap::new(5 * CHUNK_BYTES, u64::MAX).striped(2);
    let chunks = |map: &mut SlotMap, count: usize| -> Vec<u64> {
        let pages = (0..count).map(|_| map.alloc(half).expect("there is room"));
        pages.map(|page| page.offset_bytes() / CHUNK_BYTES).collect()
    };
    assert_eq!(chunks(&mut map, 4), [0, 1, 0, 1]);
    assert_eq!(chunks(&mut map, 6), [2, 3, 2, 3, 4, 4]);
    assert!(!map.has_room(half) && map.alloc(half).is_none());
    map.free(SlotPage::at(CHUNK_BYTES).expect("aligned"));
    assert_eq!(chunks(&mut map, 1), [1]);
}

#[test]
fn the_slot_limit_holds() {
    let mut map = SlotMap::new(CHUNK_BYTES, 2);
    assert!(
        map.alloc(SlotKind::whole(4096)).is_some() && map.alloc(SlotKind::whole(4096)).is_some()
    );
    assert_eq!(map.alloc(SlotKind::whole(4096)), None);
}

#[test]
fn reserved_slots_are_not_given_out() {
    let mut map = SlotMap::new(2 * CHUNK_BYTES, u64::MAX);
    let page = SlotPage::at(CHUNK_BYTES + 32 * u64::from(MIB)).expect("aligned");
    assert!(map.reserve(page, SlotKind::whole(16 * MIB)));
    assert!(!map.reserve(page, SlotKind::whole(16 * MIB)), "taken");
    let other = SlotPage::at(CHUNK_BYTES).expect("aligned");
    assert!(!map.reserve(other, SlotKind::whole(8 * MIB)), "another length");
    let pages: BTreeSet<_> = std::iter::from_fn(|| map.alloc(SlotKind::whole(16 * MIB))).collect();
    assert_eq!(pages.len(), 7);
    assert!(!pages.contains(&page));
}

proptest! {
    #[test]
    fn slots_never_overlap(ops in prop::collection::vec((0u8..6, any::<prop::sample::Index>()), 1..400)) {
        const LENGTHS: [u32; 3] = [4 * MIB, 7 * MIB, 20 * MIB];
        let mut map = SlotMap::new(4 * CHUNK_BYTES, u64::MAX).striped(1 + ops.len() % 3);
        let mut taken: Vec<(SlotPage, u32)> = Vec::new();
        for (op, pick) in ops {
            if op == 3 && !taken.is_empty() {
                let (page, _) = taken.swap_remove(pick.index(taken.len()));
                map.free(page);
            } else if op == 4 && map.emptying().is_none() && !taken.is_empty() {
                let (page, _) = taken[pick.index(taken.len())];
                map.empty_out(page.chunk(), SlotKind::whole(LENGTHS[pick.index(3)]));
            } else if op == 5 {
                map.stop_emptying();
            } else if let Some(page) = map.alloc(SlotKind::whole(LENGTHS[op as usize % 3])) {
                taken.push((page, LENGTHS[op as usize % 3]));
            }
            let mut spans: Vec<_> = taken.iter()
                .map(|(page, bytes)| (page.offset_bytes(), page.offset_bytes() + u64::from(*bytes)))
                .collect();
            spans.sort_unstable();
            prop_assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0));
            prop_assert!(spans.last().is_none_or(|span| span.1 <= 4 * CHUNK_BYTES));
            prop_assert_eq!(map.slots_used(), taken.len() as u64);
        }
    }
}

#[test]
fn a_chunk_that_is_emptied_gives_nothing_out_and_then_goes_to_whom_it_was_for() {
    let (half, quarter) = (SlotKind::whole(32 * MIB), SlotKind::whole(16 * MIB));
    let mut map = SlotMap::new(2 * CHUNK_BYTES, u64::MAX);
    let pages: Vec<_> = std::iter::from_fn(|| map.alloc(half)).collect();
    map.free(pages[0]);
    map.empty_out(0, quarter);
    assert!(!map.has_room(half) && !map.has_room(quarter), "half of it is taken");
    map.free(pages[1]);
    assert!(map.alloc(half).is_none() && map.has_room(quarter));
    assert_eq!(map.alloc(quarter).map(SlotPage::chunk), Some(0));
    assert_eq!(map.emptying(), None);
    assert_eq!(map.emptiest(quarter), Some(0));
}

#[test]
fn a_slot_is_taken_back_in_an_emptied_chunk_that_nobody_has_got_yet() {
    let (half, quarter) = (SlotKind::whole(32 * MIB), SlotKind::whole(16 * MIB));
    let mut map = SlotMap::new(CHUNK_BYTES, u64::MAX);
    let page = map.alloc(half).expect("empty");
    map.empty_out(0, quarter);
    map.free(page);
    assert!(map.has_room(quarter));
    assert!(map.take_back(page, half));
    assert!(!map.has_room(quarter) && map.alloc(half).is_none(), "it gives nothing out");
    map.free(page);
    assert_eq!(map.alloc(quarter).map(SlotPage::chunk), Some(0), "it is for whom it was");
}

#[test]
fn a_chunk_that_is_given_up_is_what_it_was() {
    let (half, quarter) = (SlotKind::whole(32 * MIB), SlotKind::whole(16 * MIB));
    let mut map = SlotMap::new(CHUNK_BYTES, u64::MAX);
    let pages: Vec<_> = std::iter::from_fn(|| map.alloc(half)).collect();
    map.empty_out(0, quarter);
    map.stop_emptying();
    assert!(!map.has_room(half), "it is full");
    map.empty_out(0, quarter);
    map.free(pages[1]);
    map.stop_emptying();
    assert_eq!(map.alloc(half), Some(pages[1]));
    map.empty_out(0, quarter);
    for page in pages {
        map.free(page);
    }
    map.stop_emptying();
    assert!(map.has_room(half), "an empty one is anyone's");
}
