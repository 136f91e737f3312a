//! Retention over the wire and the real manager: what directives and hints do to blocks, sessions
//! and the answers.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use terrace::client::{
    Action, Client, ClientError, EndedRequest, OutcomeStatus, PoolHandle, Request, RequestId,
    Target, daemon_block, daemon_sessions,
};
use terrace::domain::residency::CopyState;
use terrace::domain::retention::{Directive, Kind, Scope, Shield, TokenRange, Wish};
use terrace::domain::session::{SessionName, SessionState, Stop};
use terrace::domain::tier::Tier;
use terrace::hints::{Part, Place, lower};

use super::hashes;
use super::node::Node;

const LONG: Duration = Duration::from_secs(10);
const DRAM: usize = Tier::Dram as usize;

fn name(name: &str) -> SessionName {
    SessionName::new(name).unwrap()
}

/// Stores blocks `0..blocks` of one chain and waits for them.
async fn store(client: &Client, request: Request, blocks: u64, pool: PoolHandle) {
    let slots: Vec<u32> = (0..u32::try_from(blocks).unwrap()).collect();
    let stored = client.store(request, None, hashes(0, blocks), pool, &slots).await.unwrap();
    assert!(client.wait(stored.op).await.unwrap().failed.is_empty());
}

async fn one(client: &Client, action: Action) -> (OutcomeStatus, u32, String) {
    let outcome = client.hint(vec![action]).await.unwrap().pop().unwrap();
    (outcome.status, outcome.blocks, outcome.message)
}

/// A request with tools that are kept for an hour, a system prompt for five minutes, and a question:
/// 8 blocks of 16 tokens.
fn body() -> (serde_json::Value, [Part; 3]) {
    let cached = |ttl: &str| json!([{"cache_control": {"type": "ephemeral", "ttl": ttl}}]);
    let body = json!({
        "tools": cached("1h"),
        "system": cached("5m"),
        "messages": [{"role": "user", "content": "what now?"}],
    });
    let parts = [
        Part { place: Place::Tool(0), end: 32 },
        Part { place: Place::System(0), end: 80 },
        Part { place: Place::Message { message: 0, block: 0 }, end: 128 },
    ];
    (body, parts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_with_two_breakpoints_is_accounted_for() {
    let node = Node::start();
    let (client, _pool, pool) = node.client_with_pool("engine", 16).await;
    let (body, parts) = body();
    let lowered = lower(&body, &parts).unwrap();
    let directives: Vec<_> = lowered.directives.iter().copied().collect();

    let first = Request { directives, ..RequestId(1).of(&name("agent")) };
    client.lookup(first.clone(), hashes(0, 8)).await.unwrap();
    store(&client, first, 8, pool).await;
    let usage = client.end_request(RequestId(1)).await.unwrap();
    assert_eq!(usage.read_tokens, [0; Tier::COUNT]);
    assert_eq!((usage.created_5m_tokens, usage.created_1h_tokens), (48, 32));
    assert_eq!(usage.uncached_tokens, 48, "the question has no shield");

    // The second request finds all of it and asks for two blocks more.
    client.lookup(RequestId(2).of(&name("agent")), hashes(0, 10)).await.unwrap();
    let ended = EndedRequest { stop: Stop::ToolUse, output_tokens: 5, ..RequestId(2).into() };
    let usage = client.end_request(ended).await.unwrap();
    assert_eq!(usage.read_tokens[DRAM], 128);
    assert_eq!((usage.created_5m_tokens, usage.created_1h_tokens), (0, 0));
    assert_eq!(usage.uncached_tokens, 32);
    let unknown = client.end_request(RequestId(99)).await.unwrap();
    assert_eq!(unknown, terrace::client::Usage::default());

    let kinds = [(0, Kind::Tools, 3600), (2, Kind::System, 300), (5, Kind::Conversation, 0)];
    for (block, kind, ttl_s) in kinds {
        let block = client.inspect(&hashes(block, block + 1)).await.unwrap();
        assert_eq!((block.record.kind, block.record.scope), (kind, Scope::Global));
        assert_eq!(block.record.refresh_on_hit_ms, ttl_s * 1000);
        let shielded = block.record.shield_until.since(block.created_at);
        assert!(shielded >= Duration::from_secs(ttl_s.into()), "{shielded:?}");
        assert!(shielded < Duration::from_secs(ttl_s.max(1).into()) + LONG, "{shielded:?}");
    }
    let status = client.status().await.unwrap();
    assert_eq!(status.sessions, 1);
    let frame_bytes = client.welcome().frame_bytes;
    assert_eq!(status.tiers[DRAM].shielded_bytes, 5 * frame_bytes);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_and_budgets_beyond_their_bounds_are_clipped_and_said() {
    let node = Node::with(|config| config.shields.namespace_percent = 0);
    let (client, _pool, pool) = node.client_with_pool("engine", 8).await;
    let year = Shield { ttl: Duration::from_hours(24 * 365), refresh_on_hit: true };
    let wish = Wish { shield: Some(year), ..Wish::default() };
    let far = TokenRange { start: 16, end: Some(1 << 40) };
    let request =
        Request { directives: vec![Directive { tokens: far, wish }], ..RequestId(1).into() };
    let stored = client.store(request, None, hashes(0, 3), pool, &[0, 1, 2]).await.unwrap();
    assert_eq!((stored.taken, stored.dropped), (3, 0), "a wish never costs the block itself");
    assert_eq!((stored.clipped_blocks, stored.clipped_directives), (2, 1));
    client.wait(stored.op).await.unwrap();
    let usage = client.end_request(RequestId(1)).await.unwrap();
    assert_eq!((usage.created_1h_tokens, usage.uncached_tokens), (0, 48));

    let target = Target::Keys(hashes(0, 2).into());
    let outcomes = client.hint(vec![Action::Retain { target, wish }]).await.unwrap();
    assert_eq!(outcomes[0].status, OutcomeStatus::Clipped);
    assert_eq!((outcomes[0].blocks, outcomes[0].clipped), (0, 2));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_known_is_missing_and_an_end_is_an_end() {
    let node = Node::start();
    let (client, _pool, pool) = node.client_with_pool("engine", 8).await;
    store(&client, RequestId(1).of(&name("main")), 4, pool).await;
    let end = |session: &str| Action::SessionEnd { session: name(session), tree: false };
    let start = |session: &str, parent: &str| Action::SessionStart {
        session: name(session),
        parent: Some(name(parent)),
    };
    assert_eq!(one(&client, start("sub", "main")).await.0, OutcomeStatus::Accepted);
    assert_eq!(one(&client, start("main", "main")).await.0, OutcomeStatus::Rejected);

    // A child outlives its parent unless the whole tree is ended.
    let (status, blocks, _) = one(&client, end("main")).await;
    assert_eq!((status, blocks), (OutcomeStatus::Accepted, 4));
    let (status, _, said) = one(&client, end("main")).await;
    assert_eq!(status, OutcomeStatus::Missing);
    assert!(said.contains("session main is not known"), "{said}");
    let known = client.sessions(0).await.unwrap();
    assert_eq!(known.sessions.len(), 1);
    assert_eq!((&*known.sessions[0].session, &known.sessions[0].parent), ("sub", &None));

    let nobody = || Target::Session { session: name("nobody"), tokens: TokenRange::ALL };
    let unknown = || Target::Keys(hashes(70, 72).into());
    let wish = Wish { priority: Some((80, None)), ..Wish::default() };
    for action in [
        end("nobody"),
        Action::SessionReset { session: name("nobody") },
        Action::ToolStart { session: name("nobody"), expected: None },
        Action::ToolReturn { session: name("nobody") },
        Action::Retain { target: nobody(), wish },
        Action::Retain { target: unknown(), wish },
        Action::Release { target: unknown() },
        Action::Release { target: Target::SessionTree(name("nobody")) },
        Action::Demote { target: nobody(), to: Tier::Nvme },
    ] {
        let shown = format!("{action:?}");
        let (status, blocks, said) = one(&client, action).await;
        assert_eq!((status, blocks), (OutcomeStatus::Missing, 0), "{shown}: {said}");
        assert!(!said.is_empty(), "{shown}");
    }
    let gone = client.inspect(&hashes(70, 71)).await.unwrap_err();
    assert!(matches!(gone, ClientError::NotFound(_)), "{gone:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_sessions_and_blocks_without_being_clients() {
    let node = Node::start();
    let (client, _pool, pool) = node.client_with_pool("engine", 8).await;
    store(&client, RequestId(1).of(&name("agent")), 3, pool).await;
    client.lookup(RequestId(2).of(&name("late")), hashes(0, 1)).await.unwrap();
    let expected = Some(Duration::from_mins(1));
    let tool = Action::ToolStart { session: name("agent"), expected };
    assert_eq!(one(&client, tool).await.0, OutcomeStatus::Accepted);

    let known = daemon_sessions(&node.socket, LONG, 1).await.unwrap();
    assert_eq!(known.sessions_total, 2);
    let [agent] = &known.sessions[..] else { panic!("one was asked for: {known:?}") };
    assert_eq!((&*agent.session, &*agent.model), ("agent", "m"), "it was heard of last");
    assert_eq!(agent.namespace, client.namespace().digest());
    assert_eq!((agent.blocks, agent.own_blocks), (3, 2));
    let SessionState::InTool { expected: Some(back) } = agent.state else { panic!("{agent:?}") };
    assert!(back.since(agent.last_seen) == Duration::from_mins(1), "{agent:?}");

    let own = client.inspect(&hashes(1, 2)).await.unwrap();
    let shown = daemon_block(&node.socket, LONG, own.key).await.unwrap();
    assert_eq!(shown, own);
    assert_eq!((shown.position, shown.claims, shown.leases, shown.dead), (1, 1, 0, false));
    assert_eq!(shown.copies[DRAM], CopyState::Resident);
    let parent = client.inspect(&hashes(0, 1)).await.unwrap();
    assert_eq!((shown.parent, parent.parent), (Some(parent.key), None));
    assert_eq!((parent.claims, parent.leases), (2, 1));

    let end = Action::SessionEnd { session: name("agent"), tree: true };
    assert_eq!(one(&client, end).await.1, 2, "the first block is the other session's as well");
    assert!(daemon_block(&node.socket, LONG, own.key).await.unwrap().dead);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_does_what_the_typed_call_does() {
    let node = Node::start();
    let (client, _pool, pool) = node.client_with_pool("engine", 8).await;
    store(&client, RequestId(1).of(&name("agent")), 4, pool).await;
    let hash = format!("{:016x}", u64::from_be_bytes(hashes(0, 1).try_into().unwrap()));
    let action = |id: &str, action_type: &str, payload: serde_json::Value| {
        json!({
            "action_id": id, "action_type": action_type, "action_version": "1",
            "payload": payload,
        })
    };
    let stretch = json!({"session": "agent", "tokens": {"start": 16, "end": 48}});
    let envelope = json!({
        "protocol_version": "0.1",
        "message_id": "m",
        "actions": [
            action("keys", "pin", json!({"target": {"hashes": [hash]}})),
            action("range", "retain", json!({"target": stretch, "priority": 80})),
            action("odd", "retain", json!({"target": stretch, "priority": 101})),
            action("year", "pin", json!({"target": stretch, "ttl_ms": 31_536_000_000_u64})),
            action("gone", "session.end", json!({"session": "nobody"})),
            action("free", "release", json!({"target": {"session_tree": "agent"}})),
        ],
    });
    let json = Bytes::from(envelope.to_string());
    let outcomes = client.hint_envelope(json).await.unwrap();
    let said: Vec<_> =
        outcomes.iter().map(|one| (&*one.action_id, one.status, one.blocks)).collect();
    assert_eq!(
        said[..5],
        [
            ("keys", OutcomeStatus::Accepted, 1),
            ("range", OutcomeStatus::Accepted, 2),
            ("odd", OutcomeStatus::Rejected, 0),
            ("year", OutcomeStatus::Clipped, 2),
            ("gone", OutcomeStatus::Missing, 0),
        ]
    );
    assert!(outcomes[2].message.contains("priority 101 is out of range"), "{outcomes:?}");
    assert_eq!(outcomes[5].action_id, "free");
    node.stop().await;
}
