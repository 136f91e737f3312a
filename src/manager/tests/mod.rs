//! The manager's rules, each stated as a short scenario. Blocks are numbers, chains are lists.

mod rules;

mod shards;

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::namespace::{KvShape, Namespace};
use crate::domain::tier::Tier;
use crate::domain::units::{CHUNK_BYTES, Time};

use super::api::*;
use super::{Manager, ManagerConfig, TierConfig};

/// A manager and a world that performs its effects when told to.
struct Bench {
    manager: Manager,
    now: Time,
    effects: Vec<Effect>,
    transfers: VecDeque<Transfer>,
    completions: Vec<Completion>,
    freed: Vec<PoolId>,
    client: ClientId,
    pool: PoolId,
    tag: u64,
}

fn namespace(shard_count: u32) -> Namespace {
    Namespace {
        model: "m".into(),
        revision: String::new(),
        dtype: "bf16".into(),
        layout: "NHD".into(),
        shape: KvShape { layers: 2, planes: 2, page_bytes: 4096 },
        block_tokens: 16,
        shard_count,
        hash_scheme: "test".into(),
        hash_bytes: 8,
        tenant_salt: Vec::new(),
    }
}

fn key(n: u64) -> Key {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Key(bytes)
}

fn keys(blocks: &[u64]) -> Vec<Key> {
    blocks.iter().map(|n| key(*n)).collect()
}

impl Bench {
    /// A node whose tiers hold so many blocks each; zero is an absent tier.
    fn new(blocks: [u64; 4]) -> Self {
        Self::with_config(blocks, 1, |_| {})
    }

    fn with_config(blocks: [u64; 4], shards: u32, adjust: impl FnOnce(&mut ManagerConfig)) -> Self {
        let tier = |slots_max: u64| {
            let capacity_bytes = 4 * CHUNK_BYTES;
            (slots_max > 0).then_some(TierConfig { capacity_bytes, slots_max, recovers: false })
        };
        let mut config = ManagerConfig::with_tiers(blocks.map(tier));
        adjust(&mut config);
        let mut bench = Self {
            manager: Manager::new(config),
            now: Time::from_millis(1),
            effects: Vec::new(),
            transfers: VecDeque::new(),
            completions: Vec::new(),
            freed: Vec::new(),
            client: ClientId(1),
            pool: PoolId(0),
            tag: 0,
        };
        bench.join(ClientId(1), shards);
        bench
    }

    fn join(&mut self, client: ClientId, shards: u32) {
        self.client = client;
        let hello = self.ask(Command::Hello { namespace: namespace(shards) });
        assert!(matches!(hello, Reply::Hello { .. }), "{hello:?}");
        self.pool = self.register(0);
    }

    fn register(&mut self, shard: u32) -> PoolId {
        match self.ask(Command::RegisterPool { shard, slots: 1000 }) {
            Reply::Pool { pool } => pool,
            other => panic!("{other:?}"),
        }
    }

    fn event(&mut self, event: Event) -> Option<Reply> {
        let mut effects = std::mem::take(&mut self.effects);
        self.manager.step(self.now, event, &mut effects);
        let mut reply = None;
        for effect in effects.drain(..) {
            match effect {
                Effect::Reply { reply: answer, .. } => reply = Some(answer),
                Effect::Start(transfer) => self.transfers.push_back(transfer),
                Effect::Complete { completion, .. } => self.completions.push(completion),
                Effect::PoolFreed { pool, .. } => self.freed.push(pool),
                Effect::Erase { .. } => {}
            }
        }
        self.effects = effects;
        self.manager.check_invariants().expect("every step keeps the invariants");
        reply
    }

    fn ask(&mut self, command: Command) -> Reply {
        self.tag += 1;
        let event = Event::Command { tag: ReplyTag(self.tag), client: self.client, command };
        self.event(event).expect("every command is answered")
    }

    /// Ends every transfer, and those that follow from them; `fail` says how items end.
    fn run_with(&mut self, mut fail: impl FnMut(&TransferItem) -> Option<FailureKind>) {
        while let Some(transfer) = self.transfers.pop_front() {
            let failed = (0..)
                .zip(&transfer.items)
                .filter_map(|(item, copy)| fail(copy).map(|kind| ItemFailure { item, kind }))
                .collect();
            self.event(Event::TransferDone { transfer: transfer.id, failed });
        }
    }

    fn run(&mut self) {
        self.run_with(|_| None);
    }

    fn start_store(&mut self, parent: Option<u64>, blocks: &[u64]) -> Reply {
        let (pool, slots) = (self.pool, (0..).take(blocks.len()).collect());
        let parent = parent.map(key);
        self.ask(Command::Store { request: RequestId(1), parent, keys: keys(blocks), pool, slots })
    }

    fn store(&mut self, parent: Option<u64>, blocks: &[u64]) -> Completion {
        let reply = self.start_store(parent, blocks);
        assert!(matches!(reply, Reply::Store { .. }), "{reply:?}");
        self.run();
        self.completions.pop().expect("a store completes")
    }

    fn start_load(&mut self, blocks: &[u64]) -> Reply {
        let (pool, slots) = (self.pool, (0..).take(blocks.len()).collect());
        let timeout = Duration::from_secs(1);
        self.ask(Command::Load { request: RequestId(1), keys: keys(blocks), pool, slots, timeout })
    }

    fn load(&mut self, blocks: &[u64]) -> Completion {
        let reply = self.start_load(blocks);
        assert!(matches!(reply, Reply::Load { .. }), "{reply:?}");
        self.run();
        self.completions.pop().expect("a load completes")
    }

    /// Looks a chain up and lets go of it at once: `hbm:2 dram:1`.
    fn found(&mut self, blocks: &[u64]) -> String {
        let reply = self.ask(Command::Lookup { request: RequestId(9), keys: keys(blocks) });
        self.ask(Command::EndRequest { request: RequestId(9) });
        self.run();
        let Reply::Lookup { runs, .. } = reply else { panic!("{reply:?}") };
        let shown: Vec<_> = runs.iter().map(|run| format!("{}:{}", run.tier, run.blocks)).collect();
        shown.join(" ")
    }

    fn lease(&mut self, blocks: &[u64]) -> LeaseId {
        match self.ask(Command::Lookup { request: RequestId(7), keys: keys(blocks) }) {
            Reply::Lookup { lease: Some(lease), .. } => lease,
            other => panic!("{other:?}"),
        }
    }

    fn tier(&self, tier: Tier) -> TierStatus {
        self.manager.status().tiers[tier.index()]
    }
}
