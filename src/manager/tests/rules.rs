//! One client, one shard: placement, order of eviction, holds, failures.

use super::*;
use crate::domain::retention::{TokenRange, Wish};
use crate::movement::{Class, Link};

#[test]
fn what_was_stored_is_found_and_loaded() {
    let mut bench = Bench::new([0, 10, 0, 0]);
    assert_eq!(bench.found(&[1, 2, 3]), "");
    assert!(bench.store(None, &[1, 2, 3]).failed.is_empty());
    assert_eq!(bench.found(&[1, 2, 3, 4]), "dram:3");
    assert_eq!(bench.load(&[1, 2, 3, 4]).failed, [3]);
}

#[test]
fn a_block_is_invisible_until_it_has_landed() {
    let mut bench = Bench::new([0, 10, 0, 0]);
    bench.start_store(None, &[1, 2]);
    let reply = bench.ask(Command::Lookup {
        request: RequestId(1),
        session: None,
        keys: keys(&[1, 2]),
        ask_shared: Duration::ZERO,
        queued: false,
    });
    assert!(matches!(reply, Reply::Lookup { lease: None, .. }), "{reply:?}");
    // A load of it waits for it to land, and is then served.
    bench.start_load(&[1, 2]);
    bench.run();
    let ends: Vec<_> = bench.completions.iter().map(|end| (end.kind, end.failed.len())).collect();
    assert_eq!(ends, [(OpKind::Store, 0), (OpKind::Load, 0)]);
}

#[test]
fn the_oldest_leaf_goes_first_and_parents_last() {
    let mut bench = Bench::new([0, 6, 0, 0]);
    bench.store(None, &[1, 2, 3]);
    bench.store(None, &[11, 12, 13]);
    bench.store(None, &[21, 22]);
    assert_eq!(bench.found(&[1, 2, 3]), "dram:1", "the tail of the oldest chain went");
    assert_eq!(bench.found(&[11, 12, 13]), "dram:3");
    bench.store(Some(22), &[23, 24]);
    assert_eq!(bench.found(&[1]), "", "then its root, before a younger chain loses its tail");
    assert_eq!(bench.found(&[11, 12, 13]), "dram:2");
}

#[test]
fn a_used_prefix_outlives_an_unused_tail() {
    let mut bench = Bench::new([0, 4, 0, 0]);
    bench.store(None, &[1, 2]);
    bench.store(None, &[11, 12]);
    assert_eq!(bench.found(&[1]), "dram:1");
    bench.store(None, &[21, 22, 23]);
    assert_eq!(bench.found(&[1, 2]), "dram:1");
    assert_eq!(bench.found(&[11]), "");
}

#[test]
fn copies_sink_as_tiers_fill_and_rise_when_used() {
    let mut bench = Bench::new([4, 4, 4, 10]);
    for chain in 0..5_u64 {
        let blocks: Vec<u64> = (0..4).map(|n| chain * 10 + n).collect();
        bench.store(None, &blocks);
    }
    assert_eq!(bench.found(&[0, 1, 2, 3]), "object:4");
    assert_eq!(bench.found(&[40, 41, 42, 43]), "hbm:4");
    assert!(bench.load(&[0, 1, 2, 3]).failed.is_empty());
    let now = bench.found(&[0, 1, 2, 3]);
    assert!(now.starts_with("hbm:"), "{now}");
}

#[test]
fn a_last_tier_that_overflows_forgets() {
    let mut bench = Bench::new([0, 2, 2, 0]);
    for chain in 0..6_u64 {
        bench.store(None, &[chain * 10, chain * 10 + 1]);
    }
    assert_eq!(bench.tier(Tier::Dram).blocks, 2);
    assert_eq!(bench.tier(Tier::Nvme).blocks, 2);
    assert_eq!(bench.tier(Tier::Nvme).evicted_blocks, 8);
    assert_eq!(bench.found(&[0]), "");
    assert_eq!(bench.found(&[50, 51]), "dram:2");
}

#[test]
fn a_leased_chain_stays() {
    let mut bench = Bench::new([0, 3, 0, 0]);
    bench.store(None, &[1, 2, 3]);
    let lease = bench.lease(&[1, 2, 3]);
    let refused = bench.store(None, &[11, 12]);
    assert_eq!(refused.failed, [0, 1], "no room is a normal answer");
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
    assert_eq!(bench.ask(Command::ReleaseLease { lease }), Reply::Ok);
    assert!(bench.store(None, &[11, 12]).failed.is_empty());
    let again = bench.ask(Command::ReleaseLease { lease });
    assert!(matches!(again, Reply::Refused(Refusal::NotFound(_))), "{again:?}");
}

#[test]
fn a_lease_runs_out() {
    let mut bench = Bench::new([0, 2, 0, 0]);
    bench.store(None, &[1, 2]);
    bench.lease(&[1, 2]);
    bench.now = bench.now + Duration::from_secs(31);
    bench.event(Event::Tick);
    assert!(bench.store(None, &[11, 12]).failed.is_empty());
}

#[test]
fn a_chain_longer_than_the_tier_keeps_its_head() {
    let mut bench = Bench::new([0, 3, 0, 0]);
    assert_eq!(bench.store(None, &[1, 2, 3, 4, 5]).failed, [3, 4]);
    assert_eq!(bench.found(&[1, 2, 3, 4, 5]), "dram:3");
}

#[test]
fn a_block_without_its_parent_is_not_kept() {
    let mut bench = Bench::new([0, 10, 0, 0]);
    assert_eq!(bench.store(Some(7), &[8, 9]).failed, [0, 1]);
    bench.store(None, &[1, 2]);
    let crossed = bench.store(None, &[2]);
    assert_eq!(crossed.failed, [0], "it is here with another parent");
}

#[test]
fn two_loads_of_a_cold_block_share_one_read() {
    let mut bench = Bench::new([0, 2, 4, 0]);
    bench.store(None, &[1, 2]);
    bench.store(None, &[11, 12]);
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
    bench.start_load(&[1, 2]);
    bench.start_load(&[1, 2]);
    let mut reads = 0;
    bench.run_with(|copy| {
        reads += u32::from(matches!(copy.from, End::Nvme(_)));
        None
    });
    assert_eq!(reads, 2);
    assert_eq!(bench.completions.iter().map(|end| end.failed.len()).sum::<usize>(), 0);
}

#[test]
fn a_lost_copy_is_dropped_and_the_chain_behind_it() {
    let mut bench = Bench::new([0, 2, 4, 0]);
    bench.store(None, &[1, 2]);
    bench.store(None, &[11, 12]);
    bench.start_load(&[1, 2]);
    let bad = key(1);
    bench.run_with(|copy| {
        let lost = matches!(copy.from, End::Nvme(_)) && copy.meta.key == bad;
        lost.then_some(FailureKind::SourceCorrupt)
    });
    let end = bench.completions.pop().expect("a load completes whatever happens");
    assert_eq!(end.failed, [0]);
    assert_eq!(bench.found(&[1, 2]), "", "nothing is served behind a hole");
    assert_eq!(bench.manager.status().corrupt_copies, 1);
    assert!(bench.store(None, &[1, 2]).failed.is_empty());
    assert_eq!(bench.found(&[1, 2]), "dram:2");
}

#[test]
fn a_chain_that_was_lost_comes_anew_while_its_request_holds_it() {
    let mut bench = Bench::new([0, 3, 4, 0]);
    bench.store(None, &[1, 2, 3]);
    bench.store(None, &[11, 12, 13]);
    bench.lease(&[1, 2, 3]);
    bench.start_load(&[1, 2, 3]);
    let bad = key(2);
    bench.run_with(|copy| {
        let lost = matches!(copy.from, End::Nvme(_)) && copy.meta.key == bad;
        lost.then_some(FailureKind::SourceCorrupt)
    });
    assert_eq!(bench.completions.pop().expect("a load completes").failed, [1]);
    // What failed is computed, and what hangs on it is stored with it.
    assert!(bench.store(Some(1), &[2, 3]).failed.is_empty());
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
}

#[test]
fn a_tier_that_fails_below_never_blocks_the_one_above() {
    let mut bench = Bench::new([0, 2, 4, 0]);
    bench.store(None, &[1, 2]);
    bench.start_store(None, &[11, 12]);
    bench.run_with(|copy| matches!(copy.to, End::Nvme(_)).then_some(FailureKind::TargetFailed));
    assert!(bench.completions.pop().expect("it completes").failed.is_empty());
    assert_eq!(bench.found(&[11, 12]), "dram:2");
    assert_eq!(bench.found(&[1]), "");
    assert!(bench.tier(Tier::Nvme).failures > 0);
}

#[test]
fn a_late_load_fails_what_has_not_started() {
    let mut bench = Bench::with_config([0, 10, 0, 0], 1, |config| {
        config.links[Link::DeviceUp.index()].in_flight_max = 1;
    });
    let blocks: Vec<u64> = (0..10).collect();
    bench.store(None, &blocks);
    bench.start_load(&blocks[..5]);
    bench.start_load(&blocks[5..]);
    bench.now = bench.now + Duration::from_secs(2);
    bench.event(Event::Tick);
    assert_eq!(bench.completions.len(), 1, "the queued one ends, the moving one is waited for");
    assert_eq!(bench.completions[0].failed.len(), 5);
    bench.run();
    assert!(bench.completions[1].failed.is_empty());
}

/// Two loads wait for the same store, so their copies are one transfer; it waits behind another one.
#[test]
fn each_load_of_a_transfer_ends_by_its_own_time() {
    let mut bench = Bench::with_config([0, 10, 0, 0], 1, |config| {
        config.links[Link::DeviceUp.index()].in_flight_max = 1;
    });
    bench.store(None, &[11]);
    bench.start_store(None, &[1]);
    let store = bench.transfers.pop_front().expect("it begins");
    let (first, second) = (bench.pool, bench.register(0));
    for pool in [first, second] {
        bench.pool = pool;
        bench.start_load(&[1]);
        bench.now = bench.now + Duration::from_millis(500);
    }
    bench.start_load(&[11]);
    bench.event(Event::TransferDone { transfer: store.id, failed: Vec::new() });
    assert_eq!(bench.transfers.len(), 1, "what is in DRAM moves, the others wait for it");
    bench.completions.clear();
    let late = |bench: &mut Bench| {
        bench.event(Event::Tick);
        bench.completions.drain(..).map(|end| end.failed.len()).collect::<Vec<_>>()
    };
    assert_eq!(late(&mut bench), [1], "the first one's time is up");
    bench.now = bench.now + Duration::from_millis(300);
    assert_eq!(late(&mut bench), [0; 0]);
    bench.now = bench.now + Duration::from_millis(300);
    assert_eq!(late(&mut bench), [1]);
    bench.run();
    assert_eq!(late(&mut bench), [0], "what moved is waited for");
}

#[test]
fn a_client_that_dies_gives_everything_back_once_nothing_moves() {
    let mut bench = Bench::new([0, 4, 0, 0]);
    bench.store(None, &[1, 2]);
    bench.lease(&[1, 2]);
    bench.start_load(&[1, 2]);
    let (client, pool) = (bench.client, bench.pool);
    bench.event(Event::ClientGone { client });
    assert!(bench.freed.is_empty(), "a copy still writes to the pool");
    bench.run();
    assert_eq!(bench.freed, [pool]);
    assert!(bench.completions.is_empty(), "nobody is there to be told");
    let status = bench.manager.status();
    assert_eq!((status.leases, status.ops_in_flight, status.pools), (0, 0, 0));
    bench.join(ClientId(2), 1);
    assert_eq!(bench.found(&[1, 2]), "dram:2");
}

#[test]
fn bad_commands_are_refused_with_the_remedy() {
    let mut bench = Bench::new([0, 4, 0, 0]);
    let (pool, request, client) = (bench.pool, RequestId(1), bench.client);
    let store = |slots: Vec<u32>, pool| Command::Store {
        request,
        session: None,
        directives: Directives::default(),
        parent: None,
        keys: keys(&[1]),
        labels: Labels::default(),
        pool,
        slots,
        durable: false,
    };
    let mut says = |command, words: &str| {
        let reply = bench.ask(command);
        let Reply::Refused(refusal) = &reply else { panic!("{reply:?}") };
        assert!(refusal.to_string().contains(words), "{refusal}");
    };
    says(store(vec![1000], pool), "out of range: pool 1 has 1000 slots");
    says(store(vec![], pool), "send one slot for each block");
    says(store(vec![0], PoolId(99)), "not registered");
    says(Command::RegisterPool { shard: 1, slots: 1, has_events: false }, "shards count from 0");
    says(Command::hello(namespace(1)), "said Hello already");
    bench.client = ClientId(5);
    let reply = bench.ask(Command::Lookup {
        request,
        session: None,
        keys: keys(&[1]),
        ask_shared: Duration::ZERO,
        queued: false,
    });
    assert!(matches!(reply, Reply::Refused(Refusal::Precondition(_))), "{reply:?}");
    bench.client = client;
    assert_eq!(bench.found(&[1]), "");
}

#[test]
fn another_namespace_with_other_blocks_gets_room_too() {
    let mut bench = Bench::new([0, u64::MAX, 0, 0]);
    let other = |bench: &mut Bench, client: u64, page_bytes: u32| {
        let mut namespace = namespace(1);
        namespace.shape.page_bytes = page_bytes;
        bench.client = ClientId(client);
        bench.ask(Command::hello(namespace));
        bench.pool = bench.register(0);
    };
    other(&mut bench, 2, 64 << 10);
    for chain in 0..20 {
        let blocks: Vec<u64> = (0..60).map(|n| chain * 1000 + n).collect();
        bench.store(None, &blocks);
    }
    assert!(bench.tier(Tier::Dram).used_bytes > 3 * CHUNK_BYTES, "the tier is full");
    other(&mut bench, 3, 128 << 10);
    assert!(bench.store(None, &[1_000_001, 1_000_002]).failed.is_empty());
}

#[test]
fn copies_of_one_transfer_take_the_same_way() {
    // Two blocks lie on NVMe, DRAM has one free slot and nothing that may go: the first block goes
    // there, the second straight to the pool.
    let mut bench = Bench::new([0, 2, 4, 0]);
    bench.store(None, &[1, 2]);
    bench.store(None, &[11, 12]);
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
    bench.start_load(&[12]);
    bench.run_with(|_| Some(FailureKind::SourceCorrupt));
    bench.completions.clear();
    bench.lease(&[11]);
    bench.start_load(&[1, 2]);
    assert_eq!(bench.transfers.len(), 2, "{:?}", bench.transfers);
    for transfer in &bench.transfers {
        let way = |item: &TransferItem| (item.from.kind(), item.to.kind());
        assert!(transfer.items.iter().all(|item| way(item) == way(&transfer.items[0])));
    }
    bench.run();
    assert!(bench.completions.pop().expect("it completes").failed.is_empty());
}

#[test]
fn a_namespace_that_nobody_uses_gives_its_number_back() {
    let mut bench = Bench::with_config([0, 4, 0, 0], 1, |config| config.namespaces_max = 2);
    let hello = |bench: &mut Bench, client: u64, salt: u8| {
        bench.client = ClientId(client);
        let namespace = Namespace { tenant_salt: vec![salt], ..namespace(1) };
        bench.ask(Command::hello(namespace))
    };
    let refused = |reply: &Reply| matches!(reply, Reply::Refused(Refusal::Precondition(_)));
    assert!(!refused(&hello(&mut bench, 2, 2)));
    assert!(refused(&hello(&mut bench, 3, 3)), "two clients speak in two namespaces");
    bench.event(Event::ClientGone { client: ClientId(2) });
    let reply = hello(&mut bench, 3, 3);
    let Reply::Hello { namespace: third, .. } = reply else { panic!("{reply:?}") };
    bench.pool = bench.register(0);
    bench.store(None, &[1, 2]);
    bench.event(Event::ClientGone { client: ClientId(3) });
    assert!(refused(&hello(&mut bench, 4, 4)), "it has blocks");
    let reply = hello(&mut bench, 5, 3);
    assert!(matches!(reply, Reply::Hello { namespace, .. } if namespace == third), "{reply:?}");
    assert_eq!(bench.found(&[1, 2]), "dram:2");
}

#[test]
fn one_client_leaves_leases_for_the_others() {
    let mut bench = Bench::with_config([0, 4, 0, 0], 1, |config| config.leases_per_client_max = 2);
    bench.store(None, &[1]);
    let leases = [bench.lease(&[1]), bench.lease(&[1])];
    let (request, ask_shared) = (RequestId(8), Duration::ZERO);
    let look =
        Command::Lookup { request, session: None, keys: keys(&[1]), ask_shared, queued: false };
    assert!(matches!(bench.ask(look), Reply::Refused(Refusal::Busy { .. })));
    bench.join(ClientId(2), 1);
    bench.lease(&[1]);
    bench.client = ClientId(1);
    assert_eq!(bench.ask(Command::ReleaseLease { lease: leases[0] }), Reply::Ok);
    bench.lease(&[1]);
}

#[test]
fn of_a_batch_with_a_bad_block_the_others_count_as_moved() {
    let mut bench = Bench::new([0, 8, 0, 0]);
    bench.start_store(None, &[1, 2, 3, 4]);
    let mut items = 0;
    let second_fails = |_: &TransferItem| {
        items += 1;
        (items == 2).then_some(FailureKind::SourceFailed)
    };
    bench.run_with(second_fails);
    let down = bench.manager.status().links[Link::DeviceDown.index()];
    let block_bytes = bench.manager.namespace(NamespaceId(0)).payload_bytes;
    assert_eq!(down.moved_bytes[Class::Demand.index()], 3 * block_bytes);
}

#[test]
fn what_is_forgotten_while_it_waits_for_its_link_does_not_count_as_moved() {
    let mut bench = Bench::with_config([0, 8, 0, 0], 1, |config| {
        config.links.iter_mut().for_each(|link| link.in_flight_max = 1);
    });
    let wish = Wish { delete_after: Some(Duration::from_millis(1)), ..Wish::default() };
    let tokens = TokenRange { start: 16, end: None };
    bench.turn(None, &[Directive { tokens, wish }], &[1, 2, 3, 4]);
    bench.start_load(&[1]);
    bench.start_load(&[1, 2, 3, 4]);
    bench.now = bench.now + Duration::from_millis(5);
    bench.event(Event::Tick);
    let up = |bench: &Bench| bench.manager.status().links[Link::DeviceUp.index()];
    let block_bytes = bench.manager.namespace(NamespaceId(0)).payload_bytes;
    let first = bench.transfers.pop_front().expect("the first load moves").id;
    bench.event(Event::TransferDone { transfer: first, failed: Vec::new() });
    assert_eq!(up(&bench).in_flight_bytes, block_bytes, "of the second load one block is left");
    bench.run();
    assert_eq!(up(&bench).moved_bytes[Class::Demand.index()], 2 * block_bytes);
    assert_eq!(bench.completions.pop().expect("it ends").failed, [1, 2, 3]);
}
