//! `terrace bench rpc`: how long a call to the daemon takes, there and back.
//!
//! Starts a daemon of its own, whose chain of blocks is looked up over its socket; beside each call
//! as many bytes go over a bare socket to a thread that does nothing else.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;

use super::stats::percentile;
use crate::cli::Failure;
use crate::cli::daemon::{Daemon, DaemonSpec, TierSize};
use crate::cli::output::{self, Table};
use crate::client::{Client, ClientConfig, HostPool, PoolOrder, RequestId};
use crate::domain::namespace::KvShape;
use crate::domain::units::{CHUNK_BYTES, PAGE_BYTES};
use crate::env::{Stopwatch, spawn_thread};
use crate::workload::content::{self, Content, ENGINE_HASH_BYTES};

/// Measure how long calls to a daemon take, there and back over its socket
///
/// A daemon of its own holds one chain of blocks in DRAM. Lookups of the chain's beginning go to it
/// one after the other; in turns with them as many bytes go over a bare socket and an answer of 64
/// bytes comes back.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "docs/bench.md says how to read the result.")]
pub struct RpcArgs {
    /// Keys of a lookup
    #[arg(long, value_name = "KEYS", value_delimiter = ',', default_value = "64,6000",
        value_parser = clap::value_parser!(u32).range(1..=KEYS_MAX))]
    pub keys: Vec<u32>,
    /// About how long to measure, all in all
    #[arg(long, value_name = "SECONDS", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Print one JSON array instead of a table
    #[arg(long)]
    pub json: bool,
}

/// More blocks than any prompt has.
const KEYS_MAX: i64 = 16_384;

/// One row. Fields are printed in this order.
#[derive(Clone, Debug, Serialize)]
struct Row {
    call: &'static str,
    keys: u32,
    calls: usize,
    p50_us: f64,
    p99_us: f64,
    /// Of as many bytes over a bare socket.
    limit_p50_us: f64,
    limit_p99_us: f64,
}

/// Runs the benchmark and prints its result to stdout.
///
/// # Errors
/// The daemon could not be started or did not answer; the text says why.
pub fn run(args: &RpcArgs) -> Result<(), Failure> {
    let rows = crate::cli::replay::live::unless_interrupted(async { Ok(measure(args).await) })
        .map_err(Failure::failed)??;
    Ok(output::show(args.json, &rows, || text(&rows))?)
}

fn text(rows: &[Row]) -> String {
    let heading = ["call", "keys", "calls", "p50 us", "p99 us", "bare p50 us", "bare p99 us"];
    let mut table = Table::new(1, heading);
    for row in rows {
        let us = |value: f64| format!("{value:.0}");
        table.row([
            row.call.into(),
            row.keys.to_string(),
            row.calls.to_string(),
            us(row.p50_us),
            us(row.p99_us),
            us(row.limit_p50_us),
            us(row.limit_p99_us),
        ]);
    }
    format!("{table}\nbare: as many bytes over a UNIX socket, and 64 back, between two threads.\n")
}

async fn measure(args: &RpcArgs) -> Result<Vec<Row>, Failure> {
    let blocks = args.keys.iter().copied().max().unwrap_or(1);
    let dram_bytes = (2 * PAGE_BYTES as u64 * u64::from(blocks)).next_multiple_of(CHUNK_BYTES);
    let absent = TierSize::default();
    let dram = TierSize::bytes(dram_bytes + CHUNK_BYTES);
    let spec = DaemonSpec::of_this_binary([absent, dram, absent, absent]);
    let daemon = Daemon::start(spec.map_err(Failure::failed)?).await.map_err(Failure::failed)?;
    let engine = Engine::join(&daemon, blocks).await.map_err(Failure::failed)?;
    let time = Duration::from_secs(args.seconds.into());
    let time = time / u32::try_from(args.keys.len()).unwrap_or(1);
    let mut rows = Vec::new();
    for keys in &args.keys {
        rows.push(engine.lookups(*keys, time).await?);
    }
    Ok(rows)
}

/// A client whose chain the daemon holds.
struct Engine {
    client: Client,
    hashes: Vec<u8>,
}

/// Blocks stored in one call.
const STORED_AT_ONCE: usize = 512;

/// Lookups before the first that counts.
const WARM_UP: usize = 20;

const CONTENT: Content = Content::new(1);

impl Engine {
    async fn join(daemon: &Daemon, blocks: u32) -> Result<Self, crate::client::ClientError> {
        let page_bytes = u32::try_from(PAGE_BYTES).expect("a page is short");
        let shape = KvShape { layers: 1, planes: 1, page_bytes };
        let config = ClientConfig::new("bench", content::namespace("bench", shape));
        let client = Client::connect(daemon.socket(), config).await?;
        let pool = HostPool::create(PoolOrder::LayerMajor.layout(shape, blocks))?;
        let handle = client.register_pool(&pool, 0).await?;
        let hashes: Vec<u8> = (0..blocks).flat_map(|id| CONTENT.engine_hash(id.into())).collect();
        let slots: Vec<u32> = (0..blocks).collect();
        let mut parent = None;
        let calls = hashes.chunks(STORED_AT_ONCE * ENGINE_HASH_BYTES);
        for (hashes, slots) in calls.zip(slots.chunks(STORED_AT_ONCE)) {
            let hashes_sent = hashes.to_vec();
            let stored = client.store(RequestId(0), parent, hashes_sent, handle, slots).await?;
            client.wait(stored.op).await?;
            parent = hashes.rchunks(ENGINE_HASH_BYTES).next();
        }
        Ok(Self { client, hashes })
    }

    async fn lookups(&self, keys: u32, time: Duration) -> Result<Row, Failure> {
        let hashes = &self.hashes[..keys as usize * ENGINE_HASH_BYTES];
        let mut bare = Bare::start(hashes.len()).map_err(Failure::failed)?;
        let (mut calls, mut limits) = (Vec::new(), Vec::new());
        let watch = Stopwatch::start();
        for round in 0.. {
            let call = self.lookup(round, keys, hashes).await?;
            let limit = bare.round_trip().map_err(Failure::failed)?;
            if round >= WARM_UP as u64 {
                calls.push(call);
                limits.push(limit);
            }
            if !calls.is_empty() && watch.elapsed() > time {
                break;
            }
        }
        let count = calls.len();
        let [p50_us, p99_us] = [50, 99].map(|percent| percentile(&mut calls, percent));
        let [limit_p50_us, limit_p99_us] = [50, 99].map(|percent| percentile(&mut limits, percent));
        Ok(Row { call: "lookup", keys, calls: count, p50_us, p99_us, limit_p50_us, limit_p99_us })
    }

    /// Microseconds of one lookup; its lease is given back untimed.
    async fn lookup(&self, round: u64, keys: u32, hashes: &[u8]) -> Result<f64, Failure> {
        let (request, hashes) = (RequestId(round), hashes.to_vec());
        let watch = Stopwatch::start();
        let found = self.client.lookup(request, hashes).await.map_err(Failure::failed)?;
        let took = watch.elapsed().as_secs_f64() * 1e6;
        if found.matched_blocks != keys {
            let said = format!("only {} of {keys} blocks were found", found.matched_blocks);
            return Err(Failure::Failed(said));
        }
        self.client.end_request(request).await.map_err(Failure::failed)?;
        Ok(took)
    }
}

/// A socket whose other end answers every question of a length with 64 bytes.
struct Bare {
    socket: UnixStream,
    question: Vec<u8>,
}

const ANSWER_BYTES: usize = 64;

impl Bare {
    fn start(question_bytes: usize) -> io::Result<Self> {
        let (socket, mut far) = UnixStream::pair()?;
        let mut heard = vec![0; question_bytes];
        spawn_thread("bench-echo", move || {
            // The near end closes when the measurement is over.
            while far.read_exact(&mut heard).is_ok() {
                if far.write_all(&[1; ANSWER_BYTES]).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { socket, question: vec![1; question_bytes] })
    }

    /// Microseconds there and back.
    fn round_trip(&mut self) -> io::Result<f64> {
        let watch = Stopwatch::start();
        self.socket.write_all(&self.question)?;
        self.socket.read_exact(&mut [0; ANSWER_BYTES])?;
        Ok(watch.elapsed().as_secs_f64() * 1e6)
    }
}
