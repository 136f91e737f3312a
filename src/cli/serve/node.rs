//! A node put together from its configuration: memory, device, stores, manager.
//!
//! Opens and starts; never parses a setting, and never listens on a socket.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use tokio::runtime;

use crate::config::Config;
use crate::domain::session::SessionLimits;
use crate::domain::tier::Tier;
use crate::domain::units::Bytes;
use crate::env::SystemClock;
use crate::manager::shell::{Shell, ShellParts};
use crate::manager::{ManagerConfig, ShieldShares, TierConfig};
use crate::movement::{Link, LinkLimits};
use crate::tiers::decorators::{Excused, Metered, Patience, Watched};
use crate::tiers::dram::{Arena, ArenaConfig};
use crate::tiers::hbm::cuda::{self, CudaConfig, NoDriver};
use crate::tiers::hbm::{Device, DeviceChoice, HostDevice, HostDeviceConfig};
use crate::tiers::nvme::{self, NvmeConfig, NvmeFacts, Striped};
use crate::tiers::object::{self, ObjectOptions, PackOptions};
use crate::tiers::open::OpenError;
use crate::tiers::shm::{Nodes, NumaNode};
use crate::tiers::store::TierStore;

use super::numa::Placement;
use super::state_dir::StateDir;

/// A node that runs.
pub struct Node {
    pub shell: Shell,
    pub node_id: [u8; 16],
    /// How each tier is made and what the machine lacks, for the log and for `status`.
    pub facts: BTreeMap<String, String>,
    /// The cold tiers', which know how they are.
    pub stores: Vec<Store>,
}

/// Why a node could not be put together. Every text says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{what}: {source}")]
    Machine { what: &'static str, source: io::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(
        "hbm.device: cuda:{ordinal} can't be used: {why}\n  remedy: `terrace doctor` lists the GPUs \
         here; set hbm.device (--hbm-device) to one of them, to auto, or to host for none"
    )]
    Gpu { ordinal: u32, why: String },
    #[error("{0}")]
    Numa(String),
}

const TRANSFERS_QUEUED_MAX: usize = 4096;

/// Transfers a link works on at once: enough that its next batch is always ready. A GPU moves one within
/// its own memory about as fast as threads hand on the next: with four, blocks of 1 MiB reached 68 to 82 %
/// of its own copies on an H100, with eight 84 %.
#[must_use]
pub const fn transfers_max(link: Link) -> usize {
    match link {
        Link::DeviceUp | Link::DeviceDown => 4,
        Link::DeviceLocal
        | Link::NvmeRead
        | Link::NvmeWrite
        | Link::ObjectGet
        | Link::ObjectPut => 8,
    }
}

/// What the machine has of what the settings name.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Where the arena goes.
    numa: Option<NumaNode>,
    /// `Auto` where there is a GPU that nobody named.
    device: DeviceChoice,
}

impl Site {
    /// Looks for the GPU and the NUMA node: nothing is made for it.
    ///
    /// # Errors
    /// `Gpu` or `Numa`: what is named is not here.
    pub fn of(config: &Config) -> Result<Self, NodeError> {
        let choice = config.device.choice;
        let found = if choice == DeviceChoice::Host { Ok(Vec::new()) } else { cuda::gpus() };
        if let DeviceChoice::Cuda(ordinal) = choice {
            let why = match &found {
                Ok(gpus) if choice.among(gpus).is_some() => None,
                Ok(gpus) if gpus.is_empty() => Some("this process may use no GPU".to_owned()),
                Ok(gpus) => Some(format!("there are {} GPUs, counted from 0", gpus.len())),
                // One that is broken hides none of the others.
                Err(NoDriver::Broken(_)) => None,
                Err(error) => Some(error.to_string()),
            };
            why.map_or(Ok(()), |why| Err(NodeError::Gpu { ordinal, why }))?;
        }
        if let (DeviceChoice::Auto, Err(why @ (NoDriver::Old { .. } | NoDriver::Broken(_)))) =
            (choice, &found)
        {
            tracing::warn!(
                %why,
                "the GPU is not used: HBM stands in host memory, and engines' pools on a GPU are refused; \
                 mend the driver and start the daemon again, or set hbm.device to host"
            );
        }
        let gpus = found.unwrap_or_default();
        let used = || choice.among(&gpus).cloned();
        let place = Placement::of(config.dram.numa, used, &Nodes::of_this_machine());
        if matches!(place, Placement::Missing { .. }) {
            return Err(NodeError::Numa(format!("{place}: name one of these, or auto")));
        }
        let none = choice == DeviceChoice::Auto && gpus.is_empty();
        let device = if none { DeviceChoice::Host } else { choice };
        Ok(Self { numa: place.node(), device })
    }
}

impl Node {
    /// Waits for the runtime while it looks for S3 credentials: call it from outside the runtime.
    ///
    /// # Errors
    /// See [`NodeError`]; what had been opened is closed again.
    pub(super) fn start(
        config: &Config,
        site: Site,
        state: &StateDir,
        runtime: &runtime::Handle,
    ) -> Result<Self, NodeError> {
        let machine = |what| move |source| NodeError::Machine { what, source };
        let mut facts = BTreeMap::new();
        let arena = open_arena(config, site.numa)?;
        facts.insert("dram".into(), describe(&arena));
        let device = open_device(config, site.device, &arena)?;
        facts.insert("hbm".into(), device.describe());

        let nvme = open_nvme(config, &arena)?;
        let node_id = state.node_id(nvme.as_ref().map(|(_, facts)| facts[0].node_id))?;
        if let Some((_, nvme)) = &nvme {
            let folders: Vec<_> = nvme.iter().map(ToString::to_string).collect();
            facts.insert("nvme".into(), folders.join("; "));
        }
        let object = open_object(config, &arena, node_id, runtime)?;
        if let Some(object) = &config.object {
            facts.insert("object".into(), object.target.to_string());
        }
        let nvme = nvme.map(|(store, _)| store);
        let stores = [&nvme, &object].into_iter().flatten().cloned().collect();
        let parts = ShellParts {
            config: bounds(config, device.copies_by_processor()),
            clock: Arc::new(SystemClock::start()),
            runtime: runtime.clone(),
            staging: config.dram.capacity_bytes..arena.len_bytes(),
            arena,
            device,
            nvme,
            object,
            node_id,
            journal_changes_max: config.events.history,
        };
        let shell = Shell::start(parts).map_err(machine("can't start the manager"))?;
        Ok(Self { shell, node_id, facts, stores })
    }

    /// The node's id as people write it.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.node_id))
    }
}

fn open_arena(config: &Config, numa: Option<NumaNode>) -> Result<Arc<Arena>, NodeError> {
    let sizes = ArenaConfig {
        tier_bytes: config.dram.capacity_bytes,
        staging_bytes: config.dram.staging_bytes,
        pretouch_threads: config.dram.pretouch_threads,
    };
    let what = "can't make the DRAM arena";
    let arena = Arena::on_node(sizes, numa);
    Ok(Arc::new(arena.map_err(|source| NodeError::Machine { what, source })?))
}

fn describe(arena: &Arena) -> String {
    let pages = match (arena.huge_bytes(), arena.len_bytes()) {
        (0, _) => "4 KiB pages".to_owned(),
        (huge, all) if huge == all => "huge pages".to_owned(),
        (huge, _) => format!("huge pages as far as there were any ({})", Bytes(huge)),
    };
    let node = arena.node().map_or(String::new(), |node| format!(", on NUMA node {}", node.0));
    format!("{} in {pages}{node}", Bytes(arena.len_bytes()))
}

/// The device that was chosen; under `auto` the first GPU, or the host where it can't be used.
fn open_device(
    config: &Config,
    choice: DeviceChoice,
    arena: &Arc<Arena>,
) -> Result<Arc<dyn Device>, NodeError> {
    let tier_bytes = config.hbm.map_or(0, |hbm| hbm.capacity_bytes);
    let multiprocessors_max = config.device.multiprocessors_max;
    let cuda = |ordinal| {
        let settings = CudaConfig { tier_bytes, multiprocessors_max };
        cuda::open(ordinal, Arc::clone(arena), settings).map(|device| Arc::new(device) as _)
    };
    match choice {
        DeviceChoice::Cuda(ordinal) => {
            return cuda(ordinal).map_err(|why| NodeError::Gpu { ordinal, why });
        }
        DeviceChoice::Auto => match cuda(0) {
            Ok(device) => return Ok(device),
            Err(error) => tracing::warn!(%error, "the GPU is not used: the host device is"),
        },
        DeviceChoice::Host => (),
    }
    let settings = HostDeviceConfig { tier_bytes, pretouch_threads: config.dram.pretouch_threads };
    let device = HostDevice::new(Arc::clone(arena), settings);
    let what = "can't make the host device's memory";
    Ok(Arc::new(device.map_err(|source| NodeError::Machine { what, source })?))
}

type Store = Arc<dyn TierStore>;

/// The tier, and what each of its folders turned out to be.
fn open_nvme(
    config: &Config,
    arena: &Arc<Arena>,
) -> Result<Option<(Store, Vec<NvmeFacts>)>, NodeError> {
    let Some(settings) = &config.nvme else { return Ok(None) };
    let (engine, queue_depth, tuned) = (settings.engine, settings.queue_depth, settings.tuned);
    let usual = NvmeConfig::new(&settings.path, settings.capacity_bytes);
    let usual = NvmeConfig { engine, queue_depth, tuned, ..usual };
    let mut opened = nvme::open_striped(&usual, &settings.more_paths, arena)?;
    let facts = opened.iter().map(|(_, facts)| facts.clone()).collect();
    // Each by itself: what others answer says nothing of a device that hangs, or fails its writes.
    let watch = |(store, _)| {
        let clock = Arc::new(SystemClock::start());
        let watched = Watched::new(store, Arc::clone(&clock) as _, Patience::default());
        Arc::new(Excused::new(Arc::new(watched), clock)) as Store
    };
    let store = match opened.len() {
        1 => watch(opened.remove(0)),
        _ => Arc::new(Striped::new(opened.into_iter().map(watch).collect())),
    };
    Ok(Some((Arc::new(Metered::new(store)), facts)))
}

fn open_object(
    config: &Config,
    arena: &Arc<Arena>,
    node_id: [u8; 16],
    runtime: &runtime::Handle,
) -> Result<Option<Store>, NodeError> {
    let Some(settings) = &config.object else { return Ok(None) };
    let packs = settings.packs.map(|packs| PackOptions {
        frames_below_bytes: packs.below_bytes,
        linger: packs.linger,
        freshness: packs.freshness,
        frames_max: packs.blocks_known_max,
        ..PackOptions::new(node_id)
    });
    let options = ObjectOptions {
        concurrency: settings.requests_max,
        lifecycle_tags: settings.lifecycle_tags,
        packs,
        ..ObjectOptions::default()
    };
    let store = object::open(&settings.target, options, arena, runtime)?;
    Ok(Some(Arc::new(Metered::new(store))))
}

/// The manager's bounds as the configuration gives them.
fn bounds(config: &Config, shares_processors: bool) -> ManagerConfig {
    let tier = |capacity_bytes: u64, blocks_max: Option<u64>, recovers: bool| TierConfig {
        capacity_bytes,
        slots_max: blocks_max.unwrap_or(u64::MAX),
        recovers,
    };
    let mut tiers = [None; Tier::COUNT];
    tiers[Tier::Hbm.index()] =
        config.hbm.map(|hbm| tier(hbm.capacity_bytes, hbm.blocks_max, false));
    tiers[Tier::Dram.index()] = (config.dram.capacity_bytes > 0)
        .then(|| tier(config.dram.capacity_bytes, config.dram.blocks_max, false));
    tiers[Tier::Nvme.index()] =
        config.nvme.as_ref().map(|nvme| tier(nvme.capacity_bytes, nvme.blocks_max, true));
    tiers[Tier::Object.index()] =
        config.object.as_ref().map(|object| tier(object.capacity_bytes, object.blocks_max, false));
    let limits = |link| LinkLimits {
        in_flight_max: transfers_max(link),
        queued_max: TRANSFERS_QUEUED_MAX,
        shares_processors,
    };
    ManagerConfig {
        links: Link::ALL.map(limits),
        policy: config.policy,
        lease_ttl: config.lease_ttl,
        store_timeout: config.store_timeout,
        clients_max: config.clients_max,
        leases_max: config.leases_max,
        ops_per_client_max: config.ops_per_client_max,
        shields: ShieldShares {
            namespace_percent: config.shields.namespace_percent,
            tenant_percent: config.shields.tenant_percent,
        },
        nvme_stripes: config.nvme.as_ref().map_or(1, |nvme| 1 + nvme.more_paths.len()),
        nvme_writes: config.nvme.as_ref().map(|nvme| nvme.writes).unwrap_or_default(),
        lifts_max: config.prefetch.lifts_max,
        lift_percent: config.prefetch.tier_percent,
        sessions: SessionLimits {
            idle_timeout: config.sessions.idle_timeout,
            sessions_max: config.sessions.sessions_max,
            ..SessionLimits::default()
        },
        ..ManagerConfig::with_tiers(tiers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, ThisMachine};
    use crate::tiers::sample;

    #[test]
    fn a_gpu_that_is_not_here_is_refused_with_the_key_and_the_remedy() {
        let sources = Sources {
            file: None,
            env: [("HOME".into(), "/h/me".into())].into(),
            flags: [("hbm.device", "cuda:999".to_owned())].into(),
        };
        let config = Config::load(&sources, &ThisMachine).expect("a device is looked for later");
        let said = open_device(&config, config.device.choice, &sample::arena())
            .err()
            .expect("no machine has so many");
        let said = said.to_string();
        for words in ["hbm.device: cuda:999", "--hbm-device", "auto", "host"] {
            assert!(said.contains(words), "{said}");
        }
    }
}
