//! The manager's bounds. Validated by whoever builds them from the user's configuration.

use std::time::Duration;

use crate::domain::admission::WriteRules;
use crate::domain::retention::banded::Banded;
use crate::domain::retention::lru::Lru;
use crate::domain::retention::s3fifo::S3Fifo;
use crate::domain::retention::{Policy, value::Value};
use crate::domain::session::SessionLimits;
use crate::domain::tier::Tier;
use crate::movement::{Link, LinkLimits};

pub use super::rewrite::RewriteLimits;
pub use super::shields::ShieldShares;
pub use crate::domain::retention::PolicyName;

/// One tier's space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TierConfig {
    /// Whole chunks count; see [`crate::domain::units::CHUNK_BYTES`].
    pub capacity_bytes: u64,
    /// At most so many blocks, however small; `u64::MAX` when bytes are the only limit.
    pub slots_max: u64,
    /// A scan will report what the tier holds from before a restart; until it is over the tier
    /// serves what was found and takes nothing new.
    pub recovers: bool,
}

/// Makes the policy of this name.
pub(super) fn build(policy: PolicyName) -> Box<dyn Policy> {
    match policy {
        PolicyName::Lru => Box::new(Banded::<Lru>::default()),
        PolicyName::S3Fifo => Box::new(Banded::<S3Fifo>::default()),
        PolicyName::Value => Box::new(Value::default()),
    }
}

/// Everything the manager is bounded by.
#[derive(Clone, Debug)]
pub struct ManagerConfig {
    /// Absent tiers are `None`.
    pub tiers: [Option<TierConfig>; Tier::COUNT],
    pub links: [LinkLimits; Link::COUNT],
    pub policy: PolicyName,
    pub lease_ttl: Duration,
    /// How long a block may wait for the rest of its shards.
    pub store_timeout: Duration,
    pub clients_max: usize,
    pub namespaces_max: usize,
    pub pools_per_client_max: usize,
    pub leases_max: usize,
    /// So that one client that never ends its requests leaves room for the others.
    pub leases_per_client_max: usize,
    pub sessions: SessionLimits,
    pub shields: ShieldShares,
    pub rewrites: RewriteLimits,
    /// What is written to NVMe, and how much.
    pub nvme_writes: WriteRules,
    /// Devices that NVMe's slots are dealt out over.
    pub nvme_stripes: usize,
    /// Which of the frames in a shared store are this node's own.
    pub node_id: [u8; 16],
    /// Stores and loads in flight a client.
    pub ops_per_client_max: usize,
    /// Blocks that may wait for room, a tier and slot length.
    pub waiting_blocks_max: usize,
    /// Lifts under way or held; zero lifts nothing ahead of need.
    pub lifts_max: usize,
    /// How much of a tier lifts may hold, in hundredths.
    pub lift_percent: u8,
    /// How much of the HBM tier clients may read where it lies at a time, in hundredths, and in how
    /// many holds.
    pub lent_percent: u8,
    pub lent_blocks_max: usize,
    /// Whether changes of residency are told.
    pub tells_residency: bool,
}

impl ManagerConfig {
    /// Stores and loads in flight a client: the completions' stream holds as many.
    pub const OPS_PER_CLIENT_MAX: usize = 256;

    /// How much of a tier lifts may hold unless the config says otherwise, in hundredths: more
    /// than is usually waited for at once, and not so much that requests find no room.
    pub const LIFT_PERCENT_DEFAULT: u8 = 60;

    /// What is lent can't be evicted, however long its readers take: the rest of the tier works on.
    pub const LENT_PERCENT_DEFAULT: u8 = 25;

    /// The usual bounds around the given tiers.
    #[must_use]
    pub fn with_tiers(tiers: [Option<TierConfig>; Tier::COUNT]) -> Self {
        Self {
            tiers,
            links: [LinkLimits { in_flight_max: 8, queued_max: 4096, shares_processors: false };
                Link::COUNT],
            policy: PolicyName::default(),
            lease_ttl: Duration::from_secs(30),
            store_timeout: Duration::from_secs(30),
            clients_max: 256,
            namespaces_max: 64,
            pools_per_client_max: 16,
            leases_max: 65_536,
            leases_per_client_max: 16_384,
            sessions: SessionLimits::default(),
            shields: ShieldShares::default(),
            rewrites: RewriteLimits::default(),
            nvme_writes: WriteRules::default(),
            nvme_stripes: 1,
            node_id: [0; 16],
            ops_per_client_max: Self::OPS_PER_CLIENT_MAX,
            waiting_blocks_max: 65_536,
            lifts_max: 1024,
            lift_percent: Self::LIFT_PERCENT_DEFAULT,
            lent_percent: Self::LENT_PERCENT_DEFAULT,
            lent_blocks_max: 65_536,
            tells_residency: false,
        }
    }
}
