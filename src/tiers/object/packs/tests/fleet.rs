//! Nodes on one store: they find, inherit and change each other's packed blocks.

use std::sync::Arc;
use std::thread;

use super::ground::options;
use super::{block, erase, on_both, priority, read_all, restamp, write_all};
use crate::tiers::object::packs::PackOptions;
use crate::tiers::sample::{self, LANES, Sample};
use crate::tiers::store::StoreOp;

#[test]
fn blocks_written_together_are_one_object_and_every_node_finds_them() {
    on_both(|ground| {
        let (one, two) = (ground.node(1), ground.node(2));
        assert_eq!(priority(&two, 3), None);
        write_all(&one, 0..LANES);
        assert_eq!((ground.files('p').len(), ground.singles()), (1, 0));
        assert_eq!(priority(&two, 3), Some(35));
        assert_eq!(read_all(&two, 0..LANES).len(), LANES as usize);
        // What is there is not written again.
        write_all(&two, 0..LANES);
        assert_eq!((ground.files('p').len(), ground.files('c').len()), (1, 0));
    });
}

#[test]
fn a_restart_finds_packs_and_goes_on_behind_them() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..8);
        erase(&one, 2).unwrap();
        restamp(&one, 3, 80).unwrap();
        drop(one);
        let one = ground.node(1);
        assert_eq!(
            (priority(&one, 2), priority(&one, 3), priority(&one, 4)),
            (None, Some(80), Some(35))
        );
        write_all(&one, 8..16);
        let names = ground.files('p');
        assert_eq!(names.len(), 2);
        let two = ground.node(2);
        assert_eq!(read_all(&two, 0..16).len(), 15);
        assert_eq!(read_all(&one, 0..16).len(), 15);
    });
}

#[test]
fn records_are_inherited_and_every_node_comes_to_the_same_one() {
    on_both(|ground| {
        let (one, two) = (ground.node(1), ground.node(2));
        write_all(&one, 0..4);
        restamp(&two, 1, 80).unwrap();
        assert_eq!(priority(&one, 1), Some(80));
        for round in 0..5 {
            thread::scope(|scope| {
                for (node, priority) in [(&one, 40 + round), (&two, 60 + round)] {
                    scope.spawn(move || restamp(node, 2, priority).unwrap());
                }
            });
            let third = ground.node(3);
            let told = [&one, &two, &third].map(|node| priority(node, 2));
            assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
            assert!([Some(40 + round), Some(60 + round)].contains(&told[0]), "{told:?}");
        }
        // A frame that is read has the record that counts.
        let frame = block(2).span(5);
        let (key, place) = (block(2).key(), super::ANYWHERE);
        sample::run(&*one.store, StoreOp::Read { key, place, frame }).unwrap();
        // SAFETY: the operation is over.
        let bytes = unsafe { one.arena.bytes(frame) };
        let header = crate::tiers::frame::verify(bytes, key).unwrap();
        assert_eq!(Some(header.meta.record.priority), priority(&two, 2));
    });
}

#[test]
fn what_one_node_erases_no_node_serves_and_it_can_be_written_again() {
    on_both(|ground| {
        let (one, two) = (ground.node(1), ground.node(2));
        write_all(&one, 0..8);
        assert_eq!(priority(&two, 5), Some(35));
        erase(&two, 5).unwrap();
        assert_eq!((priority(&one, 5), read_all(&one, 4..8)), (None, vec![4, 6, 7]));
        assert_eq!(read_all(&ground.node(3), 0..8).len(), 7);
        write_all(&one, 5..6);
        assert_eq!((read_all(&two, 4..8).len(), ground.files('p').len()), (4, 2));
    });
}

/// Two nodes that do not know of each other's write it twice; erased is both.
#[test]
fn a_block_that_was_packed_twice_is_erased_in_both_packs() {
    on_both(|ground| {
        let slow =
            |node| PackOptions { freshness: std::time::Duration::from_mins(1), ..options(node) };
        let (one, two) = (ground.node_with(slow(1), |b| b), ground.node_with(slow(2), |b| b));
        assert_eq!((priority(&one, 0), priority(&two, 0)), (None, None));
        write_all(&one, 0..2);
        write_all(&two, 0..2);
        assert_eq!(ground.files('p').len(), 2);
        let third = ground.node(3);
        assert_eq!(read_all(&third, 0..2), [0, 1]);
        erase(&third, 0).unwrap();
        assert_eq!(read_all(&ground.node(4), 0..2), [1]);
    });
}

#[test]
fn a_few_blocks_and_long_ones_are_objects_of_their_own() {
    on_both(|ground| {
        let few = PackOptions { frames_min: 4, ..options(1) };
        let one = ground.node_with(few, |blobs| blobs);
        write_all(&one, 0..3);
        assert_eq!((ground.files('p').len(), ground.singles()), (0, 3));
        let long = Sample { number: 9, payload_bytes: sample::PAYLOAD_BYTES_MAX };
        for lane in 0..2 {
            let frame = long.fill(&one.arena, lane);
            let op = StoreOp::Write { key: long.key(), place: super::ANYWHERE, frame };
            sample::run(&*one.store, op).unwrap();
        }
        assert_eq!((ground.files('p').len(), ground.singles()), (0, 4));
        assert_eq!(read_all(&ground.node(2), 0..3).len(), 3);
        assert_eq!(Arc::strong_count(&one.store), 1);
    });
}
