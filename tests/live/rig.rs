//! A daemon and an engine for tests: chains of blocks by number, stored and loaded through the real
//! socket and shared memory.
//!
//! Each test has a daemon of its own, as small as it can be.

use std::collections::BTreeMap;
use std::time::Duration;

use terrace::cli::daemon::{Daemon, DaemonSpec, TierSize};
use terrace::client::{
    Client, ClientConfig, ClientError, Completion, DaemonStatus, HostPool, Lookup, Op, PoolHandle,
    PoolOrder, Request, RequestId, Stored,
};
use terrace::domain::namespace::{KvShape, Namespace};
use terrace::domain::tier::Tier;
use terrace::env::Stopwatch;
use terrace::workload::content::{self, Content};

pub const BLOCK_BYTES: usize = 64 << 10;
pub const SLOTS: u32 = 128;
pub const NONE: [u32; 0] = [];
pub const REQUEST: RequestId = RequestId(1);

const CHUNK_BYTES: u64 = 64 << 20;
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_terrace")
}

/// A daemon whose tiers hold so many blocks each; zero: no such tier.
pub fn spec(blocks: [u64; Tier::COUNT]) -> DaemonSpec {
    let size = |blocks: u64| match blocks {
        0 => TierSize::default(),
        _ => TierSize { bytes: CHUNK_BYTES, blocks_max: Some(blocks) },
    };
    DaemonSpec { staging_bytes: CHUNK_BYTES, ..DaemonSpec::new(binary(), blocks.map(size)) }
}

pub async fn daemon(blocks: [u64; Tier::COUNT]) -> Daemon {
    Daemon::start(spec(blocks)).await.unwrap()
}

pub fn namespace() -> Namespace {
    let shape = KvShape { layers: 4, planes: 2, page_bytes: 8 << 10 };
    Namespace { block_tokens: 64, ..content::namespace("test", shape) }
}

/// A client with a pool.
pub struct Engine {
    pub client: Client,
    pub pool: HostPool,
    pub handle: PoolHandle,
    content: Content,
}

impl Engine {
    pub async fn join(daemon: &Daemon, name: &str) -> Self {
        Self::try_join(daemon, name).await.unwrap()
    }

    pub async fn try_join(daemon: &Daemon, name: &str) -> Result<Self, ClientError> {
        let client = Client::connect(daemon.socket(), ClientConfig::new(name, namespace())).await?;
        let pool = HostPool::create(PoolOrder::LayerMajor.layout(namespace().shape, SLOTS))?;
        let handle = client.register_pool(&pool, 0).await?;
        Ok(Self { client, pool, handle, content: Content::new(7) })
    }

    pub fn hashes(&self, ids: &[u64]) -> Vec<u8> {
        ids.iter().flat_map(|id| self.content.engine_hash(*id)).collect()
    }

    /// Offers a chain from its root in the pool's first slots, until all of it was taken: a daemon
    /// that just started may still scan its disk, and has room in memory only until then.
    pub async fn start_store(&self, ids: &[u64]) -> Op {
        for _ in 0..100 {
            let stored = self.store_as(REQUEST.into(), ids).await;
            if stored.dropped == 0 {
                return stored.op;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("blocks are still dropped 5 s after the daemon was ready");
    }

    pub async fn store_as(&self, request: Request, ids: &[u64]) -> Stored {
        self.try_store_as(request, ids).await.unwrap()
    }

    /// As `store_as`, of a daemon that may be gone.
    pub async fn try_store_as(&self, request: Request, ids: &[u64]) -> Result<Stored, ClientError> {
        let slots: Vec<u32> = (0..SLOTS).take(ids.len()).collect();
        let mut block = vec![0; BLOCK_BYTES];
        for (slot, id) in slots.iter().zip(ids) {
            self.content.fill(*id, 0, &mut block);
            self.pool.write_block(*slot, &block).unwrap();
        }
        self.client.store(request, None, self.hashes(ids), self.handle, &slots).await
    }

    pub async fn store(&self, ids: &[u64]) {
        let op = self.start_store(ids).await;
        let end = self.client.wait(op).await.unwrap();
        assert_eq!(end.failed, NONE, "{end:?}");
    }

    pub async fn lookup(&self, ids: &[u64]) -> Lookup {
        self.client.lookup(REQUEST, self.hashes(ids)).await.unwrap()
    }

    /// As `lookup`; the shared store may be asked for what follows.
    pub async fn lookup_shared(&self, ids: &[u64]) -> Lookup {
        self.client.lookup_shared(REQUEST, self.hashes(ids), PATIENCE / 4).await.unwrap()
    }

    pub async fn start_load(&self, ids: &[u64]) -> Op {
        let slots: Vec<u32> = (0..SLOTS).take(ids.len()).collect();
        let loading = self.client.load(REQUEST, self.hashes(ids), self.handle, &slots, PATIENCE);
        loading.await.unwrap()
    }

    /// Loads blocks over what the slots held and compares all that came.
    pub async fn load(&self, ids: &[u64]) -> Completion {
        let nothing = vec![0xEE; BLOCK_BYTES];
        for slot in (0..SLOTS).take(ids.len()) {
            self.pool.write_block(slot, &nothing).unwrap();
        }
        let op = self.start_load(ids).await;
        let end = self.client.wait(op).await.unwrap();
        let mut block = vec![0; BLOCK_BYTES];
        for (slot, id) in (0..SLOTS).zip(ids) {
            if end.failed.binary_search(&slot).is_err() {
                self.pool.read_block(slot, &mut block).unwrap();
                assert!(self.content.matches(*id, 0, &block), "block {id} has wrong bytes");
            }
        }
        end
    }

    /// The status once nothing moves any more.
    pub async fn settled(&self) -> DaemonStatus {
        let still = |status: &DaemonStatus| {
            status.transfers_in_flight + status.transfers_queued + status.ops_in_flight == 0
        };
        until(&self.client, "everything landed", still).await
    }
}

/// Waits until the daemon's status is as it should be.
pub async fn until(
    client: &Client,
    what: &str,
    mut reached: impl FnMut(&DaemonStatus) -> bool,
) -> DaemonStatus {
    let waiting = Stopwatch::start();
    loop {
        let status = client.status().await.unwrap();
        if reached(&status) {
            return status;
        }
        assert!(waiting.elapsed() < PATIENCE, "never came: {what}; at last {status:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How many blocks a lookup found in each tier.
pub fn by_tier(found: &Lookup) -> BTreeMap<&'static str, u32> {
    let mut sums = BTreeMap::new();
    for run in &found.runs {
        *sums.entry(run.tier.name()).or_default() += run.blocks;
    }
    sums
}
