//! Any JSON, made of the words that bodies and envelopes are made of, so that it goes deep.

use proptest::prelude::*;
use serde_json::Value;

const WORDS: [&str; 42] = [
    "tools",
    "system",
    "messages",
    "content",
    "role",
    "type",
    "text",
    "cache_control",
    "ttl",
    "ephemeral",
    "5m",
    "1h",
    "nvext",
    "agent_hints",
    "priority",
    "osl",
    "speculative_prefill",
    "session_control",
    "agent_context",
    "session_id",
    "parent_session_id",
    "action",
    "open",
    "close",
    "prompt_cache_key",
    "prompt_cache_retention",
    "24h",
    "assistant",
    "thinking",
    "tool_result",
    "target",
    "hashes",
    "session",
    "tokens",
    "start",
    "end",
    "kind",
    "ttl_ms",
    "to",
    "dram",
    "deadline_ms",
    "operation_id",
];

pub(in crate::hints) fn json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(&WORDS[..]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-5_i64..200).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(word.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}
