//! The load of one round: clients that store, load and change their minds until the daemon is killed.
//!
//! Remembers what the daemon called durable, and nothing that it did not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use terrace::cli::daemon::Daemon;
use terrace::client::{Action, Completion, RequestId, Target};
use terrace::domain::retention::{Directive, Kind, RetentionRecord, Shield, TokenRange, Wish};
use terrace::workload::draw::Draw;

use super::rig::{self, Engine};

/// Blocks of one chain, and chains of one client in a round at most.
pub const CHAIN_BLOCKS: u64 = 24;
const CHAINS_MAX: u64 = 24;
const CLIENTS: u64 = 3;

/// What a round can take of the disk: each frame is a block and a page.
pub const ROUND_BYTES_MAX: u64 =
    CLIENTS * CHAINS_MAX * CHAIN_BLOCKS * (rig::BLOCK_BYTES as u64 + 4096);

const HOUR: Duration = Duration::from_hours(1);

/// A chain of which the daemon called a part durable.
#[derive(Debug)]
pub struct DurableChain {
    first: u64,
    blocks: u64,
    priority: u8,
}

impl DurableChain {
    pub fn durable_ids(&self) -> Vec<u64> {
        (self.first..self.first + self.blocks).collect()
    }

    /// The record is what the chain's owner asked for.
    pub fn check_record(&self, id: u64, record: &RetentionRecord) {
        let asked = (self.priority, Kind::System, u32::try_from(HOUR.as_millis()).unwrap());
        let found = (record.priority, record.kind, record.refresh_on_hit_ms);
        assert_eq!(found, asked, "block {id} of {self:?}: {record:?}");
        assert!(record.shield_until > terrace::domain::units::Time::ZERO, "{record:?}");
    }
}

/// What the daemon was offered and what it promised.
#[derive(Debug, Default)]
pub struct Acknowledged {
    pub durable: Vec<DurableChain>,
    /// First blocks of chains that were offered, durable or not.
    pub offered: Vec<u64>,
    pub cut_short: usize,
}

impl Acknowledged {
    pub fn extend(&mut self, other: Self) {
        self.durable.extend(other.durable);
        self.offered.extend(other.offered);
        self.cut_short += other.cut_short;
    }
}

/// Runs the clients, kills the daemon after so long, and tells what it had promised by then.
pub async fn until_killed(
    daemon: &mut Daemon,
    (round, seed): (u64, u64),
    after: Duration,
) -> Acknowledged {
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let engine = Engine::join(daemon, &format!("client-{number}")).await;
        let first = (round * CLIENTS + number) * CHAINS_MAX * CHAIN_BLOCKS;
        let (over, draw) = (Arc::clone(&over), Draw::new(seed + number));
        clients.push(terrace::env::spawn_task(client(engine, (first, number), draw, over)));
    }
    tokio::time::sleep(after).await;
    daemon.kill().unwrap();
    over.store(true, Ordering::Relaxed);
    let mut all = Acknowledged::default();
    for client in clients {
        all.extend(client.await.unwrap());
    }
    all
}

/// Stores chain after chain, one in three without asking for durability, until the daemon is gone.
async fn client(
    engine: Engine,
    (first, number): (u64, u64),
    mut draw: Draw,
    over: Arc<AtomicBool>,
) -> Acknowledged {
    let mut told = Acknowledged::default();
    for chain in 0..CHAINS_MAX {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let first = first + chain * CHAIN_BLOCKS;
        let blocks = 1 + u64::from(draw.below(u32::try_from(CHAIN_BLOCKS).unwrap()));
        let durable = draw.below(3) > 0;
        told.offered.push(first);
        let priority = u8::try_from(40 + draw.below(50)).unwrap();
        let Some(end) = store(&engine, (first, blocks), (number, priority), durable).await else {
            told.cut_short += 1;
            break;
        };
        let blocks = durable_prefix(&end);
        if durable && blocks > 0 {
            told.durable.push(DurableChain { first, blocks, priority });
        }
        disturb(&engine, first, &mut draw).await;
    }
    told
}

/// The chain's first blocks that are in neither list.
fn durable_prefix(end: &Completion) -> u64 {
    let bad = end.failed.iter().chain(&end.not_durable).min();
    u64::from(bad.copied().unwrap_or(end.blocks))
}

/// One store; nothing if its end was not told.
async fn store(
    engine: &Engine,
    (first, blocks): (u64, u64),
    (request, priority): (u64, u8),
    durable: bool,
) -> Option<Completion> {
    let ids: Vec<u64> = (first..first + blocks).collect();
    let shield = Some(Shield { ttl: HOUR, refresh_on_hit: true });
    let wish = Wish {
        shield,
        priority: Some((priority, None)),
        kind: Some(Kind::System),
        ..Wish::default()
    };
    let mut asked = terrace::client::Request::from(RequestId(request + 10));
    asked.directives = vec![Directive { tokens: TokenRange::ALL, wish }];
    asked.durable = durable;
    let op = engine.try_store_as(asked, &ids).await.ok()?.op;
    engine.client.wait(op).await.ok()
}

/// Reads and records that change beside the stores; the daemon may be gone by now.
async fn disturb(engine: &Engine, first: u64, draw: &mut Draw) {
    let ids: Vec<u64> = (first..first + CHAIN_BLOCKS).collect();
    if draw.percent(40) {
        let target = Target::Keys(engine.hashes(&ids[..1]).into());
        let shield = Some(Shield { ttl: HOUR, refresh_on_hit: true });
        let wish = Wish { shield, ..Wish::default() };
        drop(engine.client.hint(vec![Action::Retain { target, wish }]).await);
    }
    if draw.percent(60) {
        drop(engine.client.lookup(rig::REQUEST, engine.hashes(&ids)).await);
    }
}
