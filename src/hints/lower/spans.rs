//! A body's parts and marks as directives: disjoint stretches of tokens, each with one wish.
//!
//! Where several shields cover a token the longest counts. There are never more directives than a
//! request may have: the kinds of the oldest parts give way, since they were said before.

use serde_json::Value;

use super::nvext::Nvext;
use super::{Mark, Part, Place};
use crate::domain::retention::directive::DIRECTIVES_MAX;
use crate::domain::retention::{Directive, Kind, TokenRange, Wish};

/// Parts whose kind is told, when not all can be. What is left is for the stretches that the marks
/// alone make: four breakpoints, two shields of the whole, and what follows.
const KINDS_MAX: usize = DIRECTIVES_MAX - 8;

pub(super) fn directives(
    body: &Value,
    parts: &[Part],
    marks: &[Mark],
    nvext: &Nvext,
) -> Vec<Directive> {
    let priority = nvext.priority.map(|priority| (priority, None));
    let wish = |kind: Option<Kind>, end: Option<u64>| {
        let reaches = |mark: &&Mark| mark.end.is_none_or(|far| end.is_some_and(|end| far >= end));
        let longest = marks.iter().filter(reaches).map(|mark| mark.shield);
        let shield = longest.max_by_key(|shield| (shield.ttl, shield.refresh_on_hit));
        Wish { priority, shield, kind, ..Wish::default() }
    };
    // What a sub-agent is told and says is its own; its tools and system prompt are others' as well.
    let told = |kind: Kind| match kind {
        Kind::System | Kind::Tools => kind,
        _ if nvext.is_subagent => Kind::Subagent,
        _ => kind,
    };
    let mut spans = Vec::with_capacity(parts.len() + 1);
    let mut start = 0;
    for (index, part) in parts.iter().enumerate() {
        let end = Some(part.end);
        let kind = told(kind(body, part.place, index + 1 == parts.len()));
        // A part without tokens says nothing.
        if part.end > start {
            spans
                .push(Directive { tokens: TokenRange { start, end }, wish: wish(Some(kind), end) });
        }
        start = start.max(part.end);
    }
    let answer = (!parts.is_empty()).then_some(told(Kind::Output));
    spans.push(Directive { tokens: TokenRange { start, end: None }, wish: wish(answer, None) });

    let mut joined = join(spans.clone());
    if joined.len() > DIRECTIVES_MAX {
        let untold = joined.len() - KINDS_MAX;
        let told_from = joined[untold].tokens.start;
        for span in spans.iter_mut().filter(|span| span.tokens.start < told_from) {
            span.wish.kind = None;
        }
        joined = join(spans);
    }
    joined.retain(|span| !span.wish.is_empty());
    joined
}

/// Neighbours that ask for the same are one.
fn join(spans: Vec<Directive>) -> Vec<Directive> {
    let mut joined: Vec<Directive> = Vec::with_capacity(spans.len());
    for span in spans {
        match joined.last_mut() {
            Some(last) if last.wish == span.wish => last.tokens.end = span.tokens.end,
            _ => joined.push(span),
        }
    }
    joined
}

fn kind(body: &Value, place: Place, is_last: bool) -> Kind {
    let (message, block) = match place {
        Place::Tool(_) => return Kind::Tools,
        Place::System(_) => return Kind::System,
        Place::Message { message, block } => (message, block),
    };
    let messages = body.get("messages").or_else(|| body.get("input"));
    let message = messages.and_then(|messages| messages.get(message));
    let content = message.and_then(|message| message.get("content")?.get(block)).or(message);
    let word = |value: Option<&Value>, name: &str| -> String {
        value.and_then(|value| value.get(name)?.as_str()).unwrap_or_default().to_owned()
    };
    match (word(message, "role").as_str(), word(content, "type").as_str()) {
        ("system" | "developer", _) => Kind::System,
        ("tool" | "function", _)
        | (_, "tool_result" | "function_call_output" | "custom_tool_call_output") => {
            Kind::ToolResult
        }
        // A floor holds for all that follows, so reasoning in the middle is part of the talk.
        (_, "thinking" | "redacted_thinking" | "reasoning") if is_last => Kind::Reasoning,
        _ => Kind::Conversation,
    }
}
