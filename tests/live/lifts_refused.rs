//! Lifts that are refused, clipped or missing in the daemon as a process, and why.

use std::time::Duration;

use terrace::cli::daemon::Daemon;
use terrace::client::{
    Action, Client, ClientConfig, ClientError, LiftState, OutcomeStatus, Target,
};
use terrace::domain::hint::LiftWish;
use terrace::domain::retention::TokenRange;
use terrace::env::{Clock, SystemClock};

use super::chain;
use super::lifts::{daemon, lift, name, prefetch, session, sink, spec};
use super::rig::{self, Engine, NONE};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_what_is_not_here_is_missing() {
    let daemon = daemon(0).await;
    let engine = Engine::join(&daemon, "engine").await;
    let ids = chain(0, 10);
    sink(&engine, "ended", &ids).await;
    let end = Action::SessionEnd { session: name("ended"), tree: false };
    let ended = engine.client.hint(vec![end]).await.unwrap().pop().unwrap();
    assert_eq!(ended.status, OutcomeStatus::Accepted, "{ended:?}");
    sink(&engine, "agent", &chain(500, 10)).await;

    let agent = || session("agent", TokenRange::ALL);
    let within = |deadline| LiftWish { deadline: Some(deadline), ..LiftWish::default() };
    let prefetch_with = |wish| Action::Prefetch { target: agent(), wish };
    let unknown = Target::Keys(engine.hashes(&chain(77_000, 5)).into());
    let urgent = LiftWish { priority: Some(101), ..LiftWish::default() };
    let cases = [
        (prefetch(unknown), OutcomeStatus::Missing, ""),
        (prefetch(session("ended", TokenRange::ALL)), OutcomeStatus::Missing, ""),
        (prefetch(session("never", TokenRange::ALL)), OutcomeStatus::Missing, ""),
        (
            prefetch_with(within(Duration::ZERO)),
            OutcomeStatus::Rejected,
            "over already: give at least 1 ms",
        ),
        (prefetch_with(urgent), OutcomeStatus::Rejected, "give 0 to 100"),
        (Action::CancelPrefetch { operation: 1 << 40 }, OutcomeStatus::Missing, ""),
        (prefetch_with(within(365 * 24 * HOUR)), OutcomeStatus::Clipped, ""),
    ];
    let actions = cases.iter().map(|(action, ..)| action.clone()).collect();
    let outcomes = engine.client.hint(actions).await.unwrap();
    for (outcome, (action, status, says)) in outcomes.iter().zip(&cases) {
        assert_eq!(outcome.status, *status, "{action:?}: {outcome:?}");
        assert!(outcome.message.contains(says), "{action:?}: {outcome:?}");
    }
    let year = outcomes.last().unwrap();
    let operation = year.operation.unwrap();
    let shown = engine.client.operation(operation).await.unwrap();
    let left = shown.deadline.since(SystemClock::start().now());
    assert!(left <= HOUR && left > HOUR / 2, "{left:?}");
    assert_eq!((year.blocks, year.clipped), (10, 0));
    engine.client.wait(engine.client.lift(operation)).await.unwrap();
    let other = Engine::join(&daemon, "other").await;
    let said = other.client.operation(operation).await.unwrap_err();
    assert!(matches!(said, ClientError::NotFound(_)), "{said:?}");
    assert_eq!(engine.load(&chain(500, 10)).await.failed, NONE);
}

#[tokio::test]
async fn an_engine_that_computes_nothing_is_refused() {
    let daemon = daemon(0).await;
    let config = ClientConfig::new("idle", rig::namespace()).with_prefill_rate(0);
    let said = Client::connect(daemon.socket(), config).await.err().unwrap();
    assert!(matches!(said, ClientError::Invalid(_)), "{said:?}");
    assert!(said.to_string().contains("prefill_tokens_per_s is 0: give the tokens"), "{said}");
    Engine::join(&daemon, "idle").await;
}

#[tokio::test]
async fn a_daemon_that_is_told_to_lifts_nothing() {
    let mut spec = spec(0);
    spec.flags.push(("prefetch-lifts-max".into(), "0".into()));
    let daemon = Daemon::start(spec).await.unwrap();
    let engine = Engine::join(&daemon, "engine").await;
    let ids = chain(0, 10);
    sink(&engine, "agent", &ids).await;
    let asked = prefetch(session("agent", TokenRange::ALL));
    let tool = Action::ToolStart { session: name("agent"), expected: Some(Duration::from_secs(1)) };
    let outcomes = engine.client.hint(vec![asked, tool]).await.unwrap();
    assert_eq!(outcomes[0].status, OutcomeStatus::Rejected, "{outcomes:?}");
    assert!(outcomes[0].message.contains("set prefetch.lifts_max"), "{outcomes:?}");
    assert_eq!(outcomes[1].status, OutcomeStatus::Accepted, "{outcomes:?}");
    assert_eq!(engine.load(&ids).await.failed, NONE);
    let lifts = engine.settled().await.lifts;
    assert_eq!((lifts.begun, lifts.bytes), (0, 0));
}

#[tokio::test]
async fn a_lift_that_was_cancelled_says_so_and_holds_nothing() {
    let daemon = daemon(0).await;
    let engine = Engine::join(&daemon, "engine").await;
    let ids = chain(0, 12);
    sink(&engine, "agent", &ids).await;
    let op = lift(&engine, prefetch(session("agent", TokenRange::ALL))).await;
    let cancel = || vec![Action::CancelPrefetch { operation: op.0 }];
    let cancelled = engine.client.hint(cancel()).await.unwrap().pop().unwrap();
    assert_eq!(cancelled.status, OutcomeStatus::Accepted, "{cancelled:?}");
    let end = engine.client.wait(engine.client.lift(op)).await.unwrap();
    let shown = engine.client.operation(op).await.unwrap();
    assert_eq!(shown.state, LiftState::Cancelled);
    assert_eq!(shown.landed + shown.clipped, 12, "{shown:?}");
    assert_eq!(end.failed.len(), shown.clipped as usize);
    let again = engine.client.hint(cancel()).await.unwrap().pop().unwrap();
    assert_eq!(again.status, OutcomeStatus::Missing, "{again:?}");
    assert_eq!(engine.load(&ids).await.failed, NONE);
}
