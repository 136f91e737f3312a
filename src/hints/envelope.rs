//! The engines' envelope of hints: JSON to the domain's actions.
//!
//! The shape is the one that vLLM and SGLang carry (vLLM #53421, SGLang #36224); what stands in the
//! payloads is ours (`docs/hints.md`). An action that makes no sense is refused by itself; only what
//! is no envelope at all is an error.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::batch::{Asked, Batch, check_count};
use super::claim::{ClaimedLift, ClaimedWish, TARGET_TWICE, forward, last_chain};
use super::hashes::Hashes;
use crate::domain::hint::{Action, Target};
use crate::domain::retention::TokenRange;
use crate::domain::session::SessionName;

/// The version of the envelope itself.
pub const PROTOCOL_VERSION: &str = "0.1";

/// The versions of every action.
pub const ACTION_VERSIONS: [&str; 2] = ["1", "1.0"];

/// The names of all actions.
pub const ACTION_TYPES: [&str; 12] = [
    "retain",
    "pin",
    "release",
    "demote",
    "session.start",
    "session.reset",
    "session.end",
    "tool.start",
    "tool.return",
    "prefetch",
    "speculative_prefill",
    "prefetch.cancel",
];

/// Bytes of a message's id.
pub const MESSAGE_ID_BYTES_MAX: usize = 256;

/// An envelope that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub message_id: String,
    pub batch: Batch,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Outer {
    protocol_version: String,
    message_id: String,
    actions: Vec<Inner>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Inner {
    action_id: String,
    // Whatever stands here is one action's own matter.
    #[serde(default)]
    action_type: Value,
    #[serde(default)]
    action_version: Value,
    #[serde(default)]
    payload: Value,
}

/// Reads an envelope.
///
/// # Errors
/// It is no JSON, or not of this shape or version, or its actions can't be answered one by one.
pub fn read(json: &[u8], hashes: &mut Hashes) -> Result<Envelope, String> {
    // The version first: another version may look otherwise.
    let value: Value = serde_json::from_slice(json)
        .map_err(|error| format!("the envelope is no JSON ({}): send one object", said(&error)))?;
    if !value.is_object() {
        return Err("the envelope is no JSON object: send one".into());
    }
    let version = value.get("protocol_version");
    if let Some(version) = version.filter(|version| *version != PROTOCOL_VERSION) {
        return Err(format!(
            "the envelope's protocol_version is {}: this daemon reads \"{PROTOCOL_VERSION}\"",
            shown(version)
        ));
    }
    check_count(value.get("actions").and_then(Value::as_array).map_or(0, Vec::len))?;
    let outer: Outer = serde_json::from_value(value).map_err(|error| {
        format!(
            "not an envelope ({}): send {{protocol_version, message_id, actions: [{{action_id, \
             action_type, action_version, payload}}]}}",
            said(&error)
        )
    })?;
    debug_assert_eq!(outer.protocol_version, PROTOCOL_VERSION);
    if outer.message_id.len() > MESSAGE_ID_BYTES_MAX {
        return Err(format!(
            "message_id is {} bytes long: use at most {MESSAGE_ID_BYTES_MAX}",
            outer.message_id.len()
        ));
    }
    let asked = outer.actions.into_iter().map(|inner| Asked {
        action: action(&inner.action_type, &inner.action_version, inner.payload, hashes),
        action_id: inner.action_id,
    });
    Ok(Envelope { message_id: outer.message_id, batch: Batch::new(asked.collect())? })
}

fn action(
    action_type: &Value,
    version: &Value,
    payload: Value,
    hashes: &mut Hashes,
) -> Result<Action, String> {
    let known = |word: &Value, of: &[&'static str]| {
        of.iter().copied().find(|one| word.as_str() == Some(one))
    };
    let Some(action_type) = known(action_type, &ACTION_TYPES) else {
        return Err(format!(
            "there is no action `{}`: use {}",
            plain(action_type),
            ACTION_TYPES.join(", ")
        ));
    };
    if known(version, &ACTION_VERSIONS).is_none() {
        return Err(format!(
            "there is no version `{}` of {action_type}: use the string {}",
            plain(version),
            ACTION_VERSIONS.join(" or ")
        ));
    }
    match action_type {
        "retain" => read_payload::<RetainPayload>(payload)?.retain(hashes),
        "pin" => read_payload::<RetainPayload>(payload)?.pin(hashes),
        "release" => {
            let target = read_payload::<TargetOnly>(payload)?.target.target(hashes)?;
            Ok(Action::Release { target })
        }
        "demote" => {
            let DemotePayload { target, to } = read_payload(payload)?;
            Ok(Action::Demote { target: target.target(hashes)?, to: to.parse()? })
        }
        "session.start" => {
            let StartPayload { session, parent } = read_payload(payload)?;
            let parent = parent.as_deref().map(SessionName::new).transpose()?;
            Ok(Action::SessionStart { session: SessionName::new(&session)?, parent })
        }
        "session.reset" => Ok(Action::SessionReset { session: session_only(payload)? }),
        "session.end" => {
            let EndPayload { session, tree } = read_payload(payload)?;
            Ok(Action::SessionEnd { session: SessionName::new(&session)?, tree })
        }
        "tool.start" => {
            let ToolPayload { session, expected_ms } = read_payload(payload)?;
            let expected = expected_ms.map(Duration::from_millis);
            Ok(Action::ToolStart { session: SessionName::new(&session)?, expected })
        }
        "tool.return" => Ok(Action::ToolReturn { session: session_only(payload)? }),
        "prefetch" => read_payload::<PrefetchPayload>(payload)?.action(hashes),
        "speculative_prefill" => read_payload::<SpeculativePayload>(payload)?.action(hashes),
        "prefetch.cancel" => {
            let CancelPayload { operation_id } = read_payload(payload)?;
            Ok(Action::CancelPrefetch { operation: operation_id })
        }
        _ => unreachable!("every name of ACTION_TYPES has its arm"),
    }
}

fn session_only(payload: Value) -> Result<SessionName, String> {
    SessionName::new(&read_payload::<SessionPayload>(payload)?.session)
}

fn read_payload<T: DeserializeOwned>(payload: Value) -> Result<T, String> {
    if !payload.is_object() {
        return Err("payload: it must be an object, as docs/hints.md shows it".into());
    }
    serde_json::from_value(payload).map_err(|error| format!("payload: {}", said(&error)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct SessionPayload {
    session: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct StartPayload {
    session: String,
    parent: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct EndPayload {
    session: String,
    #[serde(default)]
    tree: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct ToolPayload {
    session: String,
    expected_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct TargetOnly {
    target: ClaimedTarget,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct DemotePayload {
    target: ClaimedTarget,
    to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct PrefetchPayload {
    target: ClaimedTarget,
    to: Option<String>,
    deadline_ms: Option<u64>,
    priority: Option<u64>,
}

impl PrefetchPayload {
    fn action(self, hashes: &mut Hashes) -> Result<Action, String> {
        let to = self.to.as_deref().map(str::parse).transpose()?;
        let (deadline_ms, priority) = (self.deadline_ms, self.priority);
        let wish = ClaimedLift { to, deadline_ms, priority }.lift()?;
        Ok(Action::Prefetch { target: self.target.target(hashes)?, wish })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct SpeculativePayload {
    target: Option<ClaimedTarget>,
    session: Option<String>,
    deadline_ms: Option<u64>,
    priority: Option<u64>,
}

impl SpeculativePayload {
    fn action(self, hashes: &mut Hashes) -> Result<Action, String> {
        let (deadline_ms, priority) = (self.deadline_ms, self.priority);
        let wish = ClaimedLift { to: None, deadline_ms, priority }.lift()?;
        let target = match (self.target, self.session) {
            (Some(_), Some(_)) => return Err(TARGET_TWICE.into()),
            (Some(target), None) => target.target(hashes)?,
            (None, Some(session)) => last_chain(SessionName::new(&session)?),
            (None, None) => return Err(NO_TARGET.into()),
        };
        Ok(Action::SpeculativePrefill { target, wish })
    }
}

/// What is said of a speculative prefill of nothing.
const NO_TARGET: &str =
    "payload: name the target, or the session whose last chain the engine is about to prefill";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct CancelPayload {
    operation_id: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct RetainPayload {
    target: ClaimedTarget,
    priority: Option<u64>,
    priority_ms: Option<u64>,
    ttl_ms: Option<u64>,
    refresh_on_hit: Option<bool>,
    delete_after_ms: Option<u64>,
    kind: Option<String>,
    floor: Option<String>,
    scope: Option<String>,
}

impl RetainPayload {
    fn retain(self, hashes: &mut Hashes) -> Result<Action, String> {
        let wish = self.claim()?.retain()?;
        Ok(Action::Retain { target: self.target.target(hashes)?, wish })
    }

    fn pin(self, hashes: &mut Hashes) -> Result<Action, String> {
        let wish = self.claim()?.pin()?;
        Ok(Action::Retain { target: self.target.target(hashes)?, wish })
    }

    fn claim(&self) -> Result<ClaimedWish, String> {
        Ok(ClaimedWish {
            priority: self.priority,
            priority_ms: self.priority_ms,
            ttl_ms: self.ttl_ms,
            refresh_on_hit: self.refresh_on_hit,
            delete_after_ms: self.delete_after_ms,
            kind: self.kind.as_deref().map(str::parse).transpose()?,
            floor: self.floor.as_deref().map(str::parse).transpose()?,
            scope: self.scope.as_deref().map(str::parse).transpose()?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct ClaimedTarget {
    hashes: Option<Vec<String>>,
    session: Option<String>,
    tokens: Option<ClaimedRange>,
    session_tree: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct ClaimedRange {
    #[serde(default)]
    start: u64,
    end: Option<u64>,
}

impl ClaimedTarget {
    fn target(self, hashes: &mut Hashes) -> Result<Target, String> {
        match (self.hashes, self.session, self.session_tree, self.tokens) {
            (Some(texts), None, None, None) => Ok(Target::Keys(hashes.texts(&texts)?)),
            (None, Some(session), None, tokens) => Ok(Target::Session {
                session: SessionName::new(&session)?,
                tokens: tokens
                    .map_or(Ok(TokenRange::ALL), |claim| forward(claim.start, claim.end))?,
            }),
            (None, None, Some(root), None) => Ok(Target::SessionTree(SessionName::new(&root)?)),
            _ => {
                Err("target: name hashes, or session (with tokens or without), or session_tree"
                    .into())
            }
        }
    }
}

/// The value as JSON, cut short.
fn shown(value: &Value) -> String {
    cut(&value.to_string())
}

/// The word, or whatever else stands in its place.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| shown(value), cut)
}

/// What is wrong, without the long texts that it may quote.
fn said(error: &serde_json::Error) -> String {
    error.to_string().chars().take(200).collect()
}

fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests;
