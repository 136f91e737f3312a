//! The whole daemon: a client's blocks through shared memory and DRAM to NVMe and back.
//!
//! Writes are durable stores, so what counts is on the device and flushed; reads are loads of chains
//! that memory does not hold, counted by what the tier itself moved.

use std::path::Path;
use std::time::Duration;

use terrace::cli::daemon::{Daemon, DaemonSpec, TierSize};
use terrace::client::{
    Client, ClientConfig, HostPool, Op, PoolHandle, PoolOrder, Request, RequestId,
};
use terrace::domain::namespace::KvShape;
use terrace::domain::tier::Tier;
use terrace::env::Stopwatch;
use terrace::tiers::frame::HEADER_BYTES;
use terrace::workload::content::{self, Content};

use super::{FILE_BYTES, FRAME_BYTES, MIB, Way, rate};

/// A frame of 1 MiB: a page of header, and 17 pages of KV as long as an engine's.
const SHAPE: KvShape = KvShape { layers: 17, planes: 1, page_bytes: 60 << 10 };
const _: () = assert!(SHAPE.shard_bytes() + HEADER_BYTES as u64 == FRAME_BYTES);
const CALL_BLOCKS: u32 = 16;
const CALLS: u32 = 8;
const DRAM_BYTES: u64 = 512 * MIB;
const CONTENT: Content = Content::new(3);
const TIMEOUT: Duration = Duration::from_secs(20);

/// A daemon, a client with pages for all calls under way, and the chains that are on the disk.
pub struct Served {
    client: Client,
    handle: PoolHandle,
    _pool: HostPool,
    /// Each of [`CALL_BLOCKS`] blocks, named by its first one.
    chains: u64,
    _daemon: Daemon,
}

impl Served {
    pub async fn prepare(dir: &Path) -> Self {
        let absent = TierSize::default();
        let disk = TierSize::bytes(FILE_BYTES);
        let tiers = [absent, TierSize::bytes(DRAM_BYTES), disk, absent];
        let mut spec = DaemonSpec::new(env!("CARGO_BIN_EXE_terrace"), tiers);
        dir.clone_into(&mut spec.parent);
        spec.flags.push(("retention-policy".into(), "lru".into()));
        let daemon = Daemon::start(spec).await.unwrap();
        let config = ClientConfig::new("bench", content::namespace("bench", SHAPE));
        let client = Client::connect(daemon.socket(), config).await.unwrap();
        let pool = HostPool::create(PoolOrder::LayerMajor.layout(SHAPE, CALLS * CALL_BLOCKS));
        let pool = pool.unwrap();
        let mut block = vec![0; usize::try_from(SHAPE.shard_bytes()).unwrap()];
        for slot in 0..CALLS * CALL_BLOCKS {
            CONTENT.fill(slot.into(), 0, &mut block);
            pool.write_block(slot, &block).unwrap();
        }
        let handle = client.register_pool(&pool, 0).await.unwrap();
        let mut served = Self { client, handle, _pool: pool, chains: 0, _daemon: daemon };
        // Every slot of the file is written once, so that nothing is allocated while it counts.
        let all = FILE_BYTES / FRAME_BYTES / u64::from(CALL_BLOCKS);
        served.write(|chains| chains < all).await;
        served
    }

    pub async fn run(&mut self, way: Way, time: Duration) -> f64 {
        let (before, watch) = (self.moved().await, Stopwatch::start());
        match way {
            Way::Write => self.write(|_| watch.elapsed() < time).await,
            Way::Read => self.read(|| watch.elapsed() < time).await,
        }
        let took = watch.elapsed();
        let moved = self.moved().await;
        // What the tier counts is payload: a page more a frame crosses the link.
        let payload = match way {
            Way::Write => moved[0] - before[0],
            Way::Read => moved[1] - before[1],
        };
        rate(payload / SHAPE.shard_bytes() * FRAME_BYTES, took)
    }

    /// Payload bytes written to and read from the tier so far.
    async fn moved(&self) -> [u64; 2] {
        let status = self.client.status().await.unwrap();
        let nvme = &status.tiers[Tier::Nvme.index()];
        [nvme.bytes_in, nvme.bytes_out]
    }

    /// Durable stores of new chains, all calls busy, while `more` says so.
    async fn write(&mut self, more: impl Fn(u64) -> bool) {
        let mut calls: Vec<Op> = Vec::new();
        for call in 0.. {
            if calls.len() == CALLS as usize {
                self.end(calls.remove(0)).await;
            }
            if !more(self.chains) {
                break;
            }
            let slots = slots(call % CALLS);
            let request = Request::from(RequestId(1)).durable();
            let hashes = hashes(self.chains);
            let stored = self.client.store(request, None, hashes, self.handle, &slots).await;
            calls.push(stored.unwrap().op);
            self.chains += 1;
        }
        for call in calls {
            self.end(call).await;
        }
    }

    /// Loads of the newest chains, which memory does not hold, in the order of their stores.
    async fn read(&mut self, more: impl Fn() -> bool) {
        let kept = Way::Read.span_bytes() / FRAME_BYTES / u64::from(CALL_BLOCKS);
        let first = self.chains.saturating_sub(kept);
        let mut calls: Vec<Op> = Vec::new();
        for call in 0_u64.. {
            if calls.len() == CALLS as usize {
                self.end(calls.remove(0)).await;
            }
            if !more() {
                break;
            }
            let slots = slots(u32::try_from(call % u64::from(CALLS)).unwrap());
            let hashes = hashes(first + call % kept);
            let load = self.client.load(RequestId(1), hashes, self.handle, &slots, TIMEOUT).await;
            calls.push(load.unwrap());
        }
        for call in calls {
            self.end(call).await;
        }
    }

    async fn end(&self, call: Op) {
        let end = self.client.wait(call).await.unwrap();
        assert!(end.failed.is_empty() && end.not_durable.is_empty(), "{end:?}");
    }
}

fn slots(call: u32) -> Vec<u32> {
    (call * CALL_BLOCKS..(call + 1) * CALL_BLOCKS).collect()
}

fn hashes(chain: u64) -> Vec<u8> {
    let first = chain * u64::from(CALL_BLOCKS);
    (first..first + u64::from(CALL_BLOCKS)).flat_map(|id| CONTENT.engine_hash(id)).collect()
}
