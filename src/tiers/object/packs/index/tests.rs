//! What is added in any order comes to the same state.

use proptest::prelude::*;

use super::*;
use crate::domain::retention::RetentionRecord;
use crate::tiers::sample::Sample;

const NOW: Time = Time::ZERO;

fn name(writer: u8, number: u64) -> Name {
    Name { writer: [writer; 16], number, salt: 1, head_pages: 1, holds: Holds::Frames }
}

/// The frame of this block with this id.
fn frame(block: u8, id: u8) -> PackedFrame {
    let sample = Sample { number: block.into(), payload_bytes: 4096 };
    let header = FrameHeader::decode(&sample.bytes()).unwrap();
    PackedFrame { id: FrameId([id; 16]), version: Version(0), at: 4096, bytes: 8192, header }
}

fn change(block: u8, id: u8, version: u64, what: What) -> Change {
    let key = Sample { number: block.into(), payload_bytes: 4096 }.key();
    Change { id: FrameId([id; 16]), key, version: Version(version), what }
}

fn record(priority: u8) -> What {
    What::Record(RetentionRecord { priority, ..RetentionRecord::default() })
}

const ERASED: What = What::Erased { promised: false };

fn priority(index: &Index, block: u8) -> Option<u8> {
    let key = Sample { number: block.into(), payload_bytes: 4096 }.key();
    index.find(key).map(|found| found.header.meta.record.priority)
}

#[test]
fn a_change_counts_wherever_its_frame_lies_and_whenever_it_is_read() {
    let mut index = Index::new([1; 16], 100);
    index.change(change(1, 1, 5, record(80)), false, NOW);
    index.add(name(2, 0), vec![frame(1, 1), frame(2, 2)], NOW);
    assert_eq!((priority(&index, 1), priority(&index, 2)), (Some(80), Some(35)));
    // Moved to another pack, by somebody who had not read of it.
    index.add(name(3, 0), vec![frame(1, 1)], NOW);
    index.forget(&name(2, 0), NOW);
    assert_eq!((priority(&index, 1), priority(&index, 2)), (Some(80), None));
    index.change(change(1, 1, 9, ERASED), false, NOW);
    index.change(change(1, 1, 10, record(90)), false, NOW);
    assert_eq!(priority(&index, 1), None);
}

#[test]
fn a_frame_that_took_its_record_along_needs_no_older_change() {
    let mut index = Index::new([1; 16], 100);
    let moved = PackedFrame { version: Version(7), ..frame(1, 1) };
    index.add(name(1, 0), vec![moved], NOW);
    index.change(change(1, 1, 6, record(80)), false, NOW);
    assert_eq!(priority(&index, 1), Some(35));
}

#[test]
fn what_there_is_no_room_for_is_passed_over_and_nothing_known_is_forgotten() {
    let mut index = Index::new([1; 16], 4);
    assert!(index.learn(name(1, 0), vec![frame(1, 1)], NOW));
    assert!(index.learn(name(2, 0), vec![frame(2, 2), frame(3, 3)], NOW));
    assert!(!index.learn(name(2, 1), vec![frame(4, 4)], NOW), "a quarter is this node's");
    assert!(index.reserve(1) && !index.reserve(1));
    index.unreserve(1);
    assert!(index.reserve(1), "that pack was not written");
    // What is known stays so where others move it, and where this node wrote it before a restart.
    assert!(index.learn(name(3, 0), vec![frame(2, 2), frame(5, 5)], NOW));
    index.forget(&name(2, 0), NOW);
    assert!(index.learn(name(1, 1), vec![frame(6, 6), frame(7, 7)], NOW));
    let known = (1..8).filter(|block| priority(&index, *block).is_some());
    assert_eq!(known.collect::<Vec<_>>(), [1, 2, 5, 6, 7]);
}

#[test]
fn changes_are_forgotten_long_after_their_frames() {
    let mut index = Index::new([1; 16], 100);
    index.add(name(2, 0), vec![frame(1, 1)], NOW);
    index.change(change(1, 1, 1, ERASED), false, NOW);
    index.forget(&name(2, 0), NOW);
    index.prune(NOW + PARTED_FOR);
    assert_eq!(index.changes.len(), 1);
    index.prune(NOW + PARTED_FOR * 2);
    assert_eq!((index.changes.len(), index.parted.len()), (0, 0));
}

/// Nodes that did not know of each other's frame wrote one each, and whoever cleared their packs put both
/// into one.
#[test]
fn a_pack_with_two_frames_of_one_block_is_forgotten() {
    let mut index = Index::new([1; 16], 100);
    index.add(name(2, 0), vec![frame(1, 10), frame(1, 11)], NOW);
    index.change(change(1, 10, 1, ERASED), false, NOW);
    index.forget(&name(2, 0), NOW);
    assert_eq!((priority(&index, 1), index.spots.len(), index.parted.len()), (None, 0, 1));
}

/// What is asked for and not stored yet may never be.
#[test]
fn an_object_of_changes_is_needed_until_what_outdoes_it_is_stored() {
    let mut index = Index::new([1; 16], 100);
    index.add(name(1, 0), vec![frame(1, 1)], NOW);
    let (first, second) = (change(1, 1, 5, record(80)), change(1, 1, 9, ERASED));
    let log = |number| Name { holds: Holds::Changes, ..name(1, number) };
    index.change(first, true, NOW);
    index.logged(log(1), &[first]);
    index.change(second, true, NOW);
    assert!(index.spare_logs().is_empty());
    index.logged(log(2), &[second]);
    assert_eq!(index.spare_logs(), [log(1)]);
}

#[test]
fn a_change_that_several_objects_have_is_needed_in_the_last_one() {
    let log = |number| Name { holds: Holds::Changes, ..name(1, number) };
    let changes = [change(1, 1, 5, record(80)), change(2, 2, 5, ERASED)];
    for order in [[1, 2], [2, 1]] {
        let mut index = Index::new([1; 16], 100);
        index.add(name(1, 0), vec![frame(1, 1), frame(2, 2)], NOW);
        index.change_all(&changes, true, NOW);
        for number in order {
            index.logged(log(number), &changes);
        }
        assert_eq!(index.spare_logs(), [log(1)]);
        index.replace_logs(vec![log(1)]);
        assert_eq!((index.spare_logs(), index.replaced_logs()), (vec![], vec![log(1)]));
        // It is there still, and read anew.
        index.logged(log(1), &changes);
        assert!(index.spare_logs().is_empty());
        index.note_tried(log(1), true);
        assert!(index.replaced_logs().is_empty());
    }
}

/// Its pack may be there, known to others: an erased frame would come back with the object's end.
#[test]
fn an_object_of_changes_stays_where_packs_are_not_known_for_want_of_room() {
    let erased = change(1, 1, 5, ERASED);
    let log = Name { holds: Holds::Changes, ..name(1, 9) };
    let long_after = NOW + PARTED_FOR * 2;
    let told = |frames_max: usize| {
        let mut index = Index::new([1; 16], frames_max);
        index.learn(name(2, 0), vec![frame(1, 1)], NOW);
        index.change(erased, true, NOW);
        index.logged(log, &[erased]);
        index.learn(name(2, 1), vec![frame(2, 2)], NOW);
        index.forget(&name(2, 0), NOW);
        assert!(index.is_due(long_after));
        index.prune(long_after);
        index.spare_logs()
    };
    assert_eq!(told(2), [log], "it was seen to be gone");
    assert_eq!(told(1), []);
}

#[test]
fn of_two_nodes_erases_all_nodes_keep_the_same() {
    let erases = [change(1, 1, 5, ERASED), change(1, 1, 9, ERASED)];
    let [there, back] = [[0, 1], [1, 0]].map(|order| {
        let mut index = Index::new([1; 16], 100);
        for at in order {
            index.change(erases[at], at == 0, NOW);
        }
        let known = index.changes[&erases[0].id];
        (known.change, known.is_mine)
    });
    assert_eq!((there, back), ((erases[1], true), (erases[1], true)));
}

#[derive(Clone, Debug)]
enum Read {
    Pack(u8, u64, Vec<(u8, u8)>),
    Change(u8, u8, u64, Option<u8>),
}

fn any_read() -> impl Strategy<Value = Read> {
    // A block's frames have ids of their own, wherever they lie.
    let at = (1..4_u8, 0..2_u8).prop_map(|(block, twin)| (block, block * 10 + twin));
    prop_oneof![
        (1..4_u8, 0..3_u64, prop::collection::vec(at.clone(), 1..4))
            .prop_map(|(writer, number, frames)| Read::Pack(writer, number, frames)),
        (at, 0..6_u64, prop::option::of(0..100_u8)).prop_map(|((block, id), version, priority)| {
            Read::Change(block, id, version, priority)
        }),
    ]
}

fn read(index: &mut Index, one: &Read) {
    match one {
        Read::Pack(writer, number, frames) => {
            let frames = frames.iter().map(|(block, id)| frame(*block, *id)).collect();
            index.add(name(*writer, *number), frames, NOW);
        }
        Read::Change(block, id, version, priority) => {
            // One version is one state.
            let what = priority.map_or(ERASED, |_| record(u8::try_from(*version).unwrap()));
            index.change(change(*block, *id, *version, what), false, NOW);
        }
    }
}

proptest! {
    #[test]
    fn nodes_that_read_the_same_answer_the_same(
        reads in prop::collection::vec(any_read(), 0..12),
        seed in any::<u64>(),
    ) {
        // One name is one object.
        let mut seen = BTreeSet::new();
        let reads: Vec<Read> = reads.into_iter().filter(|one| match one {
            Read::Pack(writer, number, _) => seen.insert((*writer, *number)),
            Read::Change(..) => true,
        }).collect();
        let mut mixed = reads.clone();
        let turns = usize::try_from(seed % 13).unwrap();
        mixed.rotate_left(turns.min(reads.len()));
        mixed.reverse();
        let indexes = [reads, mixed].map(|reads| {
            let mut index = Index::new([1; 16], 1000);
            for one in &reads {
                read(&mut index, one);
            }
            index
        });
        for block in 1..4 {
            prop_assert_eq!(priority(&indexes[0], block), priority(&indexes[1], block));
        }
    }
}
