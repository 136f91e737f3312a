//! What a run is made of: tiers, bounds, clients and faults, all from a level and a seed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::domain::admission::{Rule, WriteMode, WriteRules};
use crate::domain::block::Key;
use crate::domain::namespace::{KvShape, Namespace};
use crate::domain::retention::PolicyName;
use crate::domain::session::SessionLimits;
use crate::domain::tier::Tier;
use crate::domain::units::{CHUNK_BYTES, Time};
use crate::manager::{ManagerConfig, RewriteLimits, ShieldShares, TierConfig};
use crate::movement::{Link, LinkLimits};
use crate::workload::content::mix;
use crate::workload::draw::Draw;

use super::faults::FaultRates;
use super::machine::THIS_NODE;

/// How hard a run is made for the manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Room for everything and no faults: what was stored is found.
    Roomy,
    /// Little room and no faults: what is leased is loaded.
    Tight,
    /// Room for everything on `NVMe` alone, and power that goes: what had landed is found again.
    Recovering,
    /// Room for everything, power that goes, and cold tiers that go out and come back.
    Outages,
    /// Room for everything, power that goes, and other nodes that write to the same object store.
    Fleet,
    /// Tiers that fail, are slow or never answer; clients that err and die.
    Faulty,
    /// All that, and the node loses power now and then.
    Crashing,
}

impl Level {
    pub const ALL: [Self; 7] = [
        Self::Roomy,
        Self::Tight,
        Self::Recovering,
        Self::Outages,
        Self::Fleet,
        Self::Faulty,
        Self::Crashing,
    ];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Roomy => "roomy",
            Self::Tight => "tight",
            Self::Recovering => "recovering",
            Self::Outages => "outages",
            Self::Fleet => "fleet",
            Self::Faulty => "faulty",
            Self::Crashing => "crashing",
        }
    }

    const fn faults(self) -> FaultRates {
        let none = FaultRates {
            item_fails: 0,
            slow: 0,
            lost: 0,
            erase_fails: 0,
            restamp_fails: 0,
            client_dies: 0,
            client_errs: 0,
            crash: 0,
            outage: 0,
            other_writes: 0,
            other_erases: 0,
            behind: 200,
        };
        let faulty = FaultRates {
            item_fails: 30,
            slow: 30,
            lost: 10,
            erase_fails: 200,
            restamp_fails: 200,
            client_dies: 15,
            client_errs: 20,
            crash: 0,
            outage: 5,
            other_writes: 300,
            other_erases: 200,
            behind: 300,
        };
        match self {
            Self::Roomy => none,
            Self::Tight => FaultRates { slow: 10, ..none },
            Self::Recovering => FaultRates { crash: 20, ..none },
            Self::Outages => FaultRates { crash: 20, outage: 120, ..none },
            Self::Fleet => FaultRates { crash: 20, other_writes: 500, ..none },
            Self::Faulty => faulty,
            Self::Crashing => FaultRates { crash: 30, ..faulty },
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|level| level.name() == name);
        found.ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            format!("no level `{name}`: use one of {all}")
        })
    }
}

/// Everything a run depends on.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub level: Level,
    pub seed: u64,
    pub config: ManagerConfig,
    pub faults: FaultRates,
    pub clients: usize,
    /// How many things the clients do, all together.
    pub wakes: u32,
    pub(super) namespaces: Vec<Namespace>,
    /// The longest chain, in blocks; pools have as many slots.
    pub(super) chain_max: u32,
    /// Nothing fails but what a tier refuses that is out, and no time-out is near: leased blocks must
    /// load, unless a tier goes out or comes back meanwhile.
    pub(super) is_faultless: bool,
    /// Nothing is ever evicted: stored blocks must be found.
    pub(super) keeps_everything: bool,
}

impl Scenario {
    #[must_use]
    pub fn new(level: Level, seed: u64) -> Self {
        let mut draw = Draw::new(mix(seed));
        let roomy = !matches!(level, Level::Tight | Level::Faulty | Level::Crashing);
        let faultless = roomy || level == Level::Tight;
        // Ranks are put together in memory, so some tier of memory must be there for them.
        let any_mask = 1 + draw.below(15);
        let mask = match level {
            Level::Recovering => 0b100,
            // What a tier that is out does not take stays in memory.
            Level::Outages => 0b110 | any_mask & 0b1000,
            Level::Fleet => 0b1000 | any_mask,
            _ => any_mask,
        };
        let has_memory = mask & 0b11 != 0;
        let namespaces = namespaces(&mut draw, has_memory);
        let tiers = Tier::ALL.map(|tier| {
            let present = mask & (1 << tier.index()) != 0;
            present.then(|| tier_config(&mut draw, roomy))
        });
        let limits = LinkLimits {
            in_flight_max: if faultless { 8 } else { 1 + draw.index(3) },
            queued_max: if faultless { 100_000 } else { 2 + draw.index(40) },
            shares_processors: faultless,
        };
        let config = ManagerConfig {
            links: [limits; Link::COUNT],
            lease_ttl: Duration::from_secs(if faultless { 30 } else { 3 }),
            store_timeout: Duration::from_secs(if faultless { 30 } else { 2 }),
            waiting_blocks_max: if faultless { 100_000 } else { 4 + draw.index(60) },
            leases_max: if faultless { 1_000 } else { 12 },
            ops_per_client_max: if faultless { 100 } else { 3 },
            tells_residency: true,
            node_id: THIS_NODE,
            nvme_writes: match level {
                // What is in memory alone says nothing of outages.
                Level::Outages => WriteRules { mode: WriteMode::Through, ..WriteRules::default() },
                _ => write_rules(&mut Draw::new(mix(!seed))),
            },
            ..ManagerConfig::with_tiers(tiers)
        };
        let config =
            if faultless { config } else { bounded(&config, &mut Draw::new(mix(seed ^ 0xb0))) };
        Self {
            level,
            seed,
            config,
            faults: level.faults(),
            clients: 1 + draw.index(5),
            wakes: 600,
            namespaces,
            chain_max: 12,
            is_faultless: faultless,
            keeps_everything: roomy,
        }
    }

    /// When the block is to be forgotten, if other nodes promised that. All of them say the same.
    pub(super) fn promise(&self, key: Key) -> Option<Time> {
        let drawn = mix(key.low_bits() ^ self.seed);
        let after = Duration::from_millis(drawn >> 32 & 0x3fff);
        let promised = self.faults.other_writes > 0 && drawn.is_multiple_of(16);
        promised.then_some(Time::from_millis(2_000) + after)
    }

    /// A chain of the namespace's blocks: a path down a tree whose first branches are the most
    /// walked, so that chains share their beginnings.
    pub(super) fn chain(&self, namespace: usize, draw: &mut Draw) -> Vec<Key> {
        let length = 1 + draw.below(self.chain_max).max(draw.below(self.chain_max));
        let mut node = mix(namespace as u64 + 1);
        (0..length)
            .map(|_| {
                let branch = draw.below(3).min(draw.below(3)).min(draw.below(3));
                node = mix(node ^ u64::from(branch) << 8);
                key_of(node)
            })
            .collect()
    }
}

fn key_of(node: u64) -> Key {
    let mut bytes = [0; Key::BYTES];
    let (head, tail) = bytes.split_at_mut(8);
    head.copy_from_slice(&node.to_le_bytes());
    tail.copy_from_slice(&mix(!node).to_le_bytes());
    Key(bytes)
}

fn tier_config(draw: &mut Draw, roomy: bool) -> TierConfig {
    let chunks = if roomy { 10_000 } else { 1 + u64::from(draw.below(5)) };
    let slots_max = if roomy || draw.percent(70) { u64::MAX } else { 2 + u64::from(draw.below(9)) };
    TierConfig { capacity_bytes: chunks * CHUNK_BYTES, slots_max, recovers: false }
}

/// Any policy, and in half of the runs bounds that are met. Drawn apart.
fn bounded(config: &ManagerConfig, draw: &mut Draw) -> ManagerConfig {
    let policy = PolicyName::ALL[draw.index(PolicyName::ALL.len())];
    if draw.percent(50) {
        return ManagerConfig { policy, ..config.clone() };
    }
    ManagerConfig {
        policy,
        rewrites: RewriteLimits {
            delay: Duration::from_millis(50),
            retry_delay: Duration::from_millis(300),
            under_way_max: 3,
            queued_max: 1 + draw.index(6),
            owed_max: 2,
        },
        sessions: SessionLimits {
            sessions_max: 3,
            idle_timeout: Duration::from_millis(800),
            ..config.sessions
        },
        shields: ShieldShares { namespace_percent: 10, tenant_percent: 12 },
        lifts_max: draw.index(4),
        lift_percent: 30,
        lent_percent: 60,
        lent_blocks_max: 5,
        leases_per_client_max: 2,
        ..config.clone()
    }
}

/// Every way to write, and budgets of a few blocks a second in half of the runs. Drawn apart, so that
/// the rest of the run is the same whatever comes out.
fn write_rules(draw: &mut Draw) -> WriteRules {
    let mode = WriteMode::ALL[draw.index(2)];
    let percent = u8::try_from(draw.below(101)).expect("a percentage");
    let rule = Rule::named(Rule::NAMES[draw.index(3)], percent).expect("a rule's own name");
    let mut limit =
        |bytes: u64| if draw.percent(50) { bytes + u64::from(draw.below(1 << 24)) } else { 0 };
    WriteRules { mode, rule, bytes_per_s: limit(1 << 20), bytes_per_day: limit(1 << 32) }
}

/// One to three namespaces of different block lengths, some of them with several ranks.
fn namespaces(draw: &mut Draw, has_memory: bool) -> Vec<Namespace> {
    const MIB: u32 = 1 << 20;
    let count = 1 + draw.below(3);
    (0..count)
        .map(|number| {
            let shard_count = if has_memory { 1 + draw.below(3) } else { 1 };
            let page_bytes = [3 * MIB, 5 * MIB, 7 * MIB - 4096][draw.index(3)];
            Namespace {
                model: format!("simulated-{number}"),
                revision: String::new(),
                dtype: "u8".into(),
                layout: "NHD".into(),
                shape: KvShape { layers: 1, planes: 1, page_bytes },
                block_tokens: 16,
                shard_count,
                hash_scheme: "node".into(),
                hash_bytes: 8,
                tenant_salt: Vec::new(),
            }
        })
        .collect()
}
