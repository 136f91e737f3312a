//! Engines of several clients: a scheduler that looks up and ends requests, ranks that store for them.

use super::*;
use crate::domain::retention::{Shield, TokenRange, Wish};

fn join_engine(bench: &mut Bench, client: u64, engine: Option<&str>) {
    join_rank(bench, client, engine, (0, 1));
}

fn join_rank(bench: &mut Bench, client: u64, engine: Option<&str>, (shard, shards): (u32, u32)) {
    bench.client = ClientId(client);
    let engine = engine.map(String::from);
    let hello = Command::Hello { namespace: namespace(shards), engine, prefill_tokens_per_s: None };
    assert!(matches!(bench.ask(hello), Reply::Hello { .. }));
    bench.pool = bench.register(shard);
}

fn lookup(request: u64, blocks: &[u64]) -> Command {
    let (request, ask_shared) = (RequestId(request), Duration::ZERO);
    Command::Lookup { request, session: None, keys: keys(blocks), ask_shared, queued: false }
}

/// A scheduler asks for blocks 1 to 4, a rank stores them for five minutes, the scheduler ends the request.
fn usage_of(scheduler: Option<&str>, rank: Option<&str>) -> Usage {
    let mut bench = Bench::new([0, 10, 0, 0]);
    join_engine(&mut bench, 2, scheduler);
    join_engine(&mut bench, 3, rank);
    let (scheduler, rank) = (ClientId(2), ClientId(3));
    bench.client = scheduler;
    bench.ask(lookup(1, &[1, 2, 3, 4]));
    bench.client = rank;
    bench.start_store_of(None, for_five_minutes(), None, &[1, 2, 3, 4]);
    bench.run();
    bench.client = scheduler;
    end(&mut bench)
}

fn for_five_minutes() -> Directives {
    let shield = Some(Shield { ttl: Duration::from_mins(5), refresh_on_hit: true });
    let wish = Wish { shield, ..Wish::default() };
    let directive = Directive { tokens: TokenRange { start: 0, end: None }, wish };
    Directives::admit(vec![directive]).expect("a sound wish")
}

fn end(bench: &mut Bench) -> Usage {
    let end = Command::EndRequest {
        request: RequestId(1),
        stop: Stop::EndTurn,
        output_tokens: 0,
        prefill: None,
    };
    let Reply::EndRequest { usage } = bench.ask(end) else { panic!("an end is answered") };
    usage
}

#[test]
fn clients_of_one_engine_speak_of_the_same_requests() {
    assert_eq!(usage_of(Some("a"), Some("a")).created_5m_tokens, 64);
    for (scheduler, rank) in [(None, None), (Some("a"), Some("b")), (Some("a"), None)] {
        let usage = usage_of(scheduler, rank);
        assert_eq!((usage.created_5m_tokens, usage.uncached_tokens), (0, 64));
    }
}

#[test]
fn a_block_counts_once_however_many_ranks_store_it() {
    let mut bench = Bench::with_config([0, 10, 0, 0], 2, |_| {});
    for shard in 0..2 {
        join_rank(&mut bench, 2 + u64::from(shard), Some("a"), (shard, 2));
        bench.start_store_of(None, for_five_minutes(), None, &[1, 2, 3, 4]);
    }
    bench.run();
    let usage = end(&mut bench);
    assert_eq!((usage.created_5m_tokens, usage.uncached_tokens), (64, 0));
    assert_eq!(bench.found(&[1, 2, 3, 4]), "dram:4");
}

#[test]
fn an_engines_requests_end_with_its_last_client() {
    let mut bench = Bench::new([0, 10, 0, 0]);
    let open = |bench: &Bench| bench.manager.open_requests();
    join_engine(&mut bench, 2, Some("a"));
    join_engine(&mut bench, 3, Some("a"));
    bench.store(None, &[1]);
    assert_eq!(open(&bench), 1);
    bench.event(Event::ClientGone { client: ClientId(2) });
    assert_eq!(open(&bench), 1);
    // One that comes again finds what the other one has begun.
    join_engine(&mut bench, 4, Some("a"));
    bench.event(Event::ClientGone { client: ClientId(3) });
    assert_eq!(open(&bench), 1);
    bench.event(Event::ClientGone { client: ClientId(4) });
    assert_eq!(open(&bench), 0);
}

/// Who stores says nothing of what would have been found: LRU is not held to have done better.
#[test]
fn what_is_stored_without_a_lookup_is_not_held_against_the_policy() {
    let mut bench = Bench::with_config([0, u64::MAX, 0, 0], 1, |config| {
        config.policy = PolicyName::Value;
    });
    let rank = bench.client;
    join_engine(&mut bench, 2, None);
    for chain in 0..20 {
        let blocks: Vec<u64> = (0..100).map(|n| chain * 1000 + n).collect();
        bench.client = ClientId(2);
        bench.ask(lookup(chain, &blocks));
        bench.client = rank;
        bench.pool = PoolId(1);
        bench.ask(Command::EndRequest {
            request: RequestId(1),
            stop: Stop::Unknown,
            output_tokens: 0,
            prefill: None,
        });
        assert!(bench.store(None, &blocks).failed.is_empty());
    }
    assert!(bench.manager.lru_decides().is_empty());
}

/// Engines ask again while their requests wait. What isn't stored yet LRU couldn't have had either.
#[test]
fn a_request_that_asks_again_is_not_held_against_the_policy() {
    let mut bench = Bench::with_config([0, u64::MAX, 0, 0], 1, |config| {
        config.policy = PolicyName::Value;
    });
    for chain in 0..10 {
        let blocks: Vec<u64> = (0..100).map(|n| chain * 1000 + n).collect();
        bench.ask(lookup(1, &blocks));
        bench.ask(lookup(1, &blocks));
        bench.store(None, &blocks);
        end(&mut bench);
    }
    assert!(bench.manager.lru_decides().is_empty());
}
