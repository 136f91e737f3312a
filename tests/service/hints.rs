//! Hints in both spellings: what reaches the manager, what is refused on the way, and what each
//! action is answered.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use terrace::client::{Action, ClientError, EndedRequest, OutcomeStatus, RequestId, Target};
use terrace::domain::hint::{self, LiftWish};
use terrace::domain::retention::{Directive, Kind, Scope, Shield, TokenRange, Wish};
use terrace::domain::session::{SessionName, Stop};
use terrace::domain::tier::Tier;
use terrace::wire::pb;
use tonic::Code;

use super::descriptors::attached_raw;
use super::{World, hashes};

const R: RequestId = RequestId(3);

fn name(name: &str) -> SessionName {
    SessionName::new(name).unwrap()
}

/// Everything a wish can say.
const WISH: Wish = Wish {
    priority: Some((90, Some(Duration::from_mins(1)))),
    shield: Some(Shield { ttl: Duration::from_hours(1), refresh_on_hit: false }),
    delete_after: Some(Duration::from_hours(2)),
    kind: Some(Kind::ToolResult),
    floor: Some(Tier::Nvme),
    scope: Some(Scope::Session),
};

/// Everything a lift can say.
const LIFT: LiftWish = LiftWish {
    to: Some(Tier::Dram),
    deadline: Some(Duration::from_millis(1500)),
    priority: Some(80),
};

#[tokio::test]
async fn every_action_and_every_field_arrives_as_it_was_sent() {
    let world = World::start();
    let client = world.client("a").await;
    let tokens = TokenRange { start: 16, end: Some(64) };
    let stretch = || Target::Session { session: name("s"), tokens };
    let actions = vec![
        Action::Retain { target: Target::Keys(hashes(0, 2).into()), wish: WISH },
        Action::Retain { target: stretch(), wish: Wish { scope: Some(Scope::Project), ..WISH } },
        Action::Release { target: Target::SessionTree(name("s")) },
        Action::Demote { target: stretch(), to: Tier::Object },
        Action::SessionStart { session: name("s"), parent: Some(name("p")) },
        Action::SessionStart { session: name("s"), parent: None },
        Action::SessionReset { session: name("s") },
        Action::SessionEnd { session: name("s"), tree: true },
        Action::ToolStart { session: name("s"), expected: Some(Duration::from_millis(7)) },
        Action::ToolStart { session: name("s"), expected: None },
        Action::ToolReturn { session: name("s") },
        Action::Prefetch { target: stretch(), wish: LIFT },
        Action::Prefetch { target: stretch(), wish: LiftWish::default() },
        Action::SpeculativePrefill { target: stretch(), wish: LiftWish { to: None, ..LIFT } },
        Action::CancelPrefetch { operation: u64::MAX },
    ];
    let outcomes = client.hint(actions.clone()).await.unwrap();
    assert_eq!(outcomes.len(), actions.len());
    assert!(outcomes.iter().all(|outcome| outcome.status == OutcomeStatus::Accepted));
    assert_eq!(outcomes[10].action_id, "10");

    let digest = client.namespace().digest();
    let [first, second] = [hashes(0, 1), hashes(1, 2)].map(|hash| digest.key(&hash));
    let hinted = world.fake.state().hinted.clone();
    let target = hint::Target::Keys(vec![first, second]);
    assert_eq!(hinted[0], hint::Action::Retain { target, wish: WISH });
    // The rest names no blocks by hash, so it is the same on both sides.
    let sent = actions[1..].iter().map(|action| format!("{action:?}"));
    assert!(sent.eq(hinted[1..].iter().map(|action| format!("{action:?}"))), "{hinted:?}");
}

#[tokio::test]
async fn each_outcome_says_what_became_of_its_action() {
    let world = World::start();
    let client = world.client("a").await;
    world.fake.state().outcomes = Some(vec![
        hint::Outcome::Clipped { blocks: 3, clipped: 1 },
        hint::Outcome::Missing("gone".into()),
        hint::Outcome::Rejected("no".into()),
    ]);
    let reset = || Action::SessionReset { session: name("s") };
    let outcomes = client.hint(vec![reset(), reset(), reset()]).await.unwrap();
    let said: Vec<_> = outcomes
        .iter()
        .map(|one| (one.status, one.blocks, one.clipped, &*one.message, one.operation))
        .collect();
    assert_eq!(
        said,
        [
            (OutcomeStatus::Clipped, 3, 1, "", None),
            (OutcomeStatus::Missing, 0, 0, "gone", None),
            (OutcomeStatus::Rejected, 0, 0, "no", None),
        ]
    );
    // A manager that answers too little is a fault of the daemon, not of the client.
    world.fake.state().outcomes = Some(vec![]);
    let error = client.hint(vec![reset()]).await.unwrap_err();
    assert!(matches!(error, ClientError::Daemon(_)), "{error:?}");
    assert!(client.hint(vec![]).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bad_action_of_an_envelope_fails_alone() {
    let world = World::start();
    let client = world.client("a").await;
    let action = |id: &str, action_type: &str, version: &str, payload: serde_json::Value| {
        json!({
            "action_id": id, "action_type": action_type, "action_version": version,
            "payload": payload,
        })
    };
    let envelope = json!({
        "protocol_version": "0.1",
        "message_id": "turn-17",
        "actions": [
            action("start", "session.start", "1.0", json!({"session": "s"})),
            action("fetch", "kv.fetch", "1.0", json!({"source": "elsewhere"})),
            action("new", "session.end", "7", json!({"session": "s"})),
            action("odd", "retain", "1", json!({"target": {"session": "s"}, "priority": "high"})),
            action("lift", "prefetch", "1", json!({"target": {"session": "s"}, "deadline_ms": 0})),
            action("pin", "pin", "1", json!({"target": {"hashes": ["0000000000000000"]}})),
            action("warm", "speculative_prefill", "1", json!({"session": "s"})),
        ],
    });
    let outcomes = client.hint_envelope(envelope.to_string()).await.unwrap();
    let said: Vec<_> = outcomes.iter().map(|one| (&*one.action_id, one.status)).collect();
    assert_eq!(
        said,
        [
            ("start", OutcomeStatus::Accepted),
            ("fetch", OutcomeStatus::Rejected),
            ("new", OutcomeStatus::Rejected),
            ("odd", OutcomeStatus::Rejected),
            ("lift", OutcomeStatus::Rejected),
            ("pin", OutcomeStatus::Accepted),
            ("warm", OutcomeStatus::Accepted),
        ]
    );
    for (outcome, expected) in [
        (1, "there is no action `kv.fetch`: use retain, pin"),
        (2, "there is no version `7` of session.end: use the string 1 or 1.0"),
        (3, "payload: invalid type: string \"high\""),
        (4, "the deadline is 0 ms from now, which is over already"),
    ] {
        let said = &outcomes[outcome].message;
        assert!(said.contains(expected), "`{said}` lacks `{expected}`");
    }
    assert_eq!(world.fake.state().hinted.len(), 3);

    // Nothing that was understood: nobody is asked.
    world.fake.state().refuse = Some(terrace::manager::api::Refusal::Invalid("asked".into()));
    let hopeless = json!({
        "protocol_version": "0.1", "message_id": "m",
        "actions": [action("a", "prefetch", "1", json!({}))],
    });
    let outcomes = client.hint_envelope(hopeless.to_string()).await.unwrap();
    assert_eq!(outcomes[0].status, OutcomeStatus::Rejected);
    world.fake.state().refuse = None;

    for (json, expected) in [
        ("", "the envelope is no JSON"),
        ("[]", "no JSON object"),
        (r#"{"protocol_version":"9"}"#, r#"protocol_version is "9": this daemon reads "0.1""#),
        (r#"{"protocol_version":"0.1","message_id":"m"}"#, "missing field `actions`"),
    ] {
        let error = client.hint_envelope(json).await.unwrap_err();
        assert!(matches!(error, ClientError::Invalid(_)), "{error:?}");
        assert!(error.to_string().contains(expected), "`{error}` lacks `{expected}`");
    }
}

#[tokio::test]
async fn typed_actions_that_make_no_sense_fail_alone_or_say_why_the_call_does() {
    use pb::action::Action as Verb;
    let world = World::start();
    let (mut raw, token) = attached_raw(&world, "raw").await;
    let token = Bytes::from(token.0.to_vec());
    let action = |id: &str, verb| pb::Action { action_id: id.into(), action: verb };
    let session_target = || pb::Target {
        of: Some(pb::target::Of::Session(pb::target::SessionTokens {
            session: "s".into(),
            tokens: Some(pb::TokenRange { start: 7, end: Some(3) }),
        })),
    };
    let hashes_target =
        |bytes: usize| pb::Target { of: Some(pb::target::Of::Hashes(vec![0; bytes].into())) };
    let wish = |change: fn(&mut pb::Wish)| {
        let mut wish = pb::Wish::default();
        change(&mut wish);
        Some(wish)
    };
    let retain =
        |wish| Some(Verb::Retain(pb::action::Retain { target: Some(hashes_target(8)), wish }));
    let release = |target| Some(Verb::Release(pb::action::Release { target }));
    let cases = [
        (None, "too old to know it"),
        (retain(None), "it asks for nothing"),
        (retain(wish(|wish| wish.kind = 99)), "kind is 99, which means nothing here: use 1 for"),
        (retain(wish(|wish| wish.scope = 9)), "scope is 9"),
        (retain(wish(|wish| wish.floor = -4)), "floor is -4"),
        (retain(wish(|wish| wish.priority = Some(1000))), "priority 1000 is out of range"),
        (retain(wish(|wish| wish.priority_ms = Some(1))), "priority_ms without priority"),
        (retain(wish(|wish| wish.refresh_on_hit = Some(true))), "refresh_on_hit without ttl_ms"),
        (release(None), "target is missing"),
        (release(Some(pb::Target { of: None })), "target is missing"),
        (release(Some(session_target())), "tokens 7 to 3"),
        (release(Some(hashes_target(0))), "hashes is empty"),
        (release(Some(hashes_target(9))), "multiple of 8"),
        (Some(Verb::Demote(pb::action::Demote { target: None, to: 0 })), "to is missing"),
        (Some(Verb::Demote(pb::action::Demote { target: None, to: 9 })), "to is 9"),
        (
            Some(Verb::SessionEnd(pb::action::SessionEnd { session: String::new(), tree: false })),
            "a session's name is empty",
        ),
    ];
    let (verbs, expected): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    let mut actions: Vec<_> =
        verbs.into_iter().enumerate().map(|(id, verb)| action(&id.to_string(), verb)).collect();
    let good = Verb::ToolReturn(pb::action::ToolReturn { session: "s".into() });
    actions.push(action("good", Some(good.clone())));
    let hint = |actions| pb::HintRequest { token: token.clone(), actions };
    let mut outcomes = raw.hint(hint(actions)).await.unwrap().into_inner().outcomes;
    assert_eq!(outcomes.pop().unwrap().status(), pb::OutcomeStatus::Accepted);
    for (outcome, expected) in outcomes.iter().zip(expected) {
        assert_eq!(outcome.status(), pb::OutcomeStatus::Rejected);
        assert!(outcome.message.contains(expected), "`{}` lacks `{expected}`", outcome.message);
    }

    let many = (0..257).map(|id| action(&id.to_string(), None)).collect();
    for (actions, expected) in [
        (vec![action("", None)], "actions[0].action_id is 0 bytes long"),
        (vec![action("a", Some(good)), action("a", None)], "`a` is said twice"),
        (many, "257 actions in one call: send at most 256"),
    ] {
        let status = raw.hint(hint(actions)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains(expected), "`{}` lacks `{expected}`", status.message());
    }
    let stranger = pb::HintRequest { token: Bytes::new(), actions: vec![] };
    assert_eq!(raw.hint(stranger).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn sessions_and_directives_arrive_with_lookups_and_stores() {
    let world = World::start();
    let (client, _pool, handle) = world.client_with_pool("a", 8).await;
    let whole = Directive { tokens: TokenRange::ALL, wish: WISH };
    let mut request = R.of(&name("s"));
    client.lookup(request.clone(), hashes(0, 1)).await.unwrap();
    request.directives = vec![whole];
    let stored = client.store(request, None, hashes(0, 2), handle, &[0, 1]).await.unwrap();
    assert_eq!((stored.clipped_blocks, stored.clipped_directives), (2, 0));
    let state = world.fake.state();
    assert_eq!(state.sessions, [Some(name("s")), Some(name("s"))]);
    assert_eq!(state.directives[0].iter().collect::<Vec<_>>(), [&whole]);
}

#[tokio::test]
async fn claims_that_make_no_sense_refuse_the_call_and_say_why() {
    let world = World::start();
    let (mut raw, token) = attached_raw(&world, "raw").await;
    let token = Bytes::from(token.0.to_vec());
    let store = |directives: Vec<pb::Directive>| pb::StoreRequest {
        token: token.clone(),
        hashes: hashes(0, 1).into(),
        slots: vec![0],
        directives,
        ..pb::StoreRequest::default()
    };
    let range =
        |start, end| pb::Directive { tokens: Some(pb::TokenRange { start, end }), wish: None };
    let wish = |change: fn(&mut pb::Wish)| {
        let mut wish = pb::Wish::default();
        change(&mut wish);
        vec![pb::Directive { tokens: None, wish: Some(wish) }]
    };
    for (directives, expected) in [
        (vec![range(9, Some(3))], "directive 0 covers tokens 9 to 3"),
        (vec![range(0, Some(1)), range(9, Some(9))], "directive 1 covers tokens 9 to 9"),
        (vec![range(0, Some(10)), range(9, None)], "directives overlap at token 9"),
        (vec![range(0, None), range(0, None)], "directives overlap at token 0"),
        (vec![range(0, Some(1)); 65], "at most 64 are taken"),
        (wish(|wish| wish.priority = Some(101)), "priority 101 is out of range: 0 to 100"),
        (wish(|wish| wish.priority = Some(u32::MAX)), "is out of range: 0 to 100"),
        (wish(|wish| wish.priority_ms = Some(1)), "directives[0]: priority_ms without priority"),
        (wish(|wish| wish.ttl_ms = Some(0)), "a TTL of 0 keeps nothing"),
        (wish(|wish| wish.delete_after_ms = Some(0)), "delete_after of 0 keeps nothing"),
        (wish(|wish| wish.kind = 8), "directives[0]: kind is 8, which means nothing here"),
        (wish(|wish| wish.floor = 5), "directives[0]: floor is 5"),
        (wish(|wish| wish.scope = 4), "directives[0]: scope is 4"),
    ] {
        let status = raw.store(store(directives)).await.unwrap_err();
        let said = status.message();
        assert_eq!(status.code(), Code::InvalidArgument, "{said}");
        assert!(said.contains(expected), "`{said}` lacks `{expected}`");
    }
    // What is right so far fails at the pool, which was never registered.
    let status = raw.store(store(wish(|wish| wish.ttl_ms = Some(u64::MAX)))).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);

    let long = pb::StoreRequest { session: "s".repeat(129), ..store(vec![]) };
    let status = raw.store(long).await.unwrap_err();
    assert!(status.message().contains("has 129 bytes: use at most 128"), "{}", status.message());
    let ended = pb::EndRequestRequest { token: token.clone(), stop: 3, ..Default::default() };
    let status = raw.end_request(ended).await.unwrap_err();
    assert!(status.message().contains("stop is 3, which means nothing"), "{}", status.message());

    let many = raw.sessions(pb::SessionsRequest { sessions_max: 1001 }).await.unwrap_err();
    assert!(many.message().contains("at most 1000"), "{}", many.message());
    let short = raw.inspect(pb::InspectRequest { key: hashes(0, 1).into() }).await.unwrap_err();
    assert!(short.message().contains("key is 8 bytes long: send the 16"), "{}", short.message());
}

#[tokio::test]
async fn the_reason_to_stop_arrives() {
    let world = World::start();
    let client = world.client("a").await;
    let ended = EndedRequest { stop: Stop::ToolUse, output_tokens: 77, ..R.into() };
    client.end_request(ended).await.unwrap();
    client.end_request(R).await.unwrap();
    let manager = terrace::manager::api::RequestId(R.0);
    let state = world.fake.state();
    assert_eq!(state.ended_requests, [manager, manager]);
    assert_eq!(state.stops, [(Stop::ToolUse, 77), (Stop::Unknown, 0)]);
}
