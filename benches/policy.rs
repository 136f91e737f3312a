//! What keeping the books costs, on one core: blocks stored and evicted, and blocks looked up.
//!
//!     cargo bench --bench policy
//!
//! Whole steps of the manager count: the command, the directory's rows with their records, the
//! policy, the transfers' beginning and end. Only the copying itself is left out. The goals are a
//! million blocks a second stored and evicted under `value`, and five million looked up.
#![allow(clippy::unwrap_used, reason = "a bench is a test")]

use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use terrace::domain::block::Key;
use terrace::domain::namespace::{KvShape, Namespace};
use terrace::domain::retention::Directives;
use terrace::domain::session::Stop;
use terrace::domain::tier::Tier;
use terrace::domain::units::{CHUNK_BYTES, Time};
use terrace::manager::api::{
    ClientId, Command, Effect, Event, Labels, PoolId, Reply, ReplyTag, RequestId,
};
use terrace::manager::{Manager, ManagerConfig, PolicyName, TierConfig};
use terrace::workload::content::{self, mix};

const CLIENT: ClientId = ClientId(1);
/// Blocks the tier holds, of a page each, and of one request's chain.
const CAPACITY_BLOCKS: u64 = 1 << 16;
const CHAIN_BLOCKS: u64 = 1024;
/// Agents that take turns: together they have four times what the tier holds.
const CHAINS: u64 = 256;

struct Rig {
    manager: Manager,
    pool: PoolId,
    now: Time,
    requests: u64,
    effects: Vec<Effect>,
    done: Vec<Event>,
}

impl Rig {
    fn new(policy: PolicyName) -> Self {
        let slots_max = CAPACITY_BLOCKS;
        let capacity_bytes = (slots_max * 8192).next_multiple_of(CHUNK_BYTES);
        let mut tiers = [None; Tier::COUNT];
        tiers[Tier::Dram.index()] = Some(TierConfig { capacity_bytes, slots_max, recovers: false });
        let config = ManagerConfig {
            policy,
            waiting_blocks_max: 1 << 20,
            ..ManagerConfig::with_tiers(tiers)
        };
        let mut rig = Self {
            manager: Manager::new(config),
            pool: PoolId(0),
            now: Time::ZERO,
            requests: 0,
            effects: Vec::new(),
            done: Vec::new(),
        };
        rig.ask(Command::hello(namespace()));
        let slots = u32::try_from(CHAIN_BLOCKS).unwrap();
        let Reply::Pool { pool } =
            rig.ask(Command::RegisterPool { shard: 0, slots, has_events: false })
        else {
            unreachable!("a pool can be had");
        };
        rig.pool = pool;
        rig
    }

    fn ask(&mut self, command: Command) -> Reply {
        let tag = ReplyTag(0);
        let mut answer = self.step(Event::Command { tag, client: CLIENT, command });
        while let Some(event) = self.done.pop() {
            answer = answer.or(self.step(event));
        }
        answer.unwrap()
    }

    fn step(&mut self, event: Event) -> Option<Reply> {
        self.manager.step(self.now, event, &mut self.effects);
        let mut answer = None;
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Reply { reply, .. } => answer = Some(reply),
                Effect::Start(transfer) => {
                    let (transfer, failed) = (transfer.id, Vec::new());
                    self.done.push(Event::TransferDone { transfer, failed });
                }
                _ => {}
            }
        }
        answer
    }

    /// Looks the chain up, a second after the last request, and gives how many blocks are there.
    fn lookup(&mut self, keys: &[Key]) -> usize {
        self.now = Time { micros: self.now.micros + 1_000_000 };
        self.requests += 1;
        let (request, keys) = (RequestId(self.requests), keys.to_vec());
        let ask_shared = Duration::ZERO;
        let look = Command::Lookup { request, session: None, keys, ask_shared, queued: false };
        let Reply::Lookup { runs, .. } = self.ask(look) else {
            unreachable!("lookups are answered");
        };
        runs.iter().map(|run| run.blocks as usize).sum()
    }

    fn store(&mut self, keys: &[Key], from: usize) {
        let missing = keys[from..].to_vec();
        if missing.is_empty() {
            return;
        }
        self.ask(Command::Store {
            request: RequestId(self.requests),
            session: None,
            directives: Directives::default(),
            parent: from.checked_sub(1).map(|last| keys[last]),
            slots: (0..u32::try_from(missing.len()).unwrap()).collect(),
            keys: missing,
            durable: false,
            labels: Labels::default(),
            pool: self.pool,
        });
    }

    fn end(&mut self, stop: Stop, output_tokens: u32) {
        let request = RequestId(self.requests);
        self.ask(Command::EndRequest { request, stop, output_tokens, prefill: None });
    }
}

fn namespace() -> Namespace {
    let shape = KvShape { layers: 1, planes: 1, page_bytes: 4096 };
    Namespace { hash_bytes: 16, ..content::namespace("bench", shape) }
}

/// The chain of an agent in one of its lives.
fn chain(agent: u64, life: u64) -> Vec<Key> {
    let key = |at: u64| {
        let low = mix(agent << 40 ^ life << 20 ^ at);
        let mut bytes = [0; Key::BYTES];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&mix(!low).to_le_bytes());
        Key(bytes)
    };
    (0..CHAIN_BLOCKS).map(key).collect()
}

/// Agents take turns with new chains, so that every block stored sends another one away.
fn store_and_evict(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store_and_evict");
    group.throughput(Throughput::Elements(CHAIN_BLOCKS));
    for policy in PolicyName::ALL {
        let mut rig = Rig::new(policy);
        let mut turn = 0;
        let mut one = || {
            turn += 1;
            let keys = chain(turn % CHAINS, turn / CHAINS);
            let found = rig.lookup(&keys);
            rig.store(&keys, found);
            rig.end(Stop::ToolUse, 100);
        };
        (0..CAPACITY_BLOCKS / CHAIN_BLOCKS).for_each(|_| one());
        group.bench_function(policy.name(), |bencher| bencher.iter(&mut one));
    }
    group.finish();
}

/// Agents take turns with chains that are there.
fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(CHAIN_BLOCKS));
    for policy in PolicyName::ALL {
        let mut rig = Rig::new(policy);
        let chains: Vec<_> = (0..CAPACITY_BLOCKS / CHAIN_BLOCKS / 2).map(|n| chain(n, 0)).collect();
        for keys in &chains {
            let found = rig.lookup(keys);
            rig.store(keys, found);
            rig.end(Stop::ToolUse, 100);
        }
        let mut turn = 0;
        group.bench_function(policy.name(), |bencher| {
            bencher.iter(|| {
                turn += 1;
                let found = rig.lookup(&chains[turn % chains.len()]);
                assert_eq!(found as u64, CHAIN_BLOCKS);
                rig.end(Stop::ToolUse, 100);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, store_and_evict, lookup);
criterion_main!(benches);
