//! Nodes that know too little: what they have not seen, or can't see now, is neither missing nor erased.

use std::fs;
use std::time::Duration;

use super::faults::{Call, Faults};
use super::ground::{Node, options};
use super::{ANYWHERE, block, erase, on_both, priority, read_all, restamp, start, write_all};
use crate::domain::retention::RetentionRecord;
use crate::domain::units::Time;
use crate::tiers::object::packs::PackOptions;
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::{Erasure, StoreError, StoreOp, TierStore};

/// A node that is content with what it knew long ago.
fn slow(node: u8) -> PackOptions {
    PackOptions { freshness: Duration::from_mins(10), ..options(node) }
}

fn read(node: &Node, number: u32) -> Result<(), StoreError> {
    let (key, frame) = (block(number).key(), block(number).span(0));
    sample::run(&*node.store, StoreOp::Read { key, place: ANYWHERE, frame })
}

/// Makes the pack of this block give up its bytes.
fn shed_of(node: &Node, number: u32, on: &tokio::runtime::Handle) {
    let record = RetentionRecord { delete_after: Time { micros: 1 }, ..RetentionRecord::default() };
    let op =
        StoreOp::Restamp { key: block(number).key(), place: ANYWHERE, record, known: Time::ZERO };
    sample::run(&*node.store, op).unwrap();
    erase(node, number).unwrap();
    node.shed(on).unwrap();
}

#[test]
fn what_a_restart_writes_is_found_although_the_greatest_numbers_before_it_went() {
    on_both(|ground| {
        let (one, two) = (ground.node(1), ground.node(2));
        write_all(&one, 0..4);
        (0..40)
            .for_each(|round| restamp(&one, round % 4, 40 + u8::try_from(round).unwrap()).unwrap());
        assert_eq!(priority(&two, 3), Some(79));
        drop(one);
        // As others' clearing and its own did.
        ground
            .files('p')
            .iter()
            .chain(&ground.files('c'))
            .for_each(|file| fs::remove_file(file).unwrap());
        let one = ground.node(1);
        write_all(&one, 8..12);
        assert_eq!(read_all(&two, 8..12).len(), 4);
    });
}

#[test]
fn a_head_that_can_not_be_read_at_the_start_is_read_later_although_it_is_this_nodes() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        restamp(&one, 1, 80).unwrap();
        erase(&one, 2).unwrap();
        drop(one);
        let faults = Faults::default();
        let kept: Vec<_> = ground.files('c');
        let name =
            |file: &std::path::PathBuf| file.file_name().unwrap().to_str().unwrap().to_owned();
        for file in &kept {
            faults.fail(Call::Head, &name(file));
        }
        let one = ground.node_with(options(1), |blobs| faults.around(blobs));
        write_all(&one, 4..8);
        assert!(erase(&one, 7).is_err(), "nobody knows whether that was all of it");
        faults.heal();
        assert_eq!((priority(&one, 1), priority(&one, 2)), (Some(80), None));
    });
}

#[test]
fn a_pack_whose_answer_was_lost_is_found_by_who_wrote_it() {
    on_both(|ground| {
        let (one, faults) = ground.node_with_faults(1);
        faults.fail(Call::PutAnswer, "");
        faults.fail(Call::Delete, "");
        let write = |block: Sample, lane| {
            let frame = block.fill(&one.arena, lane);
            StoreOp::Write { key: block.key(), place: ANYWHERE, frame }
        };
        let told = start(&one, write, 0..4);
        assert!(told.into_iter().all(|told| told.recv().unwrap().is_err()));
        faults.heal();
        assert_eq!(ground.files('p').len(), 1);
        assert_eq!(read_all(&one, 0..4).len(), 4);
        erase(&one, 2).unwrap();
        assert_eq!(read_all(&ground.node(2), 0..4), [0, 1, 3]);
    });
}

#[test]
fn what_was_moved_while_nothing_can_be_listed_is_not_missing() {
    on_both(|ground| {
        let (one, faults) = (ground.node(1), Faults::default());
        write_all(&one, 0..4);
        let two = ground.node_with(slow(2), |blobs| faults.around(blobs));
        assert_eq!(priority(&two, 1), Some(35));
        shed_of(&one, 0, &ground.handle);
        faults.fail(Call::List, "");
        assert!(matches!(read(&two, 1), Err(StoreError::TierLost(_))));
        faults.heal();
        assert!(matches!(read(&two, 9), Err(StoreError::TierLost(_) | StoreError::Missing(_))));
        let fresh = ground.node_with(options(3), |blobs| faults.around(blobs));
        assert!(read(&fresh, 1).is_ok());
        faults.fail(Call::List, "");
        let blind = ground.node_with(options(4), |blobs| faults.around(blobs));
        assert!(matches!(read(&blind, 1), Err(StoreError::TierLost(_))));
        assert!(matches!(sample::peek(&*blind.store, block(1)), Err(StoreError::TierLost(_))));
    });
}

#[test]
fn an_erase_looks_at_what_is_there_now_or_fails() {
    on_both(|ground| {
        let faults = Faults::default();
        let one = ground.node_with(slow(1), |blobs| faults.around(blobs));
        let two = ground.node_with(slow(2), |blobs| blobs);
        assert_eq!((priority(&one, 0), priority(&two, 0)), (None, None));
        write_all(&one, 0..3);
        write_all(&two, 0..3);
        erase(&one, 0).unwrap();
        assert_eq!(read_all(&ground.node(3), 0..3), [1, 2]);
        faults.fail(Call::List, "");
        assert!(erase(&one, 1).is_err());
        assert!(sample::peek(&*one.store, block(1)).is_err(), "it is not served all the same");
        faults.heal();
        erase(&one, 1).unwrap();
        assert_eq!(read_all(&ground.node(4), 0..3), [2]);
        // One that has seen nothing yet.
        faults.fail(Call::Head, "v1/packs/");
        let fresh = ground.node_with(options(5), |blobs| faults.around(blobs));
        assert!(erase(&fresh, 2).is_err());
        faults.heal();
        erase(&fresh, 2).unwrap();
        assert!(read_all(&ground.node(6), 0..3).is_empty());
    });
}

#[test]
fn an_erase_follows_what_was_moved_while_it_looked() {
    on_both(|ground| {
        let (one, faults) = (ground.node(1), Faults::default());
        let two = ground.node_with(slow(2), |blobs| faults.around(blobs));
        assert_eq!(priority(&two, 3), None);
        write_all(&one, 0..4);
        let pack = one.pack_of(3);
        let held = faults.hold_heads(&pack);
        let (done, ended) = sample::heard();
        let why = Erasure::Promised;
        two.store.submit(StoreOp::Erase { key: block(3).key(), place: ANYWHERE, why }, done);
        let mut tries = 0..500;
        while faults.made(Call::Head, &pack) == 0 {
            assert!(tries.next().is_some(), "nobody looks");
            std::thread::sleep(Duration::from_millis(10));
        }
        shed_of(&one, 0, &ground.handle);
        assert_ne!(one.pack_of(3), pack, "it was moved");
        drop(held);
        ended.recv().unwrap().unwrap();
        assert_eq!(read_all(&ground.node(3), 0..4), [1, 2]);
    });
}

#[test]
fn a_record_is_made_of_the_newest_one() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..4);
        let two = ground.node_with(slow(2), |blobs| blobs);
        assert_eq!(priority(&two, 0), Some(35));
        for round in 40..48 {
            restamp(&one, 0, round).unwrap();
            restamp(&two, 0, 100 - round).unwrap();
            assert_eq!(priority(&ground.node(3), 0), Some(100 - round));
        }
    });
}

#[test]
fn a_folder_that_can_not_be_listed_hides_no_other_ones_news() {
    on_both(|ground| {
        let (one, seven, faults) = (ground.node(1), ground.node(7), Faults::default());
        write_all(&one, 0..4);
        write_all(&seven, 4..8);
        let two = ground.node_with(options(2), |blobs| faults.around(blobs));
        assert_eq!((priority(&two, 0), priority(&two, 4)), (Some(35), Some(35)));
        faults.fail(Call::List, &"07".repeat(16));
        write_all(&one, 8..12);
        restamp(&one, 0, 80).unwrap();
        assert_eq!((priority(&two, 8), priority(&two, 0)), (Some(35), Some(80)));
        assert!(erase(&two, 0).is_err());
    });
}

/// As that of a node without a disk, which has another one after each start.
#[test]
fn a_folder_that_is_gone_is_listed_no_more_and_is_found_when_it_is_back() {
    on_both(|ground| {
        let (nine, (two, faults)) = (ground.node(9), ground.node_with_faults(2));
        let folder = "09".repeat(16);
        let listed = || faults.made(Call::List, &folder);
        write_all(&nine, 0..4);
        assert_eq!(priority(&two, 0), Some(35));
        drop(nine);
        fs::remove_dir_all(ground.root.join("v1/packs").join(&folder)).unwrap();
        let before = listed();
        assert_eq!(priority(&two, 8), None);
        assert!(listed() > before, "its packs are known and may be back");
        ground.handle.block_on(two.store.packs.sweep()).unwrap();
        assert_eq!(priority(&two, 8), None);
        let before = listed();
        assert_eq!(priority(&two, 8), None);
        assert_eq!(listed(), before);
        write_all(&ground.node(9), 4..8);
        assert_eq!(read_all(&two, 4..8).len(), 4);
    });
}
