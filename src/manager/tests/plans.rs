//! Load or recompute: what lookups advise, from what links and engines were seen to do.

use super::*;
use crate::domain::planner::Plan;

/// A node whose transfers each take `millis`, asked by an engine of so many tokens a second.
fn plan(bench: &mut Bench, blocks: &[u64]) -> Plan {
    let reply = bench.ask(Command::Lookup {
        request: RequestId(3),
        session: None,
        keys: keys(blocks),
        ask_shared: Duration::ZERO,
        queued: false,
    });
    let Reply::Lookup { plan, .. } = reply else { panic!("{reply:?}") };
    plan
}

fn join_with_rate(bench: &mut Bench, tokens_per_s: u32) {
    bench.client = ClientId(7);
    let prefill_tokens_per_s = Some(tokens_per_s);
    let hello =
        bench.ask(Command::Hello { namespace: namespace(1), engine: None, prefill_tokens_per_s });
    assert!(matches!(hello, Reply::Hello { .. }), "{hello:?}");
    bench.pool = bench.register(0);
}

/// Loads what is on NVMe and ends every transfer after `millis`.
fn load_slowly(bench: &mut Bench, blocks: &[u64], millis: u64) {
    bench.start_load(blocks);
    while let Some(transfer) = bench.transfers.pop_front() {
        bench.now = bench.now + Duration::from_millis(millis);
        bench.event(Event::TransferDone { transfer: transfer.id, failed: Vec::new() });
    }
    bench.completions.clear();
}

#[test]
fn a_cold_tier_slower_than_the_model_is_not_loaded_from() {
    let mut bench = Bench::new([0, 4, 32, 0]);
    for first in [1, 11, 21, 31, 41] {
        bench.store(None, &[first, first + 1, first + 2, first + 3]);
    }
    // 16 tokens a block at 160 a second: 100 ms a block.
    join_with_rate(&mut bench, 160);
    assert_eq!(plan(&mut bench, &[1, 2, 3, 4]).load.blocks, 4, "disks are assumed to be fast");
    for first in [1, 11, 21, 31] {
        load_slowly(&mut bench, &[first, first + 1, first + 2, first + 3], 1_000);
    }
    let slow = plan(&mut bench, &[41, 42, 43, 44]);
    assert_eq!((slow.load.blocks, slow.recompute), (0, Some(Duration::from_millis(400))));
    assert!(slow.mixed.takes <= slow.recompute.expect("the rate is known"));
    assert_eq!(slow.ready.len(), 1);
    // Nobody loads from it, so nothing tells whether it is still slow: it is tried again.
    bench.now = bench.now + Duration::from_mins(10);
    assert_eq!(plan(&mut bench, &[41, 42, 43, 44]).load.blocks, 4);
    load_slowly(&mut bench, &[41, 42, 43, 44], 10);
    assert_eq!(plan(&mut bench, &[1, 2, 3, 4]).load.blocks, 4, "it was fast");
}

#[test]
fn engines_correct_what_they_declared() {
    let mut bench = Bench::new([0, 8, 0, 0]);
    bench.store(None, &[1, 2]);
    assert_eq!(plan(&mut bench, &[1, 2]).recompute, None, "nobody said how fast the engine is");
    join_with_rate(&mut bench, 1_600);
    assert_eq!(plan(&mut bench, &[1, 2]).recompute, Some(Duration::from_millis(20)));
    let report = |tokens, millis| Some(Prefill { tokens, took: Duration::from_millis(millis) });
    for prefill in
        [report(1_600, 2_000), report(3, 1), report(1_600, 0)].into_iter().cycle().take(90)
    {
        bench.ask(Command::EndRequest {
            request: RequestId(3),
            stop: Stop::Unknown,
            output_tokens: 0,
            prefill,
        });
    }
    let corrected = plan(&mut bench, &[1, 2]).recompute.expect("the rate is known").as_millis();
    assert_eq!(corrected, 39, "half as fast; what is too small to measure says nothing");
}

#[test]
fn a_rate_of_zero_is_refused() {
    let mut bench = Bench::new([0, 8, 0, 0]);
    bench.client = ClientId(7);
    let prefill_tokens_per_s = Some(0);
    let said =
        bench.ask(Command::Hello { namespace: namespace(1), engine: None, prefill_tokens_per_s });
    let Reply::Refused(Refusal::Invalid(why)) = said else { panic!("{said:?}") };
    assert!(why.contains("prefill_tokens_per_s is 0"), "{why}");
}

#[test]
fn what_calls_cost_is_part_of_what_loads_take() {
    let mut bench = Bench::new([0, 8, 0, 0]);
    bench.store(None, &[1, 2]);
    let load_after = |bench: &mut Bench, micros: u64| {
        let said = plan(bench, &[1, 2]).load.takes;
        bench.now = bench.now + Duration::from_micros(micros);
        let (pool, slots) = (bench.pool, vec![0, 1]);
        let timeout = Duration::from_secs(1);
        bench.ask(Command::Load {
            request: RequestId(3),
            keys: keys(&[1, 2]),
            pool,
            slots,
            timeout,
        });
        while let Some(transfer) = bench.transfers.pop_front() {
            bench.event(Event::TransferDone { transfer: transfer.id, failed: Vec::new() });
        }
        said
    };
    let first = load_after(&mut bench, 300);
    let then = load_after(&mut bench, 500_000);
    assert_eq!(then, first + Duration::from_micros(300), "half a second is no call");
    assert_eq!(load_after(&mut bench, 300), then);
}
