//! Replays a workload against the manager alone: what would have been found where.
//!
//! One engine with a pool without end asks, loads what is found, and stores the rest. Never keeps
//! what blocks hold: `world` does that, for fewer requests.

mod engine;
pub mod hints;
pub mod links;
pub mod opt;
mod waits;
pub mod writes;

use std::num::NonZeroU32;
use std::time::Duration;

use crate::domain::admission::WriteCounts;
use crate::domain::namespace::{KvShape, Namespace};
use crate::domain::tier::Tier;
use crate::domain::units::{CHUNK_BYTES, PAGE_BYTES};
use crate::manager::api::LiftCounts;
use crate::manager::{ManagerConfig, PolicyName, TierConfig};
use crate::movement::{Link, LinkLimits};
use crate::workload::Request;

use engine::Engine;
pub use hints::{Foresight, Hints, Told};
pub use links::{LinkSpeed, LinkSpeeds, LinkUse};
pub use opt::Opt;
pub use waits::Spread;
pub use writes::Writes;

/// The most blocks a simulated tier can hold: what its addresses reach.
pub const CAPACITY_BLOCKS_MAX: u64 =
    crate::domain::slots::TIER_BYTES_MAX / CHUNK_BYTES * slots_per_chunk(FRAME_BYTES);

/// Simulated blocks are one page: their length matters only for how long copies take, and for that
/// [`Timing::block_bytes`] counts.
const PAYLOAD_BYTES: u32 = 4096;
const FRAME_BYTES: u64 = 2 * PAGE_BYTES as u64;

const fn slots_per_chunk(slot_bytes: u64) -> u64 {
    CHUNK_BYTES / slot_bytes
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// Each tier's capacity in blocks; zero when the tier is absent. At most
    /// [`CAPACITY_BLOCKS_MAX`].
    pub capacity_blocks: [u64; Tier::COUNT],
    pub policy: PolicyName,
    pub block_tokens: u32,
    /// Separates the keys of one simulation from those of another; figures don't depend on it.
    pub seed: u64,
    pub pace: Pace,
    /// What an answer takes where the trace doesn't say, counted from the request.
    pub answer_ms: u32,
    pub writes: Writes,
}

impl ReplayConfig {
    /// Assumed: neither Mooncake's nor `LMCache`'s traces say anything of answers.
    pub const ANSWER_MS: u32 = 5_000;
}

/// When things happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// A request's blocks are there at its arrival and copies take no time, as in reference
    /// simulators. Nothing is lifted: there is no time to be ahead of.
    Instant,
    /// Copies take their time on the links, and a request's blocks are stored when it has been
    /// answered.
    Timed(Timing),
}

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub block_bytes: u64,
    pub links: LinkSpeeds,
    /// How fast an engine computes what it does not load.
    pub prefill_tokens_per_s: NonZeroU32,
    /// Whether blocks are lifted ahead of need.
    pub prefetch: bool,
}

impl Timing {
    /// Of an 8 billion parameter model on an H100: its prefill makes about 1.3 GB of KV a second,
    /// which at 131,072 bytes a token is about 10,000 tokens.
    pub const PREFILL_TOKENS_PER_S: NonZeroU32 = NonZeroU32::new(10_000).expect("not zero");

    /// One H100 with blocks of so many bytes, which are lifted ahead of need.
    #[must_use]
    pub const fn of_blocks(block_bytes: u64) -> Self {
        Self {
            block_bytes,
            links: LinkSpeeds::H100_NODE,
            prefill_tokens_per_s: Self::PREFILL_TOKENS_PER_S,
            prefetch: true,
        }
    }

    fn prefetched(&self, lifts: &LiftCounts, tokens: waits::Tokens) -> Prefetched {
        let scaled = |bytes: u64| bytes / u64::from(PAYLOAD_BYTES) * self.block_bytes;
        Prefetched {
            bytes: scaled(lifts.bytes),
            timely_bytes: scaled(lifts.timely_bytes),
            late_bytes: scaled(lifts.late_bytes),
            wasted_bytes: scaled(lifts.wasted_bytes),
            idle_promoted_tokens: tokens.idle_promoted,
            idle_timely_tokens: tokens.idle_timely,
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayOutcome {
    pub requests: u64,
    pub input_tokens: u64,
    /// Input tokens found in each tier at arrival, the fastest counting.
    pub hit_tokens: [u64; Tier::COUNT],
    /// Blocks that left each tier because room was needed.
    pub evicted_blocks: [u64; Tier::COUNT],
    /// Requests whose answer came when [`ReplayConfig::answer_ms`] says.
    pub assumed_answers: u64,
    /// What was written to NVMe.
    pub nvme_writes: WriteCounts,
    /// Only where things take time.
    pub timed: Option<TimedOutcome>,
}

/// What the requests waited, and how the links were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimedOutcome {
    /// From a request's arrival to the end of its prefill: its load, then the model for what was
    /// not loaded. Engines never wait for one another.
    pub ttft: Spread,
    /// From a request's arrival until its load had ended.
    pub load_stall: Spread,
    /// Found, and computed all the same, since the manager held that to be faster.
    pub declined_tokens: u64,
    pub prefetched: Prefetched,
    pub links: [LinkUse; Link::COUNT],
    /// From the first request until everything had ended.
    pub took: Duration,
}

/// What was lifted ahead of need, as if every block had its configured bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefetched {
    pub bytes: u64,
    /// There before they were asked for, asked for while they moved, and never asked for.
    pub timely_bytes: u64,
    pub late_bytes: u64,
    pub wasted_bytes: u64,
    /// Tokens that were needed from below DRAM by agents that had been idle for two seconds or more,
    /// and those of them that had been lifted by then.
    pub idle_promoted_tokens: u64,
    pub idle_timely_tokens: u64,
}

impl ReplayOutcome {
    #[must_use]
    pub fn hit_tokens_total(&self) -> u64 {
        self.hit_tokens.iter().sum()
    }

    /// Found tokens over input tokens; zero when there was no input.
    #[must_use]
    pub fn hit_ratio(&self) -> f64 {
        ratio(self.hit_tokens_total(), self.input_tokens)
    }
}

/// `part` over `whole`, or zero if there is no whole.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a ratio is shown with a few digits")]
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A running replay: feed it requests in time order, then finish.
pub struct Replay {
    engine: Engine,
    outcome: ReplayOutcome,
    block_tokens: u64,
    writes: Writes,
}

impl Replay {
    /// A replay in which nobody says anything ahead of time, and an answer comes when its request
    /// says, even after the agent's next one: only a [`Foresight`] knows when that is.
    #[must_use]
    pub fn new(config: &ReplayConfig) -> Self {
        let (hints, foresight) = (Hints::None, Foresight::default());
        Self::told(config, Told { hints, sigma: hints::SIGMA, foresight, seed: config.seed })
    }

    /// A replay whose agents say what `told` says of each request, in the requests' order.
    #[must_use]
    pub fn told(config: &ReplayConfig, told: Told) -> Self {
        Self {
            engine: Engine::new(manager_config(config), config, told),
            outcome: ReplayOutcome::default(),
            block_tokens: u64::from(config.block_tokens),
            writes: config.writes,
        }
    }

    /// Takes one request, not earlier than the one before.
    pub fn request(&mut self, request: &Request) {
        let runs = self.engine.request(request);
        self.outcome.requests += 1;
        let mut left = u64::from(request.input_tokens);
        self.outcome.input_tokens += left;
        for run in runs {
            // The last block may be partial, so a hit never counts more than the input had.
            let tokens = (u64::from(run.blocks) * self.block_tokens).min(left);
            self.outcome.hit_tokens[run.tier.index()] += tokens;
            left -= tokens;
        }
    }

    /// Lets everything under way end, and says what came of it.
    #[must_use]
    pub fn finish(mut self) -> ReplayOutcome {
        let assumed_answers = self.engine.assumed_answers();
        let (status, timed) = self.engine.finish();
        self.outcome.timed = timed;
        self.outcome.assumed_answers = assumed_answers;
        self.outcome.nvme_writes = self.writes.counted(&status.nvme_writes);
        self.outcome.evicted_blocks = status.tiers.map(|tier| tier.evicted_copies);
        self.outcome
    }
}

fn manager_config(config: &ReplayConfig) -> ManagerConfig {
    let tiers = Tier::ALL.map(|tier| {
        let slots_max = config.capacity_blocks[tier.index()].min(CAPACITY_BLOCKS_MAX);
        let chunks = slots_max.div_ceil(slots_per_chunk(FRAME_BYTES));
        let capacity_bytes = chunks * CHUNK_BYTES;
        (slots_max > 0).then_some(TierConfig { capacity_bytes, slots_max, recovers: false })
    });
    // One engine does what in life many do, so its bounds are those of all of them.
    let many = 1 << 20;
    let usual = ManagerConfig::with_tiers(tiers);
    let lifts = matches!(config.pace, Pace::Timed(Timing { prefetch: true, .. }));
    ManagerConfig {
        links: [LinkLimits { in_flight_max: 8, queued_max: many, shares_processors: false };
            Link::COUNT],
        policy: config.policy,
        leases_max: many,
        leases_per_client_max: many,
        ops_per_client_max: many,
        waiting_blocks_max: many,
        nvme_writes: config.writes.scaled(),
        lifts_max: if lifts { usual.lifts_max } else { 0 },
        ..usual
    }
}

fn namespace(block_tokens: u32) -> Namespace {
    Namespace {
        model: "simulated".into(),
        revision: String::new(),
        dtype: "u8".into(),
        layout: "NHD".into(),
        shape: KvShape { layers: 1, planes: 1, page_bytes: PAYLOAD_BYTES },
        block_tokens,
        shard_count: 1,
        hash_scheme: "id".into(),
        hash_bytes: 16,
        tenant_salt: Vec::new(),
    }
}
