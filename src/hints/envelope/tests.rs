//! Envelopes as engines send them, and as nobody should.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::hint::LiftWish;
use crate::domain::namespace::NamespaceDigest;
use crate::domain::retention::{Kind, Scope, Shield, Wish};
use crate::domain::tier::Tier;

const DIGEST: NamespaceDigest = NamespaceDigest([7; 32]);

fn hashes() -> Hashes {
    Hashes::new(DIGEST, 4, 8)
}

fn one(action_type: &str, version: &str, payload: &Value) -> Result<Action, String> {
    let envelope = json!({
        "protocol_version": "0.1",
        "message_id": "m",
        "actions": [{
            "action_id": "a",
            "action_type": action_type,
            "action_version": version,
            "payload": payload,
        }],
    });
    let read = read(envelope.to_string().as_bytes(), &mut hashes()).unwrap();
    let (mut actions, unanswered) = read.batch.split();
    match actions.pop() {
        Some(action) => Ok(action),
        None => match unanswered.answered(vec![]).unwrap().pop().unwrap().1 {
            crate::domain::hint::Outcome::Rejected(why) => Err(why),
            other => panic!("{other:?}"),
        },
    }
}

fn name(name: &str) -> SessionName {
    SessionName::new(name).unwrap()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a case for each action")]
fn every_action_is_read() {
    let session = |tokens| Target::Session { session: name("s"), tokens };
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let pin = Shield { ttl: minutes(5), refresh_on_hit: true };
    let keys = || Target::Keys(vec![DIGEST.key(b"abcd"), DIGEST.key(b"efgh")]);
    for (action_type, payload, expected) in [
        (
            "retain",
            json!({
                "target": {"session": "s", "tokens": {"start": 64, "end": 128}},
                "priority": 80, "priority_ms": 60_000, "ttl_ms": 60_000, "refresh_on_hit": false,
                "delete_after_ms": 120_000, "kind": "tool_result", "floor": "nvme",
                "scope": "session",
            }),
            Action::Retain {
                target: session(TokenRange { start: 64, end: Some(128) }),
                wish: Wish {
                    priority: Some((80, Some(minutes(1)))),
                    shield: Some(Shield { ttl: minutes(1), refresh_on_hit: false }),
                    delete_after: Some(minutes(2)),
                    kind: Some(Kind::ToolResult),
                    floor: Some(Tier::Nvme),
                    scope: Some(Scope::Session),
                },
            },
        ),
        (
            "pin",
            json!({"target": {"hashes": ["61626364", "ZWZnaA=="]}}),
            Action::Retain { target: keys(), wish: Wish { shield: Some(pin), ..Wish::default() } },
        ),
        (
            "release",
            json!({"target": {"session": "s"}}),
            Action::Release { target: session(TokenRange::ALL) },
        ),
        (
            "demote",
            json!({"target": {"session_tree": "s"}, "to": "nvme"}),
            Action::Demote { target: Target::SessionTree(name("s")), to: Tier::Nvme },
        ),
        (
            "session.start",
            json!({"session": "s", "parent": "p"}),
            Action::SessionStart { session: name("s"), parent: Some(name("p")) },
        ),
        (
            "session.start",
            json!({"session": "s"}),
            Action::SessionStart { session: name("s"), parent: None },
        ),
        ("session.reset", json!({"session": "s"}), Action::SessionReset { session: name("s") }),
        (
            "session.end",
            json!({"session": "s", "tree": true}),
            Action::SessionEnd { session: name("s"), tree: true },
        ),
        (
            "tool.start",
            json!({"session": "s", "expected_ms": 1500}),
            Action::ToolStart { session: name("s"), expected: Some(Duration::from_millis(1500)) },
        ),
        (
            "tool.start",
            json!({"session": "s"}),
            Action::ToolStart { session: name("s"), expected: None },
        ),
        ("tool.return", json!({"session": "s"}), Action::ToolReturn { session: name("s") }),
        (
            "prefetch",
            json!({
                "target": {"hashes": ["61626364", "ZWZnaA=="]},
                "to": "dram", "deadline_ms": 1500, "priority": 80,
            }),
            Action::Prefetch {
                target: keys(),
                wish: LiftWish {
                    to: Some(Tier::Dram),
                    deadline: Some(Duration::from_millis(1500)),
                    priority: Some(80),
                },
            },
        ),
        (
            "prefetch",
            json!({"target": {"session_tree": "s"}}),
            Action::Prefetch { target: Target::SessionTree(name("s")), wish: LiftWish::default() },
        ),
        (
            "speculative_prefill",
            json!({"target": {"session": "s", "tokens": {"end": 64}}, "priority": 0}),
            Action::SpeculativePrefill {
                target: session(TokenRange { start: 0, end: Some(64) }),
                wish: LiftWish { priority: Some(0), ..LiftWish::default() },
            },
        ),
        (
            "speculative_prefill",
            json!({"session": "s", "deadline_ms": 31_536_000_000_u64}),
            Action::SpeculativePrefill {
                target: session(TokenRange::ALL),
                wish: LiftWish {
                    deadline: Some(Duration::from_hours(24 * 365)),
                    ..LiftWish::default()
                },
            },
        ),
        (
            "prefetch.cancel",
            json!({"operation_id": u64::MAX}),
            Action::CancelPrefetch { operation: u64::MAX },
        ),
    ] {
        for version in ACTION_VERSIONS {
            assert_eq!(one(action_type, version, &payload).as_ref(), Ok(&expected));
        }
    }
}

#[test]
fn an_action_that_makes_no_sense_is_refused_by_itself() {
    let long = "x".repeat(129);
    let nine: Vec<String> = (0..9).map(|n| format!("0000000{n}")).collect();
    for (action_type, payload, expected) in [
        ("kv.fetch", json!({}), "there is no action `kv.fetch`: use retain, pin, release"),
        ("prefetch", json!({}), "payload: missing field `target`"),
        (
            "prefetch",
            json!({"target": {"session": "s"}, "deadline": 9}),
            "unknown field `deadline`",
        ),
        ("prefetch", json!({"target": {"session": "s"}, "deadline_ms": 0}), "over already: give"),
        ("prefetch", json!({"target": {"session": "s"}, "deadline_ms": -5}), "invalid value"),
        ("prefetch", json!({"target": {"session": "s"}, "priority": 101}), "give 0 to 100"),
        ("prefetch", json!({"target": {"session": "s"}, "to": "disk"}), "unknown tier `disk`"),
        ("prefetch", json!({"target": {}}), "target: name hashes, or session"),
        ("speculative_prefill", Value::Null, "payload: it must be an object"),
        ("speculative_prefill", json!({}), "payload: name the target, or the session"),
        (
            "speculative_prefill",
            json!({"target": {"session": "s"}, "session": "s"}),
            "it names a target and a session",
        ),
        ("speculative_prefill", json!({"session": "s", "to": "dram"}), "unknown field `to`"),
        ("speculative_prefill", json!({"session": ""}), "a session's name is empty"),
        ("speculative_prefill", json!({"session": "s", "deadline_ms": 0}), "over already"),
        ("prefetch.cancel", json!({}), "missing field `operation_id`"),
        ("prefetch.cancel", json!({"operation_id": -1}), "payload: invalid value"),
        ("retain", Value::Null, "payload: it must be an object"),
        ("session.end", json!(["s"]), "payload: it must be an object"),
        ("retain", json!({}), "payload: missing field `target`"),
        ("retain", json!({"target": {}}), "it asks for nothing"),
        ("retain", json!({"target": {}, "priority": 1}), "target: name hashes, or session"),
        ("release", json!({"target": {"session": "s", "session_tree": "s"}}), "target: name"),
        ("release", json!({"target": {"session_tree": "s", "tokens": {}}}), "target: name"),
        ("release", json!({"target": {"sesion": "s"}}), "unknown field `sesion`, expected one of"),
        ("release", json!({"target": {"session": ""}}), "a session's name is empty"),
        ("session.end", json!({"session": long}), "has 129 bytes"),
        ("session.end", json!({}), "missing field `session`"),
        ("session.end", json!({"session": 7}), "expected a string"),
        ("release", json!({"target": {"hashes": []}}), "target.hashes is empty"),
        ("release", json!({"target": {"hashes": nine}}), "at most 8 in all"),
        ("release", json!({"target": {"hashes": ["61626364", "616263"]}}), "hashes[1] is no hash"),
        (
            "release",
            json!({"target": {"session": "s", "tokens": {"start": 9, "end": 9}}}),
            "tokens 9 to 9: ranges are half-open",
        ),
        ("demote", json!({"target": {"session": "s"}, "to": "disk"}), "unknown tier `disk`"),
        ("pin", json!({"target": {"session": "s"}, "kind": "think"}), "there is no kind `think`"),
        ("pin", json!({"target": {"session": "s"}, "priority": 300}), "out of range: 0 to 100"),
        ("pin", json!({"target": {"session": "s"}, "priority": -1}), "payload: invalid value"),
        ("pin", json!({"target": {"session": "s"}, "ttl_ms": 1.5}), "payload: invalid type"),
        ("tool.start", json!({"session": "s", "expected": 5}), "unknown field `expected`"),
    ] {
        let said = one(action_type, "1", &payload).unwrap_err();
        assert!(
            said.contains(expected),
            "{action_type} {payload}\n  said  {said}\n  lacks {expected}"
        );
    }
    let said = one("retain", "2", &json!({})).unwrap_err();
    assert_eq!(said, "there is no version `2` of retain: use the string 1 or 1.0");
    let said = one("release", "1", &json!({"x".repeat(9000): 1})).unwrap_err();
    assert!(said.len() < 300, "texts of others are not repeated whole");
}

#[test]
fn what_is_no_envelope_is_an_error() {
    let action = |id: &str| json!({"action_id": id, "action_type": "x", "action_version": "1", "payload": {}});
    let envelope = |actions: Vec<Value>| {
        json!({"protocol_version": "0.1", "message_id": "m", "actions": actions}).to_string()
    };
    let many = (0..257).map(|n| action(&n.to_string())).collect();
    for (text, expected) in [
        (String::new(), "the envelope is no JSON (EOF"),
        ("{".into(), "the envelope is no JSON"),
        ("[]".into(), "no JSON object"),
        ("[".repeat(10_000), "recursion limit"),
        ("{}".into(), "missing field `protocol_version`): send {protocol_version, message_id"),
        (
            json!({"protocol_version": "0.2"}).to_string(),
            "protocol_version is \"0.2\": this daemon",
        ),
        (json!({"protocol_version": 1}).to_string(), "protocol_version is 1: this daemon"),
        (
            json!({"protocol_version": "0.1", "message_id": "m"}).to_string(),
            "missing field `actions`",
        ),
        (envelope(vec![json!({"action_type": "retain"})]), "missing field `action_id`"),
        (envelope(vec![action("a"), action("a")]), "action_id `a` is said twice"),
        (envelope(vec![action("")]), "actions[0].action_id is 0 bytes long"),
        (envelope(many), "257 actions in one call: send at most 256"),
        (
            json!({"protocol_version": "0.1", "message_id": "m".repeat(257), "actions": []})
                .to_string(),
            "message_id is 257 bytes long",
        ),
    ] {
        let said = read(text.as_bytes(), &mut hashes()).unwrap_err();
        assert!(said.contains(expected), "said  {said}\n  lacks {expected}");
    }
    let empty = read(envelope(vec![]).as_bytes(), &mut hashes()).unwrap();
    assert_eq!(empty.message_id, "m");
    // What other readers add to an envelope is none of ours.
    let more = json!({"protocol_version": "0.1", "message_id": "m", "actions": [], "trace": 1});
    read(more.to_string().as_bytes(), &mut hashes()).unwrap();
}

#[test]
fn blocks_are_counted_over_the_whole_envelope() {
    let release = |id: &str, count: usize| {
        json!({
            "action_id": id, "action_type": "release", "action_version": "1",
            "payload": {"target": {"hashes": vec!["61626364"; count]}},
        })
    };
    let actions = [release("a", 5), release("b", 4), release("c", 3)];
    let envelope = json!({"protocol_version": "0.1", "message_id": "m", "actions": actions});
    let read = read(envelope.to_string().as_bytes(), &mut hashes()).unwrap();
    assert_eq!(read.batch.split().0.len(), 2, "the second would be the ninth block");
}

proptest! {
    #[test]
    fn prop_any_bytes_are_an_envelope_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes, &mut hashes());
    }

    #[test]
    fn prop_any_payload_is_an_action_or_refused(
        kind in prop::sample::select(&ACTION_TYPES[..]),
        payload in crate::hints::lower::samples::json(),
    ) {
        let _ = one(kind, "1", &payload);
    }
}

#[test]
fn a_version_that_is_no_string_is_one_actions_matter() {
    let payload = json!({"session": "s"});
    let action = |id, version: Value| {
        json!({"action_id": id, "action_type": "tool.return", "action_version": version,
               "payload": payload})
    };
    let actions = json!([
        action("a", json!(1)),
        action("b", Value::Null),
        json!({"action_id": "c", "action_type": 7}),
        action("d", json!("1")),
    ]);
    let envelope = json!({"protocol_version": "0.1", "message_id": "m", "actions": actions});
    let read = read(envelope.to_string().as_bytes(), &mut hashes()).unwrap();
    let (actions, _) = read.batch.split();
    assert_eq!(actions, [Action::ToolReturn { session: name("s") }]);
}
