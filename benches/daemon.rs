//! What the daemon costs, as an engine on the same machine sees it.
//!
//!     cargo bench --bench daemon            a table
//!     cargo bench --bench daemon -- --json  one JSON object
//!
//! Three figures, each with a bar from the project's goals: loads from DRAM against one thread's
//! copy of as many bytes in the same run, lookups of a long chain, and the daemon's own memory.
//! Absolute speeds are the machine's; the ratio is the daemon's.
#![allow(clippy::unwrap_used, reason = "a bench is a test")]

use std::time::Duration;

use terrace::cli::daemon::{Daemon, DaemonSpec, ResidentMemory, TierSize};
use terrace::client::{Client, ClientConfig, HostPool, PoolHandle, PoolOrder, RequestId};
use terrace::domain::namespace::KvShape;
use terrace::env::Stopwatch;
use terrace::workload::content::{self, Content, ENGINE_HASH_BYTES};

const MIB: u64 = 1 << 20;
const NONE: [u32; 0] = [];
const CONTENT: Content = Content::new(1);

/// Loads: so many blocks of 1 MiB, 32 layers of K and V with pages of 16 KiB, in so many calls.
const LOAD_SHAPE: KvShape = KvShape { layers: 32, planes: 2, page_bytes: 16 << 10 };
const LOAD_BLOCKS: u32 = 256;
const LOAD_CALL_BLOCKS: usize = 64;
const LOAD_ROUNDS: usize = 15;
const LOAD_RATIO_BAR: f64 = 0.8;

const LOOKUP_SHAPE: KvShape = KvShape { layers: 1, planes: 2, page_bytes: 2 << 10 };
const LOOKUP_BLOCKS: u32 = 6_000;
const LOOKUP_ROUNDS: usize = 1_000;
const LOOKUP_BAR_US: f64 = 2_000.0;

const MEMORY_BAR_BYTES: u64 = 64 * MIB;

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let figures = runtime.block_on(measure());
    if json { figures.print_json() } else { figures.print_table() }
}

struct Figures {
    /// Medians, in bytes a second.
    load: f64,
    copy: f64,
    /// Median of load over copy, round by round.
    load_ratio: f64,
    lookup_p50_us: f64,
    lookup_p99_us: f64,
    memory: ResidentMemory,
}

async fn measure() -> Figures {
    let dram = TierSize::bytes(512 * MIB);
    let absent = TierSize::default();
    let spec = DaemonSpec::new(env!("CARGO_BIN_EXE_terrace"), [absent, dram, absent, absent]);
    let daemon = Daemon::start(spec).await.unwrap();
    let (load, copy, load_ratio) = loads(&daemon).await;
    let engine = Engine::join(&daemon, "lookup", LOOKUP_SHAPE, LOOKUP_BLOCKS).await;
    let (lookup_p50_us, lookup_p99_us) = lookups(&engine).await;
    let memory = daemon.resident_memory().unwrap();
    Figures { load, copy, load_ratio, lookup_p50_us, lookup_p99_us, memory }
}

struct Engine {
    client: Client,
    pool: HostPool,
    handle: PoolHandle,
    hashes: Vec<u8>,
    slots: Vec<u32>,
}

impl Engine {
    /// A client with a pool of as many slots as its chain has blocks, all of it stored.
    async fn join(daemon: &Daemon, name: &str, shape: KvShape, blocks: u32) -> Self {
        let namespace = content::namespace(name, shape);
        let config = ClientConfig::new(name, namespace);
        let client = Client::connect(daemon.socket(), config).await.unwrap();
        let pool = HostPool::create(PoolOrder::LayerMajor.layout(shape, blocks)).unwrap();
        let handle = client.register_pool(&pool, 0).await.unwrap();
        let hashes = (0..blocks).flat_map(|id| CONTENT.engine_hash(id.into())).collect();
        let engine = Self { client, pool, handle, hashes, slots: (0..blocks).collect() };
        engine.store().await;
        engine
    }

    fn hashes(&self, from: usize, blocks: usize) -> Vec<u8> {
        self.hashes[from * ENGINE_HASH_BYTES..(from + blocks) * ENGINE_HASH_BYTES].to_vec()
    }

    async fn store(&self) {
        let mut block = vec![0; self.block_bytes()];
        for slot in &self.slots {
            CONTENT.fill((*slot).into(), 0, &mut block);
            self.pool.write_block(*slot, &block).unwrap();
        }
        let all = self.hashes(0, self.slots.len());
        let stored = self.client.store(RequestId(0), None, all, self.handle, &self.slots).await;
        let end = self.client.wait(stored.unwrap().op).await.unwrap();
        assert_eq!(end.failed, NONE, "the tier is large enough");
    }

    /// Loads the whole chain in calls that are all under way at once.
    async fn load(&self) {
        let mut ops = Vec::new();
        for (call, slots) in self.slots.chunks(LOAD_CALL_BLOCKS).enumerate() {
            let hashes = self.hashes(call * LOAD_CALL_BLOCKS, slots.len());
            let timeout = Duration::from_secs(10);
            let op = self.client.load(RequestId(0), hashes, self.handle, slots, timeout).await;
            ops.push(op.unwrap());
        }
        for op in ops {
            assert_eq!(self.client.wait(op).await.unwrap().failed, NONE, "the blocks are there");
        }
    }

    fn check(&self) {
        let mut block = vec![0; self.block_bytes()];
        for slot in &self.slots {
            self.pool.read_block(*slot, &mut block).unwrap();
            assert!(CONTENT.matches((*slot).into(), 0, &block), "slot {slot} has wrong bytes");
        }
    }

    fn block_bytes(&self) -> usize {
        usize::try_from(self.pool.layout().shape.shard_bytes()).unwrap()
    }
}

/// Bytes a second of loads, of one thread's copies, and the ratio; medians of alternating rounds.
async fn loads(daemon: &Daemon) -> (f64, f64, f64) {
    let engine = Engine::join(daemon, "load", LOAD_SHAPE, LOAD_BLOCKS).await;
    let bytes = engine.block_bytes() * engine.slots.len();
    // Filled, so that every page is there before anything is timed.
    let (from, mut to) = (vec![1_u8; bytes], vec![2_u8; bytes]);
    let (mut load, mut copy, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
    engine.load().await;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = |took: Duration| bytes as f64 / took.as_secs_f64();
    for _ in 0..LOAD_ROUNDS {
        let watch = Stopwatch::start();
        for (from, to) in from.chunks_exact(1 << 20).zip(to.chunks_exact_mut(1 << 20)) {
            to.copy_from_slice(std::hint::black_box(from));
        }
        std::hint::black_box(&mut to);
        let copied = rate(watch.elapsed());
        let watch = Stopwatch::start();
        engine.load().await;
        let loaded = rate(watch.elapsed());
        copy.push(copied);
        load.push(loaded);
        ratio.push(loaded / copied);
    }
    engine.check();
    (rank(&mut load, 50), rank(&mut copy, 50), rank(&mut ratio, 50))
}

/// Microseconds of one lookup of the whole chain: half, and all but one in a hundred, are below.
async fn lookups(engine: &Engine) -> (f64, f64) {
    let mut took = Vec::new();
    for round in 0..LOOKUP_ROUNDS {
        let request = RequestId(round as u64);
        let hashes = engine.hashes(0, engine.slots.len());
        let watch = Stopwatch::start();
        let found = engine.client.lookup(request, hashes).await.unwrap();
        took.push(watch.elapsed().as_secs_f64() * 1e6);
        assert_eq!(found.matched_blocks, LOOKUP_BLOCKS, "the whole chain is there");
        engine.client.end_request(request).await.unwrap();
    }
    (rank(&mut took, 50), rank(&mut took, 99))
}

/// The value at this percent of the sorted values.
fn rank(values: &mut [f64], percent: usize) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[(values.len() * percent).div_ceil(100) - 1]
}

impl Figures {
    fn print_table(&self) {
        let verdict = |good: bool| if good { "reached" } else { "MISSED" };
        println!(
            "loads from DRAM   {:.2} GB/s, one thread's copy {:.2} GB/s: {:.0}% (bar {:.0}%) {}",
            self.load / 1e9,
            self.copy / 1e9,
            100.0 * self.load_ratio,
            100.0 * LOAD_RATIO_BAR,
            verdict(self.load_ratio >= LOAD_RATIO_BAR)
        );
        println!(
            "lookup of {LOOKUP_BLOCKS}    p50 {:.0} us, p99 {:.0} us (bar p50 {LOOKUP_BAR_US} us) \
             {}",
            self.lookup_p50_us,
            self.lookup_p99_us,
            verdict(self.lookup_p50_us < LOOKUP_BAR_US)
        );
        println!(
            "daemon's memory   {} MiB of its own, {} MiB of blocks and pools (bar {} MiB) {}",
            self.memory.own_bytes() / MIB,
            self.memory.shared_bytes / MIB,
            MEMORY_BAR_BYTES / MIB,
            verdict(self.memory.own_bytes() < MEMORY_BAR_BYTES)
        );
    }

    fn print_json(&self) {
        let figures = serde_json::json!({
            "load_bytes_per_s": self.load,
            "copy_bytes_per_s": self.copy,
            "load_ratio": self.load_ratio,
            "lookup_blocks": LOOKUP_BLOCKS,
            "lookup_us": { "p50": self.lookup_p50_us, "p99": self.lookup_p99_us },
            "own_bytes": self.memory.own_bytes(),
            "shared_bytes": self.memory.shared_bytes,
        });
        println!("{figures}");
    }
}
