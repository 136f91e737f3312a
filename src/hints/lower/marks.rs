//! Anthropic's `cache_control`: the breakpoints of a body.
//!
//! The rules are those of the Messages API: type `ephemeral`, `5m` by default or `1h`, renewed by a
//! hit, at most four, longer times before shorter ones in the order tools, system, messages
//! (<https://platform.claude.com/docs/en/build-with-claude/prompt-caching>).

use std::time::Duration;

use serde_json::Value;

use super::{Mark, Part, Place, field};
use crate::domain::retention::Shield;

const BREAKPOINTS_MAX: usize = 4;

/// What a body marks, in the order of the API: a place, or the whole of it.
struct Breakpoint {
    /// `tools[0]`, as the body spells it.
    path: String,
    /// None: whatever is last.
    place: Option<Place>,
    ttl: Duration,
}

/// The shields that the body's breakpoints ask for.
pub(super) fn breakpoints(body: &Value, parts: &[Part]) -> Result<Vec<Mark>, String> {
    let mut found = Vec::new();
    for (index, tool) in items(body, "tools").enumerate() {
        mark(&mut found, tool, Some(Place::Tool(index)), || format!("tools[{index}]"))?;
    }
    for (index, block) in items(body, "system").enumerate() {
        mark(&mut found, block, Some(Place::System(index)), || format!("system[{index}]"))?;
    }
    for (message, value) in items(body, "messages").enumerate() {
        for (block, content) in items(value, "content").enumerate() {
            let place = Some(Place::Message { message, block });
            let path = || format!("messages[{message}].content[{block}]");
            mark(&mut found, content, place, path)?;
            // What stands inside a block is cached with the block.
            for (inner, nested) in items(content, "content").enumerate() {
                mark(&mut found, nested, place, || format!("{}.content[{inner}]", path()))?;
            }
        }
    }
    mark_last(&mut found, body, parts)?;
    check(&found)?;
    found.iter().map(|breakpoint| shield(breakpoint, parts)).collect()
}

fn items<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    object.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn mark(
    found: &mut Vec<Breakpoint>,
    value: &Value,
    place: Option<Place>,
    path: impl Fn() -> String,
) -> Result<(), String> {
    let Some(control) = field(value, "cache_control") else { return Ok(()) };
    let ttl = ttl(control).map_err(|why| format!("{}.cache_control: {why}", path()))?;
    found.push(Breakpoint { path: path(), place, ttl });
    Ok(())
}

/// `cache_control` of the body itself marks its last part, unless that is marked so already.
fn mark_last(found: &mut Vec<Breakpoint>, body: &Value, parts: &[Part]) -> Result<(), String> {
    let mut own = Vec::new();
    mark(&mut own, body, None, || "the body".into())?;
    let last = parts.last().map(|part| part.place);
    for breakpoint in own {
        let same = |other: &&Breakpoint| other.place == last && other.ttl == breakpoint.ttl;
        if last.is_none() || found.iter().find(same).is_none() {
            found.push(breakpoint);
        }
    }
    Ok(())
}

fn ttl(control: &Value) -> Result<Duration, String> {
    if control.get("type").and_then(Value::as_str) != Some("ephemeral") {
        return Err("its type must be `ephemeral`".into());
    }
    match field(control, "ttl").map(Value::as_str) {
        None | Some(Some("5m")) => Ok(Duration::from_mins(5)),
        Some(Some("1h")) => Ok(Duration::from_hours(1)),
        Some(_) => Err("its ttl must be `5m` or `1h`".into()),
    }
}

fn check(found: &[Breakpoint]) -> Result<(), String> {
    if found.len() > BREAKPOINTS_MAX {
        return Err(format!(
            "{} parts have cache_control: mark at most {BREAKPOINTS_MAX}, the last of each stretch \
             that stays the same",
            found.len()
        ));
    }
    if let Some(pair) = found.windows(2).find(|pair| pair[1].ttl > pair[0].ttl) {
        return Err(format!(
            "{} has a longer ttl than {} before it: mark what is kept longer first (tools, then \
             system, then messages)",
            pair[1].path, pair[0].path
        ));
    }
    Ok(())
}

fn shield(breakpoint: &Breakpoint, parts: &[Part]) -> Result<Mark, String> {
    let end = match breakpoint.place {
        None => parts.last().map(|part| part.end),
        Some(place) => {
            let part = parts.iter().find(|part| part.place == place);
            Some(part.map(|part| part.end).ok_or_else(|| {
                format!(
                    "{} has cache_control, and no part says where it ends: give the end of every \
                     marked part",
                    breakpoint.path
                )
            })?)
        }
    };
    Ok(Mark { end, shield: Shield { ttl: breakpoint.ttl, refresh_on_hit: true } })
}
