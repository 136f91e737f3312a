//! What clients say of retention and what the daemon answers, in the domain's words.

use bytes::Bytes;

use super::{OpId, Prefill, RequestId};
use crate::domain::block::Key;
use crate::domain::hint;
use crate::domain::namespace::NamespaceDigest;
use crate::domain::residency::CopyState;
use crate::domain::retention::{Directive, RetentionRecord};
use crate::domain::session::{SessionName, SessionState, Stop};
use crate::domain::tier::Tier;
use crate::domain::units::Time;

/// An action whose blocks are named by the engine's hashes, one after the other.
pub type Action = hint::Action<Bytes>;

/// Which blocks an action is about.
pub type Target = hint::Target<Bytes>;

/// A request, and what is said of it beside its blocks. A bare [`RequestId`] says nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub id: RequestId,
    /// Whose it is; none: the session named under this request before, if any.
    pub session: Option<SessionName>,
    /// Sent with stores; see [`hint`] for changing one's mind later.
    pub directives: Vec<Directive>,
    /// Its stores end only when each block outlives the daemon, a crash and a loss of power, or will
    /// not: [`super::Completion::not_durable`] says which.
    pub durable: bool,
}

impl From<RequestId> for Request {
    fn from(id: RequestId) -> Self {
        Self { id, session: None, directives: Vec::new(), durable: false }
    }
}

impl Request {
    /// The request, its stores durable.
    #[must_use]
    pub fn durable(self) -> Self {
        Self { durable: true, ..self }
    }
}

impl RequestId {
    /// The request as one of `session`'s.
    #[must_use]
    pub fn of(self, session: &SessionName) -> Request {
        Request { session: Some(session.clone()), ..self.into() }
    }
}

/// A request at its end. A bare [`RequestId`] says nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedRequest {
    pub id: RequestId,
    pub stop: Stop,
    /// Zero where nobody counted.
    pub output_tokens: u32,
    /// What the engine computed of the request's input, where it measured that.
    pub prefill: Option<Prefill>,
}

impl From<RequestId> for EndedRequest {
    fn from(id: RequestId) -> Self {
        Self { id, stop: Stop::Unknown, output_tokens: 0, prefill: None }
    }
}

/// What one request used, in tokens; whole blocks count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Found at lookup, by the fastest tier that had them.
    pub read_tokens: [u64; Tier::COUNT],
    /// Newly stored under a shield of up to five minutes, and under a longer one.
    pub created_5m_tokens: u64,
    pub created_1h_tokens: u64,
    /// Asked for, neither found nor stored under a shield.
    pub uncached_tokens: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutcomeStatus {
    Accepted,
    /// Done in part.
    Clipped,
    /// Nothing moves yet: the lift waits for its time, or for others to end.
    Deferred,
    Rejected,
    Missing,
}

/// What became of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub action_id: String,
    pub status: OutcomeStatus,
    /// Blocks it was done for, and blocks it was not wholly done for.
    pub blocks: u32,
    pub clipped: u32,
    /// Of rejected and missing: why, and what to do.
    pub message: String,
    /// Of lifts: what [`super::Client::operation`] watches, and [`Action::CancelPrefetch`] ends.
    pub operation: Option<OpId>,
}

/// Sessions that the daemon knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonSessions {
    /// The one heard of last comes first.
    pub sessions: Vec<DaemonSession>,
    /// How many there are in all.
    pub sessions_total: u64,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonSession {
    pub session: String,
    pub parent: Option<String>,
    pub namespace: NamespaceDigest,
    pub model: String,
    pub state: SessionState,
    pub last_seen: Time,
    /// Blocks of the chain that its last request reached, and those of them no other session
    /// reaches.
    pub blocks: u32,
    pub own_blocks: u32,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonBlock {
    pub key: Key,
    pub parent: Option<Key>,
    pub namespace: NamespaceDigest,
    /// Empty while no client has named the namespace.
    pub model: String,
    pub position: u32,
    pub created_at: Time,
    pub record: RetentionRecord,
    pub copies: [CopyState; Tier::COUNT],
    /// Sessions that reach it.
    pub claims: u32,
    /// Whether the sessions that reached it ended or were reset.
    pub dead: bool,
    pub leases: u32,
}
