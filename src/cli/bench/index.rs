//! `terrace bench index`: what keeping the books costs, on one core.
//!
//! Whole steps of the manager: the command, the directory's rows with their records, the policy,
//! the beginning and the end of transfers. Only the copying is left out, and no daemon is started.

use std::time::Duration;

use serde::Serialize;

use super::stats::median;
use crate::cli::Failure;
use crate::cli::output::{self, Table};
use crate::domain::block::Key;
use crate::domain::namespace::KvShape;
use crate::domain::retention::Directives;
use crate::domain::session::Stop;
use crate::domain::tier::Tier;
use crate::domain::units::{CHUNK_BYTES, PAGE_BYTES, Time};
use crate::env::Stopwatch;
use crate::manager::api::{
    ClientId, Command, Effect, Event, Labels, PoolId, Reply, ReplyTag, RequestId,
};
use crate::manager::{Manager, ManagerConfig, PolicyName, TierConfig};
use crate::workload::content::{self, mix};

/// Measure how many blocks a second the daemon's index takes, on one core
///
/// Blocks come in chains, as requests bring them: stored into a tier with room, looked up, and
/// stored into a full tier, so that each sends another one away. Bytes are not moved.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "docs/bench.md says what is counted and how other caches compare.")]
pub struct IndexArgs {
    /// Blocks that the tier holds
    #[arg(long, value_name = "BLOCKS", default_value_t = 65_536,
        value_parser = clap::value_parser!(u64).range(1024..=16_777_216))]
    pub capacity: u64,
    /// Blocks of a request's chain
    #[arg(long, value_name = "BLOCKS", default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub chain: u32,
    /// What decides which blocks go: lru, s3fifo or value
    #[arg(long, default_value = "value", value_parser = policy)]
    pub policy: PolicyName,
    /// About how long to measure, all in all
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Print one JSON array instead of a table
    #[arg(long)]
    pub json: bool,
}

fn policy(name: &str) -> Result<PolicyName, String> {
    PolicyName::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| {
        let known = PolicyName::ALL.map(PolicyName::name).join(", ");
        format!("policy `{name}` is not known: use one of {known}")
    })
}

/// One row. Fields are printed in this order.
#[derive(Clone, Copy, Debug, Serialize)]
struct Row {
    operation: &'static str,
    chain_blocks: u32,
    blocks_per_s: f64,
    /// Of a whole chain's request, the middle one.
    p50_us: f64,
}

/// Runs the benchmark and prints its result to stdout.
///
/// # Errors
/// Stdout takes no more.
pub fn run(args: &IndexArgs) -> Result<(), Failure> {
    let rows = measure(args);
    Ok(output::show(args.json, &rows, || text(args, &rows))?)
}

fn text(args: &IndexArgs, rows: &[Row]) -> String {
    let mut table = Table::new(1, ["operation", "blocks/s", "p50 us a chain"]);
    for row in rows {
        table.row([
            row.operation.into(),
            format!("{:.2} M", row.blocks_per_s / 1e6),
            format!("{:.1}", row.p50_us),
        ]);
    }
    let (chain, capacity, policy) = (args.chain, args.capacity, args.policy.name());
    format!(
        "{table}\nChains of {chain} blocks, {capacity} blocks in the tier, {policy}, one core.\n"
    )
}

/// Managers are filled, looked up and overfilled until time is up; every chain's request is timed.
fn measure(args: &IndexArgs) -> [Row; 3] {
    let watch = Stopwatch::start();
    let mut took = [const { Vec::new() }; 3];
    let chains = args.capacity / u64::from(args.chain);
    let enough = Duration::from_secs(args.seconds.into());
    let mut first = 0;
    while watch.elapsed() < enough || took[0].is_empty() {
        let mut books = Books::open(args);
        let mut all = |took: &mut Vec<f64>, from: u64, work: fn(&mut Books, &[Key])| {
            for number in from..from + chains {
                let keys = chain(number, args.chain);
                let one = Stopwatch::start();
                work(&mut books, &keys);
                took.push(one.elapsed().as_secs_f64() * 1e6);
            }
        };
        all(&mut took[0], first, Books::store);
        all(&mut took[1], first, Books::look_up);
        first += chains;
        all(&mut took[2], first, Books::store);
        first += chains;
    }
    ["register", "match", "evict"].map(|operation| {
        let index = ["register", "match", "evict"].iter().position(|name| *name == operation);
        let took = &mut took[index.expect("it is one of them")];
        let sum_us: f64 = took.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let blocks = took.len() as f64 * f64::from(args.chain);
        let (blocks_per_s, p50_us) = (blocks / sum_us * 1e6, median(took));
        Row { operation, chain_blocks: args.chain, blocks_per_s, p50_us }
    })
}

/// A manager with one tier and one client, whose transfers land at once.
struct Books {
    manager: Manager,
    pool: PoolId,
    now: Time,
    requests: u64,
    effects: Vec<Effect>,
    landed: Vec<Event>,
}

const CLIENT: ClientId = ClientId(1);

impl Books {
    fn open(args: &IndexArgs) -> Self {
        let frame_bytes = 2 * PAGE_BYTES as u64;
        let capacity_bytes = (args.capacity * frame_bytes).next_multiple_of(CHUNK_BYTES);
        let tier = TierConfig { capacity_bytes, slots_max: args.capacity, recovers: false };
        let mut tiers = [None; Tier::COUNT];
        tiers[Tier::Dram.index()] = Some(tier);
        let config = ManagerConfig { policy: args.policy, ..ManagerConfig::with_tiers(tiers) };
        let mut books = Self {
            manager: Manager::new(config),
            pool: PoolId(0),
            now: Time::ZERO,
            requests: 0,
            effects: Vec::new(),
            landed: Vec::new(),
        };
        let page_bytes = u32::try_from(PAGE_BYTES).expect("a page is short");
        let shape = KvShape { layers: 1, planes: 1, page_bytes };
        let namespace = content::namespace("bench", shape);
        books.ask(Command::hello(namespace));
        let Reply::Pool { pool } =
            books.ask(Command::RegisterPool { shard: 0, slots: args.chain, has_events: false })
        else {
            unreachable!("a first pool can be had");
        };
        books.pool = pool;
        books
    }

    /// A request that brings a new chain.
    fn store(&mut self, keys: &[Key]) {
        let request = self.next_request();
        let slots = (0..u32::try_from(keys.len()).expect("chains are short")).collect();
        let (session, directives, parent) = (None, Directives::default(), None);
        let (keys, pool) = (keys.to_vec(), self.pool);
        let durable = false;
        self.ask(Command::Store {
            request,
            session,
            directives,
            parent,
            keys,
            labels: Labels::default(),
            pool,
            slots,
            durable,
        });
        self.end(request);
    }

    /// A request whose whole chain is there.
    fn look_up(&mut self, keys: &[Key]) {
        let (request, blocks) = (self.next_request(), keys.len());
        let (session, ask_shared, keys) = (None, Duration::ZERO, keys.to_vec());
        let look = Command::Lookup { request, session, keys, ask_shared, queued: false };
        let Reply::Lookup { runs, .. } = self.ask(look) else {
            unreachable!("a lookup is answered");
        };
        let found: usize = runs.iter().map(|run| run.blocks as usize).sum();
        assert_eq!(found, blocks, "the chain was stored, and the tier has room for it");
        self.end(request);
    }

    fn next_request(&mut self) -> RequestId {
        // Requests come apart in time, as they do.
        self.now = self.now + Duration::from_millis(10);
        self.requests += 1;
        RequestId(self.requests)
    }

    fn end(&mut self, request: RequestId) {
        let (stop, output_tokens, prefill) = (Stop::ToolUse, 100, None);
        self.ask(Command::EndRequest { request, stop, output_tokens, prefill });
    }

    fn ask(&mut self, command: Command) -> Reply {
        let command = Event::Command { tag: ReplyTag(0), client: CLIENT, command };
        let answer = self.step(command);
        while let Some(landed) = self.landed.pop() {
            self.step(landed);
        }
        answer.expect("a command is answered in its own step")
    }

    fn step(&mut self, event: Event) -> Option<Reply> {
        self.manager.step(self.now, event, &mut self.effects);
        let mut answer = None;
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Reply { reply, .. } => answer = Some(reply),
                Effect::Start(transfer) => {
                    let failed = Vec::new();
                    self.landed.push(Event::TransferDone { transfer: transfer.id, failed });
                }
                _ => {}
            }
        }
        answer
    }
}

/// The keys of a chain that nobody else has.
fn chain(number: u64, blocks: u32) -> Vec<Key> {
    let key = |at: u32| {
        let low = mix(number << 12 ^ u64::from(at));
        let halves = [low, mix(!low)].map(u64::to_le_bytes);
        let mut key = Key([0; Key::BYTES]);
        key.0.copy_from_slice(halves.as_flattened());
        key
    };
    (0..blocks).map(key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_does_what_it_says() {
        for policy in PolicyName::ALL {
            let args = IndexArgs { capacity: 1024, chain: 64, policy, seconds: 1, json: false };
            let mut books = Books::open(&args);
            for number in 0..16 {
                books.store(&chain(number, 64));
            }
            for number in 0..16 {
                books.look_up(&chain(number, 64));
            }
            let held = |books: &mut Books| {
                let Reply::Status(status) = books.ask(Command::Status) else {
                    unreachable!("a status is answered");
                };
                let tier = status.tiers[Tier::Dram.index()];
                (tier.blocks, tier.evicted_blocks)
            };
            assert_eq!(held(&mut books), (1024, 0), "{}", policy.name());
            for number in 16..32 {
                books.store(&chain(number, 64));
            }
            let (blocks, evicted) = held(&mut books);
            assert!(blocks <= 1024 && evicted >= 512, "{}: {evicted} evicted", policy.name());
        }
    }
}
