//! Simulated replays: against a naive model, through the binary, and of the real traces where they
//! are present.
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "replay/odd.rs"]
mod odd;
#[path = "replay/timed.rs"]
mod timed;
#[path = "replay/writes.rs"]
mod writes;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use terrace::manager::PolicyName;
use terrace::sim::oracle::LruOracle;
use terrace::sim::replay::hints::SIGMA;
use terrace::sim::replay::{
    Foresight, Hints, Opt, Pace, Replay, ReplayConfig, ReplayOutcome, Timing, Told, Writes,
};
use terrace::workload::generator::{Agentic, AgenticParams};
use terrace::workload::trace::Trace;
use terrace::workload::{Request, Stop, Trigger};

fn agents(seed: u64) -> Vec<Request> {
    let params = AgenticParams { seed, leads: 6, starts_within_s: 60, ..AgenticParams::default() };
    Agentic::new(params).take(400).collect()
}

fn unique_blocks(requests: &[Request]) -> u64 {
    let ids: std::collections::BTreeSet<u64> =
        requests.iter().flat_map(|request| request.block_ids().collect::<Vec<_>>()).collect();
    ids.len() as u64
}

fn replay(requests: &[Request], capacity_blocks: [u64; 4], pace: Pace) -> ReplayOutcome {
    let (policy, block_tokens, seed) = (PolicyName::Lru, 64, 1);
    let mut replay = Replay::new(&ReplayConfig {
        capacity_blocks,
        policy,
        block_tokens,
        seed,
        pace,
        answer_ms: ReplayConfig::ANSWER_MS,
        writes: Writes::default(),
    });
    for request in requests {
        replay.request(request);
    }
    replay.finish()
}

fn oracle_hits(requests: &[Request], capacity_blocks: u64) -> u64 {
    let mut oracle = LruOracle::new(capacity_blocks);
    requests
        .iter()
        .map(|request| (oracle.access(request) * 64).min(request.input_tokens.into()))
        .sum()
}

/// One tier under leaf-first LRU, whichever tier it is, finds exactly what the model finds.
#[test]
fn one_tier_agrees_with_the_model() {
    for seed in 0..4 {
        let requests = agents(seed);
        let unique = unique_blocks(&requests);
        for (tier, percent) in [(0, 2), (0, 10), (1, 5), (2, 25), (3, 10), (0, 100)] {
            let mut capacity_blocks = [0; 4];
            capacity_blocks[tier] = unique * percent / 100;
            let outcome = replay(&requests, capacity_blocks, Pace::Instant);
            let expected = oracle_hits(&requests, capacity_blocks[tier]);
            let found = outcome.hit_tokens_total();
            assert_eq!(found, expected, "seed {seed}, tier {tier}, {percent}%");
            assert_eq!(found, outcome.hit_tokens[tier]);
        }
    }
}

/// With tiers below one another nothing is lost as long as the lowest has room for all.
#[test]
fn what_sinks_is_still_found() {
    let requests = agents(1);
    let unique = unique_blocks(&requests);
    let everything = oracle_hits(&requests, unique);
    let capacity_blocks = [unique / 50, unique / 20, unique / 4, unique];
    let outcome = replay(&requests, capacity_blocks, Pace::Instant);
    assert_eq!(outcome.hit_tokens_total(), everything);
    assert!(outcome.hit_tokens.iter().all(|tokens| *tokens > 0), "{outcome:?}");
    assert!(outcome.evicted_blocks[..3].iter().all(|blocks| *blocks > 0), "{outcome:?}");
    assert_eq!(outcome.evicted_blocks[3], 0, "{outcome:?}");
}

/// Where copies take time, a request's blocks come after its answer: less is found than by the
/// instant model, and faster links find no less than slower ones.
#[test]
fn time_costs_hits() {
    let requests = agents(2);
    let unique = unique_blocks(&requests);
    let capacity_blocks = [unique / 20, unique / 10, unique / 2, 0];
    let instant = replay(&requests, capacity_blocks, Pace::Instant);
    let timed = |block_bytes| {
        replay(&requests, capacity_blocks, Pace::Timed(Timing::of_blocks(block_bytes)))
    };
    let (fast, slow) = (timed(64 << 10), timed(64 << 20));
    assert_eq!(fast, timed(64 << 10), "the same run twice");
    assert!(fast.hit_ratio() < instant.hit_ratio(), "{fast:?} {instant:?}");
    assert!(fast.hit_ratio() > 0.8, "{fast:?}");
    assert!(slow.hit_ratio() <= fast.hit_ratio(), "{slow:?} {fast:?}");
}

/// One tier, instant, under `value`, with the agents saying what the hints say.
fn value(requests: &[Request], capacity_blocks: u64, hints: Hints, sigma: f64) -> ReplayOutcome {
    let mut foresight = Foresight::default();
    for request in requests {
        foresight.learn(request);
    }
    let config = ReplayConfig {
        writes: Writes::default(),
        capacity_blocks: [capacity_blocks, 0, 0, 0],
        policy: PolicyName::Value,
        block_tokens: 64,
        seed: 1,
        pace: Pace::Instant,
        answer_ms: ReplayConfig::ANSWER_MS,
    };
    let mut replay = Replay::told(&config, Told { hints, sigma, foresight, seed: 1 });
    for request in requests {
        replay.request(request);
    }
    replay.finish()
}

fn best_possible(requests: &[Request], capacity_blocks: u64) -> ReplayOutcome {
    let mut opt = Opt::default();
    for request in requests {
        opt.request(request.clone());
    }
    opt.finish(0, capacity_blocks, 64)
}

/// On any workload of agents, size and hint level: never worse than LRU by more than 0.3
/// points, and never better than what is possible.
fn check_bounds(requests: &[Request], percents: &[u64]) {
    let unique = unique_blocks(requests);
    for percent in percents {
        let capacity = (unique * percent / 100).max(1);
        let lru = replay(requests, [capacity, 0, 0, 0], Pace::Instant).hit_ratio();
        let best = best_possible(requests, capacity).hit_ratio();
        assert!(lru <= best, "LRU finds {lru} at {percent}%, and {best} are possible");
        for (hints, sigma) in
            Hints::ALL.map(|hints| (hints, SIGMA)).into_iter().chain([(Hints::Timing, 3.0)])
        {
            let found = value(requests, capacity, hints, sigma).hit_ratio();
            let what = format!("{percent}%, hints {hints}, sigma {sigma}: {found}");
            assert!(found >= lru - 0.003, "{what}, LRU {lru}");
            assert!(found <= best, "{what}, possible {best}");
        }
    }
}

#[test]
fn value_is_never_much_worse_than_lru() {
    for seed in 0..3 {
        check_bounds(&agents(seed), &[1, 5, 20, 50]);
    }
}

#[test]
fn value_repeats_itself() {
    let requests = agents(5);
    let capacity = unique_blocks(&requests) / 20;
    let run = || value(&requests, capacity, Hints::Timing, SIGMA);
    assert_eq!(run(), run());
}

/// Thrash: chains that take turns, together twice what the tier holds. LRU finds nothing at all.
#[test]
fn value_keeps_some_where_lru_keeps_none() {
    let chain = |n: u64| vec![terrace::workload::request::IdRun { first_id: n * 100, count: 100 }];
    let requests: Vec<Request> = (0..600)
        .map(|n| Request {
            t: terrace::domain::units::Time::from_millis(n * 1000),
            session: n % 20,
            input_tokens: 6400,
            blocks: chain(n % 20),
            ..Request::default()
        })
        .collect();
    let lru = replay(&requests, [1000, 0, 0, 0], Pace::Instant);
    let found = value(&requests, 1000, Hints::None, SIGMA);
    assert_eq!(lru.hit_tokens_total(), 0);
    assert!(found.hit_ratio() > 0.3, "{found:?}");
}

/// Writes the requests as kvtrace-rle-1.
fn trace_text(requests: &[Request]) -> String {
    let (unique, count) = (unique_blocks(requests), requests.len());
    let mut text = format!(
        r#"{{"format":"kvtrace-rle-1","block_tokens":64,"unique_blocks":{unique},"requests":{count}}}"#
    );
    for request in requests {
        let stop = match request.stop {
            Stop::ToolUse => "tool_use",
            Stop::EndTurn => "end_turn",
            Stop::Unknown => "unknown",
        };
        let trigger = match request.trigger {
            Trigger::Tool => "tool",
            Trigger::User => "user",
            Trigger::Unknown => "unknown",
        };
        let runs: Vec<_> = request.blocks.iter().map(|run| (run.first_id, run.count)).collect();
        let Request { session, sub, turn, input_tokens, output_tokens, api_ms, t, .. } = request;
        let api = api_ms.map_or("null".into(), |ms| (f64::from(ms) / 1e3).to_string());
        let t = t.since(terrace::domain::units::Time::ZERO).as_secs_f64();
        write!(
            text,
            "\n{{\"t\":{t},\"session\":{session},\"sub\":{sub},\"turn\":{turn},\
             \"in\":{input_tokens},\"out\":{output_tokens},\"api\":{api},\"stop\":\"{stop}\",\
             \"trigger\":\"{trigger}\",\"blocks\":{}}}",
            serde_json::to_string(&runs).unwrap()
        )
        .unwrap();
    }
    text + "\n"
}

fn terrace(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_terrace")).args(args).output().unwrap()
}

/// Replays the file through the binary and gives its JSON object.
fn replay_json(trace: &Path, args: &[&str]) -> Value {
    let fixed = ["replay", trace.to_str().unwrap(), "--simulate", "--json"];
    let output = terrace(&[&fixed[..], args].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(said, "", "nothing on stderr where that is no terminal");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_trace_file_through_the_binary() {
    let requests = agents(3);
    let folder = tempfile::tempdir().unwrap();
    let text = trace_text(&requests);
    let (plain, packed) = (folder.path().join("a.jsonl"), folder.path().join("no-suffix"));
    std::fs::write(&plain, &text).unwrap();
    std::fs::write(&packed, zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
    let unique = unique_blocks(&requests);
    let arguments = ["--instant", "--policy", "lru", "--hints", "none", "--dram", "10%"];
    let mut reports = [&plain, &packed].map(|file| {
        let mut report = replay_json(file, &arguments);
        let report = report.as_object_mut().unwrap();
        assert_eq!(report.remove("trace").unwrap(), file.to_str().unwrap());
        assert!(report.remove("elapsed_s").unwrap().as_f64().unwrap() > 0.0);
        report.clone()
    });
    assert_eq!(reports[0], reports[1]);
    let report = &mut reports[0];
    let input: u64 = requests.iter().map(|request| u64::from(request.input_tokens)).sum();
    let hits = oracle_hits(&requests, unique / 10);
    assert_eq!(report["format"], "kvtrace-rle-1");
    assert_eq!(report["mode"], "simulate");
    assert_eq!(report["requests"], requests.len());
    assert_eq!(report["unique_blocks"], unique);
    assert_eq!((&report["input_tokens"], &report["hit_tokens"]), (&input.into(), &hits.into()));
    assert_eq!(report["recomputed_tokens"], input - hits);
    assert_eq!(report["tiers"].as_array().unwrap().len(), 1);
    assert_eq!(report["tiers"][0]["tier"], "dram");
    assert_eq!(report["tiers"][0]["capacity_blocks"], unique / 10);

    let limited = replay_json(&plain, &["--limit", "7", "--hbm", "5", "--seed", "9"]);
    assert_eq!((&limited["requests"], &limited["seed"]), (&7.into(), &9.into()));
    assert_eq!(limited["unique_blocks"], unique, "shares are of the whole trace");
}

#[test]
fn what_cannot_be_replayed_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let text = trace_text(&agents(3)[..20]);
    let check = |name: &str, bytes: &[u8], args: &[&str], says: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let output = terrace(&[&["replay", file.to_str().unwrap()], args].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{name} {args:?} was taken");
        assert_eq!(output.stdout, b"", "{name} {args:?}");
        assert!(said.contains(says), "{name} {args:?}\n  said   {said}\n  lacks  {says}");
        assert!(!said.contains("panicked"), "{said}");
    };
    let simulate = &["--simulate"][..];
    let packed = zstd::encode_all(text.as_bytes(), 3).unwrap();
    check("empty", b"", simulate, "the file is empty; give");
    check("cut.zst", &packed[..packed.len() / 2], simulate, "the zstd stream is cut short");
    check("cut.jsonl", &text.as_bytes()[..text.len() - 9], simulate, ":21: the last line is cut");
    let mixed =
        text.clone() + "{\"timestamp\":1e9,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}";
    check("mixed", mixed.as_bytes(), simulate, ":22: a mooncake line in a kvtrace-rle-1 trace");
    check("picture", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", simulate, "not a trace line");
    let good = text.as_bytes();
    check("good", good, &["--simulate", "--hbm", "0"], "every tier has capacity 0");
    check(
        "good",
        good,
        &["--simulate", "--hbm", "99999999999"],
        "do not fit: a tier holds at most",
    );
    check("good", good, &["--simulate", "--dram", "x"], "`x` is no capacity");
    check(
        "good",
        good,
        &["--simulate", "--policy", "arc"],
        "policy `arc` is not known: use one of lru, s3fifo",
    );
    check(
        "good",
        good,
        &["--simulate", "--hints", "all"],
        "hints `all` are not known: use one of none",
    );
    check(
        "good",
        good,
        &["--simulate", "--policy", "opt"],
        "give one of --hbm --dram --nvme --object",
    );
    let two = &["--simulate", "--instant", "--policy", "opt", "--hbm", "1%", "--dram", "5%"];
    check("good", good, two, "the upper bound of one tier");
    check("good", good, &["--simulate", "--hint-sigma=-2"], "-2 is out of range: give 0 to 100");
    let told = &["--simulate", "--instant", "--policy", "opt", "--hbm", "1%", "--hints", "timing"];
    check("good", good, told, "--policy opt knows more than hints say; leave it out");
    let moon = b"{\"timestamp\":1,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}";
    check("moon", moon, &["--simulate", "--hints", "engine"], "a Mooncake trace has no sessions");
    check("good", good, &["--live", "--policy", "opt"], "no daemon knows the future");
    check("good", good, &["--live", "--hints", "timing"], "--hints timing needs --simulate");
    check("good", good, &[], "--simulate|--live");
}

/// Where the real traces lie: beside the repository, unless told otherwise.
fn shared_trace(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces");
    let folder = std::env::var_os("TERRACE_TRACES").map_or(beside, PathBuf::from);
    let file = folder.join(format!("{name}.jsonl.zst"));
    if file.is_file() {
        return Some(file);
    }
    eprintln!("SKIPPED: {} is not there", file.display());
    None
}

#[test]
fn the_lmcache_trace_agrees_with_the_model() {
    let Some(file) = shared_trace("lmcache_agent") else { return };
    let trace = Trace::open(&file).unwrap();
    assert_eq!((trace.info().requests, trace.info().unique_blocks), (1619, 6243));
    let requests: Vec<Request> = trace.requests().unwrap().map(Result::unwrap).collect();
    for percent in [1, 5, 10] {
        let capacity = 6243 * percent / 100;
        let outcome = replay(&requests, [capacity, 0, 0, 0], Pace::Instant);
        assert_eq!(outcome.hit_tokens_total(), oracle_hits(&requests, capacity), "{percent}%");
    }
}

#[test]
fn the_lmcache_trace_keeps_the_bounds() {
    let Some(file) = shared_trace("lmcache_agent") else { return };
    let trace = Trace::open(&file).unwrap();
    let requests: Vec<Request> = trace.requests().unwrap().map(Result::unwrap).collect();
    check_bounds(&requests, &[1, 2, 5, 10, 50]);
}

/// Chat without hints: at least what LRU finds, and half as much again where it is tight.
#[test]
fn value_learns_from_content_alone() {
    let Some(file) = shared_trace("mooncake_conversation") else { return };
    for (capacity, lru) in [("1%", 5.35), ("5%", 19.96), ("10%", 28.44)] {
        let arguments = ["--instant", "--policy", "value", "--hbm", capacity];
        let ratio = 100.0 * replay_json(&file, &arguments)["hit_ratio"].as_f64().unwrap();
        assert!(ratio >= lru, "{capacity}: {ratio}, LRU {lru}");
        assert!(ratio >= 1.5 * lru || capacity != "1%", "{capacity}: {ratio}, LRU {lru}");
    }
}

/// The published figures of leaf-first LRU, each within 0.3 points.
#[test]
fn the_mooncake_trace_gives_the_published_ratios() {
    let Some(file) = shared_trace("mooncake_conversation") else { return };
    for (capacity, percent) in [("1%", 5.3), ("5%", 20.0), ("10%", 28.4)] {
        let report = replay_json(&file, &["--instant", "--hbm", capacity]);
        let ratio = 100.0 * report["hit_ratio"].as_f64().unwrap();
        assert!((ratio - percent).abs() < 0.3, "{capacity}: {ratio} instead of {percent}");
    }
}
