//! Lifts in the daemon as a process: chains that sank to the disk come up before they are asked for,
//! whoever dies meanwhile.

use std::process::Command;
use std::time::Duration;

use terrace::cli::daemon::{Daemon, DaemonSpec};
use terrace::client::{Action, DaemonStatus, LiftState, Link, OpId, OpKind, OutcomeStatus, Target};
use terrace::domain::hint::{LiftReason, LiftWish};
use terrace::domain::retention::TokenRange;
use terrace::domain::session::SessionName;
use terrace::domain::tier::Tier;
use terrace::env::Stopwatch;

use super::rig::{self, BLOCK_BYTES, Engine, NONE, REQUEST, by_tier, until};
use super::{chain, json_of};

/// Blocks in DRAM, of which lifts may hold 60%; the disk has room for everything.
pub const DRAM_BLOCKS: u64 = 64;
const LIFTED_MAX: u32 = 38;

/// A daemon whose blocks sink in the order in which they were used.
pub async fn daemon(hbm_blocks: u64) -> Daemon {
    Daemon::start(spec(hbm_blocks)).await.unwrap()
}

pub fn spec(hbm_blocks: u64) -> DaemonSpec {
    let mut spec = rig::spec([hbm_blocks, DRAM_BLOCKS, 900, 0]);
    spec.flags.push(("retention-policy".into(), "lru".into()));
    spec
}

pub fn name(session: &str) -> SessionName {
    SessionName::new(session).unwrap()
}

pub fn session(session: &str, tokens: TokenRange) -> Target {
    Target::Session { session: name(session), tokens }
}

pub fn prefetch(target: Target) -> Action {
    Action::Prefetch { target, wish: LiftWish::default() }
}

/// Stores a chain as the session's and pushes it down to the disk alone.
pub async fn sink(engine: &Engine, of: &str, ids: &[u64]) {
    let request = REQUEST.of(&name(of));
    let op = engine.store_as(request.clone(), ids).await.op;
    assert_eq!(engine.client.wait(op).await.unwrap().failed, NONE);
    // A session's chain is what its last lookup reached.
    engine.client.lookup(request, engine.hashes(ids)).await.unwrap();
    engine.client.end_request(REQUEST).await.unwrap();
    engine.settled().await;
    let below = [("nvme", u32::try_from(ids.len()).unwrap())].into();
    let mut first = ids[0] + 100_000;
    while tiers(engine, ids).await != below {
        assert!(first < ids[0] + 110_000, "it does not sink");
        push(engine, first).await;
        first += 1000;
    }
}

/// Fills the memory with what nobody asks for again.
async fn push(engine: &Engine, first: u64) {
    engine.store(&chain(first, 128)).await;
    engine.settled().await;
}

/// Where the chain is, with nothing held afterwards.
async fn tiers(engine: &Engine, ids: &[u64]) -> std::collections::BTreeMap<&'static str, u32> {
    let found = engine.lookup(ids).await;
    engine.client.end_request(REQUEST).await.unwrap();
    by_tier(&found)
}

/// Asks for one lift, which is granted.
pub async fn lift(engine: &Engine, action: Action) -> OpId {
    let outcome = engine.client.hint(vec![action]).await.unwrap().pop().unwrap();
    let granted = [OutcomeStatus::Accepted, OutcomeStatus::Deferred, OutcomeStatus::Clipped];
    assert!(granted.contains(&outcome.status), "{outcome:?}");
    outcome.operation.unwrap_or_else(|| panic!("{outcome:?}"))
}

/// Lifts a sunken chain of twelve by `target`, which names `lifted` of its blocks, and loads it.
async fn comes_up(engine: &Engine, first: u64, target: Target, lifted: std::ops::Range<u32>) {
    let ids = chain(first, 12);
    sink(engine, &first.to_string(), &ids).await;
    let before = engine.client.status().await.unwrap();
    let op = lift(engine, prefetch(target)).await;
    let end = engine.client.wait(engine.client.lift(op)).await.unwrap();
    let named = lifted.end - lifted.start;
    assert_eq!((end.kind, end.blocks, end.failed), (OpKind::Prefetch, named, NONE.to_vec()));
    let held = engine.client.operation(op).await.unwrap();
    assert_eq!((held.state, held.reason), (LiftState::Held, LiftReason::Asked));
    assert_eq!((held.to, held.landed, held.clipped, held.used), (Tier::Dram, named, 0, 0));

    let found = engine.lookup(&ids).await;
    let mut at = 0;
    for run in &found.runs {
        let is_lifted = lifted.contains(&at);
        assert_eq!(run.tier, if is_lifted { Tier::Dram } else { Tier::Nvme }, "{:?}", found.runs);
        at += run.blocks;
    }
    assert_eq!(at, 12);
    assert_eq!(engine.load(&ids).await.failed, NONE, "all of it, and the right bytes");
    engine.client.end_request(REQUEST).await.unwrap();
    let after = engine.settled().await;
    let used = engine.client.operation(op).await.unwrap();
    assert_eq!((used.state, used.used), (LiftState::Ended, named));
    let bytes = |blocks: u32| u64::from(blocks) * BLOCK_BYTES as u64;
    assert_eq!(after.lifts.timely_bytes - before.lifts.timely_bytes, bytes(named));
    // Each block came up from the disk once, lifted or loaded.
    let read = |status: &DaemonStatus| status.tiers[Tier::Nvme.index()].bytes_out;
    assert_eq!(read(&after) - read(&before), bytes(12));
}

#[tokio::test]
async fn chains_come_up_by_keys_by_session_and_by_range() {
    let daemon = daemon(0).await;
    let engine = Engine::join(&daemon, "engine").await;
    let keys = Target::Keys(engine.hashes(&chain(1000, 12)).into());
    comes_up(&engine, 1000, keys, 0..12).await;
    comes_up(&engine, 2000, session("2000", TokenRange::ALL), 0..12).await;
    let middle = TokenRange { start: 4 * 64, end: Some(9 * 64) };
    comes_up(&engine, 3000, session("3000", middle), 4..9).await;
    assert_eq!(engine.client.status().await.unwrap().lifts.wasted_bytes, 0);
}

#[tokio::test]
async fn a_chain_comes_all_the_way_up_from_the_disk() {
    let daemon = daemon(DRAM_BLOCKS).await;
    let engine = Engine::join(&daemon, "engine").await;
    let ids = chain(0, 12);
    sink(&engine, "agent", &ids).await;
    let target = session("agent", TokenRange::ALL);
    let op = lift(&engine, Action::SpeculativePrefill { target, wish: LiftWish::default() }).await;
    let end = engine.client.wait(engine.client.lift(op)).await.unwrap();
    assert_eq!(end.failed, NONE, "{end:?}");
    assert_eq!(tiers(&engine, &ids).await, [("hbm", 12)].into());
    assert_eq!(engine.load(&ids).await.failed, NONE);
    let links = engine.settled().await.links;
    let lifted_bytes = |link: Link| links[link.index()].prefetch_bytes;
    let bytes = 12 * BLOCK_BYTES as u64;
    assert_eq!(lifted_bytes(Link::NvmeRead), bytes);
    assert_eq!(lifted_bytes(Link::DeviceUp), bytes);
}

#[tokio::test]
async fn more_than_the_tiers_share_is_clipped_and_stays_below() {
    let daemon = daemon(0).await;
    let engine = Engine::join(&daemon, "engine").await;
    let ids = chain(0, 100);
    sink(&engine, "agent", &ids).await;
    let op = lift(&engine, prefetch(session("agent", TokenRange::ALL))).await;
    let end = engine.client.wait(engine.client.lift(op)).await.unwrap();
    let left: Vec<u32> = (LIFTED_MAX..100).collect();
    assert_eq!((end.blocks, end.failed), (100, left));
    let held = engine.client.operation(op).await.unwrap();
    assert_eq!((held.blocks, held.landed, held.clipped), (100, LIFTED_MAX, 100 - LIFTED_MAX));
    let expected = [("dram", LIFTED_MAX), ("nvme", 100 - LIFTED_MAX)].into();
    assert_eq!(tiers(&engine, &ids).await, expected);
    assert_eq!(engine.load(&ids).await.failed, NONE);
}

/// Lifts a lot in many small parts, and does not wait.
async fn lift_much(engine: &Engine, ids: &[u64]) {
    let part = |ids: &[u64]| prefetch(Target::Keys(engine.hashes(ids).into()));
    let outcomes = engine.client.hint(ids.chunks(4).map(part).collect()).await.unwrap();
    assert!(outcomes.iter().any(|outcome| outcome.operation.is_some()), "{outcomes:?}");
}

#[tokio::test]
async fn a_client_that_dies_while_its_lifts_run_leaves_nothing_wedged() {
    let mut spec = spec(0);
    spec.flags.push(("prefetch-tier-percent".into(), "100".into()));
    let daemon = Daemon::start(spec).await.unwrap();
    let watcher = Engine::join(&daemon, "watcher").await;
    let ids = chain(0, 128);
    sink(&watcher, "agent", &ids).await;
    for round in 0..5 {
        let engine = Engine::join(&daemon, &format!("engine {round}")).await;
        lift_much(&engine, &ids).await;
        drop(engine);
        // Another client needs the same blocks, which may be on their way up for the dead one.
        assert_eq!(watcher.load(&ids).await.failed, NONE, "round {round}");
        until(&watcher.client, "the dead client is forgotten", |status| status.clients == 1).await;
        push(&watcher, 300_000 + round * 1000).await;
    }
    let status = watcher.settled().await;
    assert!(status.lifts.begun >= 5 && status.lifts.cancelled > 0, "{:?}", status.lifts);
    let shown = json_of(
        Command::new(rig::binary()).args(["status", "--json", "--socket"]).arg(daemon.socket()),
    );
    for field in ["ops_in_flight", "transfers_in_flight", "transfers_queued", "leases"] {
        assert_eq!(shown[field], 0, "{field} in {shown}");
    }
    // What the dead held is free: the whole share can be lifted again.
    let op = lift(&watcher, prefetch(session("agent", TokenRange::ALL))).await;
    watcher.client.wait(watcher.client.lift(op)).await.unwrap();
    let held = watcher.client.operation(op).await.unwrap();
    assert_eq!(u64::from(held.landed), DRAM_BLOCKS, "{held:?}");
}

#[tokio::test]
async fn a_daemon_that_is_killed_while_it_lifts_serves_the_chain_again() {
    let mut daemon = daemon(0).await;
    let ids = chain(0, 100);
    let engine = Engine::join(&daemon, "engine").await;
    sink(&engine, "agent", &ids).await;
    lift_much(&engine, &ids).await;
    daemon.kill().unwrap();
    drop(engine);
    daemon.restart().await.unwrap();
    let engine = Engine::join(&daemon, "engine").await;
    until(&engine.client, "the disk was read", |status| status.blocks >= 100).await;
    assert_eq!(tiers(&engine, &ids).await, [("nvme", 100)].into());
    assert_eq!(engine.load(&ids).await.failed, NONE, "every block, and the right bytes");
    assert_eq!(engine.settled().await.corrupt_copies, 0);
}

#[tokio::test]
async fn a_thousand_lifts_at_once_are_all_answered() {
    let daemon = daemon(0).await;
    let engine = Engine::join(&daemon, "engine").await;
    let ids = chain(0, 100);
    sink(&engine, "agent", &ids).await;
    let took = Stopwatch::start();
    let call = |from: usize| {
        let client = engine.client.clone();
        let part = |n: usize| Target::Keys(engine.hashes(&ids[n % 100..=n % 100]).into());
        let actions = (from..from + 250).map(|n| prefetch(part(n))).collect();
        terrace::env::spawn_task(async move { client.hint(actions).await.unwrap() })
    };
    let calls: Vec<_> = (0..4).map(|n| call(n * 250)).collect();
    let mut outcomes = Vec::new();
    for call in calls {
        outcomes.extend(call.await.unwrap());
    }
    assert_eq!(outcomes.len(), 1000);
    let (lifts, others): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|outcome| outcome.operation.is_some());
    for outcome in &others {
        assert_eq!(outcome.status, OutcomeStatus::Rejected, "{outcome:?}");
        assert!(outcome.message.contains("cancel some"), "{outcome:?}");
    }
    assert!(lifts.len() >= 16, "{} were granted", lifts.len());
    for outcome in &lifts {
        let end = engine.client.lift(outcome.operation.unwrap());
        assert_eq!(engine.client.wait(end).await.unwrap().kind, OpKind::Prefetch);
    }
    assert!(took.elapsed() < Duration::from_secs(10), "it took {:?}", took.elapsed());
    assert_eq!(engine.load(&ids).await.failed, NONE);
    engine.settled().await;
    engine.store(&chain(9000, 8)).await;
}
