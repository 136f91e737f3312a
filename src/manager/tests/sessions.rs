//! Sessions: who reaches what, and what is dead when nobody does.

use crate::domain::hint::Target;
use crate::domain::retention::{Kind, TokenRange, Wish};
use crate::domain::session::{SessionLimits, SessionState};

use super::*;

mod late;

impl Bench {
    fn start(&mut self, session: &str, parent: Option<&str>) -> Outcome {
        let action = Action::SessionStart { session: name(session), parent: parent.map(name) };
        self.hint(action)
    }

    fn end(&mut self, session: &str, tree: bool) -> Outcome {
        self.hint(Action::SessionEnd { session: name(session), tree })
    }

    /// All of them, by name.
    fn sessions(&mut self) -> Vec<SessionStatus> {
        match self.ask(Command::Sessions { sessions_max: 1000 }) {
            Reply::Sessions { mut sessions, .. } => {
                sessions.sort_by(|a, b| a.session.cmp(&b.session));
                sessions
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_end_kills_only_what_no_other_session_reaches() {
    let mut bench = Bench::new([0, 8, 50, 0]);
    bench.turn(Some("a"), &[], &[1, 2, 3, 4]);
    bench.turn(Some("b"), &[], &[1, 2, 13, 14]);
    assert_eq!(bench.end("a", false), Outcome::Accepted { blocks: 2 });
    assert!(bench.block(3).unwrap().dead && !bench.block(2).unwrap().dead);
    bench.store(None, &[21, 22, 23, 24]);
    assert_eq!(bench.found(&[1, 2, 3, 4]), "dram:2", "the dead go first");
    assert_eq!(bench.tier(Tier::Nvme).blocks, 0, "and are not worth writing down");
    assert_eq!(bench.found(&[1, 2, 13, 14]), "dram:4");
    assert!(matches!(bench.end("a", false), Outcome::Missing(_)), "ended twice");
}

#[test]
fn whoever_reads_the_dead_revives_them() {
    let mut bench = Bench::new([0, 8, 0, 0]);
    bench.turn(Some("a"), &[], &[1, 2, 3]);
    bench.end("a", false);
    assert_eq!(bench.found(&[1, 2]), "dram:2");
    assert!(!bench.block(2).unwrap().dead && bench.block(3).unwrap().dead);
    bench.turn(Some("a"), &[], &[1, 2, 3]);
    assert!(!bench.block(3).unwrap().dead, "a session may come back under its name");
}

#[test]
fn a_reset_kills_what_the_next_request_does_not_reach() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    bench.turn(Some("a"), &[], &[1, 2, 3, 4, 5]);
    let reset = Action::SessionReset { session: name("a") };
    assert_eq!(bench.hint(reset), Outcome::Accepted { blocks: 0 });
    assert!(!bench.block(5).unwrap().dead, "nobody knows yet what is left");
    bench.turn(Some("a"), &[], &[1, 2, 33, 34]);
    assert!(bench.block(3).unwrap().dead && bench.block(5).unwrap().dead);
    assert!(!bench.block(2).unwrap().dead && !bench.block(33).unwrap().dead);
    bench.turn(Some("a"), &[], &[1, 42]);
    assert!(!bench.block(34).unwrap().dead, "without a reset a branch is only left");
    assert_eq!(bench.block(34).unwrap().claims, 0);
}

#[test]
fn a_tree_ends_together_and_without_it_children_live_on() {
    let mut bench = Bench::new([0, 50, 0, 0]);
    bench.turn(Some("lead"), &[], &[1, 2]);
    for (child, parent, tail) in [("x", "lead", 11), ("y", "x", 21)] {
        assert_eq!(bench.start(child, Some(parent)), Outcome::Accepted { blocks: 0 });
        bench.turn(Some(child), &[], &[1, tail, tail + 1]);
    }
    assert_eq!(bench.end("x", false), Outcome::Accepted { blocks: 2 });
    let left: Vec<_> = bench.sessions().into_iter().map(|s| (s.session, s.parent)).collect();
    assert_eq!(left, [(name("lead"), None), (name("y"), None)], "a child outlives its parent");
    assert_eq!(bench.block(21).unwrap().claims, 1);
    bench.start("z", Some("lead"));
    bench.turn(Some("z"), &[], &[1, 31]);
    assert_eq!(bench.end("lead", true), Outcome::Accepted { blocks: 2 });
    assert!(bench.block(31).unwrap().dead && !bench.block(1).unwrap().dead);
}

#[test]
fn trees_have_one_root_and_bounds() {
    let mut bench = Bench::new([0, 50, 0, 0]);
    let rejected = |outcome: Outcome, expected: &str| match outcome {
        Outcome::Rejected(why) => assert!(why.contains(expected), "{why}"),
        other => panic!("{other:?}"),
    };
    rejected(bench.start("a", Some("a")), "own parent");
    bench.start("b", Some("a"));
    assert_eq!(bench.start("b", Some("a")), Outcome::Accepted { blocks: 0 }, "said twice");
    rejected(bench.start("b", Some("c")), "another parent");
    rejected(bench.start("a", Some("b")), "name parents before children");
    for depth in 1..8 {
        bench.start(&format!("d{depth}"), Some(&format!("d{}", depth - 1)));
    }
    bench.start("d8", Some("d7"));
    rejected(bench.start("d9", Some("d8")), "at most 8 generations");
    let reset = Action::SessionReset { session: name("d9") };
    assert!(matches!(bench.hint(reset), Outcome::Missing(_)), "what was rejected started it");
    let unknown = [
        Action::SessionReset { session: name("nobody") },
        Action::ToolStart { session: name("nobody"), expected: None },
        Action::ToolReturn { session: name("nobody") },
        Action::SessionEnd { session: name("nobody"), tree: true },
    ];
    for action in unknown {
        assert!(matches!(bench.hint(action), Outcome::Missing(_)));
    }
}

#[test]
fn a_subagents_scratch_stays_in_memory_until_its_lead_reads_it() {
    let mut bench = Bench::new([0, 6, 50, 0]);
    bench.turn(Some("lead"), &[], &[1, 2]);
    bench.start("sub", Some("lead"));
    bench.turn(Some("sub"), &[], &[1, 2, 11, 12]);
    let scratch = bench.block(11).unwrap().record;
    assert_eq!((scratch.kind, scratch.floor), (Kind::Subagent, Tier::Dram));
    assert_eq!(bench.block(2).unwrap().record.floor, Tier::Object);
    let wish = Wish { kind: Some(Kind::Conversation), ..Wish::default() };
    let directive = Directive { tokens: TokenRange { start: 32, end: None }, wish };
    bench.turn(Some("sub"), &[directive], &[1, 2, 11, 12, 13]);
    assert_eq!(bench.block(12).unwrap().record.floor, Tier::Dram, "another kind lifts no floor");
    bench.turn(Some("lead"), &[], &[1, 2, 11]);
    assert_eq!(bench.block(11).unwrap().record.floor, Tier::Object);
    bench.store(None, &[21, 22, 23, 24, 25, 26]);
    assert_eq!(bench.found(&[1, 2, 11, 12]), "nvme:3", "only what nobody else read is lost");
}

#[test]
fn a_floor_that_a_subagent_asked_for_holds_whoever_reads_the_block() {
    let mut bench = Bench::new([0, 20, 50, 0]);
    bench.turn(Some("lead"), &[], &[1, 2]);
    bench.start("sub", Some("lead"));
    let wish = Wish { floor: Some(Tier::Dram), ..Wish::default() };
    let directive = Directive { tokens: TokenRange { start: 48, end: Some(64) }, wish };
    bench.turn(Some("sub"), &[directive], &[1, 2, 11, 12, 13]);
    bench.turn(Some("lead"), &[], &[1, 2, 11, 12, 13]);
    let floors = [11, 12, 13].map(|n| bench.block(n).unwrap().record.floor);
    assert_eq!(floors, [Tier::Object, Tier::Dram, Tier::Object]);
}

#[test]
fn a_request_belongs_to_no_session_that_came_after_its_own() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    let lookup = |session: Option<&str>, request| Command::Lookup {
        request: RequestId(request),
        session: session.map(name),
        keys: keys(&[1]),
        ask_shared: Duration::ZERO,
        queued: false,
    };
    let end = Command::EndRequest {
        request: RequestId(1),
        stop: Stop::ToolUse,
        output_tokens: 0,
        prefill: None,
    };
    bench.ask(lookup(Some("a"), 1));
    bench.end("a", false);
    bench.ask(lookup(Some("b"), 2));
    bench.ask(lookup(None, 1));
    bench.ask(end);
    assert_eq!(bench.sessions()[0].state, SessionState::Running, "b's place was a's before");
}

#[test]
fn silence_forgets_a_session_and_not_its_blocks() {
    let idle_timeout = Duration::from_mins(10);
    let mut bench = Bench::with_config([0, 20, 0, 0], 1, |config| {
        config.sessions = SessionLimits { idle_timeout, ..SessionLimits::default() };
    });
    bench.turn(Some("a"), &[], &[1, 2]);
    bench.pass(idle_timeout / 2);
    bench.turn(Some("b"), &[], &[1, 12]);
    bench.pass(idle_timeout / 2);
    let left: Vec<_> = bench.sessions().into_iter().map(|s| s.session).collect();
    assert_eq!(left, [name("b")]);
    assert!(!bench.block(2).unwrap().dead);
    assert_eq!(bench.block(2).unwrap().claims, 0);
}

#[test]
fn too_many_sessions_forget_the_one_silent_for_longest() {
    let mut bench = Bench::with_config([0, 50, 0, 0], 1, |config| {
        config.sessions = SessionLimits { sessions_max: 3, ..SessionLimits::default() };
    });
    for (n, session) in (1..).zip(["a", "b", "c", "a", "d"]) {
        bench.pass(Duration::from_secs(1));
        bench.turn(Some(session), &[], &[n]);
    }
    let left: Vec<_> = bench.sessions().into_iter().map(|s| s.session).collect();
    assert_eq!(left, [name("a"), name("c"), name("d")]);
}

#[test]
fn a_tip_that_is_evicted_rises_with_its_chain() {
    let mut bench = Bench::new([0, 4, 0, 0]);
    bench.turn(Some("a"), &[], &[1, 2, 3]);
    bench.store(None, &[11, 12, 13]);
    let status = bench.sessions().remove(0);
    assert_eq!((status.blocks, status.own_blocks), (1, 1));
    bench.turn(Some("a"), &[], &[1, 2, 3]);
    assert_eq!(bench.sessions().remove(0).blocks, 3);
}

#[test]
fn hints_reach_what_the_session_reached() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    bench.turn(Some("a"), &[], &[1, 2, 3]);
    let tokens = TokenRange { start: 16, end: Some(32) };
    let target = Target::Session { session: name("a"), tokens };
    let wish = Wish { priority: Some((70, None)), ..Wish::default() };
    assert_eq!(bench.hint(Action::Retain { target, wish }), Outcome::Accepted { blocks: 1 });
    let priorities = [1, 2, 3].map(|n| bench.block(n).unwrap().record.priority);
    assert_eq!(priorities, [35, 70, 35]);
    let beyond = TokenRange { start: 4096, end: None };
    let target = Target::Session { session: name("a"), tokens: beyond };
    assert!(matches!(bench.hint(Action::Retain { target, wish }), Outcome::Missing(_)));
}

#[test]
fn states_follow_what_happens() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    bench.turn(Some("a"), &[], &[1]);
    assert_eq!(bench.sessions()[0].state, SessionState::Stopped(Stop::EndTurn));
    let expected = Some(Duration::from_secs(3));
    bench.hint(Action::ToolStart { session: name("a"), expected });
    let expected = expected.map(|after| bench.now + after);
    assert_eq!(bench.sessions()[0].state, SessionState::InTool { expected });
    bench.hint(Action::ToolReturn { session: name("a") });
    assert_eq!(bench.sessions()[0].state, SessionState::Stopped(Stop::ToolUse));
}

#[test]
fn a_chain_named_from_its_middle_is_only_not_found() {
    let mut bench = Bench::with_config([0, 20, 0, 0], 1, |config| {
        config.policy = PolicyName::Value;
    });
    let chain: Vec<u64> = (1..=10).collect();
    bench.turn(Some("a"), &[], &chain);
    bench.turn(Some("b"), &[], &[1, 2, 3, 4, 5, 99]);
    assert_eq!(bench.found(&[5]), "");
    assert_eq!(bench.found(&[99, 5]), "");
    assert_eq!(bench.found(&chain), "dram:10");
}

#[test]
fn a_parent_and_a_child_need_room_for_both() {
    let mut bench = Bench::with_config([0, 20, 0, 0], 1, |config| {
        config.sessions = SessionLimits { sessions_max: 1, ..SessionLimits::default() };
    });
    let outcome = bench.start("child", Some("parent"));
    assert!(matches!(&outcome, Outcome::Rejected(why) if why.contains("raise")), "{outcome:?}");
    bench.end("child", true);
}

#[test]
fn who_comes_after_a_session_owns_nothing_of_it() {
    let mut bench = Bench::new([0, 20, 0, 0]);
    let shield = |secs| Wish {
        shield: Some(crate::domain::retention::Shield {
            ttl: Duration::from_secs(secs),
            refresh_on_hit: false,
        }),
        ..Wish::default()
    };
    let asks = |wish| [Directive { tokens: TokenRange::ALL, wish }];
    bench.turn(Some("a"), &asks(shield(3600)), &[1, 2]);
    let until = bench.block(2).unwrap().record.shield_until;
    bench.end("a", false);
    bench.turn(Some("b"), &asks(shield(1)), &[1, 2]);
    assert_eq!(bench.block(2).unwrap().record.shield_until, until, "it joins, as anyone does");
}

/// Each hands over to the next and ends: there are never more than three, whatever came before them.
#[test]
fn a_relay_of_agents_goes_on_however_many_have_ended() {
    let mut bench = Bench::new([0, 50, 0, 0]);
    for at in 1..=20_u32 {
        let outcome = bench.start(&format!("s{at}"), Some(&format!("s{}", at - 1)));
        assert_eq!(outcome, Outcome::Accepted { blocks: 0 }, "hand-over {at}");
        if at >= 2 {
            bench.end(&format!("s{}", at - 2), false);
        }
    }
    assert_eq!(bench.sessions().len(), 2);
}

fn tree(root: &str) -> Target {
    Target::SessionTree(name(root))
}

/// A lead that reaches `shared` and so many sub-agents that go on from there, each by a block of its own.
fn with_a_tree(shared: &[u64], kids: u64) -> Bench {
    let mut bench = Bench::new([0, 2000, 0, 0]);
    bench.turn(Some("lead"), &[], shared);
    for kid in 0..kids {
        let session = format!("kid{kid}");
        bench.start(&session, Some("lead"));
        bench.turn(Some(&session), &[], &[shared, &[10_000 + kid]].concat());
    }
    bench
}

#[test]
fn a_tree_speaks_as_one_and_takes_back_what_it_asked_for() {
    let mut bench = with_a_tree(&[1, 2, 3], 2);
    bench.turn(Some("kid0"), &[], &[1, 2, 3, 10_000, 4]);
    bench.turn(Some("kid1"), &[], &[1, 2, 3, 10_000, 4]);
    let shield =
        crate::domain::retention::Shield { ttl: Duration::from_hours(1), refresh_on_hit: false };
    let pin = Wish { shield: Some(shield), ..Wish::default() };
    let lower = Wish { priority: Some((10, None)), ..Wish::default() };
    let all = Outcome::Accepted { blocks: 5 };
    for wish in [pin, lower] {
        assert_eq!(bench.hint(Action::Retain { target: tree("lead"), wish }), all);
    }
    let record = |bench: &mut Bench, n| bench.block(n).unwrap().record;
    assert!([1, 4].iter().all(|n| record(&mut bench, *n).shield_until > bench.now));
    assert_eq!([1, 4].map(|n| record(&mut bench, n).priority), [10, 10]);
    assert_eq!(bench.hint(Action::Release { target: tree("lead") }), all);
    assert!([1, 4].iter().all(|n| record(&mut bench, *n).shield_until == Time::ZERO));
    // What others asked for too is theirs as well.
    bench.turn(Some("stranger"), &[Directive { tokens: TokenRange::ALL, wish: pin }], &[1, 2]);
    let release = bench.hint(Action::Release { target: tree("lead") });
    assert_eq!(release, Outcome::Clipped { blocks: 3, clipped: 2 });
}

#[test]
fn a_tree_names_each_block_once_parents_first_without_a_walk_for_each_session() {
    let shared: Vec<u64> = (1..=200).collect();
    let mut bench = with_a_tree(&shared, 50);
    bench.manager.directory.looks.take();
    let found = bench.manager.targets(NamespaceId(0), &tree("lead")).unwrap();
    let looks = bench.manager.directory.looks.take();
    assert!(looks < 20 * 250, "{looks} looks");
    let rows: Vec<_> = found.iter().map(|(at, _)| *at).collect();
    assert_eq!(rows.len(), 250);
    for (place, at) in rows.iter().enumerate() {
        let parent = bench.manager.directory.get(*at).parent();
        assert!(parent.is_none_or(|parent| rows[..place].contains(&parent)));
    }
    let twice = Target::Keys(keys(&[1, 2, 1]));
    let wish = Wish { priority: Some((50, None)), ..Wish::default() };
    let outcome = bench.hint(Action::Retain { target: twice, wish });
    assert_eq!(outcome, Outcome::Accepted { blocks: 2 });
}
