//! Loads from DRAM alone, and while stores drain to NVMe and chains are lifted from there.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use terrace::cli::daemon::Daemon;
use terrace::client::{Action, DaemonStatus, Link, Target};
use terrace::domain::hint::LiftWish;
use terrace::domain::tier::Tier;
use terrace::env::{self, Stopwatch};

use super::rig::{Chain, Engine, daemon, rank, tier_of};

/// Lifts are of chains that were stored so many chains before: they have sunk by then.
const AGE_FACTOR: u64 = 2;

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub page_bytes: u32,
    pub chain_blocks: u32,
    pub hot_chains: u64,
    pub dram_chunks: u64,
    pub rounds: usize,
    pub loads_a_round: usize,
}

/// Microseconds, and what moved meanwhile.
pub struct Figures {
    pub alone: [f64; 2],
    pub beside: [f64; 2],
    /// Medians over rounds of the ratio of p50s, and of p99s.
    pub p50_ratio: f64,
    pub p99_ratio: f64,
    pub stored_bytes: u64,
    pub drained_bytes: u64,
    pub lifted_bytes: u64,
    pub dropped_blocks: u64,
    pub beside_s: f64,
}

/// What is to be done beside loads, and what was.
struct Beside {
    runs: AtomicBool,
    over: AtomicBool,
    stored_chains: AtomicU64,
    dropped_blocks: AtomicU64,
}

pub async fn measure(load: Load) -> Figures {
    let daemon = daemon([0, load.dram_chunks, 4 * load.dram_chunks]).await;
    let engine = Engine::join(&daemon, "loads", load.page_bytes, load.chain_blocks).await;
    let hot: Vec<Chain> = (0..load.hot_chains).map(|n| chain(load, n)).collect();
    for chain in &hot {
        assert_eq!(engine.store(*chain).await, 0, "memory is empty");
    }
    let beside = Arc::new(Beside {
        runs: AtomicBool::new(false),
        over: AtomicBool::new(false),
        stored_chains: AtomicU64::new(0),
        dropped_blocks: AtomicU64::new(0),
    });
    let tasks = start(&daemon, load, &beside).await;
    // Memory fills, and every page of it and of the disk's file is touched once.
    beside.runs.store(true, Ordering::Relaxed);
    let fill_chains = 6 * load.dram_chunks * (64 << 20) / chain_bytes(load);
    while beside.stored_chains.load(Ordering::Relaxed) < fill_chains {
        loads(&engine, &hot, hot.len()).await;
    }
    let (mut alone, mut with) = (Vec::new(), Vec::new());
    let mut ratios = [Vec::new(), Vec::new()];
    let (mut moved, mut beside_s) = ([0; 3], 0.0);
    for _ in 0..load.rounds {
        beside.runs.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(50)).await;
        engine.settle().await;
        let mut quiet = loads(&engine, &hot, load.loads_a_round).await;
        beside.runs.store(true, Ordering::Relaxed);
        // It takes a moment until the links are full.
        tokio::time::sleep(Duration::from_millis(150)).await;
        let before = engine.client.status().await.unwrap();
        let watch = Stopwatch::start();
        let mut busy = loads(&engine, &hot, load.loads_a_round).await;
        beside_s += watch.elapsed().as_secs_f64();
        let after = engine.client.status().await.unwrap();
        for (sum, (after, before)) in
            moved.iter_mut().zip(bytes(&after).into_iter().zip(bytes(&before)))
        {
            *sum += after - before;
        }
        for (ratios, percent) in ratios.iter_mut().zip([50, 99]) {
            ratios.push(rank(&mut busy, percent) / rank(&mut quiet, percent));
        }
        alone.extend(quiet);
        with.extend(busy);
    }
    beside.over.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let both = |values: &mut [f64]| [50, 99].map(|percent| rank(values, percent));
    let [stored_bytes, drained_bytes, lifted_bytes] = moved;
    let [p50_ratio, p99_ratio] = ratios.map(|mut ratios| rank(&mut ratios, 50));
    Figures {
        alone: both(&mut alone),
        beside: both(&mut with),
        p50_ratio,
        p99_ratio,
        stored_bytes,
        drained_bytes,
        lifted_bytes,
        dropped_blocks: beside.dropped_blocks.load(Ordering::Relaxed),
        beside_s,
    }
}

fn chain(load: Load, number: u64) -> Chain {
    Chain { first: number * 1000, blocks: load.chain_blocks }
}

fn chain_bytes(load: Load) -> u64 {
    u64::from(load.chain_blocks) * u64::from(load.page_bytes) * 64
}

/// Stored, drained and lifted so far.
fn bytes(status: &DaemonStatus) -> [u64; 3] {
    let link = |link: Link| status.links[link.index()];
    [
        link(Link::DeviceDown).demand_bytes,
        link(Link::NvmeWrite).background_bytes,
        link(Link::NvmeRead).prefetch_bytes,
    ]
}

/// Requests, one after the other; how many microseconds each load of what was in DRAM took. What
/// sank, because the machine let this engine wait for so long, only comes up again.
async fn loads(engine: &Engine, hot: &[Chain], loads: usize) -> Vec<f64> {
    let mut took = Vec::with_capacity(loads);
    for chain in hot.iter().cycle().take(4 * loads) {
        let found = engine.lookup(*chain).await;
        assert_eq!(found.matched_blocks, chain.blocks, "{:?}", found.runs);
        let load = engine.load(*chain).await;
        engine.end_request().await;
        if tier_of(&found) == Some(Tier::Dram) {
            took.push(load.as_secs_f64() * 1e6);
        }
        if took.len() == loads {
            break;
        }
    }
    assert!(took.len() * 2 > loads, "the chains don't stay in DRAM");
    took
}

/// An engine that stores more than memory holds, and one that lifts what has sunk.
async fn start(
    daemon: &Daemon,
    load: Load,
    beside: &Arc<Beside>,
) -> [tokio::task::JoinHandle<()>; 2] {
    let first = load.hot_chains;
    let writer = Engine::join(daemon, "stores", load.page_bytes, load.chain_blocks).await;
    let lifter = Engine::join(daemon, "lifts", load.page_bytes, 1).await;
    let (storing, lifting) = (Arc::clone(beside), Arc::clone(beside));
    let store = async move {
        while storing.goes_on().await {
            let number = first + storing.stored_chains.load(Ordering::Relaxed);
            let dropped = writer.store(chain(load, number)).await;
            storing.dropped_blocks.fetch_add(dropped, Ordering::Relaxed);
            storing.stored_chains.fetch_add(1, Ordering::Relaxed);
        }
    };
    let sunk_chains = AGE_FACTOR * load.dram_chunks * (64 << 20) / chain_bytes(load);
    let lift = async move {
        let mut turn = 0;
        while lifting.goes_on().await {
            let stored = lifting.stored_chains.load(Ordering::Relaxed);
            let Some(youngest) = stored.checked_sub(sunk_chains) else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            turn += 1;
            let number = first + youngest - turn % (sunk_chains / 2).min(youngest + 1);
            lift_once(&lifter, chain(load, number)).await;
        }
    };
    [env::spawn_task(store), env::spawn_task(lift)]
}

/// Lifts a chain, waits for its end and lets it go again.
async fn lift_once(engine: &Engine, chain: Chain) {
    let target = Target::Keys(Engine::hashes(chain).into());
    let prefetch = Action::Prefetch { target, wish: LiftWish::default() };
    let outcome = engine.client.hint(vec![prefetch]).await.unwrap().pop().unwrap();
    let Some(operation) = outcome.operation else { return };
    engine.client.wait(engine.client.lift(operation)).await.unwrap();
    let cancel = Action::CancelPrefetch { operation: operation.0 };
    engine.client.hint(vec![cancel]).await.unwrap();
}

impl Beside {
    /// Waits while nothing is to be done; false once it is over.
    async fn goes_on(&self) -> bool {
        while !self.over.load(Ordering::Relaxed) {
            if self.runs.load(Ordering::Relaxed) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        false
    }
}

impl fmt::Display for Figures {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = |bytes: u64| bytes as f64 / self.beside_s / 1e6;
        writeln!(
            f,
            "loads from DRAM, alone    p50 {:.0} us, p99 {:.0} us",
            self.alone[0], self.alone[1]
        )?;
        writeln!(
            f,
            "beside offload and lifts  p50 {:.0} us, p99 {:.0} us",
            self.beside[0], self.beside[1]
        )?;
        writeln!(
            f,
            "ratio of all              p50 {:.2}, p99 {:.2} (goal 1.5)",
            self.beside[0] / self.alone[0],
            self.beside[1] / self.alone[1]
        )?;
        writeln!(
            f,
            "median ratio of a round   p50 {:.2}, p99 {:.2}",
            self.p50_ratio, self.p99_ratio
        )?;
        write!(
            f,
            "meanwhile                 stored {:.0} MB/s, drained {:.0} MB/s, lifted {:.0} MB/s; {} \
             blocks dropped",
            rate(self.stored_bytes),
            rate(self.drained_bytes),
            rate(self.lifted_bytes),
            self.dropped_blocks
        )
    }
}
