//! An engine that stores, finds and loads chains by number, and times it.
//!
//! Bytes are not compared here: the tests do that.

use std::time::Duration;

use terrace::cli::daemon::{Daemon, DaemonSpec, TierSize};
use terrace::client::{Client, ClientConfig, HostPool, Lookup, PoolHandle, PoolOrder, RequestId};
use terrace::domain::namespace::KvShape;
use terrace::domain::tier::Tier;
use terrace::env::Stopwatch;
use terrace::workload::content::{self, Content};

const CHUNK_BYTES: u64 = 64 << 20;
const CONTENT: Content = Content::new(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// A chain of blocks that no other chain shares.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    pub first: u64,
    pub blocks: u32,
}

/// A daemon whose blocks sink in the order in which they were used; sizes in chunks, zero: no such
/// tier.
pub async fn daemon(chunks: [u64; 3]) -> Daemon {
    let [hbm, dram, nvme] = chunks.map(|chunks| TierSize::bytes(chunks * CHUNK_BYTES));
    let tiers = [hbm, dram, nvme, TierSize::default()];
    let mut spec = DaemonSpec::new(env!("CARGO_BIN_EXE_terrace"), tiers);
    spec.flags.push(("retention-policy".into(), "lru".into()));
    Daemon::start(spec).await.unwrap()
}

pub struct Engine {
    pub client: Client,
    // The daemon has a mapping of its own; this one keeps the pages touched.
    _pool: HostPool,
    handle: PoolHandle,
    request: RequestId,
}

impl Engine {
    /// A client with a touched pool of `slots` blocks of 32 layers of K and V.
    pub async fn join(daemon: &Daemon, name: &str, page_bytes: u32, slots: u32) -> Self {
        let shape = KvShape { layers: 32, planes: 2, page_bytes };
        let namespace = content::namespace("movement", shape);
        let config = ClientConfig::new(name, namespace);
        let client = Client::connect(daemon.socket(), config).await.unwrap();
        let pool = HostPool::create(PoolOrder::LayerMajor.layout(shape, slots)).unwrap();
        let block = vec![7; usize::try_from(shape.shard_bytes()).unwrap()];
        (0..slots).for_each(|slot| pool.write_block(slot, &block).unwrap());
        let handle = client.register_pool(&pool, 0).await.unwrap();
        Self { client, _pool: pool, handle, request: RequestId(1) }
    }

    pub fn hashes(chain: Chain) -> Vec<u8> {
        let ids = chain.first..chain.first + u64::from(chain.blocks);
        ids.flat_map(|id| CONTENT.engine_hash(id)).collect()
    }

    /// Stores the chain; says how many of its blocks found no room.
    pub async fn store(&self, chain: Chain) -> u64 {
        let slots: Vec<u32> = (0..chain.blocks).collect();
        let hashes = Self::hashes(chain);
        let stored = self.client.store(self.request, None, hashes, self.handle, &slots);
        let stored = stored.await.unwrap();
        let end = self.client.wait(stored.op).await.unwrap();
        u64::from(stored.dropped) + end.failed.len() as u64
    }

    pub async fn lookup(&self, chain: Chain) -> Lookup {
        self.client.lookup(self.request, Self::hashes(chain)).await.unwrap()
    }

    /// Loads the whole chain; how long that took.
    pub async fn load(&self, chain: Chain) -> Duration {
        let slots: Vec<u32> = (0..chain.blocks).collect();
        let hashes = Self::hashes(chain);
        let watch = Stopwatch::start();
        let op = self.client.load(self.request, hashes, self.handle, &slots, PATIENCE);
        let end = self.client.wait(op.await.unwrap()).await.unwrap();
        let took = watch.elapsed();
        assert!(end.failed.is_empty(), "the blocks are there: {end:?}");
        took
    }

    pub async fn end_request(&self) {
        self.client.end_request(self.request).await.unwrap();
    }

    /// Waits until nothing moves any more.
    pub async fn settle(&self) {
        let waiting = Stopwatch::start();
        loop {
            let status = self.client.status().await.unwrap();
            if status.transfers_in_flight + status.transfers_queued + status.ops_in_flight == 0 {
                return;
            }
            assert!(waiting.elapsed() < PATIENCE, "it does not settle: {status:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The tier that has all of it, if one has.
pub fn tier_of(found: &Lookup) -> Option<Tier> {
    match found.runs[..] {
        [run] => Some(run.tier),
        _ => None,
    }
}

/// The value at this percent of the sorted values.
pub fn rank(values: &mut [f64], percent: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[(values.len() * percent).div_ceil(100).max(1) - 1]
}
