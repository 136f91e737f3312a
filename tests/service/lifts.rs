//! Lifts over the wire: what reaches the manager of them, how they are answered, watched and told;
//! what lookups advise, and what engines say of their speed.

use std::time::Duration;

use bytes::Bytes;
use terrace::client::{
    Action, Client, ClientConfig, ClientError, EndedRequest, LiftState, Link, LookupOptions, OpId,
    OpKind, Operation, OutcomeStatus, Prefill, RequestId, Target,
};
use terrace::domain::hint::{self, LiftReason, LiftWish, Outcome};
use terrace::domain::planner::{Head, Plan};
use terrace::domain::retention::TokenRange;
use terrace::domain::session::SessionName;
use terrace::domain::tier::Tier;
use terrace::domain::units::Time;
use terrace::manager::api as manager;
use terrace::wire::pb;
use terrace::wire::pb::action::Action as Verb;
use tonic::Code;

use super::descriptors::attached_raw;
use super::{World, hashes, namespace};

const R: RequestId = RequestId(3);

fn name(name: &str) -> SessionName {
    SessionName::new(name).unwrap()
}

fn whole(session: &str) -> Target {
    Target::Session { session: name(session), tokens: TokenRange::ALL }
}

fn prefetch() -> Action {
    Action::Prefetch { target: whole("s"), wish: LiftWish::default() }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test]
async fn a_lift_is_accepted_clipped_or_deferred_and_always_named() {
    let world = World::start();
    let client = world.client("a").await;
    let lifting = |operation, clipped, waits| Outcome::Lifting {
        operation,
        blocks: 9,
        clipped,
        deadline_clipped: false,
        waits,
    };
    world.fake.state().outcomes = Some(vec![
        lifting(1, 0, false),
        lifting(2, 0, true),
        lifting(3, 4, false),
        lifting(4, 4, true),
        Outcome::Missing("gone".into()),
    ]);
    let outcomes = client.hint((0..5).map(|_| prefetch()).collect()).await.unwrap();
    let said: Vec<_> = outcomes
        .iter()
        .map(|one| (one.status, one.blocks, one.clipped, one.operation.map(|op| op.0)))
        .collect();
    assert_eq!(
        said,
        [
            (OutcomeStatus::Accepted, 9, 0, Some(1)),
            (OutcomeStatus::Deferred, 9, 0, Some(2)),
            (OutcomeStatus::Clipped, 9, 4, Some(3)),
            (OutcomeStatus::Clipped, 9, 4, Some(4)),
            (OutcomeStatus::Missing, 0, 0, None),
        ]
    );
}

#[tokio::test]
async fn lifts_that_make_no_sense_are_refused_before_the_manager_hears_of_them() {
    let world = World::start();
    let (mut raw, token) = attached_raw(&world, "raw").await;
    let token = Bytes::from(token.0.to_vec());
    let target = || {
        let session = "s".to_owned();
        let named = pb::target::SessionTokens { session, tokens: None };
        Some(pb::Target { of: Some(pb::target::Of::Session(named)) })
    };
    let prefetch = |change: fn(&mut pb::action::Prefetch)| {
        let mut verb = pb::action::Prefetch { target: target(), ..Default::default() };
        change(&mut verb);
        Verb::Prefetch(verb)
    };
    let prefill = |change: fn(&mut pb::action::SpeculativePrefill)| {
        let mut verb = pb::action::SpeculativePrefill { target: target(), ..Default::default() };
        change(&mut verb);
        Verb::SpeculativePrefill(verb)
    };
    let cases = [
        (prefetch(|verb| verb.target = None), "target is missing"),
        (prefetch(|verb| verb.deadline_ms = Some(0)), "0 ms from now, which is over already"),
        (prefetch(|verb| verb.priority = Some(101)), "priority 101 is out of range: give 0 to 100"),
        (prefetch(|verb| verb.priority = Some(u32::MAX)), "is out of range"),
        (prefetch(|verb| verb.to = 9), "to is 9, which means nothing here"),
        (prefill(|verb| verb.target = None), "target is missing"),
        (prefill(|verb| verb.session = "s".into()), "it names a target and a session"),
        (prefill(|verb| verb.deadline_ms = Some(0)), "over already"),
        (prefill(|verb| verb.priority = Some(300)), "priority 300 is out of range"),
        (prefill(|verb| (verb.target, verb.session) = (None, "x".repeat(129))), "has 129 bytes"),
        (
            prefill(|verb| (verb.target, verb.session) = (None, "s".into())),
            "", // The session's last chain.
        ),
    ];
    let (verbs, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let action =
        |(id, verb): (usize, Verb)| pb::Action { action_id: id.to_string(), action: Some(verb) };
    let actions = verbs.into_iter().enumerate().map(action).collect();
    let answer = raw.hint(pb::HintRequest { token, actions }).await.unwrap().into_inner();
    for (outcome, expected) in answer.outcomes.iter().zip(expected) {
        let refused = outcome.status() == pb::OutcomeStatus::Rejected;
        assert_eq!(refused, !expected.is_empty(), "{outcome:?}");
        assert!(outcome.message.contains(expected), "`{}` lacks `{expected}`", outcome.message);
    }
    let target = hint::Target::Session { session: name("s"), tokens: TokenRange::ALL };
    let last_chain = hint::Action::SpeculativePrefill { target, wish: LiftWish::default() };
    assert_eq!(world.fake.state().hinted, [last_chain]);
}

#[tokio::test]
async fn an_operation_is_shown_to_its_owner_alone() {
    use manager::LiftState as State;
    let world = World::start();
    let (owner, other) = (world.client("owner").await, world.client("other").await);
    let whose = world.fake.state().helloed[0];
    let lift = |state, reason| manager::LiftStatus {
        op: manager::OpId(7),
        state,
        reason,
        to: Tier::Dram,
        deadline: Time::from_millis(90),
        blocks: 10,
        landed: 7,
        clipped: 2,
        used: 5,
    };
    for (state, shown, reason) in [
        (State::Waiting, LiftState::Waiting, LiftReason::Asked),
        (State::Moving, LiftState::Moving, LiftReason::SpeculativePrefill),
        (State::Held, LiftState::Held, LiftReason::ToolStart),
        (State::Ended, LiftState::Ended, LiftReason::ToolReturn),
        (State::Cancelled, LiftState::Cancelled, LiftReason::SubagentStart),
        (State::Moving, LiftState::Moving, LiftReason::Queued),
    ] {
        world.fake.state().lifts.insert((whose, manager::OpId(7)), lift(state, reason));
        let expected = Operation {
            state: shown,
            reason,
            to: Tier::Dram,
            deadline: Time::from_millis(90),
            blocks: 10,
            landed: 7,
            clipped: 2,
            used: 5,
        };
        assert_eq!(owner.operation(OpId(7)).await.unwrap(), expected);
    }
    for (client, op) in [(&other, 7), (&owner, 8)] {
        let error = client.operation(OpId(op)).await.unwrap_err();
        assert!(matches!(error, ClientError::NotFound(_)), "{error:?}");
    }
    let mut raw = world.raw().await;
    let stranger = pb::OperationRequest { token: Bytes::new(), operation_id: 7 };
    let status = raw.operation(stranger).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn the_end_of_a_lift_is_told_like_that_of_a_load() {
    let world = World::start();
    let client = world.client("a").await;
    let waits = Outcome::Lifting {
        operation: 40,
        blocks: 3,
        clipped: 0,
        deadline_clipped: false,
        waits: false,
    };
    world.fake.state().outcomes = Some(vec![waits]);
    let outcome = client.hint(vec![prefetch()]).await.unwrap().pop().unwrap();
    let whose = world.fake.state().helloed[0];
    let ended = manager::Completion {
        op: manager::OpId(40),
        request: manager::RequestId(0),
        kind: manager::OpKind::Prefetch,
        blocks: 3,
        failed: vec![2],
        not_durable: vec![],
    };
    world.fake.state().complete(whose, ended);
    let lift = client.lift(outcome.operation.unwrap());
    let told = client.wait(lift).await.unwrap();
    assert_eq!((told.kind, told.request, told.blocks), (OpKind::Prefetch, RequestId(0), 3));
    assert_eq!(told.failed, [2]);
}

#[tokio::test]
async fn a_lookup_says_that_it_waits_and_is_advised() {
    let world = World::start();
    let (client, _pool, handle) = world.client_with_pool("a", 8).await;
    client.store(R, None, hashes(0, 4), handle, &[0, 1, 2, 3]).await.unwrap();
    let plan = Plan {
        ready: vec![ms(12)],
        load: Head { blocks: 3, takes: ms(9) },
        mixed: Head { blocks: 2, takes: Duration::from_micros(6_001) },
        recompute: Some(ms(40)),
    };
    world.fake.state().plan = plan.clone();
    assert_eq!(client.lookup(R, hashes(0, 6)).await.unwrap().plan, plan);
    let plan = Plan { recompute: None, ..plan };
    world.fake.state().plan = plan.clone();
    let options = LookupOptions { queued: true, ..LookupOptions::default() };
    assert_eq!(client.lookup_with(R, hashes(0, 6), options).await.unwrap().plan, plan);
    assert_eq!(world.fake.state().queued, [false, true]);
}

#[tokio::test]
async fn parts_of_an_engine_say_of_which() {
    let world = World::start();
    let part = |name: &str, engine: &str| ClientConfig::new(name, namespace()).part_of(engine);
    Client::connect(&world.socket, part("a/scheduler", "a")).await.unwrap();
    let _whole = world.client("b").await;
    let error = world.refused(part("c", &"long".repeat(65))).await;
    assert!(error.to_string().contains("engine is 260 bytes long"), "{error}");
    assert_eq!(world.fake.state().engines, [Some("a".into()), None]);
}

#[tokio::test]
async fn engines_say_how_fast_they_are() {
    let world = World::start();
    let engine = |name: &str| ClientConfig::new(name, namespace());
    let client =
        Client::connect(&world.socket, engine("a").with_prefill_rate(9_000)).await.unwrap();
    let _silent = world.client("b").await;
    let error = world.refused(engine("c").with_prefill_rate(0)).await;
    assert!(matches!(&error, ClientError::Invalid(_)), "{error:?}");
    assert!(error.to_string().contains("prefill_tokens_per_s is 0: give the tokens"), "{error}");
    assert_eq!(world.fake.state().prefill_rates, [Some(9_000), None]);
    // The name of the one that was refused is free again.
    Client::connect(&world.socket, engine("c")).await.unwrap();

    let ended = |tokens, took| EndedRequest { prefill: Some(Prefill { tokens, took }), ..R.into() };
    client.end_request(R).await.unwrap();
    client.end_request(ended(512, ms(70))).await.unwrap();
    let whole = manager::Prefill { tokens: 512, took: ms(70) };
    assert_eq!(world.fake.state().prefills, [None, Some(whole)]);
    for half in [ended(0, ms(70)), ended(512, Duration::ZERO)] {
        let error = client.end_request(half).await.unwrap_err();
        assert!(matches!(error, ClientError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains("report both, each at least 1"), "{error}");
    }
}

#[tokio::test]
async fn the_status_has_links_and_lifts() {
    let world = World::start();
    let status = world.client("a").await.status().await.unwrap();
    for (hundreds, link) in (1_u64..).zip(Link::ALL) {
        let figures = &status.links[link.index()];
        let shown = [
            figures.demand_bytes,
            figures.prefetch_bytes,
            figures.background_bytes,
            figures.bytes_per_s,
            figures.latency_us,
            figures.queued_transfers,
            figures.in_flight_bytes,
        ];
        let expected: Vec<_> = (1..=7).map(|figure| hundreds * 100 + figure).collect();
        assert_eq!(shown, expected[..], "{}", link.name());
    }
    let lifts = status.lifts;
    let shown = [
        lifts.begun,
        lifts.cancelled,
        lifts.clipped_blocks,
        lifts.bytes,
        lifts.timely_bytes,
        lifts.late_bytes,
        lifts.wasted_bytes,
    ];
    assert_eq!(shown, [1, 2, 3, 4, 5, 6, 7]);
}
