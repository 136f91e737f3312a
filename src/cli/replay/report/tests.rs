//! What the object and the table look like: others read them.

use std::time::Duration;

use crate::domain::units::Time;
use crate::movement::Link;
use crate::sim::replay::{LinkUse, Prefetched, Spread, TimedOutcome, Timing};
use crate::workload::trace::Format;

use super::*;

fn json_of(report: &ReplayReport) -> String {
    serde_json::to_string(report).unwrap()
}

fn report(live: bool) -> ReplayReport {
    let info = TraceInfo {
        format: Format::KvTrace,
        block_tokens: 64,
        unique_blocks: 1_937_733,
        contradicted_blocks: 0,
        requests: 29_753,
        first: Time::ZERO,
        last: Time::MAX,
    };
    let mode = if live { Mode::Live } else { Mode::Simulate };
    let (policy, hints) = ("lru", "none".to_owned());
    let head = ReportHead { trace: "t.jsonl".into(), info, mode, policy, hints, seed: 1 };
    let moved =
        TierTraffic { bytes_in: 1 << 30, bytes_out: 0, in_gb_per_s: 2.5, out_gb_per_s: 0.0 };
    let counts = ReportCounts {
        requests: 2,
        input_tokens: 4000,
        capacity_blocks: [10, 0, 500, 0],
        hit_tokens: [1000, 0, 500, 0],
        evicted_blocks: [7, 0, 0, 0],
        traffic: if live { [Some(moved), None, None, None] } else { [None; 4] },
    };
    let us = Percentiles { p50: 10.0, p99: 20.5 };
    let live = live.then_some(LiveReport {
        block_bytes: 65_536,
        bytes_verified: 3 << 20,
        corrupt_blocks: 0,
        lookup_us: us,
        load_us: us,
    });
    ReplayReport::new(head, &counts, 1.5, live)
}

#[test]
fn the_json_of_a_simulated_replay() {
    let expected = concat!(
        r#"{"trace":"t.jsonl","format":"kvtrace-rle-1","mode":"simulate","policy":"lru","#,
        r#""hints":"none","seed":1,"requests":2,"input_tokens":4000,"block_tokens":64,"#,
        r#""unique_blocks":1937733,"contradicted_blocks":0,"tiers":[{"tier":"hbm","capacity_blocks":10,"#,
        r#""hit_tokens":1000,"evicted_blocks":7},{"tier":"nvme","capacity_blocks":500,"#,
        r#""hit_tokens":500,"evicted_blocks":0}],"hit_tokens":1500,"hit_ratio":0.375,"#,
        r#""recomputed_tokens":2500,"elapsed_s":1.5}"#
    );
    assert_eq!(json_of(&report(false)), expected);
}

#[test]
fn a_live_replay_adds_to_it() {
    let json = json_of(&report(true));
    for part in [
        r#""mode":"live""#,
        r#""evicted_blocks":7,"bytes_in":1073741824,"bytes_out":0,"in_gb_per_s":2.5,"#,
        r#""elapsed_s":1.5,"block_bytes":65536,"bytes_verified":3145728,"corrupt_blocks":0,"#,
        r#""lookup_us":{"p50":10.0,"p99":20.5},"load_us":{"p50":10.0,"p99":20.5}}"#,
    ] {
        assert!(json.contains(part), "{json}\nlacks {part}");
    }
}

fn timed(prefetch: bool) -> ReplayReport {
    let timing = Timing { prefetch, ..Timing::of_blocks(8 << 20) };
    let mut links = [LinkUse::default(); Link::COUNT];
    links[Link::NvmeRead.index()] = LinkUse { bytes: 3 << 30, busy: Duration::from_millis(2500) };
    let outcome = TimedOutcome {
        ttft: Spread { mean_us: 1_500_250, p50_us: 900_000, p90_us: 2_000_000, p99_us: 9_000_001 },
        load_stall: Spread { mean_us: 1000, p50_us: 0, p90_us: 500, p99_us: 20_000 },
        declined_tokens: 6400,
        prefetched: Prefetched {
            bytes: 100 << 20,
            timely_bytes: 75 << 20,
            late_bytes: 5 << 20,
            wasted_bytes: 20 << 20,
            idle_promoted_tokens: 4000,
            idle_timely_tokens: 3000,
        },
        links,
        took: Duration::from_secs(10),
    };
    ReplayReport { timed: Some(TimedReport::new(&timing, &outcome)), ..report(false) }
}

#[test]
fn simulated_time_adds_to_it() {
    let json = json_of(&timed(true));
    let link = |name, rate: u64, latency_us| {
        format!(
            r#"{{"link":"{name}","bytes_per_s":{rate},"latency_us":{latency_us},"bytes":0,"utilisation":0.0}}"#
        )
    };
    for part in [
        concat!(
            r#""elapsed_s":1.5,"block_bytes":8388608,"prefill_tokens_per_s":10000,"#,
            r#""simulated_s":10.0,"ttft_ms":{"mean":1500.25,"p50":900.0,"p90":2000.0,"#,
            r#""p99":9000.001},"load_stall_ms":{"mean":1.0,"p50":0.0,"p90":0.5,"p99":20.0},"#,
            r#""declined_tokens":6400,"prefetch":{"on":true,"bytes":104857600,"#,
            r#""timely_bytes":78643200,"late_bytes":5242880,"wasted_bytes":20971520,"#,
            r#""idle_promoted_tokens":4000,"idle_timely_tokens":3000},"links":[{"#,
        ),
        &link("device_up", 52_000_000_000, 20),
        &link("object_put", 4_480_000_000, 100_000),
        concat!(
            r#"{"link":"nvme_read","bytes_per_s":6500000000,"latency_us":100,"#,
            r#""bytes":3221225472,"utilisation":0.25}"#
        ),
    ] {
        assert!(json.contains(part), "{json}\nlacks {part}");
    }
    assert!(json_of(&timed(false)).contains(r#""prefetch":{"on":false,"#));
}

#[test]
fn the_table() {
    insta::assert_snapshot!(report(true).table());
}

#[test]
fn the_table_of_simulated_time() {
    insta::assert_snapshot!(timed(true).table());
    assert!(timed(false).table().contains("prefetch   off\n"));
}

#[test]
fn percentiles_are_of_the_samples() {
    let mut samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
    let Percentiles { p50, p99 } = Percentiles::of(&mut samples);
    assert_eq!((p50, p99), (100.0, 198.0));
    let none = Percentiles::of(&mut []);
    assert_eq!((none.p50, none.p99), (0.0, 0.0));
    let one = Percentiles::of(&mut [7.0]);
    assert_eq!((one.p50, one.p99), (7.0, 7.0));
}
