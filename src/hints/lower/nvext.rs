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
        if let Some(hints) = object(nvext, "agent_hints")? {
            read.hints(hints).map_err(|why| format!("nvext.agent_hints.{why}"))?;
        }
        if let Some(control) = object(nvext, "cache_control")? {
            let shield = shield(control, notes);
            read.shield = Some(shield.map_err(|why| format!("nvext.cache_control.{why}"))?);
        }
        read.sessions(nvext, notes)?;
        Ok(read)
    }

    fn hints(&mut self, hints: &Value) -> Result<(), String> {
        if let Some(priority) = field(hints, "priority") {
            let priority = priority.as_i64().ok_or("priority is no whole number")?;
            self.priority = Some(priority_of(priority));
        }
        if let Some(tokens) = field(hints, "osl") {
            let tokens = tokens.as_u64().ok_or("osl is no number of tokens")?;
            self.output_tokens_expected = Some(u32::try_from(tokens).unwrap_or(u32::MAX));
        }
        self.speculative_prefill = flag(hints, "speculative_prefill")?;
        Ok(())
    }

    fn sessions(&mut self, nvext: &Value, notes: &mut Vec<String>) -> Result<(), String> {
        let context = object(nvext, "agent_context")?.map(Context::read).transpose();
        let context = context.map_err(|why| format!("nvext.agent_context: {why}"))?;
        let control = object(nvext, "session_control")?.map(|read| Control::read(read, notes));
        let control = control.transpose().map_err(|why| format!("nvext.session_control: {why}"))?;
        let (context, control) = (context.unwrap_or_default(), control.unwrap_or_default());
        let Some(session) = control.session.or(context.session) else {
            let said = [
                ("agent_context.parent_session_id", context.parent.is_some()),
                ("agent_context.session_final", context.is_final),
                ("session_control.action", control.opens || control.closes),
            ];
            let said = said.into_iter().filter_map(|(what, is_said)| is_said.then_some(what));
            notes.extend(said.map(|what| {
                format!("nvext.{what}: not taken: say whose it is, by session_id beside it")
            }));
            return Ok(());
        };
        self.session = Some(session.clone());
        self.is_subagent = context.parent.is_some();
        self.is_final = context.is_final || control.closes;
        if control.opens || self.is_subagent {
            let (session, parent) = (session.clone(), context.parent);
            self.before.push(Action::SessionStart { session, parent });
        }
        if self.is_final {
            self.after.push(Action::SessionEnd { session, tree: false });
        }
        Ok(())
    }
}

/// `agent_context`: who the request's agent is.
#[derive(Default)]
struct Context {
    session: Option<SessionName>,
    parent: Option<SessionName>,
    is_final: bool,
}

impl Context {
    fn read(context: &Value) -> Result<Self, String> {
        Ok(Self {
            session: named(context, "session_id")?,
            parent: named(context, "parent_session_id")?,
            is_final: flag(context, "session_final")?,
        })
    }
}

/// `session_control`: what becomes of a session.
#[derive(Default)]
struct Control {
    session: Option<SessionName>,
    opens: bool,
    closes: bool,
}

impl Control {
    fn read(control: &Value, notes: &mut Vec<String>) -> Result<Self, String> {
        if field(control, "timeout").is_some() {
            notes.push(
                "nvext.session_control.timeout: all sessions of a daemon have its \
                 sessions.idle_timeout"
                    .into(),
            );
        }
        let action = text(control, "action")?;
        if action.is_some_and(|action| !["open", "close"].contains(&action)) {
            return Err("action is neither open nor close".into());
        }
        Ok(Self {
            session: named(control, "session_id")?,
            opens: action == Some("open"),
            closes: action == Some("close"),
        })
    }
}

/// The object of this name, if there is one.
fn object<'a>(nvext: &'a Value, name: &str) -> Result<Option<&'a Value>, String> {
    let value = field(nvext, name);
    if value.is_some_and(|value| !value.is_object()) {
        return Err(format!("nvext.{name} is no object"));
    }
    Ok(value)
}

fn named(object: &Value, name: &str) -> Result<Option<SessionName>, String> {
    text(object, name)?.map(SessionName::new).transpose()
}

/// False where nothing is said.
fn flag(object: &Value, name: &str) -> Result<bool, String> {
    let said = field(object, name)
        .map(|said| said.as_bool().ok_or_else(|| format!("{name} is neither true nor false")));
    Ok(said.transpose()?.unwrap_or(false))
}

/// Dynamo's priorities have no bounds and start at 0; ours have both, and start in between.
fn priority_of(dynamo: i64) -> u8 {
    let priority = dynamo.saturating_add(PRIORITY_DEFAULT.into()).clamp(0, PRIORITY_MAX.into());
    u8::try_from(priority).expect("clamped to a byte")
}

/// `{type: ephemeral, ttl}`; the time in seconds, or `5m` and the like.
fn shield(control: &Value, notes: &mut Vec<String>) -> Result<Shield, String> {
    if field(control, "type").is_some_and(|word| word.as_str() != Some("ephemeral")) {
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
    Ok(Shield { ttl: Duration::from_secs(granted_s), refresh_on_hit: true })
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
