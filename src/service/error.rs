//! Why a call was not carried out.

use std::time::Duration;

use crate::manager::api::Refusal;
use crate::wire::PROTOCOL_VERSION;

/// Named by what the client does next. `convert` gives each its status code.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Wait, mend, re-register or reorder, as the refusal says.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Choose another name, or stop the other client.
    #[error(
        "a living client is called `{0}`: stop it, wait a second if it has just died, or choose \
         another client_id"
    )]
    NameTaken(String),
    /// Upgrade the older side.
    #[error(
        "the client speaks protocol version {client}, this daemon version {daemon}: upgrade the \
         older of the two", daemon = PROTOCOL_VERSION
    )]
    VersionMismatch { client: u32 },
    /// Attach, then call again.
    #[error(
        "this session is not attached: connect to the socket's `.fd` twin and send ATTACH with \
         the token, then call again"
    )]
    NotAttached,
    /// Say Hello again.
    #[error(
        "no living session has this token: it was dropped, or the daemon restarted; say Hello again"
    )]
    UnknownToken,
    /// Nothing is known of how it went: ask again, with a later deadline.
    #[error("no answer within {} ms: the daemon is overloaded, or the deadline too near", .0.as_millis())]
    TimedOut(Duration),
    /// A fault of the daemon.
    #[error("{0}: a fault of the daemon, see its log")]
    Internal(String),
}

impl CallError {
    /// A request that makes no sense, with the remedy.
    pub(super) fn invalid(what: impl Into<String>) -> Self {
        Self::Refused(Refusal::Invalid(what.into()))
    }

    /// A bound of the service was reached.
    pub(super) fn busy(what: &'static str) -> Self {
        Self::Refused(Refusal::Busy { what, retry_after: Duration::from_millis(100) })
    }
}
