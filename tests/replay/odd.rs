//! Traces that contradict themselves: whoever writes one of his own gets ids wrong first.

use proptest::prelude::*;
use terrace::manager::PolicyName;
use terrace::sim::replay::{Opt, Pace, Replay, ReplayConfig, Writes};
use terrace::workload::Request;
use terrace::workload::request::push_id;

use super::{terrace, trace_text};

/// Requests of these ids, a second apart.
fn requests(lists: &[Vec<u64>]) -> Vec<Request> {
    let request = |(second, ids): (u64, &Vec<u64>)| {
        let mut blocks = Vec::new();
        for id in ids {
            push_id(&mut blocks, *id);
        }
        Request {
            t: terrace::domain::units::Time::from_millis(second * 1000),
            input_tokens: u32::try_from(ids.len() * 64).unwrap(),
            api_ms: Some(100),
            blocks,
            ..Request::default()
        }
    };
    (0..).zip(lists).map(request).collect()
}

/// What one tier finds of the requests at once.
fn found(requests: &[Request], capacity_blocks: u64, policy: PolicyName) -> u64 {
    let mut replay = Replay::new(&ReplayConfig {
        capacity_blocks: [capacity_blocks, 0, 0, 0],
        policy,
        block_tokens: 64,
        seed: 1,
        pace: Pace::Instant,
        answer_ms: ReplayConfig::ANSWER_MS,
        writes: Writes::default(),
    });
    for request in requests {
        replay.request(request);
    }
    replay.finish().hit_tokens_total()
}

fn found_at_best(requests: &[Request], capacity_blocks: u64) -> u64 {
    let mut opt = Opt::default();
    for request in requests {
        opt.request(request.clone());
    }
    opt.finish(0, capacity_blocks, 64).hit_tokens_total()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the ids are, no policy finds more than the upper bound.
    #[test]
    fn nothing_finds_more_than_the_upper_bound(
        lists in prop::collection::vec(prop::collection::vec(0_u64..7, 0..6), 0..40),
        capacity_blocks in 1_u64..9,
    ) {
        let requests = requests(&lists);
        let best = found_at_best(&requests, capacity_blocks);
        for policy in PolicyName::ALL {
            let found = found(&requests, capacity_blocks, policy);
            prop_assert!(found <= best, "{} finds {found}, the bound is {best}", policy.name());
        }
    }
}

/// A request that names an id twice: nothing behind the second is found, but what is before it is.
#[test]
fn an_id_named_twice_does_not_stay_for_ever() {
    let requests = requests(&vec![vec![0, 0, 1]; 40]);
    assert_eq!(found(&requests, 4, PolicyName::Lru), 39 * 64);
    assert_eq!(found_at_best(&requests, 4), 39 * 64);
}

/// Whoever hashes blocks without what is before them hears of it, simulated and live.
#[test]
fn ids_that_name_no_whole_prefix_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let said_of = |lists: &[Vec<u64>], mode: &[&str]| {
        let file = folder.path().join("own.jsonl");
        std::fs::write(&file, trace_text(&requests(lists))).unwrap();
        let fixed = ["replay", file.to_str().unwrap(), "--json", "--dram", "64"];
        let output = terrace(&[&fixed[..], mode].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (said, report["contradicted_blocks"].as_u64().unwrap())
    };
    let wrong = [vec![0, 1, 2], vec![3, 1, 2, 4], vec![0, 2]];
    for mode in [&["--simulate"][..], &["--live", "--block-bytes", "4096"]] {
        let (said, contradicted) = said_of(&wrong, mode);
        assert!(said.contains("2 of 5 block ids stand after different blocks"), "{mode:?}: {said}");
        assert_eq!(contradicted, 2, "{mode:?}");
        let why = "4 blocks were not stored: an id that stood after another block before, ";
        assert_eq!(said.contains(why), mode.contains(&"--live"), "{mode:?}: {said}");
    }
    assert_eq!(said_of(&[vec![0, 1], vec![0, 1, 2]], &["--simulate"]), (String::new(), 0));
}

/// A daemon looks up 65,536 blocks at once: what is beyond them is said to be left out.
#[test]
fn what_a_live_replay_leaves_out_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("long.jsonl");
    let long = requests(&[(0..70_000).collect(), vec![0]]);
    std::fs::write(&file, trace_text(&long)).unwrap();
    let fixed = ["replay", file.to_str().unwrap(), "--json", "--dram", "64"];
    let said = |mode: &[&str]| {
        let output = terrace(&[&fixed[..], mode].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let expected =
        "4464 blocks were left out and count as misses: a lookup takes a request's first 65536";
    let live = said(&["--live", "--block-bytes", "4096"]);
    assert!(live.contains(expected), "{live}");
    assert_eq!(said(&["--simulate"]), "");
}
