//! Dynamo's `nvext`: agent hints, cache control, sessions
//! (<https://docs.nvidia.com/dynamo/user-guides/agents/agent-hints>).
//!
//! Reads the fields that speak of the cache; those that only route or schedule are none of ours.

use std::time::Duration;

use serde_json::Value;

use super::{field, text};
use crate::domain::hint::Action;
use crate::domain::retention::Shield;
use crate::domain::retention::record::{PRIORITY_DEFAULT, PRIORITY_MAX};
use crate::domain::session::SessionName;

/// What Dynamo clamps the TTL of its cache control to, in seconds.
const TTL_S: std::ops::RangeInclusive<u64> = 300..=3600;

/// What `nvext` says.
#[derive(Default)]
pub(super) struct Nvext {
    pub priority: Option<u8>,
    pub output_tokens_expected: Option<u32>,
    pub shield: Option<Shield>,
    /// The next turn's prefix is to be at hand.
    pub speculative_prefill: bool,
    pub session: Option<SessionName>,
    /// The session has a parent: it is a sub-agent's.
    pub is_subagent: bool,
    /// This is its last request.
    pub is_final: bool,
    pub before: Vec<Action>,
    pub after: Vec<Action>,
}

impl Nvext {
    pub(super) fn read(nvext: Option<&Value>, notes: &mut Vec<String>) -> Result<Self, String> {
        let Some(nvext) = nvext.filter(|nvext| !nvext.is_null()) else {
            return Ok(Self::default());
        };
        if !nvext.is_object() {
            return Err("nvext is no object".into());
        }
        let mut read = Self::default();
        read.hints(nvext).map_err(|why| format!("nvext.agent_hints.{why}"))?;
        read.shield = shield(nvext, notes).map_err(|why| format!("nvext.cache_control.{why}"))?;
        read.sessions(nvext, notes)?;
        Ok(read)
    }

    fn hints(&mut self, nvext: &Value) -> Result<(), String> {
        let Some(hints) = field(nvext, "agent_hints") else { return Ok(()) };
        if let Some(priority) = field(hints, "priority") {
            let priority = priority.as_i64().ok_or("priority is no whole number")?;
            self.priority = Some(priority_of(priority));
        }
        if let Some(tokens) = field(hints, "osl") {
            let tokens = tokens.as_u64().ok_or("osl is no number of tokens")?;
            self.output_tokens_expected = Some(u32::try_from(tokens).unwrap_or(u32::MAX));
        }
        let wanted = field(hints, "speculative_prefill").map(Value::as_bool);
        let wanted =
            wanted.map(|wanted| wanted.ok_or("speculative_prefill is neither true nor false"));
        self.speculative_prefill = wanted.transpose()?.unwrap_or(false);
        Ok(())
    }

    fn sessions(&mut self, nvext: &Value, notes: &mut Vec<String>) -> Result<(), String> {
        let named = |object: &Value, name: &str| -> Result<Option<SessionName>, String> {
            text(object, name)?.map(SessionName::new).transpose()
        };
        let mut closes = false;
        let mut opens = false;
        let mut parent = None;
        if let Some(context) = field(nvext, "agent_context") {
            let read = || -> Result<_, String> {
                let last = field(context, "session_final").map(Value::as_bool);
                let last = last.map(|last| last.ok_or("session_final is neither true nor false"));
                Ok((
                    named(context, "session_id")?,
                    named(context, "parent_session_id")?,
                    last.transpose()?.unwrap_or(false),
                ))
            };
            (self.session, parent, closes) =
                read().map_err(|why| format!("nvext.agent_context: {why}"))?;
        }
        if let Some(control) = field(nvext, "session_control") {
            let wrong = |why: String| format!("nvext.session_control: {why}");
            let session = named(control, "session_id").map_err(wrong)?;
            self.session = session.or(self.session.take());
            match text(control, "action").map_err(wrong)? {
                None => (),
                Some("open") => opens = true,
                Some("close") => closes = true,
                Some(_) => return Err(wrong("action is neither open nor close".into())),
            }
            if field(control, "timeout").is_some() {
                notes.push(
                    "nvext.session_control.timeout: all sessions of a daemon have its \
                     sessions.idle_timeout"
                        .into(),
                );
            }
        }
        let Some(session) = self.session.clone() else { return Ok(()) };
        self.is_subagent = parent.is_some();
        if opens || parent.is_some() {
            self.before.push(Action::SessionStart { session: session.clone(), parent });
        }
        self.is_final = closes;
        if closes {
            self.after.push(Action::SessionEnd { session, tree: false });
        }
        Ok(())
    }
}

/// Dynamo's priorities have no bounds and start at 0; ours have both, and start in between.
fn priority_of(dynamo: i64) -> u8 {
    let priority = dynamo.saturating_add(PRIORITY_DEFAULT.into()).clamp(0, PRIORITY_MAX.into());
    u8::try_from(priority).expect("clamped to a byte")
}

/// `{type: ephemeral, ttl}`; the time in seconds, or `5m` and the like.
fn shield(nvext: &Value, notes: &mut Vec<String>) -> Result<Option<Shield>, String> {
    let Some(control) = field(nvext, "cache_control") else { return Ok(None) };
    if control.get("type").and_then(Value::as_str).is_some_and(|word| word != "ephemeral") {
        return Err("type must be `ephemeral`".into());
    }
    let asked_s = match field(control, "ttl") {
        None => *TTL_S.start(),
        Some(ttl) => ttl
            .as_u64()
            .or_else(|| ttl.as_str().and_then(seconds))
            .ok_or("ttl is no time: write whole seconds, or a number with s, m or h")?,
    };
    let granted_s = asked_s.clamp(*TTL_S.start(), *TTL_S.end());
    if granted_s != asked_s {
        notes.push(format!(
            "nvext.cache_control.ttl: {asked_s} s was taken as {granted_s} s, as Dynamo does"
        ));
    }
    Ok(Some(Shield { ttl: Duration::from_secs(granted_s), refresh_on_hit: true }))
}

fn seconds(text: &str) -> Option<u64> {
    let (digits, unit_s) = match text.char_indices().last()? {
        (at, 's') => (&text[..at], 1),
        (at, 'm') => (&text[..at], 60),
        (at, 'h') => (&text[..at], 3600),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().ok()?;
    Some(number.saturating_mul(unit_s))
}
