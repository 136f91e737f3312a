//! Directives, hints and their answers: the client's types to protobuf and back.

use std::time::Duration;

use bytes::Bytes;

use super::messages::tier;
use crate::client::{
    Action, ClientError, DaemonBlock, DaemonSession, DaemonSessions, OpId, Outcome, OutcomeStatus,
    Target, Usage,
};
use crate::domain::block::Key;
use crate::domain::namespace::NamespaceDigest;
use crate::domain::residency::CopyState;
use crate::domain::retention::{Directive, Kind, RetentionRecord, Scope, TokenRange, Wish};
use crate::domain::session::{SessionState, Stop};
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::wire::pb;
use crate::wire::pb::action::Action as Verb;
use crate::wire::pb::target::{Of, SessionTokens};

pub(super) fn directive(directive: &Directive) -> pb::Directive {
    pb::Directive { tokens: Some(range(directive.tokens)), wish: Some(wish(&directive.wish)) }
}

fn range(range: TokenRange) -> pb::TokenRange {
    pb::TokenRange { start: range.start, end: range.end }
}

fn wish(wish: &Wish) -> pb::Wish {
    let kind = wish.kind.map_or(pb::Kind::Unspecified, |kind| match kind {
        Kind::Unknown => pb::Kind::Unspecified,
        Kind::System => pb::Kind::System,
        Kind::Tools => pb::Kind::Tools,
        Kind::Conversation => pb::Kind::Conversation,
        Kind::ToolResult => pb::Kind::ToolResult,
        Kind::Reasoning => pb::Kind::Reasoning,
        Kind::Subagent => pb::Kind::Subagent,
        Kind::Output => pb::Kind::Output,
    });
    let scope = wish.scope.map_or(pb::Scope::Unspecified, |scope| match scope {
        Scope::Global => pb::Scope::Global,
        Scope::Project => pb::Scope::Project,
        Scope::Session => pb::Scope::Session,
    });
    pb::Wish {
        priority: wish.priority.map(|(priority, _)| priority.into()),
        priority_ms: wish.priority.and_then(|(_, lasts)| lasts).map(millis),
        ttl_ms: wish.shield.map(|shield| millis(shield.ttl)),
        refresh_on_hit: wish.shield.map(|shield| shield.refresh_on_hit),
        delete_after_ms: wish.delete_after.map(millis),
        kind: kind.into(),
        floor: wish.floor.map_or(pb::Tier::Unspecified, named).into(),
        scope: scope.into(),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn named(tier: Tier) -> pb::Tier {
    match tier {
        Tier::Hbm => pb::Tier::Hbm,
        Tier::Dram => pb::Tier::Dram,
        Tier::Nvme => pb::Tier::Nvme,
        Tier::Object => pb::Tier::Object,
    }
}

pub(super) fn stop(stop: Stop) -> pb::Stop {
    match stop {
        Stop::ToolUse => pb::Stop::ToolUse,
        Stop::EndTurn => pb::Stop::EndTurn,
        Stop::Unknown => pb::Stop::Unspecified,
    }
}

/// The actions, each called by its place in the list.
pub(super) fn actions(actions: Vec<Action>) -> Vec<pb::Action> {
    let named = actions.into_iter().enumerate();
    named
        .map(|(index, action)| pb::Action {
            action_id: index.to_string(),
            action: Some(verb(action)),
        })
        .collect()
}

fn verb(action: Action) -> Verb {
    match action {
        Action::Retain { target, wish: asked } => Verb::Retain(pb::action::Retain {
            target: Some(self::target(target)),
            wish: Some(wish(&asked)),
        }),
        Action::Release { target } => {
            Verb::Release(pb::action::Release { target: Some(self::target(target)) })
        }
        Action::Demote { target, to } => Verb::Demote(pb::action::Demote {
            target: Some(self::target(target)),
            to: named(to).into(),
        }),
        Action::SessionStart { session, parent } => Verb::SessionStart(pb::action::SessionStart {
            session: session.to_string(),
            parent: parent.map(|parent| parent.to_string()).unwrap_or_default(),
        }),
        Action::SessionReset { session } => {
            Verb::SessionReset(pb::action::SessionReset { session: session.to_string() })
        }
        Action::SessionEnd { session, tree } => {
            Verb::SessionEnd(pb::action::SessionEnd { session: session.to_string(), tree })
        }
        Action::ToolStart { session, expected } => Verb::ToolStart(pb::action::ToolStart {
            session: session.to_string(),
            expected_ms: expected.map(millis),
        }),
        Action::ToolReturn { session } => {
            Verb::ToolReturn(pb::action::ToolReturn { session: session.to_string() })
        }
        Action::Prefetch { target, wish } => Verb::Prefetch(pb::action::Prefetch {
            target: Some(self::target(target)),
            to: wish.to.map_or(pb::Tier::Unspecified, named).into(),
            deadline_ms: wish.deadline.map(millis),
            priority: wish.priority.map(u32::from),
        }),
        // It always goes to the fastest tier: there is no field for another.
        Action::SpeculativePrefill { target, wish } => {
            Verb::SpeculativePrefill(pb::action::SpeculativePrefill {
                target: Some(self::target(target)),
                deadline_ms: wish.deadline.map(millis),
                priority: wish.priority.map(u32::from),
                session: String::new(),
            })
        }
        Action::CancelPrefetch { operation } => {
            Verb::CancelPrefetch(pb::action::CancelPrefetch { operation_id: operation })
        }
    }
}

fn target(target: Target) -> pb::Target {
    let of = match target {
        Target::Keys(hashes) => Of::Hashes(hashes),
        Target::Session { session, tokens } => {
            Of::Session(SessionTokens { session: session.to_string(), tokens: Some(range(tokens)) })
        }
        Target::SessionTree(root) => Of::SessionTree(root.to_string()),
    };
    pb::Target { of: Some(of) }
}

pub(super) fn outcomes(outcomes: Vec<pb::Outcome>) -> Result<Vec<Outcome>, ClientError> {
    outcomes.into_iter().map(outcome).collect()
}

fn outcome(outcome: pb::Outcome) -> Result<Outcome, ClientError> {
    let status = match outcome.status() {
        pb::OutcomeStatus::Accepted => OutcomeStatus::Accepted,
        pb::OutcomeStatus::Clipped => OutcomeStatus::Clipped,
        pb::OutcomeStatus::Deferred => OutcomeStatus::Deferred,
        pb::OutcomeStatus::Rejected => OutcomeStatus::Rejected,
        pb::OutcomeStatus::Missing => OutcomeStatus::Missing,
        pb::OutcomeStatus::Unspecified => return Err(strange("an outcome of no known status")),
    };
    Ok(Outcome {
        status,
        blocks: outcome.blocks,
        clipped: outcome.clipped,
        operation: outcome.operation_id.map(OpId),
        action_id: outcome.action_id,
        message: outcome.message,
    })
}

pub(super) fn usage(message: pb::EndRequestResponse) -> Result<Usage, ClientError> {
    let message = message.usage.unwrap_or_default();
    let mut read_tokens = [0; Tier::COUNT];
    for read in &message.read {
        read_tokens[tier(read.tier())?.index()] = read.tokens;
    }
    Ok(Usage {
        read_tokens,
        created_5m_tokens: message.created_5m_tokens,
        created_1h_tokens: message.created_1h_tokens,
        uncached_tokens: message.uncached_tokens,
    })
}

pub(super) fn sessions(message: pb::SessionsResponse) -> Result<DaemonSessions, ClientError> {
    let sessions = message.sessions.into_iter().map(session).collect::<Result<_, _>>()?;
    Ok(DaemonSessions { sessions, sessions_total: message.sessions_total })
}

fn session(message: pb::Session) -> Result<DaemonSession, ClientError> {
    let stopped = match message.stop() {
        pb::Stop::ToolUse => Stop::ToolUse,
        pb::Stop::EndTurn => Stop::EndTurn,
        pb::Stop::Unspecified => Stop::Unknown,
    };
    let state = match message.state() {
        pb::SessionState::Idle => SessionState::Idle,
        pb::SessionState::Running => SessionState::Running,
        pb::SessionState::Stopped => SessionState::Stopped(stopped),
        pb::SessionState::InTool => {
            let expected = Some(message.expected_unix_us).filter(|micros| *micros > 0);
            SessionState::InTool { expected: expected.map(|micros| Time { micros }) }
        }
        pb::SessionState::Unspecified => return Err(strange("a session in no known state")),
    };
    Ok(DaemonSession {
        state,
        namespace: digest(&message.namespace)?,
        parent: Some(message.parent).filter(|parent| !parent.is_empty()),
        session: message.session,
        model: message.model,
        last_seen: Time { micros: message.last_seen_unix_us },
        blocks: message.blocks,
        own_blocks: message.own_blocks,
    })
}

pub(super) fn block(message: pb::InspectResponse) -> Result<DaemonBlock, ClientError> {
    let mut copies = [CopyState::Absent; Tier::COUNT];
    for copy in &message.copies {
        copies[tier(copy.tier())?.index()] = match copy.state() {
            pb::CopyState::Filling => CopyState::Filling,
            pb::CopyState::Resident => CopyState::Resident,
            pb::CopyState::Draining => CopyState::Draining,
            pb::CopyState::Unspecified => return Err(strange("a copy in no known state")),
        };
    }
    let record = message.record.ok_or_else(|| strange("a block without a record"))?;
    Ok(DaemonBlock {
        key: key(&message.key)?,
        parent: message.parent.as_ref().map(key).transpose()?,
        namespace: digest(&message.namespace)?,
        model: message.model,
        position: message.position,
        created_at: Time { micros: message.created_unix_us },
        record: self::record(&record)?,
        copies,
        claims: message.claims,
        dead: message.dead,
        leases: message.leases,
    })
}

fn record(record: &pb::Record) -> Result<RetentionRecord, ClientError> {
    let kind = match record.kind() {
        pb::Kind::Unspecified => Kind::Unknown,
        pb::Kind::System => Kind::System,
        pb::Kind::Tools => Kind::Tools,
        pb::Kind::Conversation => Kind::Conversation,
        pb::Kind::ToolResult => Kind::ToolResult,
        pb::Kind::Reasoning => Kind::Reasoning,
        pb::Kind::Subagent => Kind::Subagent,
        pb::Kind::Output => Kind::Output,
    };
    let scope = match record.scope() {
        pb::Scope::Global => Scope::Global,
        pb::Scope::Project => Scope::Project,
        pb::Scope::Session => Scope::Session,
        pb::Scope::Unspecified => return Err(strange("a record of no known scope")),
    };
    Ok(RetentionRecord {
        priority: u8::try_from(record.priority).map_err(|_| strange("a priority over 255"))?,
        priority_until: Time { micros: record.priority_until_unix_us },
        shield_until: Time { micros: record.shield_until_unix_us },
        refresh_on_hit_ms: record.refresh_on_hit_ms,
        delete_after: Time { micros: record.delete_after_unix_us },
        kind,
        floor: tier(record.floor())?,
        scope,
    })
}

fn key(bytes: &Bytes) -> Result<Key, ClientError> {
    bytes[..].try_into().map(Key).map_err(|_| strange("a key that is none"))
}

fn digest(bytes: &Bytes) -> Result<NamespaceDigest, ClientError> {
    bytes[..].try_into().map(NamespaceDigest).map_err(|_| strange("a digest that is none"))
}

pub(super) fn strange(what: &str) -> ClientError {
    ClientError::Daemon(format!("it told of {what}"))
}
