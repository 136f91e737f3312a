//! Blocks of several ranks, and what a restart brings back.

use super::*;
use crate::domain::retention::RetentionRecord;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{FoundFrame, FrameMeta, Place};

#[test]
fn a_block_is_whole_when_all_ranks_have_stored() {
    let mut bench = Bench::with_config([0, 10, 0, 0], 2, |_| {});
    let second = bench.register(1);
    let first = bench.pool;
    assert!(bench.store(None, &[1, 2]).failed.is_empty());
    assert_eq!(bench.found(&[1, 2]), "");
    bench.pool = second;
    bench.start_store(None, &[1, 2]);
    let mut seals = 0;
    bench.run_with(|copy| {
        seals += u32::from(copy.seal);
        None
    });
    assert_eq!(seals, 2);
    assert_eq!(bench.found(&[1, 2]), "dram:2");
    bench.pool = first;
    assert!(bench.load(&[1, 2]).failed.is_empty());
}

#[test]
fn a_rank_that_never_comes_frees_the_room() {
    let mut bench = Bench::with_config([0, 10, 0, 0], 2, |_| {});
    bench.store(None, &[1, 2]);
    assert_eq!(bench.tier(Tier::Dram).blocks, 2);
    bench.now = bench.now + Duration::from_secs(31);
    bench.event(Event::Tick);
    assert_eq!(bench.tier(Tier::Dram).blocks, 0);
}

#[test]
fn a_rank_that_fails_fails_the_block() {
    let mut bench = Bench::with_config([0, 10, 0, 0], 2, |_| {});
    bench.start_store(None, &[1]);
    let second = bench.register(1);
    bench.pool = second;
    bench.start_store(None, &[1]);
    bench.run_with(|copy| {
        matches!(copy.from, End::Pool { shard: 1, .. }).then_some(FailureKind::NotDone)
    });
    assert_eq!(bench.found(&[1]), "");
    assert_eq!(bench.tier(Tier::Dram).blocks, 0);
}

fn found_frame(n: u64, parent: Option<u64>, position: u32, slot: u64) -> Event {
    let namespace = namespace(1);
    let slot_bytes = namespace.frame_bytes();
    let meta = FrameMeta {
        key: key(n),
        tail: HashTail(n),
        parent: parent.map(key),
        position,
        created_at: Time::ZERO,
        record: RetentionRecord::default(),
    };
    let header = FrameHeader {
        namespace: namespace.digest(),
        meta,
        payload_bytes: namespace.payload_bytes(),
        payload_checksum: 0,
        node_id: [0; 16],
    };
    let slot_bytes = u32::try_from(slot_bytes).expect("small");
    let place = Place { offset: slot * u64::from(slot_bytes), slot_bytes };
    Event::Found { tier: Tier::Nvme, frame: Box::new(FoundFrame { place, header }) }
}

#[test]
fn a_restart_brings_chains_back_and_leaves_holes_behind() {
    let mut bench = Bench::with_config([0, 10, 10, 0], 1, |config| {
        config.tiers[Tier::Nvme.index()].as_mut().expect("present").recovers = true;
    });
    bench.event(found_frame(3, Some(2), 2, 0));
    bench.event(found_frame(2, Some(1), 1, 1));
    bench.event(found_frame(9, Some(8), 4, 2));
    bench.event(found_frame(1, None, 0, 3));
    bench.event(found_frame(1, None, 0, 4));
    bench.event(found_frame(5, Some(1), 7, 5));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    assert_eq!(bench.erases.len(), 1, "a second frame of one block goes");
    bench.run();
    assert_eq!(bench.tier(Tier::Nvme).blocks, 3);
    assert_eq!(bench.found(&[1, 2, 3]), "nvme:3");
    assert_eq!(bench.found(&[9]), "");
    assert!(bench.load(&[1, 2, 3]).failed.is_empty());
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
}
