//! A promise to forget is not lost when another node packs the block.

use std::fs;

use super::super::PackOptions;
use super::ground::{Ground, Node, options};
use super::{ANYWHERE, block, on_both, read_all, write_all, write_some};
use crate::domain::retention::RetentionRecord;
use crate::domain::units::Time;
use crate::tiers::frame::{self, HEADER_BYTES};
use crate::tiers::sample;
use crate::tiers::store::{StoreError, StoreOp};

const PROMISE: Time = Time { micros: 7_000 };

fn promised() -> RetentionRecord {
    RetentionRecord { delete_after: PROMISE, ..RetentionRecord::default() }
}

/// Writes the block with a promise.
fn write_promised(node: &Node, number: u32) -> Result<(), StoreError> {
    let (key, span) = (block(number).key(), block(number).fill(&node.arena, 0));
    // SAFETY: a test gives a lane to one operation at a time.
    let bytes = unsafe { node.arena.bytes_mut(span) };
    let page = bytes.first_chunk_mut::<HEADER_BYTES>().unwrap();
    frame::restamp(page, key, &promised()).unwrap();
    sample::run(&*node.store, StoreOp::Write { key, place: ANYWHERE, frame: span })
}

fn restamp(node: &Node, number: u32) {
    let (key, record) = (block(number).key(), promised());
    let op = StoreOp::Restamp { key, place: ANYWHERE, record, known: Time::ZERO };
    sample::run(&*node.store, op).unwrap();
}

fn promise_of(node: &Node, number: u32) -> Time {
    sample::header(&*node.store, block(number)).unwrap().meta.record.delete_after
}

fn has_marker(ground: &Ground) -> bool {
    ground.root.join("v1/packs/promises").exists()
}

#[test]
fn who_packs_a_block_finds_the_promised_object_beside_the_packs() {
    on_both(|ground| {
        let (one, two) = (ground.node(1), ground.node(2));
        write_promised(&one, 0).unwrap();
        assert_eq!(write_some(&two, 0..4), [0], "and hears of it");
        assert_eq!(ground.singles(), 1);
        for node in [&one, &two, &ground.node(3)] {
            assert_eq!(promise_of(node, 0), PROMISE);
            assert!(node.store.packs.find(block(0).key()).is_none(), "no pack has it");
            assert_eq!(read_all(node, 0..4), [0, 1, 2, 3]);
        }
    });
}

/// Too few went into objects of their own, and one of them was promised to be forgotten later.
#[test]
fn so_it_does_where_the_promise_came_after_the_block() {
    on_both(|ground| {
        let few = options(1);
        let one = ground.node_with(PackOptions { frames_min: 4, ..few }, |blobs| blobs);
        write_all(&one, 0..2);
        assert!(!has_marker(ground) && ground.singles() == 2);
        restamp(&one, 1);
        assert!(has_marker(ground));
        let two = ground.node(2);
        assert_eq!(write_some(&two, 0..4), [1]);
        assert_eq!([promise_of(&two, 0), promise_of(&two, 1)], [Time::ZERO, PROMISE]);
        assert!(two.store.packs.find(block(1).key()).is_none());
    });
}

#[test]
fn a_marker_that_was_deleted_is_there_again_with_the_next_promise() {
    on_both(|ground| {
        let one = ground.node(1);
        write_promised(&one, 0).unwrap();
        fs::remove_file(ground.root.join("v1/packs/promises")).unwrap();
        write_all(&one, 1..3);
        assert!(!has_marker(ground), "nobody promised anything");
        write_promised(&one, 3).unwrap();
        assert!(has_marker(ground));
    });
}

#[test]
fn without_promises_nobody_looks_for_single_objects() {
    let ground = Ground::folder();
    let few = PackOptions { frames_min: 4, ..options(1) };
    let one = ground.node_with(few, |blobs| blobs);
    write_all(&one, 0..2);
    let two = ground.node(2);
    write_all(&two, 0..4);
    assert!(two.store.packs.find(block(0).key()).is_some(), "it has been packed as well");
}
