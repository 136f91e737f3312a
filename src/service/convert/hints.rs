//! Hints, from protobuf to the domain's actions, and their outcomes back.
//!
//! An action that makes no sense is refused by itself; only what can't be answered action by action
//! refuses the call.

use std::time::Duration;

use crate::domain::hint::{Action, LiftWish, Outcome, Target};
use crate::domain::session::SessionName;
use crate::domain::tier::Tier;
use crate::hints::batch::check_count;
use crate::hints::claim::{TARGET_TWICE, last_chain};
use crate::hints::{Asked, Batch, ClaimedLift, Hashes, envelope};
use crate::service::error::CallError;
use crate::service::limits::Limits;
use crate::service::session::Session;
use crate::wire::pb;
use crate::wire::pb::action::Action as Verb;
use crate::wire::pb::target::Of;

use super::retention;

pub(super) fn batch(
    session: &Session,
    actions: Vec<pb::Action>,
    limits: &Limits,
) -> Result<Batch, CallError> {
    check_count(actions.len()).map_err(CallError::invalid)?;
    let mut hashes = hashes(session, limits);
    let asked = actions.into_iter().map(|claim| Asked {
        action_id: claim.action_id,
        action: action(claim.action, &mut hashes),
    });
    Batch::new(asked.collect()).map_err(CallError::invalid)
}

/// The envelope's id and its actions.
pub(super) fn envelope(
    session: &Session,
    json: &[u8],
    limits: &Limits,
) -> Result<(String, Batch), CallError> {
    let read = envelope::read(json, &mut hashes(session, limits)).map_err(CallError::invalid)?;
    Ok((read.message_id, read.batch))
}

fn hashes(session: &Session, limits: &Limits) -> Hashes {
    Hashes::new(session.digest, session.namespace.hash_bytes, limits.lookup_blocks_max)
}

fn action(claim: Option<Verb>, hashes: &mut Hashes) -> Result<Action, String> {
    let name = |name: &str| SessionName::new(name);
    match claim {
        None => Err("the action is missing, or this daemon is too old to know it".into()),
        Some(Verb::Retain(verb)) => {
            let wish = retention::wish(&verb.wish.unwrap_or_default())?.retain()?;
            Ok(Action::Retain { target: target(verb.target, hashes)?, wish })
        }
        Some(Verb::Pin(verb)) => {
            let wish = retention::wish(&verb.wish.unwrap_or_default())?.pin()?;
            Ok(Action::Retain { target: target(verb.target, hashes)?, wish })
        }
        Some(Verb::Release(verb)) => Ok(Action::Release { target: target(verb.target, hashes)? }),
        Some(Verb::Demote(verb)) => {
            let to = retention::tier("to", verb.to)?
                .ok_or("to is missing: name the tier that the blocks may sink to")?;
            Ok(Action::Demote { target: target(verb.target, hashes)?, to })
        }
        Some(Verb::SessionStart(verb)) => {
            let parent = Some(&*verb.parent).filter(|parent| !parent.is_empty());
            let parent = parent.map(name).transpose()?;
            Ok(Action::SessionStart { session: name(&verb.session)?, parent })
        }
        Some(Verb::SessionReset(verb)) => {
            Ok(Action::SessionReset { session: name(&verb.session)? })
        }
        Some(Verb::SessionEnd(verb)) => {
            Ok(Action::SessionEnd { session: name(&verb.session)?, tree: verb.tree })
        }
        Some(Verb::ToolStart(verb)) => {
            let expected = verb.expected_ms.map(Duration::from_millis);
            Ok(Action::ToolStart { session: name(&verb.session)?, expected })
        }
        Some(Verb::ToolReturn(verb)) => Ok(Action::ToolReturn { session: name(&verb.session)? }),
        Some(Verb::Prefetch(verb)) => {
            let to = retention::tier("to", verb.to)?;
            let wish = lift(to, verb.deadline_ms, verb.priority)?;
            Ok(Action::Prefetch { target: target(verb.target, hashes)?, wish })
        }
        Some(Verb::SpeculativePrefill(verb)) => {
            let wish = lift(None, verb.deadline_ms, verb.priority)?;
            let named = Some(&*verb.session).filter(|session| !session.is_empty());
            let target = match (verb.target, named) {
                (Some(_), Some(_)) => return Err(TARGET_TWICE.into()),
                (None, Some(session)) => last_chain(name(session)?),
                (claim, None) => target(claim, hashes)?,
            };
            Ok(Action::SpeculativePrefill { target, wish })
        }
        Some(Verb::CancelPrefetch(verb)) => {
            Ok(Action::CancelPrefetch { operation: verb.operation_id })
        }
    }
}

fn lift(
    to: Option<Tier>,
    deadline_ms: Option<u64>,
    priority: Option<u32>,
) -> Result<LiftWish, String> {
    ClaimedLift { to, deadline_ms, priority: priority.map(u64::from) }.lift()
}

fn target(claim: Option<pb::Target>, hashes: &mut Hashes) -> Result<Target, String> {
    match claim.and_then(|claim| claim.of) {
        None => Err("target is missing: name hashes, a session (with tokens or without), or a \
                 session_tree"
            .into()),
        Some(Of::Hashes(run)) => Ok(Target::Keys(hashes.run(&run)?)),
        Some(Of::Session(claim)) => Ok(Target::Session {
            session: SessionName::new(&claim.session)?,
            tokens: retention::range(claim.tokens.as_ref())?,
        }),
        Some(Of::SessionTree(root)) => Ok(Target::SessionTree(SessionName::new(&root)?)),
    }
}

pub(super) fn outcomes(answered: Vec<(String, Outcome)>) -> Vec<pb::Outcome> {
    answered.into_iter().map(|(action_id, outcome)| self::outcome(action_id, outcome)).collect()
}

fn outcome(action_id: String, outcome: Outcome) -> pb::Outcome {
    use pb::OutcomeStatus as Status;
    let said = |status: Status, blocks, clipped, message| pb::Outcome {
        action_id,
        status: status.into(),
        blocks,
        clipped,
        message,
        operation_id: None,
    };
    match outcome {
        Outcome::Lifting { operation, blocks, clipped, deadline_clipped, waits } => {
            let status = match (clipped > 0 || deadline_clipped, waits) {
                (true, _) => Status::Clipped,
                (false, true) => Status::Deferred,
                (false, false) => Status::Accepted,
            };
            let lifting = said(status, blocks, clipped, String::new());
            pb::Outcome { operation_id: Some(operation), ..lifting }
        }
        Outcome::Accepted { blocks } => said(Status::Accepted, blocks, 0, String::new()),
        Outcome::Clipped { blocks, clipped } => {
            said(Status::Clipped, blocks, clipped, String::new())
        }
        Outcome::Rejected(why) => said(Status::Rejected, 0, 0, why),
        Outcome::Missing(what) => said(Status::Missing, 0, 0, what),
    }
}
