//! What the daemon answers, in the domain's words.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::admission::WriteCounts;
use crate::domain::planner::Plan;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

use super::completions::Op;
use super::movement::{LiftCounts, Link, LinkStatus};

/// The engine's name for one of its requests; leases taken under it end with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A hold on a chain of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// A pool's number at the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u64);

/// A store's, load's or lift's number at the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    Store,
    Load,
    /// A prefetch or speculative prefill.
    Prefetch,
}

/// A store, load or lift ended. Blocks not listed as failed landed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    pub op: OpId,
    /// Zero for a lift, which belongs to no request.
    pub request: RequestId,
    pub kind: OpKind,
    /// Blocks asked for, and those that failed, by index into the call's hashes.
    pub blocks: u32,
    pub failed: Vec<u32>,
    /// Of a store that was to be durable: blocks that landed, and that a restart may lose.
    pub not_durable: Vec<u32>,
}

/// A stretch of a chain whose blocks have the same fastest tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub tier: Tier,
    pub blocks: u32,
}

/// A registered pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolHandle {
    pub id: PoolId,
    pub slots: u32,
}

/// The stored prefix of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// In order; stretches whose blocks have the same fastest tier.
    pub runs: Vec<Run>,
    /// Blocks of the prefix: the sum over runs.
    pub matched_blocks: u32,
    /// The hold on them; none if there are none.
    pub lease: Option<LeaseId>,
    pub lease_expires: Time,
    /// When each run can be in HBM, and how much of the prefix is worth loading.
    pub plan: Plan,
}

/// What became of the blocks offered: `taken` are being copied, `present` were there already,
/// `dropped` (the tail) found no room.
#[derive(Debug)]
pub struct Stored {
    pub op: Op,
    pub taken: u32,
    pub present: u32,
    pub dropped: u32,
    /// Blocks for which not all that was asked for is granted, and directives with a time over its bound.
    pub clipped_blocks: u32,
    pub clipped_directives: u32,
}

/// What the daemon says of itself at Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    pub daemon_version: String,
    pub node_id: String,
    /// Bytes of one block in DRAM, on NVMe and as an object.
    pub frame_bytes: u64,
    pub lease_ttl: Duration,
    pub limits: WelcomeLimits,
}

/// What the daemon accepts in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WelcomeLimits {
    pub message_bytes_max: u64,
    pub lookup_blocks_max: u32,
    pub transfer_blocks_max: u32,
    pub pools_max: u32,
    pub load_timeout_max: Duration,
}

/// What the daemon holds and does. Counts are since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonStatus {
    pub protocol_version: u32,
    pub daemon_version: String,
    pub node_id: String,
    pub pid: u32,
    pub uptime: Duration,
    pub policy: String,
    pub tiers: [TierStatus; Tier::COUNT],
    pub blocks: u64,
    pub clients: u64,
    pub pools: u64,
    pub leases: u64,
    pub ops_in_flight: u64,
    pub transfers_in_flight: u64,
    pub transfers_queued: u64,
    pub lookups: u64,
    pub lookup_blocks: u64,
    pub stores_dropped_blocks: u64,
    pub corrupt_copies: u64,
    pub sessions: u64,
    /// Blocks deleted because their owners had asked for that.
    pub forgotten_blocks: u64,
    /// Shields that gave way because nothing else was left to evict.
    pub broken_shields: u64,
    pub links: [LinkStatus; Link::COUNT],
    pub lifts: LiftCounts,
    pub nvme_writes: WriteCounts,
    pub facts: BTreeMap<String, String>,
}

/// One tier's figures. Counts are since the daemon's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// What shields hold of it.
    pub shielded_bytes: u64,
    /// What its store refuses for now, since when and why; nothing while it is well.
    pub outage: Option<String>,
}
