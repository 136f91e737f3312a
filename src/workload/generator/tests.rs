//! What every generated workload keeps, and that a seed fixes it.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

fn requests(seed: u64) -> Vec<Request> {
    Agentic::new(AgenticParams { seed, ..AgenticParams::default() }).collect()
}

fn digest(seed: u64) -> String {
    let mut hasher = blake3::Hasher::new();
    for request in requests(seed) {
        hasher.update(format!("{request:?}\n").as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[test]
fn a_seed_gives_the_same_requests_everywhere() {
    // A change here changes every demo and every quoted simulation: make it on purpose.
    assert_eq!([digest(1), digest(2)], ["337269591870b706", "2659572ab35d182c"]);
}

#[test]
fn ids_are_prefix_chained_and_dense() {
    for seed in 0..4 {
        let mut parents = BTreeMap::new();
        for request in requests(seed) {
            let mut parent = None;
            for id in request.block_ids() {
                assert_eq!(*parents.entry(id).or_insert(parent), parent, "seed {seed}, block {id}");
                parent = Some(id);
            }
        }
        let roots = parents.values().filter(|parent| parent.is_none()).count();
        assert_eq!(roots, 3, "seed {seed}: one root a product");
    }
}

#[test]
fn requests_are_in_order_and_complete() {
    for seed in 0..4 {
        let (mut last, mut turns) = (Time::ZERO, BTreeMap::new());
        for request in requests(seed) {
            assert!(request.t >= last, "seed {seed}: {request:?}");
            last = request.t;
            assert_eq!(request.block_count(), u64::from(request.input_tokens / 64));
            let turn = turns.entry((request.session, request.sub)).or_insert(0);
            assert_eq!(request.turn, *turn, "seed {seed}: {request:?}");
            *turn += 1;
        }
        let leads: BTreeSet<u64> = turns.keys().map(|(session, _)| *session).collect();
        assert_eq!(leads.len(), 24, "seed {seed}");
    }
}

#[test]
fn agents_do_all_that_agents_do() {
    let all = requests(1);
    let has = |what: &str, test: &dyn Fn(&Request) -> bool| {
        assert!(all.iter().any(test), "no {what} among {} requests", all.len());
    };
    has("sub-agent", &|request| request.sub > 0);
    has("tool call", &|request| request.stop == Stop::ToolUse);
    has("end of turn", &|request| request.stop == Stop::EndTurn);
    has("message after a pause", &|request| request.trigger == Trigger::User && request.turn > 0);
    let mut before = BTreeMap::new();
    let resets = all.iter().filter(|request| {
        let tokens = before.insert((request.session, request.sub), request.input_tokens);
        tokens.is_some_and(|tokens| tokens > request.input_tokens)
    });
    assert!(resets.count() > 0, "no context was reset");
}
