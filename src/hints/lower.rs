//! Lowers what request bodies say of caching to directives and actions: `nvext` (Dynamo), Anthropic's
//! `cache_control`, OpenAI's `prompt_cache_*`.
//!
//! A pure function of the body and of where its parts end in tokens. Never tokenizes, never asks for
//! more than the body says, and leaves budgets to the daemon. `docs/hints.md` has the table.

mod marks;
mod nvext;
mod spans;

#[cfg(test)]
pub(super) mod samples;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::Value;

use crate::domain::hint::{Action, LiftWish};
use crate::domain::retention::{Directives, Shield};
use crate::domain::session::{SessionName, Stop};

use super::claim::last_chain;
use nvext::Nvext;

/// A part of a request body that tokens were made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// `tools[i]`.
    Tool(usize),
    /// `system[i]`, or block 0 where it is text; OpenAI's `instructions`.
    System(usize),
    /// `messages[message].content[block]`, or block 0 where the content is text; the same of
    /// OpenAI's `input`, where an item without content is block 0.
    Message { message: usize, block: usize },
}

/// A part, and the token behind its last one. Parts stand in the order of their tokens; each begins
/// where the one before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub place: Place,
    pub end: u64,
}

/// What a body says, in the daemon's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lowered {
    /// For the request's stores.
    pub directives: Directives,
    /// For its lookups and stores.
    pub session: Option<SessionName>,
    /// To be sent before the request's lookup, and after its end.
    pub before: Vec<Action>,
    pub after: Vec<Action>,
    /// How long the answer is expected to be.
    pub output_tokens_expected: Option<u32>,
    /// What the body says that was taken otherwise, or not at all: for the log.
    pub notes: Vec<String>,
}

/// A shield over the tokens up to `end`, or over all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    end: Option<u64>,
    shield: Shield,
}

const DAY: Duration = Duration::from_hours(24);

/// Lowers a request body.
///
/// # Errors
/// The body's cache fields make no sense, or a marked part's end is not given: which, and what to
/// do. The request itself may be served all the same.
pub fn lower(body: &Value, parts: &[Part]) -> Result<Lowered, String> {
    if !body.is_object() {
        return Err("the request body is no JSON object".into());
    }
    if let Some(at) = parts.windows(2).position(|pair| pair[1].end < pair[0].end) {
        return Err(format!(
            "part {} ends at token {}, before the part in front of it: give parts in the order of \
             their tokens",
            at + 1,
            parts[at + 1].end
        ));
    }
    let prompt_end = parts.last().map(|part| part.end);
    let mut notes = Vec::new();
    let mut marks = marks::breakpoints(body, parts)?;
    let nvext = Nvext::read(body.get("nvext"), &mut notes)?;
    let whole = nvext.shield.into_iter().chain(retention(body)?);
    marks.extend(whole.map(|shield| Mark { end: prompt_end, shield }));
    let claims = spans::directives(body, parts, &marks, &nvext);
    let directives = Directives::admit(claims)
        .map_err(|why| format!("the body's parts can't be told apart: {why}"))?;
    let session = match nvext.session {
        Some(session) => Some(session),
        None => text(body, "prompt_cache_key")?.map(SessionName::new).transpose()?,
    };
    let mut after = nvext.after;
    if nvext.speculative_prefill {
        match next_turn(session.as_ref(), nvext.is_final) {
            Ok(lift) => after.push(lift),
            Err(why) => notes.push(format!("nvext.agent_hints.speculative_prefill: {why}")),
        }
    }
    Ok(Lowered {
        directives,
        session,
        before: nvext.before,
        after,
        output_tokens_expected: nvext.output_tokens_expected,
        notes,
    })
}

/// The lift of what the session's next turn begins with: the chain that this request reached, once it
/// has ended. Only a session says which that is, since bodies name no blocks.
fn next_turn(session: Option<&SessionName>, is_final: bool) -> Result<Action, &'static str> {
    match session {
        None => Err("nothing is lifted: name the session (nvext.agent_context.session_id, or \
                     prompt_cache_key) whose next turn is meant"),
        Some(_) if is_final => Err("nothing is lifted: the session ends with this request"),
        Some(session) => Ok(Action::SpeculativePrefill {
            target: last_chain(session.clone()),
            wish: LiftWish::default(),
        }),
    }
}

/// Why the model stopped, by the word that the APIs have for it.
#[must_use]
pub fn stop(finish_reason: &str) -> Stop {
    match finish_reason {
        "tool_use" | "tool_calls" | "function_call" => Stop::ToolUse,
        "end_turn" | "stop" | "stop_sequence" => Stop::EndTurn,
        _ => Stop::Unknown,
    }
}

/// OpenAI's `prompt_cache_retention`: `in_memory` is what caches do anyway.
fn retention(body: &Value) -> Result<Option<Shield>, String> {
    match text(body, "prompt_cache_retention")? {
        None | Some("in_memory" | "in-memory") => Ok(None),
        // A maximum from the first use, so hits renew nothing.
        Some("24h") => Ok(Some(Shield { ttl: DAY, refresh_on_hit: false })),
        Some(_) => Err("prompt_cache_retention is neither in_memory nor 24h".into()),
    }
}

/// The field, if it is there and not null.
fn field<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

fn text<'a>(object: &'a Value, name: &str) -> Result<Option<&'a str>, String> {
    let Some(value) = field(object, name) else { return Ok(None) };
    value.as_str().map(Some).ok_or_else(|| format!("{name} is no text"))
}
