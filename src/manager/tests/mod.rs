//! The manager's rules, each stated as a short scenario. Blocks are numbers, chains are lists.

mod rules;

mod shards;

mod retention;

mod sessions;

mod travel;

mod recut;

mod lent;
mod lifts;

mod plans;

mod durable;

mod residency;

mod outages;

mod writes;

mod behind;

mod engines;

mod checks;

use std::collections::VecDeque;
use std::time::Duration;

use crate::domain::block::{HashTail, Key};
use crate::domain::directory::Change;
use crate::domain::hint::{Action, Outcome};
use crate::domain::namespace::{KvShape, Namespace};
use crate::domain::retention::{Directive, Directives, RetentionRecord};
use crate::domain::session::{SessionName, Stop};
use crate::domain::tier::Tier;
use crate::domain::units::{CHUNK_BYTES, Time};

use crate::tiers::store::Place;

use super::api::*;
use super::{Manager, ManagerConfig, PolicyName, TierConfig};

/// A manager and a world that performs its effects when told to.
struct Bench {
    manager: Manager,
    now: Time,
    effects: Vec<Effect>,
    transfers: VecDeque<Transfer>,
    completions: Vec<Completion>,
    freed: Vec<PoolId>,
    awaited: VecDeque<OpId>,
    changes: Vec<Change>,
    erases: VecDeque<(Tier, Option<Place>, Key)>,
    restamps: VecDeque<(Tier, Key, RetentionRecord)>,
    /// Objects whose headers are to be looked at.
    looks: Vec<Key>,
    /// The promises that each of them may put off.
    known: Vec<Time>,
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

fn name(text: &str) -> SessionName {
    SessionName::new(text).expect("the test's names are sound")
}

struct Turn {
    clipped: u32,
    usage: Usage,
}

impl Bench {
    /// A node whose tiers hold so many blocks each; zero is an absent tier.
    fn new(blocks: [u64; 4]) -> Self {
        Self::with_config(blocks, 1, |_| {})
    }
    /// After a restart, before NVMe is scanned.
    fn recovering(blocks: [u64; 4]) -> Self {
        Self::with_config(blocks, 1, |config| {
            config.tiers[Tier::Nvme.index()].as_mut().expect("present").recovers = true;
        })
    }

    fn with_config(blocks: [u64; 4], shards: u32, adjust: impl FnOnce(&mut ManagerConfig)) -> Self {
        let tier = |slots_max: u64| {
            let capacity_bytes = 4 * CHUNK_BYTES;
            (slots_max > 0).then_some(TierConfig { capacity_bytes, slots_max, recovers: false })
        };
        let mut config = ManagerConfig::with_tiers(blocks.map(tier));
        // Its order is plain to see: what is tested here is what happens to the copies it names.
        config.policy = PolicyName::Lru;
        adjust(&mut config);
        let mut bench = Self {
            manager: Manager::new(config),
            now: Time::from_millis(1),
            effects: Vec::new(),
            transfers: VecDeque::new(),
            completions: Vec::new(),
            freed: Vec::new(),
            awaited: VecDeque::new(),
            changes: Vec::new(),
            erases: VecDeque::new(),
            restamps: VecDeque::new(),
            looks: Vec::new(),
            known: Vec::new(),
            client: ClientId(1),
            pool: PoolId(0),
            tag: 0,
        };
        bench.join(ClientId(1), shards);
        bench
    }

    fn join(&mut self, client: ClientId, shards: u32) {
        self.client = client;
        let hello = self.ask(Command::hello(namespace(shards)));
        assert!(matches!(hello, Reply::Hello { .. }), "{hello:?}");
        self.pool = self.register(0);
    }

    fn register(&mut self, shard: u32) -> PoolId {
        self.register_pool(Command::RegisterPool { shard, slots: 1000, has_events: false })
    }

    fn register_with_events(&mut self) -> PoolId {
        self.register_pool(Command::RegisterPool { shard: 0, slots: 1000, has_events: true })
    }

    fn register_pool(&mut self, command: Command) -> PoolId {
        match self.ask(command) {
            Reply::Pool { pool } => pool,
            other => panic!("{other:?}"),
        }
    }

    fn event(&mut self, event: Event) -> Option<Reply> {
        let mut effects = std::mem::take(&mut self.effects);
        self.manager.step(self.now, event, &mut effects);
        let mut reply = None;
        let tells = |effect: &Effect| matches!(effect, Effect::Residency { .. });
        assert!(
            effects.is_sorted_by_key(|effect| !tells(effect)),
            "an end is heard of before what it changed"
        );
        for effect in effects.drain(..) {
            match effect {
                Effect::Reply { reply: answer, .. } => reply = Some(answer),
                Effect::AwaitEngine { op, .. } => self.awaited.push_back(op),
                Effect::Start(transfer) => self.transfers.push_back(transfer),
                Effect::Complete { completion, .. } => self.completions.push(completion),
                Effect::PoolFreed { pool, .. } => self.freed.push(pool),
                Effect::Residency { changes, .. } => self.changes.extend(changes),
                Effect::Erase { tier, place, key, .. } => self.erases.push_back((tier, place, key)),
                Effect::LookAgain { key } => self.looks.push(key),
                Effect::Restamp { tier, key, record, known, .. } => {
                    self.restamps.push_back((tier, key, record));
                    self.known.push(known);
                }
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
        while !self.transfers.is_empty() || self.erases.iter().any(|(_, place, _)| place.is_some())
        {
            self.end_slot_erases();
            let Some(transfer) = self.transfers.pop_front() else { continue };
            let failed = (0..)
                .zip(&transfer.items)
                .filter_map(|(item, copy)| fail(copy).map(|kind| ItemFailure { item, kind }))
                .collect();
            self.event(Event::TransferDone { transfer: transfer.id, failed });
        }
    }

    /// Slots whose frames were to be erased come free; objects stay as they are.
    fn end_slot_erases(&mut self) {
        let (objects, slots): (Vec<_>, Vec<_>) =
            self.erases.drain(..).partition(|(_, place, _)| place.is_none());
        self.erases = objects.into();
        for (tier, place, key) in slots {
            self.event(Event::Erased { tier, place, key, done: true });
        }
    }

    fn run(&mut self) {
        self.run_with(|_| None);
    }

    fn start_store(&mut self, parent: Option<u64>, blocks: &[u64]) -> Reply {
        self.start_store_of(None, Directives::default(), parent, blocks)
    }

    fn start_store_of(
        &mut self,
        session: Option<&str>,
        directives: Directives,
        parent: Option<u64>,
        blocks: &[u64],
    ) -> Reply {
        let (pool, slots) = (self.pool, (0..).take(blocks.len()).collect());
        let parent = parent.map(key);
        self.ask(Command::Store {
            request: RequestId(1),
            session: session.map(name),
            directives,
            parent,
            keys: keys(blocks),
            labels: Labels {
                tails: blocks.iter().map(|n| HashTail(*n)).collect(),
                tokens: Vec::new(),
            },
            pool,
            slots,
            durable: false,
        })
    }

    fn store(&mut self, parent: Option<u64>, blocks: &[u64]) -> Completion {
        let reply = self.start_store(parent, blocks);
        assert!(matches!(reply, Reply::Store { .. }), "{reply:?}");
        self.run();
        self.completions.pop().expect("a store completes")
    }

    /// One request of a session: looks the chain up and stores what is missing, with directives.
    /// Gives what was found and what was used.
    fn turn(&mut self, session: Option<&str>, claims: &[Directive], blocks: &[u64]) -> Turn {
        let request = RequestId(1);
        let (session_name, ask_shared) = (session.map(name), Duration::ZERO);
        let lookup = Command::Lookup {
            request,
            session: session_name,
            keys: keys(blocks),
            ask_shared,
            queued: false,
        };
        let Reply::Lookup { runs, .. } = self.ask(lookup) else { panic!("a lookup is answered") };
        let hits: usize = runs.iter().map(|run| run.blocks as usize).sum();
        let parent = hits.checked_sub(1).map(|last| blocks[last]);
        let directives = Directives::admit(claims.to_vec()).expect("the test's claims are sound");
        let reply = self.start_store_of(session, directives, parent, &blocks[hits..]);
        let Reply::Store { clipped, .. } = reply else { panic!("{reply:?}") };
        self.run();
        self.completions.clear();
        let end =
            Command::EndRequest { request, stop: Stop::EndTurn, output_tokens: 0, prefill: None };
        let Reply::EndRequest { usage } = self.ask(end) else { panic!("an end is answered") };
        self.run();
        Turn { clipped, usage }
    }

    fn hint(&mut self, action: Action) -> Outcome {
        let Reply::Hint { mut outcomes } = self.ask(Command::Hint { actions: vec![action] }) else {
            panic!("hints are answered");
        };
        self.run();
        outcomes.pop().expect("one outcome an action")
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.event(Event::Tick);
        self.run();
    }

    fn block(&mut self, n: u64) -> Option<BlockStatus> {
        match self.ask(Command::Inspect { key: key(n) }) {
            Reply::Inspect(status) => Some(*status),
            _ => None,
        }
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
        let reply = self.ask(Command::Lookup {
            request: RequestId(9),
            session: None,
            keys: keys(blocks),
            ask_shared: Duration::ZERO,
            queued: false,
        });
        self.ask(Command::EndRequest {
            request: RequestId(9),
            stop: Stop::Unknown,
            output_tokens: 0,
            prefill: None,
        });
        self.run();
        let Reply::Lookup { runs, .. } = reply else { panic!("{reply:?}") };
        let shown: Vec<_> = runs.iter().map(|run| format!("{}:{}", run.tier, run.blocks)).collect();
        shown.join(" ")
    }

    fn lease(&mut self, blocks: &[u64]) -> LeaseId {
        match self.ask(Command::Lookup {
            request: RequestId(7),
            session: None,
            keys: keys(blocks),
            ask_shared: Duration::ZERO,
            queued: false,
        }) {
            Reply::Lookup { lease: Some(lease), .. } => lease,
            other => panic!("{other:?}"),
        }
    }

    fn tier(&self, tier: Tier) -> TierStatus {
        self.manager.status().tiers[tier.index()]
    }
}
