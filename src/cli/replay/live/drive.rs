//! Runs requests against a daemon that is started for them, and gathers what came of it.

use std::path::PathBuf;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::runtime;
use tokio::time::sleep;

use crate::cli::daemon::{Daemon, DaemonSpec};
use crate::cli::replay::report::{LiveReport, ReportCounts, TierTraffic};
use crate::cli::signals::Signals;
use crate::client::{Client, DaemonStatus};
use crate::domain::namespace::Namespace;
use crate::domain::retention::PolicyName;
use crate::domain::tier::Tier;
use crate::domain::units::Bytes;
use crate::env::Stopwatch;
use crate::workload::Request;
use crate::workload::content::Content;
use crate::workload::trace::TraceError;

use super::LiveError;
use super::capacity::size_of;
use super::engine::Engine;
use super::sampler::Sampler;
use super::tally::{Busy, Tally};
use super::windows::namespace_of;

/// How long the daemon may go on moving blocks down after the last request.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct LivePlan {
    /// Zero when the tier is absent.
    pub(crate) capacity_blocks: [u64; Tier::COUNT],
    /// A whole number of pages that fits a chunk with its header.
    pub(crate) block_bytes: u64,
    pub(crate) block_tokens: u32,
    pub(crate) seed: u64,
    pub(crate) policy: PolicyName,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct LiveOutcome {
    pub(crate) counts: ReportCounts,
    pub(crate) live: LiveReport,
    /// From the first request to the last, without the daemon's start.
    pub(crate) elapsed_s: f64,
    /// What the daemon said at the end: where it ran and on what.
    pub(crate) status: DaemonStatus,
    pub(crate) daemon_folder: String,
    failed_loads: u64,
    failed_stores: u64,
    left_out: u64,
    lookup_blocks_max: u32,
}

impl LiveOutcome {
    /// Says on stderr what an engine would have had to compute again though it was found, and what
    /// was not kept; of a trace that contradicts itself that may be the trace's own doing.
    pub(crate) fn note_failures(&self, is_contradictory: bool) {
        if self.failed_loads > 0 {
            eprintln!("{} found blocks could not be loaded and count as misses", self.failed_loads);
        }
        if self.failed_stores > 0 {
            let why = if is_contradictory {
                "an id that stood after another block before, no room, or a copy that failed"
            } else {
                "no room, or a copy that failed"
            };
            eprintln!("{} blocks were not stored: {why}", self.failed_stores);
        }
        if self.left_out > 0 {
            eprintln!(
                "{} blocks were left out and count as misses: a lookup takes a request's first {}",
                self.left_out, self.lookup_blocks_max
            );
        }
    }
}

/// Starts a daemon, replays the requests and ends the daemon.
///
/// # Errors
/// See [`LiveError`].
pub(crate) fn drive(
    plan: &LivePlan,
    requests: impl Iterator<Item = Result<Request, TraceError>>,
    progress: &ProgressBar,
) -> Result<LiveOutcome, LiveError> {
    unless_interrupted(run(plan, requests, progress))
}

/// Runs it on threads of its own, until a signal ends it.
///
/// # Errors
/// [`LiveError::Interrupted`], what it came to itself, or the machine refuses threads.
pub(crate) fn unless_interrupted<T>(
    work: impl Future<Output = Result<T, LiveError>>,
) -> Result<T, LiveError> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("replay")
        .enable_all()
        .build()
        .map_err(|source| LiveError::Machine { what: "start threads", source })?;
    runtime.block_on(async {
        tokio::select! {
            outcome = work => outcome,
            end = interrupted() => end.and(Err(LiveError::Interrupted)),
        }
    })
}

async fn interrupted() -> Result<(), LiveError> {
    let signals = Signals::catch();
    let failed = |source| LiveError::Machine { what: "listen for signals", source };
    signals.map_err(failed)?.next().await;
    Ok(())
}

async fn run(
    plan: &LivePlan,
    requests: impl Iterator<Item = Result<Request, TraceError>>,
    progress: &ProgressBar,
) -> Result<LiveOutcome, LiveError> {
    let namespace = namespace_of(plan.block_bytes, plan.block_tokens);
    progress.set_message("starting a daemon");
    let size = |tier: Tier| size_of(tier, plan.capacity_blocks[tier.index()], &namespace);
    let mut spec = DaemonSpec::of_this_binary(Tier::ALL.map(size))?;
    spec.flags.push(("retention-policy".into(), plan.policy.name().into()));
    let mut daemon = Daemon::start(spec).await?;
    let folder = daemon.folder().display().to_string();
    let started = Started { socket: daemon.socket(), folder, namespace };
    let outcome = replayed(plan, requests, progress, started).await;
    daemon.or_its_end(outcome).await
}

/// The replay's own daemon, and what is stored there.
struct Started {
    socket: PathBuf,
    folder: String,
    namespace: Namespace,
}

async fn replayed(
    plan: &LivePlan,
    requests: impl Iterator<Item = Result<Request, TraceError>>,
    progress: &ProgressBar,
    started: Started,
) -> Result<LiveOutcome, LiveError> {
    let mut engine =
        Engine::join(&started.socket, started.namespace, Content::new(plan.seed)).await?;
    let sampler = Sampler::start(engine.client().clone());
    let elapsed = Stopwatch::start();
    for request in requests {
        engine.request(&request?).await?;
        progress.set_message(format!("{} verified", Bytes(engine.tally.bytes_verified)));
        progress.inc(1);
    }
    let elapsed_s = elapsed.elapsed().as_secs_f64();
    let status = settled(engine.client()).await?;
    let filled = sampler.stop().await;
    let lookup_blocks_max = engine.client().welcome().limits.lookup_blocks_max;
    let mut tally = engine.tally;
    Ok(LiveOutcome {
        counts: counts(&tally, &status, plan.capacity_blocks, &filled),
        live: LiveReport {
            block_bytes: plan.block_bytes,
            bytes_verified: tally.bytes_verified,
            corrupt_blocks: tally.corrupt_blocks,
            lookup_us: tally.lookup_us(),
            load_us: tally.load_us(),
        },
        elapsed_s,
        status,
        daemon_folder: started.folder,
        failed_loads: tally.failed_loads,
        failed_stores: tally.failed_stores,
        left_out: tally.left_out,
        lookup_blocks_max,
    })
}

/// The daemon's figures once nothing moves any more, or once that has taken too long.
async fn settled(client: &Client) -> Result<DaemonStatus, LiveError> {
    let waiting = Stopwatch::start();
    loop {
        let status = client.status().await?;
        let moving = status.transfers_in_flight + status.transfers_queued > 0;
        if !moving || waiting.elapsed() > SETTLE_TIMEOUT {
            return Ok(status);
        }
        sleep(Duration::from_millis(10)).await;
    }
}

fn counts(
    tally: &Tally,
    status: &DaemonStatus,
    capacity_blocks: [u64; Tier::COUNT],
    filled: &[Busy; Tier::COUNT],
) -> ReportCounts {
    let traffic = |tier: Tier| {
        let figures = &status.tiers[tier.index()];
        TierTraffic {
            bytes_in: figures.bytes_in,
            bytes_out: figures.bytes_out,
            in_gb_per_s: filled[tier.index()].gb_per_s(),
            out_gb_per_s: tally.loads[tier.index()].gb_per_s(),
        }
    };
    ReportCounts {
        requests: tally.requests,
        input_tokens: tally.input_tokens,
        capacity_blocks,
        hit_tokens: tally.hit_tokens,
        evicted_blocks: status.tiers.each_ref().map(|tier| tier.evicted_copies),
        traffic: Tier::ALL.map(|tier| (capacity_blocks[tier.index()] > 0).then(|| traffic(tier))),
    }
}
