//! Where the daemon's blocks are, in the domain's words: changes as they happen, and overlaps.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::ClientError;
use super::connect::{bounded, remote};
use super::convert::EventSource;
use crate::domain::block::{HashTail, Key};
use crate::domain::namespace::NamespaceDigest;
use crate::domain::tier::{Tier, TierSet};
use crate::domain::units::Time;

/// What is to be told, and from where on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventsWanted {
    /// The daemon's life and the number after the last one read in it; without it, from now on.
    pub from: Option<(u64, u64)>,
    /// Tell what is here, at the start and wherever changes would be missing.
    pub snapshot: bool,
    /// Of one namespace only.
    pub namespace: Option<NamespaceDigest>,
}

/// What the daemon tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResidencyEvent {
    /// Forget what you know of it.
    Reset {
        life: u64,
    },
    /// The numbers from `from` to before `next` are gone.
    Lost {
        from: u64,
        next: u64,
    },
    /// The snapshot is over; `next` is the first number after it.
    Complete {
        next: u64,
    },
    Changes(ResidencyChanges),
}

/// Blocks of one namespace, where they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResidencyChanges {
    pub life: u64,
    pub sequence: u64,
    /// What is here, not what happened.
    pub snapshot: bool,
    pub at: Time,
    pub namespace: NamespaceDigest,
    /// Empty, and zero, until a client of the namespace has said Hello.
    pub model: String,
    pub block_tokens: u32,
    pub blocks: Vec<Residency>,
}

/// One block, and all tiers that serve it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residency {
    pub key: Key,
    pub tail: HashTail,
    pub parent_tail: HashTail,
    pub position: u32,
    /// None: it is gone.
    pub tiers: TierSet,
}

/// How much of a chain is in which tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overlap {
    pub matched_blocks: u32,
    /// Of the matched blocks: those each tier is the fastest to have, and those it has at all.
    pub fastest_blocks: [u32; Tier::COUNT],
    pub held_blocks: [u32; Tier::COUNT],
    /// Zero where the daemon does not know it.
    pub block_tokens: u32,
}

/// A stream of what the daemon tells.
pub struct Events(EventSource);

impl Events {
    /// The next one; nothing when the daemon stops.
    ///
    /// # Errors
    /// [`ClientError::Busy`] when the daemon had no time for a snapshot, [`ClientError::Daemon`] for
    /// what is not understood. The stream is over then.
    pub async fn next(&mut self) -> Option<Result<ResidencyEvent, ClientError>> {
        self.0.next().await
    }
}

/// Follows a daemon's residency without becoming its client.
///
/// # Errors
/// [`ClientError::NotConnected`] when no daemon answers at the socket, [`ClientError::TimedOut`],
/// [`ClientError::Precondition`] when it keeps no journal, [`ClientError::Busy`] when as many follow
/// it as may.
pub async fn daemon_events(
    socket: impl AsRef<Path>,
    patience: Duration,
    wanted: EventsWanted,
) -> Result<Events, ClientError> {
    let socket = socket.as_ref();
    let asking = async { remote(socket, patience).await?.events(wanted).await };
    bounded("opening the events", (socket, patience), asking).await.map(Events)
}

/// Asks a daemon how much of a chain of `namespace` it has, without becoming its client.
///
/// # Errors
/// As [`super::daemon_status`]; [`ClientError::Invalid`] for a list of the wrong length.
pub async fn daemon_overlap(
    socket: impl AsRef<Path>,
    patience: Duration,
    (namespace, hash_bytes): (NamespaceDigest, u32),
    hashes: impl Into<Bytes>,
) -> Result<Overlap, ClientError> {
    let (socket, hashes) = (socket.as_ref(), hashes.into());
    let asking = async {
        remote(socket, patience).await?.overlap(Some((namespace, hash_bytes)), hashes).await
    };
    bounded("asking for an overlap", (socket, patience), asking).await
}
