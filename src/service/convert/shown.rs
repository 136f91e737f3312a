//! What the daemon shows of requests, sessions and blocks, from the manager's words to protobuf.

use crate::domain::block::Key;
use crate::domain::residency::CopyState;
use crate::domain::retention::{Kind, RetentionRecord, Scope};
use crate::domain::session::{SessionState, Stop};
use crate::domain::tier::Tier;
use crate::manager::api::{BlockStatus, SessionStatus, Usage};
use crate::service::error::CallError;
use crate::wire::pb;

use super::answers::tier;

/// Sessions that are shown when nobody says how many, and at most.
const SESSIONS_DEFAULT: usize = 100;
const SESSIONS_MAX: usize = 1000;

/// How many sessions are asked for.
pub(super) fn sessions_max(asked: u32) -> Result<usize, CallError> {
    match asked as usize {
        0 => Ok(SESSIONS_DEFAULT),
        asked if asked > SESSIONS_MAX => Err(CallError::invalid(format!(
            "sessions_max is {asked}: ask for at most {SESSIONS_MAX}"
        ))),
        asked => Ok(asked),
    }
}

pub(super) fn key(bytes: &[u8]) -> Result<Key, CallError> {
    bytes.try_into().map(Key).map_err(|_| {
        CallError::invalid(format!(
            "key is {} bytes long: send the {} bytes that logs print in hex",
            bytes.len(),
            Key::BYTES
        ))
    })
}

pub(super) fn usage(usage: &Usage) -> pb::Usage {
    let read =
        |at: Tier| pb::TierTokens { tier: tier(at).into(), tokens: usage.read_tokens[at.index()] };
    pb::Usage {
        read: Tier::ALL.into_iter().map(read).collect(),
        created_5m_tokens: usage.created_5m_tokens,
        created_1h_tokens: usage.created_1h_tokens,
        uncached_tokens: usage.uncached_tokens,
    }
}

pub(super) fn session(status: &SessionStatus) -> pb::Session {
    let (state, stop, expected) = match status.state {
        SessionState::Idle => (pb::SessionState::Idle, Stop::Unknown, None),
        SessionState::Running => (pb::SessionState::Running, Stop::Unknown, None),
        SessionState::Stopped(stop) => (pb::SessionState::Stopped, stop, None),
        SessionState::InTool { expected } => (pb::SessionState::InTool, Stop::ToolUse, expected),
    };
    let stop = match stop {
        Stop::ToolUse => pb::Stop::ToolUse,
        Stop::EndTurn => pb::Stop::EndTurn,
        Stop::Unknown => pb::Stop::Unspecified,
    };
    pb::Session {
        session: status.session.to_string(),
        parent: status.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        namespace: status.home.digest.0.to_vec().into(),
        model: status.home.model.clone(),
        state: state.into(),
        stop: stop.into(),
        expected_unix_us: expected.map_or(0, |time| time.micros),
        last_seen_unix_us: status.last_seen.micros,
        blocks: status.blocks,
        own_blocks: status.own_blocks,
    }
}

pub(super) fn block(status: &BlockStatus) -> pb::InspectResponse {
    let copies = Tier::ALL.into_iter().zip(status.copies).filter_map(|(at, state)| {
        let state = match state {
            CopyState::Absent => return None,
            CopyState::Filling => pb::CopyState::Filling,
            CopyState::Resident => pb::CopyState::Resident,
            CopyState::Draining => pb::CopyState::Draining,
        };
        Some(pb::Copy { tier: tier(at).into(), state: state.into() })
    });
    pb::InspectResponse {
        key: status.key.0.to_vec().into(),
        parent: status.parent.map(|parent| parent.0.to_vec().into()),
        namespace: status.home.digest.0.to_vec().into(),
        model: status.home.model.clone(),
        position: status.position,
        created_unix_us: status.created_at.micros,
        record: Some(record(&status.record)),
        copies: copies.collect(),
        claims: status.claims,
        dead: status.dead,
        leases: status.leases,
    }
}

fn record(record: &RetentionRecord) -> pb::Record {
    let kind = match record.kind {
        Kind::Unknown => pb::Kind::Unspecified,
        Kind::System => pb::Kind::System,
        Kind::Tools => pb::Kind::Tools,
        Kind::Conversation => pb::Kind::Conversation,
        Kind::ToolResult => pb::Kind::ToolResult,
        Kind::Reasoning => pb::Kind::Reasoning,
        Kind::Subagent => pb::Kind::Subagent,
        Kind::Output => pb::Kind::Output,
    };
    let scope = match record.scope {
        Scope::Global => pb::Scope::Global,
        Scope::Project => pb::Scope::Project,
        Scope::Session => pb::Scope::Session,
    };
    pb::Record {
        priority: record.priority.into(),
        priority_until_unix_us: record.priority_until.micros,
        shield_until_unix_us: record.shield_until.micros,
        refresh_on_hit_ms: record.refresh_on_hit_ms,
        delete_after_unix_us: record.delete_after.micros,
        kind: kind.into(),
        floor: tier(record.floor).into(),
        scope: scope.into(),
    }
}
