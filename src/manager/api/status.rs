//! What the manager says of itself: figures, sessions, single blocks.

use crate::domain::admission::WriteCounts;
use crate::domain::block::Key;
use crate::domain::hint::LiftReason;
use crate::domain::namespace::NamespaceDigest;
use crate::domain::residency::CopyState;
use crate::domain::retention::RetentionRecord;
use crate::domain::session::{SessionName, SessionState};
use crate::domain::tier::{Tier, TierSet};
use crate::domain::units::Time;
use crate::movement::{Class, Link};

use super::OpId;

/// What the manager can say of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    pub tiers: [TierStatus; Tier::COUNT],
    pub blocks: u64,
    pub clients: u64,
    pub pools: u64,
    pub leases: u64,
    pub ops_in_flight: u64,
    pub transfers_in_flight: u64,
    pub transfers_queued: u64,
    pub lookups: u64,
    /// Blocks that lookups asked for.
    pub lookup_blocks: u64,
    /// Blocks of stores that were not kept, for whatever reason.
    pub stores_dropped_blocks: u64,
    pub corrupt_copies: u64,
    pub sessions: u64,
    /// Blocks deleted because their owners had asked for that.
    pub forgotten_blocks: u64,
    /// Objects of this node that nobody has asked for since they were left by its earlier runs, and their bytes. They
    /// count in the tier's figures, too.
    pub stray_blocks: u64,
    pub stray_bytes: u64,
    /// Shields that gave way because nothing else was left to evict.
    pub broken_shields: u64,
    pub links: [LinkStatus; Link::COUNT],
    pub lifts: LiftCounts,
    pub nvme_writes: WriteCounts,
    pub policy: &'static str,
    /// Where LRU decides in place of a policy that learns, since it would have found more.
    pub lru_decides: TierSet,
}

/// One link's figures. Bytes are payload bytes since the daemon's start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkStatus {
    /// Moved, by class: demand, prefetch, background.
    pub moved_bytes: [u64; Class::COUNT],
    /// Learned: zero until something moved.
    pub bytes_per_s: u64,
    pub latency_us: u64,
    pub queued_transfers: u64,
    pub in_flight_bytes: u64,
}

/// What came of lifts since the daemon's start, in payload bytes of the lifted blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiftCounts {
    pub begun: u64,
    pub cancelled: u64,
    /// Blocks that found no room, or were not here any more.
    pub clipped_blocks: u64,
    /// Started moving.
    pub bytes: u64,
    /// There before they were asked for, asked for while they moved, and never asked for.
    pub timely_bytes: u64,
    pub late_bytes: u64,
    pub wasted_bytes: u64,
}

/// Where a lift stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiftState {
    /// For its time, or for others to end.
    Waiting,
    Moving,
    /// All that could be lifted is there and held.
    Held,
    /// Its blocks were asked for, or its deadline passed, or room was needed.
    Ended,
    Cancelled,
}

/// One lift.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiftStatus {
    pub op: OpId,
    pub state: LiftState,
    pub reason: LiftReason,
    pub to: Tier,
    pub deadline: Time,
    /// Named; there, or moved there; refused for want of room or gone; and asked for since.
    pub blocks: u32,
    pub landed: u32,
    pub clipped: u32,
    pub used: u32,
}

/// One tier's figures. Counts are since the daemon's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierStatus {
    pub present: bool,
    pub capacity_bytes: u64,
    pub used_bytes: u64,
    pub blocks: u64,
    /// Blocks that a lookup found with this as their fastest tier.
    pub hit_blocks: u64,
    /// Copies that went because room was needed, and those of them that were a block's last.
    pub evicted_copies: u64,
    pub evicted_blocks: u64,
    /// Payload bytes that came in and that were read from here.
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Transfers to or from this tier that failed.
    pub failures: u64,
    /// What shields hold of it, by the slots that are taken.
    pub shielded_bytes: u64,
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

/// The namespace that something belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    pub digest: NamespaceDigest,
    /// Empty while no client has named the namespace since the daemon's start.
    pub model: String,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    pub home: Home,
    pub session: SessionName,
    pub parent: Option<SessionName>,
    pub state: SessionState,
    pub last_seen: Time,
    /// Blocks of the chain that its last request reached, and those of them no other session
    /// reaches.
    pub blocks: u32,
    pub own_blocks: u32,
}

/// One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockStatus {
    pub home: Home,
    pub key: Key,
    pub parent: Option<Key>,
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
