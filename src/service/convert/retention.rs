//! What requests say of retention, from protobuf to the domain: sessions, directives, wishes.
//!
//! Numbers that name nothing here are refused with those that do.

use crate::domain::retention::{Directive, Directives, Kind, Scope, TokenRange};
use crate::domain::session::{SessionName, Stop};
use crate::domain::tier::Tier;
use crate::hints::{ClaimedWish, forward};
use crate::service::error::CallError;
use crate::wire::pb;

/// The session that a request names, if it names one.
pub(super) fn session(name: &str) -> Result<Option<SessionName>, CallError> {
    let named = Some(name).filter(|name| !name.is_empty());
    named.map(SessionName::new).transpose().map_err(CallError::invalid)
}

pub(super) fn directives(claims: Vec<pb::Directive>) -> Result<Directives, CallError> {
    let directive = |(index, claim): (usize, pb::Directive)| {
        let wish = claim.wish.as_ref().map_or(Ok(ClaimedWish::default()), wish);
        let wish = wish.and_then(ClaimedWish::wish);
        let tokens = claim
            .tokens
            .map_or(TokenRange::ALL, |range| TokenRange { start: range.start, end: range.end });
        match wish {
            Ok(wish) => Ok(Directive { tokens, wish }),
            Err(why) => Err(CallError::invalid(format!("directives[{index}]: {why}"))),
        }
    };
    let claims = claims.into_iter().enumerate().map(directive).collect::<Result<_, _>>()?;
    Directives::admit(claims).map_err(CallError::invalid)
}

/// A range of an action's target: it must run forward.
pub(super) fn range(range: Option<&pb::TokenRange>) -> Result<TokenRange, String> {
    range.map_or(Ok(TokenRange::ALL), |range| forward(range.start, range.end))
}

pub(super) fn wish(wish: &pb::Wish) -> Result<ClaimedWish, String> {
    Ok(ClaimedWish {
        priority: wish.priority.map(u64::from),
        priority_ms: wish.priority_ms,
        ttl_ms: wish.ttl_ms,
        refresh_on_hit: wish.refresh_on_hit,
        delete_after_ms: wish.delete_after_ms,
        kind: kind(wish.kind)?,
        floor: tier("floor", wish.floor)?,
        scope: scope(wish.scope)?,
    })
}

pub(super) fn stop(number: i32) -> Result<Stop, CallError> {
    match pb::Stop::try_from(number) {
        Ok(pb::Stop::Unspecified) => Ok(Stop::Unknown),
        Ok(pb::Stop::ToolUse) => Ok(Stop::ToolUse),
        Ok(pb::Stop::EndTurn) => Ok(Stop::EndTurn),
        Err(_) => {
            let known = "0 for unknown, 1 for tool use, 2 for end of turn";
            Err(CallError::invalid(unknown("stop", number, known)))
        }
    }
}

fn kind(number: i32) -> Result<Option<Kind>, String> {
    match number {
        0 => Ok(None),
        _ => {
            let at = usize::try_from(number).ok();
            let found = at.and_then(|at| Kind::ALL.get(at).copied());
            found.map(Some).ok_or_else(|| {
                let known = Kind::ALL.iter().skip(1).map(|kind| kind.name());
                unknown("kind", number, &numbered(known))
            })
        }
    }
}

fn scope(number: i32) -> Result<Option<Scope>, String> {
    match pb::Scope::try_from(number) {
        Ok(pb::Scope::Unspecified) => Ok(None),
        Ok(pb::Scope::Global) => Ok(Some(Scope::Global)),
        Ok(pb::Scope::Project) => Ok(Some(Scope::Project)),
        Ok(pb::Scope::Session) => Ok(Some(Scope::Session)),
        Err(_) => Err(unknown("scope", number, &numbered(Scope::ALL.map(Scope::name)))),
    }
}

/// The tier of a field, if one is named.
pub(super) fn tier(field: &str, number: i32) -> Result<Option<Tier>, String> {
    match pb::Tier::try_from(number) {
        Ok(pb::Tier::Unspecified) => Ok(None),
        Ok(pb::Tier::Hbm) => Ok(Some(Tier::Hbm)),
        Ok(pb::Tier::Dram) => Ok(Some(Tier::Dram)),
        Ok(pb::Tier::Nvme) => Ok(Some(Tier::Nvme)),
        Ok(pb::Tier::Object) => Ok(Some(Tier::Object)),
        Err(_) => Err(unknown(field, number, &numbered(Tier::ALL.map(Tier::name)))),
    }
}

fn unknown(field: &str, number: i32, known: &str) -> String {
    format!("{field} is {number}, which means nothing here: use {known}")
}

fn numbered<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<_> =
        (1..).zip(names).map(|(n, name): (u32, _)| format!("{n} for {name}")).collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_both_sides_agree() {
        for (index, known) in Kind::ALL.into_iter().enumerate().skip(1) {
            let number = i32::try_from(index).unwrap();
            let name = pb::Kind::try_from(number).unwrap().as_str_name();
            assert_eq!(name, format!("KIND_{}", known.name().to_uppercase()));
            assert_eq!(kind(number), Ok(Some(known)));
        }
        assert!(pb::Kind::try_from(8).is_err(), "a new kind needs a number on both sides");
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused_with_those_that_do() {
        let said = kind(8).unwrap_err();
        assert_eq!(
            said,
            "kind is 8, which means nothing here: use 1 for system, 2 for tools, 3 for \
             conversation, 4 for tool_result, 5 for reasoning, 6 for subagent, 7 for output"
        );
        assert!(kind(-1).is_err() && kind(i32::MAX).is_err());
        assert!(scope(4).unwrap_err().ends_with("1 for global, 2 for project, 3 for session"));
        assert!(tier("floor", 5).unwrap_err().starts_with("floor is 5, which means nothing"));
        assert!(stop(3).unwrap_err().to_string().contains("2 for end of turn"));
    }
}
