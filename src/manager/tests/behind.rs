//! Engines whose streams have not come as far as their calls: nobody waits behind one.

use super::*;
use crate::domain::retention::{TokenRange, Wish};
use crate::movement::Link;

/// Two engines on links that move one transfer at a time, blocks 1 and 2 stored. The first one says by
/// events how far it has come; `bench` speaks for it.
fn with_events() -> (Bench, PoolId) {
    let mut bench = Bench::with_config([0, 100, 0, 0], 1, |config| {
        config.links.iter_mut().for_each(|link| link.in_flight_max = 1);
    });
    bench.store(None, &[1, 2]);
    let (second, other) = (bench.pool, ClientId(2));
    bench.join(other, 1);
    bench.pool = bench.register_with_events();
    (bench, second)
}

/// The pools of what the shell was given and has not ended.
fn moving(bench: &Bench) -> Vec<PoolId> {
    let pool = |transfer: &Transfer| match (transfer.items[0].from, transfer.items[0].to) {
        (End::Pool { pool, .. }, _) | (_, End::Pool { pool, .. }) => pool,
        ends => panic!("{ends:?}"),
    };
    bench.transfers.iter().map(pool).collect()
}

fn came(bench: &mut Bench, came: bool) {
    let op = bench.awaited.pop_front().expect("an operation waits for its engine");
    bench.event(Event::EngineCame { op, came });
}

/// Speaks for another engine, or the first again.
fn speak_for(bench: &mut Bench, client: u64, pool: PoolId) {
    (bench.client, bench.pool) = (ClientId(client), pool);
}

#[test]
fn nothing_starts_before_its_engine_has_come_so_far() {
    let (mut bench, second) = with_events();
    let first = bench.pool;
    bench.start_store(None, &[11]);
    bench.start_load(&[1, 2]);
    assert!(bench.transfers.is_empty());
    let status = bench.manager.status();
    assert_eq!((status.transfers_in_flight, status.transfers_queued), (0, 2));
    assert_eq!(status.links[Link::DeviceDown.index()].in_flight_bytes, 0, "its link is free");
    speak_for(&mut bench, 1, second);
    bench.start_store(None, &[21]);
    assert_eq!(moving(&bench), [second]);
    // The link is the other one's now: what comes back waits for its turn.
    came(&mut bench, true);
    assert_eq!(moving(&bench), [second]);
    came(&mut bench, true);
    assert_eq!(moving(&bench), [second, first], "the load's link is free");
    bench.run();
    assert_eq!(bench.completions.len(), 3);
    assert!(bench.completions.iter().all(|completion| completion.failed.is_empty()));
}

#[test]
fn an_engine_of_which_nobody_can_tell_is_not_copied() {
    let (mut bench, _) = with_events();
    bench.start_store(None, &[11, 12]);
    bench.start_load(&[1, 2]);
    came(&mut bench, false);
    came(&mut bench, false);
    assert!(bench.transfers.is_empty());
    let failed: Vec<_> = bench.completions.iter().map(|completion| &completion.failed).collect();
    assert_eq!(failed, [&[0, 1], &[0, 1]]);
    assert_eq!(bench.found(&[11]), "");
    assert_eq!(bench.found(&[1, 2]), "dram:2", "nothing is wrong with what is here");
}

#[test]
fn what_waits_for_an_engine_ends_with_its_time_and_with_its_pool() {
    let (mut bench, _) = with_events();
    let pool = bench.pool;
    bench.start_load(&[1, 2]);
    bench.now = bench.now + Duration::from_secs(2);
    bench.event(Event::Tick);
    assert_eq!(bench.completions.pop().expect("its time is up").failed, [0, 1]);
    bench.start_store(None, &[12]);
    bench.ask(Command::UnregisterPool { pool });
    assert_eq!(bench.completions.pop().expect("its pool is given back").failed, [0]);
    assert_eq!(bench.freed, [pool]);
    // Heard of too late.
    came(&mut bench, true);
    came(&mut bench, false);
    assert!(bench.transfers.is_empty());
}

#[test]
fn blocks_that_two_engines_wait_for_go_to_each_when_it_has_come() {
    let (mut bench, second) = with_events();
    let first = bench.pool;
    bench.start_store(None, &[11]);
    speak_for(&mut bench, 1, second);
    // It joins the store, whose block lands only when the first engine has come.
    bench.start_load(&[11]);
    assert!(bench.transfers.is_empty());
    speak_for(&mut bench, 2, first);
    bench.start_load(&[11]);
    came(&mut bench, true);
    let stored = bench.transfers.pop_front().expect("the store moves").id;
    bench.event(Event::TransferDone { transfer: stored, failed: Vec::new() });
    assert_eq!(moving(&bench), [second], "the first engine's load waits for it");
    came(&mut bench, true);
    bench.run();
    assert_eq!(bench.completions.len(), 3);
    assert!(bench.completions.iter().all(|completion| completion.failed.is_empty()));
}

#[test]
fn what_was_forgotten_meanwhile_is_not_delivered() {
    let (mut bench, second) = with_events();
    bench.start_load(&[1, 2]);
    let first = bench.pool;
    speak_for(&mut bench, 1, second);
    let wish = Wish { delete_after: Some(Duration::from_millis(1)), ..Wish::default() };
    let tokens = TokenRange { start: 0, end: None };
    bench.turn(None, &[Directive { tokens, wish }], &[1, 2, 3]);
    bench.now = bench.now + Duration::from_millis(5);
    bench.event(Event::Tick);
    speak_for(&mut bench, 2, first);
    came(&mut bench, true);
    assert!(bench.transfers.is_empty());
    assert_eq!(bench.completions.pop().expect("it ends").failed, [0, 1]);
}

/// Nothing of it may ever come, and what it began holds room.
#[test]
fn a_store_waits_for_its_engine_for_a_while() {
    let (mut bench, second) = with_events();
    bench.start_store(None, &[11, 12]);
    speak_for(&mut bench, 1, second);
    bench.start_store(None, &[11, 12]);
    bench.now = bench.now + Duration::from_secs(31);
    bench.event(Event::Tick);
    let ended: Vec<_> = bench.completions.drain(..).map(|end| end.failed).collect();
    assert!(ended.contains(&vec![0, 1]), "{ended:?}");
    assert_eq!(bench.manager.status().ops_in_flight, 0);
    assert_eq!(bench.tier(Tier::Dram).blocks, 2, "what is here and nothing else");
    assert!(bench.store(None, &[11, 12]).failed.is_empty());
}

#[test]
fn a_store_whose_engine_came_takes_its_time() {
    let (mut bench, _) = with_events();
    bench.start_store(None, &[11]);
    came(&mut bench, true);
    bench.now = bench.now + Duration::from_mins(2);
    bench.event(Event::Tick);
    bench.run();
    assert!(bench.completions.pop().expect("it ends").failed.is_empty());
}

#[test]
fn what_can_be_read_is_not_waited_for() {
    let mut bench = Bench::new([0, 4, 10, 0]);
    bench.store(None, &[1, 2]);
    let other = bench.pool;
    bench.store(None, &[11, 12, 13, 14]);
    assert_eq!(bench.found(&[1, 2]), "nvme:2");
    bench.join(ClientId(2), 1);
    bench.pool = bench.register_with_events();
    // Computed anew, and in memory again once the engine has come so far.
    bench.start_store(None, &[1, 2]);
    speak_for(&mut bench, 1, other);
    assert!(bench.load(&[1, 2]).failed.is_empty());
    came(&mut bench, true);
    bench.run();
    assert_eq!(bench.found(&[1, 2]), "dram:2");
}

#[test]
fn no_more_waits_for_engines_than_would_wait_for_links() {
    let mut bench = Bench::with_config([0, 100, 0, 0], 1, |config| {
        config.links.iter_mut().for_each(|link| link.queued_max = 3);
    });
    bench.pool = bench.register_with_events();
    for block in 1..=4 {
        bench.start_store(None, &[block]);
    }
    let ended: Vec<_> = bench.completions.drain(..).map(|end| end.failed).collect();
    assert_eq!(ended, [[0]]);
    assert_eq!(bench.manager.status().transfers_queued, 3);
}

#[test]
fn a_pool_that_is_given_back_is_waited_for_by_nothing() {
    let mut bench = Bench::new([0, 2, 10, 0]);
    bench.store(None, &[1]);
    bench.store(None, &[2, 3]);
    assert_eq!(bench.found(&[1]), "nvme:1");
    bench.pool = bench.register_with_events();
    let (pool, lease) = (bench.pool, bench.lease(&[2, 3]));
    // It waits for room in memory, and the load for it.
    bench.start_store(None, &[1]);
    bench.start_load(&[1]);
    bench.ask(Command::UnregisterPool { pool });
    assert_eq!(bench.freed, [pool]);
    bench.ask(Command::ReleaseLease { lease });
}
