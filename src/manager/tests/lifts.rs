//! Lifts: what moves ahead of need, what it may take for that, and what ends it.

mod again;

use super::*;
use crate::domain::hint::{LIFT_DEADLINE_DEFAULT, LiftWish, Target};
use crate::domain::retention::{Shield, TokenRange, Wish};

const BLOCK_BYTES: u64 = 16_384;

/// HBM holds 4 blocks, DRAM 4 and NVMe 32; the chains 1-2-3 and 11-12-13 have sunk to NVMe, and HBM
/// and DRAM are full of single blocks that are on NVMe as well.
fn sunk() -> Bench {
    let mut bench = Bench::with_config([4, 4, 32, 0], 1, |config| config.lift_percent = 100);
    bench.store(None, &[1, 2, 3]);
    bench.store(None, &[11, 12, 13]);
    for single in 101..=108 {
        bench.store(None, &[single]);
    }
    assert_eq!(bench.found(&[1, 2, 3]), "nvme:3");
    assert_eq!(bench.found(&[11, 12, 13]), "nvme:3");
    bench
}

fn wish(to: Option<Tier>, millis: u64) -> LiftWish {
    LiftWish { to, deadline: Some(Duration::from_millis(millis)), priority: None }
}

fn begin(bench: &mut Bench, blocks: &[u64], wish: LiftWish) -> Outcome {
    let target = Target::Keys(keys(blocks));
    let actions = vec![Action::Prefetch { target, wish }];
    let Reply::Hint { mut outcomes } = bench.ask(Command::Hint { actions }) else {
        panic!("hints are answered");
    };
    outcomes.pop().expect("one outcome an action")
}

fn lift(bench: &mut Bench, blocks: &[u64], wish: LiftWish) -> OpId {
    match begin(bench, blocks, wish) {
        Outcome::Lifting { operation, .. } => OpId(operation),
        other => panic!("{other:?}"),
    }
}

fn status(bench: &mut Bench, op: OpId) -> LiftStatus {
    match bench.ask(Command::Lift { op }) {
        Reply::Lift(status) => *status,
        other => panic!("{other:?}"),
    }
}

/// Bytes moved, timely, late and wasted, in blocks.
fn counts(bench: &Bench) -> [u64; 4] {
    let counts = bench.manager.lift_counts();
    [counts.bytes, counts.timely_bytes, counts.late_bytes, counts.wasted_bytes]
        .map(|bytes| bytes / BLOCK_BYTES)
}

/// Memory is empty: what was there is forgotten.
fn empty_memory(bench: &mut Bench) {
    let forget = Wish { delete_after: Some(Duration::from_millis(1)), ..Wish::default() };
    bench.hint(Action::Retain { target: Target::Keys(keys(&[101, 102, 103, 104])), wish: forget });
    bench.hint(Action::Retain { target: Target::Keys(keys(&[105, 106, 107, 108])), wish: forget });
    bench.pass(Duration::from_millis(2));
}

#[test]
fn what_sank_is_lifted_held_and_used() {
    let mut bench = sunk();
    let op = lift(&mut bench, &[1, 2, 3], wish(Some(Tier::Dram), 10_000));
    let begun = status(&mut bench, op);
    assert_eq!((begun.state, begun.landed), (LiftState::Moving, 0));
    bench.run();
    let done = bench.completions.pop().expect("a lift completes when nothing moves any more");
    assert_eq!((done.op, done.kind, done.blocks), (op, OpKind::Prefetch, 3));
    assert!(done.failed.is_empty());
    let held = status(&mut bench, op);
    assert_eq!((held.state, held.landed, held.used), (LiftState::Held, 3, 0));
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
    assert!(bench.load(&[1, 2, 3]).failed.is_empty());
    assert_eq!(counts(&bench), [3, 3, 0, 0]);
    let used = status(&mut bench, op);
    assert_eq!((used.state, used.used), (LiftState::Ended, 3));
}

#[test]
fn what_is_lifted_to_hbm_passes_through_dram() {
    let mut bench = sunk();
    empty_memory(&mut bench);
    let told = begin(&mut bench, &[1, 2, 3], wish(None, 10_000));
    assert!(matches!(told, Outcome::Lifting { waits: false, .. }), "{told:?}");
    let links: Vec<_> = bench.transfers.iter().map(|transfer| transfer.link).collect();
    assert_eq!(links, [crate::movement::Link::NvmeRead]);
    bench.run();
    assert_eq!(bench.found(&[1, 2, 3]), "hbm:3");
    bench.load(&[1, 2, 3]);
    assert_eq!(counts(&bench), [6, 6, 0, 0]);
}

#[test]
fn a_request_joins_what_is_on_its_way() {
    let mut bench = sunk();
    empty_memory(&mut bench);
    lift(&mut bench, &[1, 2, 3], wish(Some(Tier::Dram), 10_000));
    let moving = bench.transfers.len();
    bench.start_load(&[1, 2, 3]);
    assert_eq!(bench.transfers.len(), moving, "nothing is read twice");
    bench.run();
    let load = bench.completions.pop().expect("the load completes");
    assert!(load.kind == OpKind::Load && load.failed.is_empty());
    assert_eq!(counts(&bench), [3, 0, 3, 0]);
}

#[test]
fn what_nobody_asked_for_is_counted_and_goes_first() {
    let mut bench = sunk();
    let op = lift(&mut bench, &[1, 2, 3], wish(Some(Tier::Dram), 10_000));
    bench.run();
    bench.pass(Duration::from_millis(10_001));
    assert_eq!(counts(&bench), [3, 0, 0, 3]);
    assert_eq!(status(&mut bench, op).state, LiftState::Ended);
    // They are the youngest in DRAM, and go before those that were there.
    lift(&mut bench, &[11, 12, 13], wish(Some(Tier::Dram), 10_000));
    bench.run();
    assert_eq!(bench.found(&[1, 2, 3]), "nvme:3");
    assert_eq!(bench.found(&[11, 12, 13]), "dram:3");
}

#[test]
fn a_lift_breaks_neither_shields_nor_other_lifts() {
    let mut bench = sunk();
    lift(&mut bench, &[1, 2, 3], wish(Some(Tier::Dram), 10_000));
    bench.run();
    bench.completions.clear();
    let op = lift(&mut bench, &[11, 12, 13], wish(Some(Tier::Dram), 5_000));
    bench.run();
    let done = bench.completions.pop().expect("it completes");
    assert_eq!((done.op, done.failed), (op, vec![1, 2]), "DRAM holds four, three of them held");
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");

    let mut bench = sunk();
    let shield = Shield { ttl: Duration::from_mins(1), refresh_on_hit: false };
    let wish_shield = Wish { shield: Some(shield), ..Wish::default() };
    let inside: Vec<u64> = (101..=108).filter(|n| bench.found(&[*n]) == "dram:1").collect();
    bench.hint(Action::Retain { target: Target::Keys(keys(&inside[..2])), wish: wish_shield });
    bench.completions.clear();
    lift(&mut bench, &[1, 2, 3], wish(Some(Tier::Dram), 5_000));
    bench.run();
    assert_eq!(bench.completions.pop().expect("it completes").failed, [2]);
}

#[test]
fn stores_break_lifts_before_they_are_refused() {
    let mut bench = Bench::with_config([0, 4, 0, 0], 1, |config| config.lift_percent = 100);
    bench.store(None, &[1, 2, 3, 4]);
    lift(&mut bench, &[1, 2, 3, 4], wish(Some(Tier::Dram), 10_000));
    assert_eq!(bench.store(None, &[5]).failed, Vec::<u32>::new());
    assert_eq!(bench.found(&[1, 2, 3, 4]), "dram:3");
}

#[test]
fn a_share_of_the_tier_is_all_that_lifts_may_hold() {
    let mut bench = sunk();
    empty_memory(&mut bench);
    bench.manager.config.lift_percent = 50;
    let outcome = begin(&mut bench, &[1, 2, 3], wish(Some(Tier::Dram), 5_000));
    assert!(matches!(outcome, Outcome::Lifting { blocks: 2, clipped: 1, .. }), "{outcome:?}");
}

#[test]
fn what_is_cancelled_moves_no_further() {
    let mut bench = Bench::with_config([0, 200, 400, 0], 1, |config| {
        config.lift_percent = 100;
        config.links.iter_mut().for_each(|link| link.in_flight_max = 1);
    });
    let chain: Vec<u64> = (1..=150).collect();
    bench.store(None, &chain);
    let others: Vec<u64> = (201..=400).collect();
    bench.store(None, &others);
    assert_eq!(bench.found(&chain), "nvme:150");
    let forget = Wish { delete_after: Some(Duration::from_millis(1)), ..Wish::default() };
    bench.hint(Action::Retain { target: Target::Keys(keys(&others[..1])), wish: forget });
    bench.pass(Duration::from_millis(2));
    let op = lift(&mut bench, &chain, wish(Some(Tier::Dram), 10_000));
    assert_eq!(bench.transfers.len(), 1);
    let outcome =
        bench.ask(Command::Hint { actions: vec![Action::CancelPrefetch { operation: op.0 }] });
    assert!(matches!(outcome, Reply::Hint { .. }));
    bench.run();
    assert_eq!(status(&mut bench, op).state, LiftState::Cancelled);
    // As much as a link whose speed is not known is tried out with.
    assert_eq!(bench.found(&chain), "dram:16 nvme:134");
    assert_eq!(counts(&bench), [16, 0, 0, 16]);
    let again = bench.hint(Action::CancelPrefetch { operation: op.0 });
    assert!(matches!(again, Outcome::Missing(_)), "{again:?}");
}

#[test]
fn a_tool_that_is_due_back_has_its_blocks_lifted_in_time() {
    let mut bench = sunk();
    bench.turn(Some("s"), &[], &[1, 2, 3]);
    for single in 201..=208 {
        bench.store(None, &[single]);
    }
    assert_eq!(bench.found(&[1, 2, 3]), "nvme:3");
    let expected = Some(Duration::from_secs(100));
    bench.hint(Action::ToolStart { session: name("s"), expected });
    bench.pass(Duration::from_secs(29));
    assert_eq!(counts(&bench), [0; 4], "there is no free room, and time enough");
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
    bench.turn(Some("s"), &[], &[1, 2, 3]);
    bench.load(&[1, 2, 3]);
    assert_eq!(counts(&bench), [3, 3, 0, 0]);
}

/// A second tool says nothing against what was lifted for the first.
#[test]
fn what_was_lifted_for_one_tool_is_not_thrown_away_for_the_next() {
    for expected in [None, Some(Duration::from_mins(11)), Some(Duration::from_mins(5))] {
        let mut bench = sunk();
        bench.turn(Some("s"), &[], &[1, 2, 3]);
        for single in 201..=208 {
            bench.store(None, &[single]);
        }
        let start = |expected| Action::ToolStart { session: name("s"), expected };
        bench.hint(start(Some(Duration::from_secs(100))));
        bench.pass(Duration::from_secs(31));
        assert_eq!(counts(&bench), [3, 0, 0, 0]);
        bench.hint(start(expected));
        assert_eq!(counts(&bench), [3, 0, 0, 0], "nothing was in vain: {expected:?}");
        bench.store(None, &[301]);
        assert_eq!(bench.found(&[1, 2, 3]), "dram:3", "{expected:?}");
    }
}

/// The request is here, and loads what it needs: nothing is lifted for the pause any more.
#[test]
fn a_tool_that_is_back_early_has_nothing_lifted_later() {
    for is_told in [false, true] {
        let mut bench = sunk();
        bench.turn(Some("s"), &[], &[1, 2, 3]);
        for single in 201..=208 {
            bench.store(None, &[single]);
        }
        let expected = Some(Duration::from_mins(10));
        bench.hint(Action::ToolStart { session: name("s"), expected });
        bench.pass(Duration::from_secs(1));
        if is_told {
            bench.hint(Action::ToolReturn { session: name("s") });
        }
        bench.turn(Some("s"), &[], &[1, 2, 3]);
        bench.load(&[1, 2, 3]);
        bench.hint(Action::SessionEnd { session: name("s"), tree: false });
        for single in 301..=308 {
            bench.store(None, &[single]);
        }
        bench.pass(LIFT_DEADLINE_DEFAULT);
        let before = counts(&bench);
        bench.pass(Duration::from_mins(4));
        assert_eq!(counts(&bench), before, "told: {is_told}");
    }
}

/// Where two chains are that filled DRAM, of agents that wait for a tool, when a third has come; the
/// first agent's tool takes eleven minutes.
fn two_wait(lifts_max: usize, expected: Duration) -> (Bench, [String; 2]) {
    let mut bench = Bench::with_config([0, 6, 40, 0], 1, |config| {
        (config.policy, config.lifts_max) = (PolicyName::Value, lifts_max);
    });
    for (session, chain, expected) in
        [("long", [1, 2, 3], Duration::from_mins(11)), ("waits", [11, 12, 13], expected)]
    {
        bench.turn(Some(session), &[], &chain);
        let (session, expected) = (name(session), Some(expected));
        bench.hint(Action::ToolStart { session, expected });
    }
    bench.turn(Some("new"), &[], &[21, 22, 23]);
    let found = [&[1, 2, 3], &[11, 12, 13]].map(|chain| bench.found(chain));
    (bench, found)
}

#[test]
fn what_is_lifted_back_makes_room_first_meanwhile() {
    let (mut bench, found) = two_wait(16, Duration::from_mins(1));
    assert_eq!(found, ["dram:3", "nvme:3"]);
    bench.pass(Duration::from_secs(17));
    assert_eq!(bench.found(&[11, 12, 13]), "nvme:3");
    bench.hint(Action::SessionEnd { session: name("new"), tree: false });
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.found(&[11, 12, 13]), "dram:3", "its time has come");
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
}

#[test]
fn nothing_yields_where_nothing_is_lifted_back() {
    for (lifts_max, expected_s) in [(0, 60), (16, 19), (16, 601)] {
        let (_, found) = two_wait(lifts_max, Duration::from_secs(expected_s));
        assert_eq!(found, ["nvme:3", "dram:3"], "{lifts_max} lifts, a tool of {expected_s} s");
    }
}

#[test]
fn a_pause_uses_free_room_at_once() {
    let mut bench = Bench::new([0, 20, 40, 0]);
    bench.turn(Some("s"), &[], &[1, 2, 3]);
    bench.store(None, &(11..=30).collect::<Vec<_>>());
    assert_eq!(bench.found(&[1, 2, 3]), "nvme:3");
    let forget = Wish { delete_after: Some(Duration::from_millis(5)), ..Wish::default() };
    bench.hint(Action::Retain { target: Target::Keys(keys(&[11])), wish: forget });
    bench.pass(Duration::from_millis(10));
    bench.hint(Action::ToolStart { session: name("s"), expected: Some(Duration::from_secs(100)) });
    bench.run();
    assert_eq!(bench.found(&[1, 2, 3]), "dram:3");
}

#[test]
fn returns_waiting_requests_and_children_lift_what_they_will_need() {
    let mut bench = sunk();
    bench.turn(Some("s"), &[], &[1, 2, 3]);
    bench.turn(Some("t"), &[], &[1, 2, 3]);
    let sink = |bench: &mut Bench, from: u64| {
        for single in from..from + 8 {
            bench.store(None, &[single]);
        }
        assert_eq!(bench.found(&[1, 2, 3]), "nvme:3");
    };
    sink(&mut bench, 201);
    bench.hint(Action::ToolReturn { session: name("s") });
    assert_eq!(bench.found(&[1, 2, 3]), "hbm:3");
    bench.turn(Some("s"), &[], &[1, 2, 3]);
    bench.load(&[1, 2, 3]);

    sink(&mut bench, 301);
    bench.ask(Command::Lookup {
        request: RequestId(5),
        session: Some(name("s")),
        keys: keys(&[1, 2, 3]),
        ask_shared: Duration::ZERO,
        queued: true,
    });
    bench.run();
    bench.ask(Command::EndRequest {
        request: RequestId(5),
        stop: Stop::Unknown,
        output_tokens: 0,
        prefill: None,
    });
    assert_eq!(bench.found(&[1, 2, 3]), "hbm:3");
    bench.load(&[1, 2, 3]);

    sink(&mut bench, 401);
    bench.hint(Action::SessionStart { session: name("child"), parent: Some(name("s")) });
    assert_eq!(bench.found(&[1, 2, 3]), "hbm:3", "two sessions share it already");
}

#[test]
fn bad_wishes_are_told_what_to_do() {
    let mut bench = sunk();
    let mut check = |blocks: &[u64], wish: LiftWish, expected: &str| {
        let said = match begin(&mut bench, blocks, wish) {
            Outcome::Rejected(why) | Outcome::Missing(why) => why,
            other => format!("{other:?}"),
        };
        assert!(said.contains(expected), "`{said}` lacks `{expected}`");
    };
    check(&[1], wish(None, 0), "which is over already: give at least 1 ms");
    check(&[999], wish(None, 100), "none of these blocks is here");
    check(&[1], wish(Some(Tier::Object), 100), "this daemon has no object tier");
    let loud = LiftWish { priority: Some(101), ..LiftWish::default() };
    check(&[1], loud, "priority 101 is out of range: give 0 to 100");
    check(&[1], wish(None, 400 * 24 * 3_600_000), "deadline_clipped: true");
    let target = Target::Session { session: name("ended"), tokens: TokenRange::ALL };
    let missing = bench.hint(Action::SpeculativePrefill { target, wish: LiftWish::default() });
    assert!(matches!(missing, Outcome::Missing(_)), "{missing:?}");
}

#[test]
fn a_thousand_lifts_are_bounded_and_end_with_their_client() {
    let mut bench = sunk();
    let refused = (0..1000)
        .filter(|_| {
            let outcome = begin(&mut bench, &[1, 2, 3], wish(Some(Tier::Dram), 10_000));
            matches!(outcome, Outcome::Rejected(why) if why.contains("as many as there may be"))
        })
        .count();
    assert!(refused > 0 && refused < 1000, "{refused}");
    bench.run();
    let client = bench.client;
    bench.event(Event::ClientGone { client });
    bench.join(ClientId(2), 1);
    assert_eq!(
        bench.found(&[1, 2, 3]),
        "dram:3",
        "what was lifted is there, and is held no longer"
    );
    assert!(matches!(begin(&mut bench, &[11], wish(None, 100)), Outcome::Lifting { .. }));
}

#[test]
fn where_lifting_is_off_nothing_moves_ahead_of_need() {
    let mut bench = sunk();
    bench.manager.config.lifts_max = 0;
    let said = begin(&mut bench, &[1], wish(None, 100));
    assert!(matches!(said, Outcome::Rejected(why) if why.contains("prefetch.lifts_max")));
    bench.turn(Some("s"), &[], &[11, 12, 13]);
    bench.hint(Action::ToolReturn { session: name("s") });
    assert_eq!(counts(&bench), [0; 4]);
}
