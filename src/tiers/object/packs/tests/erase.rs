//! Why a block is erased decides whose frames go, and whether their bytes do.

use super::ground::{Ground, Node, options};
use super::shed::copies;
use super::{ANYWHERE, block, erase_for, on_both, priority, read_all, write_all};
use crate::domain::retention::RetentionRecord;
use crate::domain::units::Time;
use crate::tiers::frame::{self, FrameHeader, HeaderDraft};
use crate::tiers::object::packs::PackOptions;
use crate::tiers::sample;
use crate::tiers::store::{Erasure, StoreOp, TierStore};

/// Blocks whose frames say that this node wrote them.
fn write_as(node: &Node, numbers: std::ops::Range<u32>, node_id: u8) {
    let lanes: Vec<u32> = (0..).zip(numbers.clone()).map(|(lane, _)| lane).collect();
    for (lane, number) in lanes.iter().zip(numbers.clone()) {
        let frame = block(number).fill(&node.arena, *lane);
        // SAFETY: a test gives a lane to one operation at a time.
        let bytes = unsafe { node.arena.bytes_mut(frame) };
        let FrameHeader { namespace, meta, payload_bytes, .. } =
            FrameHeader::decode(bytes).unwrap();
        let node_id = [node_id; 16];
        frame::seal(bytes, HeaderDraft { namespace, meta, payload_bytes, node_id });
    }
    let submit = |(lane, number): (&u32, u32)| {
        let (done, told) = sample::heard();
        let (key, frame) = (block(number).key(), block(number).span(*lane));
        node.store.submit(StoreOp::Write { key, place: ANYWHERE, frame }, done);
        told
    };
    let told: Vec<_> = lanes.iter().zip(numbers).map(submit).collect();
    for told in told {
        told.recv().unwrap().unwrap();
    }
}

/// Two nodes that have not looked at each other's packs, and a third one that has.
fn written_by_two(ground: &Ground, frames_min: usize) -> Node {
    let slow = |node| PackOptions {
        freshness: std::time::Duration::from_mins(1),
        frames_min,
        ..options(node)
    };
    let (one, two) = (ground.node_with(slow(1), |b| b), ground.node_with(options(2), |b| b));
    assert_eq!(priority(&one, 0), None);
    write_as(&two, 0..4, 2);
    write_as(&one, 0..2, 1);
    ground.node(1)
}

/// Those of the four blocks that the node finds.
fn told(node: &Node) -> Vec<u32> {
    (0..4).filter(|number| priority(node, *number).is_some()).collect()
}

#[test]
fn who_wants_room_erases_only_what_its_node_wrote() {
    on_both(|ground| {
        let one = written_by_two(ground, 1);
        assert_eq!((ground.files('p').len(), ground.singles()), (2, 0));
        for number in 0..4 {
            erase_for(&one, number, Erasure::ForRoom).unwrap();
        }
        assert_eq!(told(&ground.node(3)), [0, 1, 2, 3], "they are the other node's");
        one.shed(&ground.handle).unwrap();
        assert_eq!(ground.files('p').len(), 1, "what this node wrote went");
        erase_for(&one, 0, Erasure::Unusable).unwrap();
        assert_eq!(told(&ground.node(3)), [1, 2, 3]);
    });
}

#[test]
fn who_wants_room_erases_its_single_object_beside_anothers_pack() {
    on_both(|ground| {
        let one = written_by_two(ground, 3);
        assert_eq!((ground.files('p').len(), ground.singles()), (1, 2));
        erase_for(&one, 0, Erasure::ForRoom).unwrap();
        assert_eq!(ground.singles(), 1);
        // It is another one's in the eyes of this node.
        erase_for(&ground.node(2), 1, Erasure::ForRoom).unwrap();
        assert_eq!(ground.singles(), 1);
        assert_eq!(told(&ground.node(3)), [0, 1, 2, 3]);
    });
}

#[test]
fn who_wants_room_leaves_single_objects_of_other_nodes() {
    on_both(|ground| {
        let few = PackOptions { frames_min: 4, ..options(1) };
        let one = ground.node_with(few, |blobs| blobs);
        write_as(&one, 0..2, 2);
        write_as(&one, 2..3, 1);
        assert!(one.store.leaves_others());
        for number in 0..4 {
            erase_for(&one, number, Erasure::ForRoom).unwrap();
        }
        assert_eq!((ground.singles(), told(&ground.node(3))), (2, vec![0, 1]));
    });
}

/// The packs' frame of a block goes before the single object that another node had written.
#[test]
fn a_promise_reaches_the_single_object_beside_a_pack() {
    let promise =
        RetentionRecord { delete_after: Time { micros: 7 }, ..RetentionRecord::default() };
    on_both(|ground| {
        let one = written_by_two(ground, 3);
        assert_eq!((ground.files('p').len(), ground.singles()), (1, 2));
        for number in [0, 2] {
            let key = block(number).key();
            let op = StoreOp::Restamp { key, place: ANYWHERE, record: promise, known: Time::ZERO };
            sample::run(&*one.store, op).unwrap();
        }
        let two = ground.node(2);
        erase_for(&two, 0, Erasure::ForRoom).unwrap();
        for number in [0, 2] {
            let header = sample::header(&*ground.node(3).store, block(number)).unwrap();
            assert_eq!(header.meta.record, promise, "block {number}");
        }
        // Whoever finds it erases all of it.
        erase_for(&two, 0, Erasure::Promised).unwrap();
        assert_eq!((ground.singles(), told(&ground.node(3))), (1, vec![1, 2, 3]));
    });
}

/// As when the daemon could not write the promise into the record before it fell due.
#[test]
fn promised_bytes_go_although_no_record_told_of_the_promise() {
    on_both(|ground| {
        let one = ground.node(1);
        write_all(&one, 0..8);
        erase_for(&one, 1, Erasure::Unusable).unwrap();
        one.shed(&ground.handle).unwrap();
        assert_eq!(copies(ground, 1), 1, "nobody was promised anything");
        erase_for(&one, 2, Erasure::Promised).unwrap();
        one.shed(&ground.handle).unwrap();
        assert_eq!([1, 2, 3].map(|number| copies(ground, number)), [0, 0, 1]);
        assert_eq!(read_all(&ground.node(2), 0..8), [0, 3, 4, 5, 6, 7]);
    });
}

/// Its room was wanted, its pack is needed for others, and it was stored again since then.
#[test]
fn promised_bytes_go_also_where_the_block_was_evicted_before() {
    on_both(|ground| {
        let (one, two) = (ground.node(1), ground.node(2));
        write_all(&one, 0..8);
        for number in 1..3 {
            erase_for(&one, number, Erasure::Unusable).unwrap();
        }
        one.shed(&ground.handle).unwrap();
        assert_eq!([1, 2].map(|number| copies(ground, number)), [1, 1]);
        write_all(&two, 1..2);
        assert_eq!(copies(ground, 1), 2);
        for number in 1..3 {
            erase_for(&two, number, Erasure::Promised).unwrap();
        }
        two.shed(&ground.handle).unwrap();
        assert_eq!([1, 2].map(|number| copies(ground, number)), [0, 0]);
        assert_eq!(read_all(&ground.node(3), 0..8), [0, 3, 4, 5, 6, 7]);
    });
}
