//! Blocks of several ranks, and what a restart brings back.

use super::*;
use crate::domain::admission::{Rule, WriteMode, WriteRules};
use crate::domain::retention::RetentionRecord;
use crate::manager::Stray;
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
fn blocks_of_several_ranks_are_written_through_from_hbm_too() {
    for hbm in [0, 4] {
        let mut bench = Bench::with_config([hbm, 4, 10, 0], 2, |config| {
            config.nvme_writes =
                WriteRules { mode: WriteMode::Through, rule: Rule::All, ..WriteRules::default() };
        });
        assert_eq!(store_both(&mut bench, &[1, 2]), NONE_FAILED);
        assert_eq!(bench.tier(Tier::Nvme).blocks, 2, "{hbm} blocks of HBM");
    }
}

const NONE_FAILED: [Vec<u32>; 2] = [Vec::new(), Vec::new()];

/// Two ranks store the blocks, one after the other.
fn store_both(bench: &mut Bench, blocks: &[u64]) -> [Vec<u32>; 2] {
    let first = bench.pool;
    let second = bench.register(1);
    let failed = [first, second].map(|pool| {
        bench.pool = pool;
        bench.store(None, blocks).failed
    });
    bench.ask(Command::UnregisterPool { pool: second });
    bench.pool = first;
    failed
}

/// A node whose HBM and DRAM hold so many blocks each, full of another namespace's.
fn full_of_others(blocks: [u64; 4], policy: PolicyName) -> Bench {
    let mut bench = Bench::with_config(blocks, 1, |config| config.policy = policy);
    let others: Vec<u64> = (100..100 + blocks[0] + blocks[1]).collect();
    bench.store(None, &others);
    bench.event(Event::ClientGone { client: ClientId(1) });
    bench.join(ClientId(2), 2);
    bench
}

#[test]
fn what_finds_no_room_in_hbm_is_put_together_in_dram() {
    for policy in [PolicyName::Lru, PolicyName::Value] {
        let mut bench = full_of_others([4, 8, 40, 0], policy);
        assert_eq!(store_both(&mut bench, &[1, 2, 3]), NONE_FAILED, "{policy:?}");
        bench.run();
        let found = bench.found(&[1, 2, 3]);
        assert!(["hbm:3", "dram:3"].contains(&found.as_str()), "{policy:?}: {found}");
    }
}

#[test]
fn what_memory_has_no_use_for_sinks_by_way_of_it() {
    let mut bench = full_of_others([0, 4, 40, 0], PolicyName::Value);
    for chain in 0..8 {
        let blocks: Vec<u64> = (0..4).map(|n| 10 * chain + n).collect();
        assert_eq!(store_both(&mut bench, &blocks), NONE_FAILED, "chain {chain}");
    }
}

/// Their count is full, and none of them is of the newcomers' length.
#[test]
fn blocks_of_another_length_make_room_where_their_count_is_full() {
    let mut bench = full_of_others([4, 0, 40, 0], PolicyName::Lru);
    assert_eq!(store_both(&mut bench, &[1, 2, 3]), NONE_FAILED);
    assert_eq!(bench.found(&[1, 2, 3]), "hbm:3");
    assert_eq!(bench.tier(Tier::Hbm).blocks, 4, "one of the others stays");
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
    let frame = frame_of(1, (n, parent, position), slot);
    Event::Found { tier: Tier::Nvme, frame: Box::new(frame) }
}

fn frame_of(shards: u32, (n, parent, position): (u64, Option<u64>, u32), slot: u64) -> FoundFrame {
    let namespace = namespace(shards);
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
    FoundFrame { place, header }
}

/// Who loads it does not wait for the rank that is still to come, nor is that one told to keep what it has.
#[test]
fn a_block_that_is_found_between_its_ranks_is_served_and_comes_whole() {
    for tier in [Tier::Nvme, Tier::Object] {
        let mut bench = Bench::with_config([0, 10, 10, 10], 2, |config| {
            config.tiers[Tier::Nvme.index()].as_mut().expect("present").recovers = true;
        });
        let (first, second) = (bench.pool, bench.register(1));
        bench.store(None, &[1]);
        let frame = frame_of(2, (1, None, 0), 0);
        bench.event(match tier {
            Tier::Nvme => Event::Found { tier, frame: Box::new(frame) },
            _ => Event::Stray(Box::new(Stray::of(frame.header, [0; 16]).expect("our own"))),
        });
        assert_eq!(bench.found(&[1]), format!("{tier}:1"));
        assert!(bench.load(&[1]).failed.is_empty(), "{tier}");
        bench.pool = second;
        bench.start_store(None, &[1]);
        bench.run();
        bench.completions.clear();
        assert_eq!(bench.found(&[1]), "dram:1", "{tier}");
        bench.pool = first;
        assert!(bench.load(&[1]).failed.is_empty(), "{tier}");
    }
}

#[test]
fn a_restart_brings_chains_back_and_leaves_holes_behind() {
    let mut bench = Bench::recovering([0, 10, 10, 0]);
    bench.event(found_frame(3, Some(2), 2, 0));
    bench.event(found_frame(2, Some(1), 1, 1));
    bench.event(found_frame(9, Some(8), 4, 2));
    bench.event(found_frame(1, None, 0, 3));
    bench.event(found_frame(1, None, 0, 4));
    bench.event(found_frame(5, Some(1), 7, 5));
    bench.event(Event::ScanDone { tier: Tier::Nvme });
    let mut erased: Vec<Key> = bench.erases.iter().map(|(.., key)| *key).collect();
    erased.sort_unstable();
    let mut wanted = keys(&[1, 5, 9]);
    wanted.sort_unstable();
    assert_eq!(erased, wanted, "a second frame goes, and what a later scan might take in");
    bench.run();
    assert_eq!(bench.tier(Tier::Nvme).blocks, 3);
    assert_eq!(bench.found(&[1, 2, 3]), "nvme:3");
    assert_eq!(bench.found(&[9]), "");
    assert!(bench.load(&[1, 2, 3]).failed.is_empty());
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
}
