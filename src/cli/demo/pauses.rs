//! Agents that wait for tools while others use the memory: how long their next requests wait for
//! blocks, with lifts ahead of need and without.
//!
//! The same agents with the same pauses run twice, each time on a daemon of their own. They say
//! when a tool starts and how long it should take, and are a little wrong about that. Every byte
//! that comes back is compared.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;

use crate::cli::daemon::{Daemon, DaemonSpec};
use crate::cli::replay::live::{LiveError, namespace_of, size_of, unless_interrupted};
use crate::cli::replay::report::Percentiles;
use crate::client::{
    Action, Client, ClientConfig, ClientError, HostPool, PoolHandle, PoolOrder, RequestId,
};
use crate::domain::namespace::Namespace;
use crate::domain::session::SessionName;
use crate::domain::tier::Tier;
use crate::env::{self, Stopwatch};
use crate::workload::content::Content;
use crate::workload::draw::Draw;

use super::agents::BLOCK_TOKENS;

pub(super) const AGENTS: u32 = 16;

/// Requests of one agent: the first computes everything, the others find what is there.
const TURNS: u32 = 6;
const FIRST_BLOCKS: u32 = 20;
const TURN_BLOCKS: u32 = 2;
const BLOCKS_MAX: u32 = FIRST_BLOCKS + TURN_BLOCKS * (TURNS - 1);

/// Half of what all agents use together fits in DRAM, all of it on NVMe.
const CAPACITY_BLOCKS: [u64; Tier::COUNT] = [0, 240, 960, 0];

/// How long a tool is expected to run, and by how much it is mistaken at most, in milliseconds.
const EXPECTED_MIN_MS: u32 = 500;
const EXPECTED_SPREAD_MS: u32 = 500;
const MISTAKE_MAX_MS: u32 = 100;

const LOAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How one side came out.
#[derive(Debug, Serialize)]
pub(super) struct Pauses {
    pub(super) prefetch: bool,
    pub(super) requests: u64,
    pub(super) load_wait_us: Wait,
    /// Blocks that requests found, and those that were on NVMe alone.
    pub(super) found_blocks: u64,
    pub(super) nvme_blocks: u64,
    pub(super) lifted_bytes: u64,
    pub(super) timely_bytes: u64,
    pub(super) late_bytes: u64,
    pub(super) wasted_bytes: u64,
    pub(super) corrupt_blocks: u64,
}

/// From asking for what was found until it is there, in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Wait {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// What one agent met.
#[derive(Default)]
struct Met {
    waits_us: Vec<f64>,
    found_blocks: u64,
    nvme_blocks: u64,
    corrupt_blocks: u64,
}

/// Runs the agents without lifts and with them.
///
/// # Errors
/// See [`LiveError`].
pub(super) fn compare(seed: u64, block_bytes: u64) -> Result<[Pauses; 2], LiveError> {
    unless_interrupted(async {
        Ok([side(false, seed, block_bytes).await?, side(true, seed, block_bytes).await?])
    })
}

async fn side(prefetch: bool, seed: u64, block_bytes: u64) -> Result<Pauses, LiveError> {
    let namespace = namespace_of(block_bytes, BLOCK_TOKENS);
    let sizes = Tier::ALL.map(|tier| size_of(tier, CAPACITY_BLOCKS[tier.index()], &namespace));
    let mut spec = DaemonSpec::of_this_binary(sizes)?;
    let flag = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    spec.flags.push(flag("prefetch-tier-percent", "50"));
    if !prefetch {
        spec.flags.push(flag("prefetch-lifts-max", "0"));
    }
    let mut daemon = Daemon::start(spec).await?;
    let outcome = lived(prefetch, seed, namespace, daemon.socket()).await;
    daemon.or_its_end(outcome).await
}

async fn lived(
    prefetch: bool,
    seed: u64,
    namespace: Namespace,
    socket: PathBuf,
) -> Result<Pauses, LiveError> {
    let layout = PoolOrder::LayerMajor.layout(namespace.shape, AGENTS * BLOCKS_MAX);
    let client = Client::connect(socket, ClientConfig::new("pauses", namespace)).await?;
    let pool = HostPool::create(layout)?;
    let handle = client.register_pool(&pool, 0).await?;
    let engine = Arc::new(Engine { client, pool, handle, content: Content::new(seed) });
    let agents = (0..AGENTS).map(|number| {
        let (engine, draw) = (Arc::clone(&engine), Draw::new(seed.wrapping_add(number.into())));
        env::spawn_task(async move { Agent { number, engine, draw }.live().await })
    });
    let mut all = Met::default();
    for agent in agents.collect::<Vec<_>>() {
        let gave_up = |_| ClientError::SessionLost("an agent was given up".into());
        all.add(agent.await.map_err(gave_up)??);
    }
    let lifts = engine.client.status().await?.lifts;
    Ok(Pauses {
        prefetch,
        requests: u64::from(AGENTS * TURNS),
        load_wait_us: Wait::of(&mut all.waits_us),
        found_blocks: all.found_blocks,
        nvme_blocks: all.nvme_blocks,
        lifted_bytes: lifts.bytes,
        timely_bytes: lifts.timely_bytes,
        late_bytes: lifts.late_bytes,
        wasted_bytes: lifts.wasted_bytes,
        corrupt_blocks: all.corrupt_blocks,
    })
}

impl Met {
    fn add(&mut self, other: Self) {
        self.waits_us.extend(other.waits_us);
        self.found_blocks += other.found_blocks;
        self.nvme_blocks += other.nvme_blocks;
        self.corrupt_blocks += other.corrupt_blocks;
    }
}

impl Wait {
    #[expect(clippy::cast_precision_loss, reason = "a mean is shown with few digits")]
    fn of(waits_us: &mut [f64]) -> Self {
        let mean = waits_us.iter().sum::<f64>() / waits_us.len().max(1) as f64;
        let Percentiles { p50, p99 } = Percentiles::of(waits_us);
        Self { mean, p50, p99 }
    }
}

struct Engine {
    client: Client,
    pool: HostPool,
    handle: PoolHandle,
    content: Content,
}

struct Agent {
    number: u32,
    engine: Arc<Engine>,
    draw: Draw,
}

impl Agent {
    async fn live(mut self) -> Result<Met, ClientError> {
        let session = SessionName::new(&format!("agent-{}", self.number))
            .expect("a short name of plain letters");
        let mut met = Met::default();
        // They don't all begin at once.
        sleep(self.millis(0, EXPECTED_SPREAD_MS)).await;
        for turn in 0..TURNS {
            self.request(turn, &session, &mut met).await?;
            if turn + 1 == TURNS {
                // Nobody comes back for what would be lifted now.
                break;
            }
            let expected = self.millis(EXPECTED_MIN_MS, EXPECTED_SPREAD_MS);
            let takes = expected + self.millis(0, 2 * MISTAKE_MAX_MS);
            let takes = takes.saturating_sub(Duration::from_millis(MISTAKE_MAX_MS.into()));
            let start = Action::ToolStart { session: session.clone(), expected: Some(expected) };
            self.engine.client.hint(vec![start]).await?;
            sleep(takes).await;
        }
        Ok(met)
    }

    fn millis(&mut self, least: u32, spread: u32) -> Duration {
        Duration::from_millis((least + self.draw.below(spread)).into())
    }

    /// Loads what is there of the agent's chain, compares it, and stores the rest.
    async fn request(
        &self,
        turn: u32,
        session: &SessionName,
        met: &mut Met,
    ) -> Result<(), ClientError> {
        let client = &self.engine.client;
        let id = RequestId(u64::from(self.number * TURNS + turn) + 1);
        let blocks = FIRST_BLOCKS + turn * TURN_BLOCKS;
        let found = client.lookup(id.of(session), self.hashes(0..blocks)).await?;
        if found.matched_blocks > 0 {
            met.found_blocks += u64::from(found.matched_blocks);
            let sunk = found.runs.iter().filter(|run| run.tier == Tier::Nvme);
            met.nvme_blocks += sunk.map(|run| u64::from(run.blocks)).sum::<u64>();
            let waiting = Stopwatch::start();
            let slots = self.slots(0..found.matched_blocks);
            let hashes = self.hashes(0..found.matched_blocks);
            let load = client.load(id, hashes, self.engine.handle, &slots, LOAD_TIMEOUT).await?;
            let end = client.wait(load).await?;
            met.waits_us.push(waiting.elapsed().as_secs_f64() * 1e6);
            met.corrupt_blocks += self.compare(found.matched_blocks, &end.failed)?;
        }
        if found.matched_blocks < blocks {
            self.store(id, session, found.matched_blocks..blocks).await?;
            // The session's chain is what its last lookup reached.
            client.lookup(id.of(session), self.hashes(0..blocks)).await?;
        }
        client.end_request(id).await.map(drop)
    }

    async fn store(
        &self,
        id: RequestId,
        session: &SessionName,
        blocks: std::ops::Range<u32>,
    ) -> Result<(), ClientError> {
        let engine = &self.engine;
        let mut bytes = vec![0; self.block_bytes()];
        let slots = self.slots(blocks.clone());
        for (slot, block) in slots.iter().zip(blocks.clone()) {
            engine.content.fill(self.block(block), 0, &mut bytes);
            engine.pool.write_block(*slot, &bytes)?;
        }
        let parent = blocks.start.checked_sub(1).map(|block| self.hashes(block..block + 1));
        let hashes = self.hashes(blocks);
        let request = id.of(session);
        let stored =
            engine.client.store(request, parent.as_deref(), hashes, engine.handle, &slots).await?;
        engine.client.wait(stored.op).await.map(drop)
    }

    /// How many of the blocks that came are not what was stored.
    fn compare(&self, blocks: u32, failed: &[u32]) -> Result<u64, ClientError> {
        let mut bytes = vec![0; self.block_bytes()];
        let mut corrupt = 0;
        for (block, slot) in (0..blocks).zip(self.slots(0..blocks)) {
            if failed.binary_search(&block).is_err() {
                self.engine.pool.read_block(slot, &mut bytes)?;
                corrupt += u64::from(!self.engine.content.matches(self.block(block), 0, &bytes));
            }
        }
        Ok(corrupt)
    }

    fn block_bytes(&self) -> usize {
        let bytes = self.engine.pool.layout().shape.shard_bytes();
        usize::try_from(bytes).expect("a block is smaller than a chunk")
    }

    /// The number that stands for one block of this agent's chain.
    fn block(&self, block: u32) -> u64 {
        u64::from(self.number * BLOCKS_MAX + block)
    }

    fn hashes(&self, blocks: std::ops::Range<u32>) -> Vec<u8> {
        blocks.flat_map(|block| self.engine.content.engine_hash(self.block(block))).collect()
    }

    fn slots(&self, blocks: std::ops::Range<u32>) -> Vec<u32> {
        blocks.map(|block| self.number * BLOCKS_MAX + block).collect()
    }
}
