//! A service over the real manager, with a DRAM tier, and below it a disk that is as slow as it is
//! told, or nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use terrace::client::{Client, ClientConfig, HostPool, PoolHandle, PoolOrder};
use terrace::domain::namespace::Namespace;
use terrace::domain::tier::Tier;
use terrace::domain::units::CHUNK_BYTES;
use terrace::env::SystemClock;
use terrace::manager::shell::{Shell, ShellParts};
use terrace::manager::{ManagerConfig, PolicyName, TierConfig};
use terrace::service::{ClosedDoor, Server, ServiceConfig};
use terrace::tiers::decorators::{Limits, Throttled};
use terrace::tiers::dram::{Arena, ArenaConfig};
use terrace::tiers::hbm::{HostDevice, HostDeviceConfig};
use terrace::tiers::memory::MemoryStore;
use terrace::tiers::store::TierStore;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{SHAPE, namespace};

pub struct Node {
    pub socket: PathBuf,
    _folder: tempfile::TempDir,
    shell: Shell,
    stop: oneshot::Sender<()>,
    running: JoinHandle<std::io::Result<ClosedDoor>>,
}

impl Node {
    pub fn start() -> Self {
        Self::with(|_| ())
    }

    pub fn with(adjust: impl FnOnce(&mut ManagerConfig)) -> Self {
        Self::made(adjust, None, 0)
    }

    /// With so many blocks in DRAM, and a disk of these limits.
    pub fn with_disk(dram_blocks: u64, limits: Limits) -> Self {
        Self::with_journal(dram_blocks, limits, 0)
    }

    /// With so many blocks in HBM above DRAM.
    pub fn with_hbm(hbm_blocks: u64) -> Self {
        Self::with(|config| {
            let dram = config.tiers[Tier::Dram.index()].unwrap();
            config.tiers[Tier::Hbm.index()] = Some(TierConfig { slots_max: hbm_blocks, ..dram });
            config.policy = PolicyName::Lru;
        })
    }

    /// The same, with so many changes of residency kept.
    pub fn with_journal(dram_blocks: u64, limits: Limits, changes_max: usize) -> Self {
        let adjust = |config: &mut ManagerConfig| {
            let dram = config.tiers[Tier::Dram.index()].as_mut().unwrap();
            dram.slots_max = dram_blocks;
            config.tiers[Tier::Nvme.index()] = Some(TierConfig { slots_max: u64::MAX, ..*dram });
            config.policy = PolicyName::Lru;
        };
        Self::made(adjust, Some(limits), changes_max)
    }

    fn made(
        adjust: impl FnOnce(&mut ManagerConfig),
        disk: Option<Limits>,
        changes_max: usize,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("t.sock");
        let shell = shell(adjust, disk, changes_max);
        let server = Server::bind(ServiceConfig::new(&socket), shell.handle()).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self { socket, _folder: folder, shell, stop, running }
    }

    /// A client of a namespace with one shard a block.
    pub async fn client(&self, name: &str) -> Client {
        let namespace = Namespace { shard_count: 1, ..namespace() };
        Client::connect(&self.socket, ClientConfig::new(name, namespace)).await.unwrap()
    }

    pub async fn client_with_pool(&self, name: &str, slots: u32) -> (Client, HostPool, PoolHandle) {
        let client = self.client(name).await;
        let pool = HostPool::create(PoolOrder::LayerMajor.layout(SHAPE, slots)).unwrap();
        let handle = client.register_pool(&pool, 0).await.unwrap();
        (client, pool, handle)
    }

    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        let door = self.running.await.unwrap().unwrap();
        let shell = self.shell;
        tokio::task::spawn_blocking(|| shell.stop(Duration::from_secs(2))).await.unwrap();
        drop(door);
    }
}

fn shell(
    adjust: impl FnOnce(&mut ManagerConfig),
    disk: Option<Limits>,
    journal_changes_max: usize,
) -> Shell {
    let arena = Arc::new(
        Arena::new(ArenaConfig {
            tier_bytes: CHUNK_BYTES,
            staging_bytes: 1 << 20,
            pretouch_threads: 1,
        })
        .unwrap(),
    );
    let mut tiers = [None; Tier::COUNT];
    tiers[Tier::Dram.index()] =
        Some(TierConfig { capacity_bytes: CHUNK_BYTES, slots_max: u64::MAX, recovers: false });
    let mut config = ManagerConfig::with_tiers(tiers);
    adjust(&mut config);
    let tier_bytes = config.tiers[Tier::Hbm.index()].map_or(0, |hbm| hbm.capacity_bytes);
    let device = HostDeviceConfig { tier_bytes, pretouch_threads: 1 };
    let nvme = disk.map(|limits| -> Arc<dyn TierStore> {
        let store = Arc::new(MemoryStore::new(Tier::Nvme, Arc::clone(&arena)));
        Arc::new(Throttled::new(store, limits).unwrap())
    });
    Shell::start(ShellParts {
        config,
        clock: Arc::new(SystemClock::start()),
        runtime: tokio::runtime::Handle::current(),
        staging: CHUNK_BYTES..arena.len_bytes(),
        device: Arc::new(HostDevice::new(Arc::clone(&arena), device).unwrap()),
        arena,
        nvme,
        object: None,
        node_id: [7; 16],
        journal_changes_max,
    })
    .unwrap()
}
