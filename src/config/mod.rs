//! Settings: one TOML file, the environment and flags become one checked [`Config`].
//!
//! Everything is parsed once, here; nothing downstream checks again or sees raw text. Never makes
//! a folder, opens a store or changes the machine: it only looks. `docs/config.md` lists the keys.

mod error;
mod flags;
mod keys;
mod machine;
mod nearest;
mod packs;
pub mod parse;
mod places;
mod reader;
mod rest;
mod sources;
mod tiers;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use error::{ConfigError, Origin};
pub use flags::{Flags, from_here};
pub use keys::{KEYS, Key, Kind};
pub use machine::{Disk, Machine, ThisMachine};
pub use nearest::nearest;
pub use packs::Packs;
pub use places::Places;
pub use sources::Sources;

use crate::domain::admission::WriteRules;
use crate::domain::retention::PolicyName;
use crate::events::PublisherConfig;
use crate::tiers::hbm::DeviceChoice;
use crate::tiers::nvme::EngineChoice;
use crate::tiers::object::Target;
use crate::tiers::shm::NumaChoice;

/// A whole configuration that stands on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub places: Places,
    /// Absent tiers are `None`.
    pub device: HbmDevice,
    pub hbm: Option<Hbm>,
    pub dram: Dram,
    pub nvme: Option<Nvme>,
    pub object: Option<Object>,
    pub policy: PolicyName,
    pub lease_ttl: Duration,
    pub leases_max: usize,
    pub clients_max: usize,
    pub ops_per_client_max: usize,
    pub store_timeout: Duration,
    pub shields: Shields,
    pub sessions: Sessions,
    pub prefetch: Prefetch,
    pub events: Events,
    /// Where the Prometheus endpoint listens, if it does.
    pub metrics: Option<SocketAddr>,
    pub log: Log,
    /// What the operator should know of how the defaults came out: for the log, once.
    pub notes: Vec<Note>,
}

/// How a default came out, where that may not be what the operator thinks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub found: String,
    pub remedy: String,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.found, self.remedy)
    }
}

/// The device that the HBM tier and the engines' pools lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HbmDevice {
    pub choice: DeviceChoice,
    pub multiprocessors_max: u32,
}

/// The HBM tier: a whole number of chunks, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hbm {
    pub capacity_bytes: u64,
    pub blocks_max: Option<u64>,
}

/// The arena: whole chunks; the tier's part may be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dram {
    pub capacity_bytes: u64,
    pub blocks_max: Option<u64>,
    /// At least one chunk.
    pub staging_bytes: u64,
    pub numa: NumaChoice,
    pub pretouch_threads: usize,
}

/// The NVMe tier: a whole number of chunks, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nvme {
    pub path: PathBuf,
    /// Further folders, over which its slots are striped.
    pub more_paths: Vec<PathBuf>,
    pub capacity_bytes: u64,
    pub blocks_max: Option<u64>,
    /// How the disk is driven.
    pub engine: EngineChoice,
    pub queue_depth: u32,
    /// The depth was not given: the disk is tried out at the start.
    pub tuned: bool,
    pub writes: WriteRules,
}

/// The object tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub target: Target,
    pub capacity_bytes: u64,
    pub blocks_max: Option<u64>,
    pub requests_max: usize,
    pub lifecycle_tags: bool,
    /// How small blocks are packed; nothing: they are not.
    pub packs: Option<Packs>,
}

/// How much of each tier shields may hold, in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shields {
    pub namespace_percent: u8,
    /// At least as much.
    pub tenant_percent: u8,
}

/// What bounds sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sessions {
    pub idle_timeout: Duration,
    pub sessions_max: usize,
}

/// What bounds lifts ahead of need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefetch {
    /// Zero: there are none.
    pub lifts_max: usize,
    /// How much of each tier they may hold, in hundredths; at least one.
    pub tier_percent: u8,
}

/// How changes of residency are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// Changes that are kept; zero: none are told.
    pub history: usize,
    /// Over ZeroMQ, if they are.
    pub publisher: Option<PublisherConfig>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Module and level, the most general first; the empty module is everything of ours.
    pub levels: Vec<(String, Level)>,
    pub json: bool,
}

/// How much of a module is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Level {
    pub const ALL: [Self; 6] =
        [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Config {
    /// Bytes of this machine's memory that the HBM tier takes: all of it, unless it lies on a GPU.
    pub fn hbm_in_memory(&self, machine: &dyn Machine) -> u64 {
        tiers::hbm_in_memory(machine, self.device, self.hbm)
    }

    /// The configuration that the sources give on this machine.
    ///
    /// # Errors
    /// The first setting that can't stand, with its remedy.
    pub fn load(sources: &Sources, machine: &dyn Machine) -> Result<Self, ConfigError> {
        let values = sources.values()?;
        let reader = reader::Reader::new(&values, sources, machine);
        let places = Places::read(&reader)?;
        let mut notes = Vec::new();
        let device = tiers::device(&reader)?;
        let hbm = tiers::hbm(&reader)?;
        let dram = tiers::dram(&reader)?;
        tiers::check_memory(&reader, device, hbm, dram)?;
        let nvme = tiers::nvme(&reader, &places, &mut notes)?;
        let object = tiers::object(&reader, &places, &mut notes)?;
        tiers::check_shared_disk(&reader, nvme.as_ref(), object.as_ref())?;
        let limits = rest::Limits::read(&reader)?;
        if hbm.is_none() && dram.capacity_bytes == 0 && nvme.is_none() && object.is_none() {
            notes.push(Note {
                found: "there is no tier, so nothing is kept".into(),
                remedy:
                    "give hbm.capacity or dram.capacity some room, or take nvme.enabled = false or \
                         object.url = off out"
                        .into(),
            });
        }
        let (events, metrics) = (rest::events(&reader)?, rest::metrics(&reader)?);
        rest::check_endpoints(&reader, &events, metrics, &places)?;
        Ok(Self {
            places,
            device,
            hbm,
            dram,
            nvme,
            object,
            policy: rest::policy(&reader)?,
            lease_ttl: limits.lease_ttl,
            leases_max: limits.leases_max,
            clients_max: limits.clients_max,
            ops_per_client_max: limits.ops_per_client_max,
            store_timeout: limits.store_timeout,
            shields: rest::shields(&reader)?,
            sessions: rest::sessions(&reader)?,
            prefetch: rest::prefetch(&reader)?,
            events,
            metrics,
            log: rest::log(&reader)?,
            notes,
        })
    }
}
