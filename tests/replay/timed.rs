//! Replays in which copies take time: what requests wait for, to the microsecond where that can be
//! worked out by hand, and through the binary.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Value, json};
use terrace::domain::units::Time;
use terrace::movement::Link;
use terrace::sim::replay::{
    Hints, LinkSpeed, LinkUse, Pace, Prefetched, Spread, TimedOutcome, Timing,
};
use terrace::workload::Request;
use terrace::workload::request::IdRun;

use super::{agents, replay, replay_json, terrace, trace_text};

/// Every link moves 1 GB/s and takes 1 ms beyond that; blocks of 1 MB; 1,000 tokens a second.
fn slow() -> Timing {
    let mut timing = Timing::of_blocks(1_000_000);
    timing.prefill_tokens_per_s = NonZeroU32::new(1000).unwrap();
    for link in [Link::DeviceUp, Link::DeviceDown, Link::NvmeRead, Link::NvmeWrite] {
        timing.links.set(link, LinkSpeed { bytes_per_s: 1_000_000_000, latency_us: 1000 });
    }
    timing
}

/// The same chain of 100 blocks and half a one, asked for at these seconds by one agent, which has
/// its answers after 5 s.
fn chain(seconds: &[u64]) -> Vec<Request> {
    let request = |second: &u64| Request {
        t: Time::from_millis(second * 1000),
        input_tokens: 6432,
        api_ms: Some(5000),
        blocks: vec![IdRun { first_id: 0, count: 100 }],
        ..Request::default()
    };
    seconds.iter().map(request).collect()
}

fn timed(requests: &[Request], capacity_blocks: [u64; 4], timing: Timing) -> TimedOutcome {
    replay(requests, capacity_blocks, Pace::Timed(timing)).timed.unwrap()
}

/// The first request finds nothing, and the second waits 100 ms for bytes and 1 ms for the last
/// transfer. Its last 32 tokens take 32 ms.
#[test]
fn a_request_waits_for_its_load_and_for_the_model() {
    let outcome = timed(&chain(&[0, 10]), [0, 1000, 0, 0], slow());
    let spread = |mean_us, low, high| Spread { mean_us, p50_us: low, p90_us: high, p99_us: high };
    assert_eq!(outcome.load_stall, spread(50_500, 0, 101_000));
    assert_eq!(outcome.ttft, spread(3_282_500, 133_000, 6_432_000));
    let used = LinkUse { bytes: 100_000_000, busy: Duration::from_millis(100) };
    assert_eq!(outcome.links[Link::DeviceUp.index()], used, "one load");
    assert_eq!(outcome.links[Link::DeviceDown.index()], used, "one store");
    assert_eq!(outcome.links[Link::NvmeRead.index()], LinkUse::default());
    assert_eq!(outcome.took, Duration::from_secs(15), "until the second answer");
    assert_eq!((outcome.prefetched, outcome.declined_tokens), (Prefetched::default(), 0));
}

/// What lies below DRAM counts as promoted for an agent that was idle for two seconds, and for no
/// other.
#[test]
fn what_an_idle_agent_needs_from_below_is_counted() {
    let nvme = [0, 0, 1000, 0];
    let promoted =
        |seconds: &[u64]| timed(&chain(seconds), nvme, slow()).prefetched.idle_promoted_tokens;
    assert_eq!(promoted(&[0, 7]), 6400, "idle from 5 to 7");
    assert_eq!(promoted(&[0, 6]), 0, "idle for a second");
    assert_eq!(promoted(&[0, 10, 20, 30]), 3 * 6400);
    let mut others = chain(&[0, 10]);
    others[1].sub = 1;
    assert_eq!(timed(&others, nvme, slow()).prefetched.idle_promoted_tokens, 0, "another agent");
}

/// An agent has its answer before it asks again, whatever the trace says that took, and whatever is
/// told of agents: its first request's blocks are stored when the second comes, and the third finds
/// them.
#[test]
fn an_answer_comes_before_the_next_request() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hasty.jsonl");
    std::fs::write(&file, trace_text(&chain(&[0, 1, 2]))).unwrap();
    for hints in Hints::ALL.map(Hints::name) {
        let arguments = ["--hints", hints, "--prefetch", "off", "--dram", "1000"];
        assert_eq!(replay_json(&file, &arguments)["hit_tokens"], 6400, "hints {hints}");
    }
}

/// Where a trace is silent of answers one is assumed, which decides what others find, and said.
#[test]
fn an_answer_that_no_trace_tells_of_is_assumed() {
    let mut requests = chain(&[0, 3]);
    requests[1].sub = 1;
    for request in &mut requests {
        request.api_ms = None;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("silent.jsonl");
    std::fs::write(&file, trace_text(&requests)).unwrap();
    let found = |arguments: &[&str]| {
        let report = replay_json(&file, &[&["--dram", "1000"], arguments].concat());
        (report["hit_tokens"].as_u64().unwrap(), report["assumed_answers"].clone())
    };
    let assumed = |ms| json!({"requests": 2, "ms": ms});
    assert_eq!(found(&[]), (0, assumed(5000)));
    assert_eq!(found(&["--answer-ms", "1000"]), (6400, assumed(1000)));
    assert_eq!(found(&["--instant"]), (6400, Value::Null), "answers change nothing");
    let told = ["--instant", "--hints", "timing", "--answer-ms", "7"];
    assert_eq!(found(&told), (6400, assumed(7)));

    let refused = |mode: &[&str], says: &str| {
        let fixed = ["replay", file.to_str().unwrap(), "--answer-ms", "9"];
        let output = terrace(&[&fixed[..], mode].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{mode:?} said {said}");
    };
    refused(&["--simulate", "--instant"], "--answer-ms has no meaning where nothing waits");
    refused(&["--live"], "--answer-ms needs --simulate");
}

/// Traces count from where they like, and agents can be silent for a year.
#[test]
fn quiet_costs_nothing() {
    let year_s = 365 * 86_400;
    let outcome = timed(&chain(&[56 * year_s, 57 * year_s]), [0, 1000, 0, 0], slow());
    assert_eq!(outcome.took, Duration::from_secs(year_s + 5));
    assert_eq!(outcome.load_stall.p99_us, 101_000);
}

/// A slower model or slower links never bring the first token sooner.
#[test]
fn slower_parts_make_longer_waits() {
    let requests = agents(4);
    let unique = super::unique_blocks(&requests);
    let capacity_blocks = [unique / 50, unique / 20, unique / 2, unique];
    let usual = Timing::of_blocks(8 << 20);
    let ttft_us = |timing| timed(&requests, capacity_blocks, timing).ttft.mean_us;
    let prefill_tokens_per_s = NonZeroU32::new(2000).unwrap();
    let mut slow_disk = usual;
    slow_disk.links.set(Link::NvmeRead, LinkSpeed { bytes_per_s: 500_000_000, latency_us: 100 });
    let expected = ttft_us(usual);
    assert!(ttft_us(Timing { prefill_tokens_per_s, ..usual }) > 2 * expected);
    assert!(ttft_us(slow_disk) > expected);
}

/// A trace of generated agents in a folder of its own.
fn trace_file() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agents.jsonl");
    std::fs::write(&file, trace_text(&agents(3))).unwrap();
    (folder, file)
}

#[test]
fn the_same_run_twice_gives_the_same_object() {
    let (_folder, file) = trace_file();
    for more in [&["--policy", "lru"][..], &["--policy", "value", "--hints", "timing"]] {
        let tiers = ["--hbm", "1%", "--dram", "4%", "--nvme", "10%", "--object", "100%"];
        let run = || {
            let mut report = replay_json(&file, &[&tiers[..], more].concat());
            report.as_object_mut().unwrap().remove("elapsed_s").unwrap();
            report
        };
        let report = run();
        assert_eq!(report, run(), "{more:?}");
        check_shape(&report);
    }
}

/// Percentiles rise, no request has its first token before its load, links are busy for a part of
/// the time.
fn check_shape(report: &Value) {
    let spread =
        |name: &str| ["mean", "p50", "p90", "p99"].map(|part| report[name][part].as_f64().unwrap());
    let (ttft, stall) = (spread("ttft_ms"), spread("load_stall_ms"));
    for [mean, p50, p90, p99] in [ttft, stall] {
        assert!(mean > 0.0 && p50 <= p90 && p90 <= p99 && p99 > 0.0, "{report}");
    }
    assert!(ttft.iter().zip(stall).all(|(ttft, stall)| *ttft > stall), "{report}");
    let bytes = |part: &str| report["prefetch"][part].as_u64().unwrap();
    let used = bytes("timely_bytes") + bytes("late_bytes") + bytes("wasted_bytes");
    assert!(used <= bytes("bytes"), "{report}");
    assert!(bytes("idle_timely_tokens") <= bytes("idle_promoted_tokens"), "{report}");
    assert!(bytes("idle_promoted_tokens") > 0, "{report}");
    let links = report["links"].as_array().unwrap();
    assert_eq!(links.len(), Link::COUNT);
    for link in links {
        let busy = link["utilisation"].as_f64().unwrap();
        let moved = link["bytes"].as_u64().unwrap();
        assert!(busy <= 1.0 && (busy > 0.0) == (moved > 0), "{link}");
    }
    assert!(links.iter().all(|link| link["bytes"] != 0), "every link was used: {report}");
}

#[test]
fn what_the_arguments_say_is_what_runs() {
    let (_folder, file) = trace_file();
    let report = replay_json(
        &file,
        &[
            "--link",
            "nvme_read=13GB/s:80us",
            "--prefill-tokens-per-s",
            "5000",
            "--prefetch",
            "off",
            "--block-bytes",
            "65536",
        ],
    );
    assert_eq!(
        (&report["block_bytes"], &report["prefill_tokens_per_s"]),
        (&65536.into(), &5000.into())
    );
    let links = report["links"].as_array().unwrap();
    let link = links.iter().find(|link| link["link"] == "nvme_read").unwrap();
    assert_eq!(
        (&link["bytes_per_s"], &link["latency_us"]),
        (&13_000_000_000_u64.into(), &80.into())
    );
    assert_eq!(
        (&report["prefetch"]["on"], &report["prefetch"]["bytes"]),
        (&false.into(), &0.into())
    );
}

#[test]
fn without_time_there_is_nothing_to_wait_for() {
    let (_folder, file) = trace_file();
    let report = replay_json(&file, &["--instant"]);
    for absent in ["ttft_ms", "load_stall_ms", "prefetch", "links", "simulated_s"] {
        assert!(report.get(absent).is_none(), "{absent} in {report}");
    }
    for (mode, says) in [
        (&["--simulate", "--instant"][..], "has no meaning where copies take no time"),
        (&["--live"], "needs --simulate"),
    ] {
        for flag in ["--prefetch=off", "--link=nvme_read=1GB/s", "--prefill-tokens-per-s=9"] {
            let output = terrace(&[&["replay", file.to_str().unwrap(), flag], mode].concat());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let name = &flag[..flag.find('=').unwrap()];
            assert!(!output.status.success(), "{flag} {mode:?} was taken");
            assert!(said.contains(&format!("{name} {says}")), "{flag} {mode:?} said {said}");
        }
    }
}
