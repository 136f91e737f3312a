//! `terrace demo`: the whole system on one machine in a minute.
//!
//! A daemon of its own whose four tiers are too small for what a group of agents asks of it, so
//! that blocks sink through all of them and come back. Nothing is mocked: the daemon is the real
//! binary, the bytes go through shared memory, and each one that comes back is compared. Then a few
//! agents wait for tools, once with lifts ahead of need and once without.

mod agents;
mod pauses;
mod table;

use serde::Serialize;

use super::{Outcome, output};
use crate::cli::replay::live::{self, LiveError, LiveOutcome, LivePlan, drive, progress_bar};
use crate::cli::replay::report::{Mode, ReplayReport, ReportHead};
use crate::domain::retention::PolicyName;
use crate::domain::tier::Tier;
use crate::workload::trace::TraceInfo;

use pauses::Pauses;

/// Run the whole system on this machine: a daemon, agents, and every byte checked
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "It takes about half a GiB of memory, and one of disk in a folder of its \
                        own in $TMPDIR that goes with it.")]
pub struct DemoArgs {
    /// Fixes what the agents do
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Bytes of a block: fewer are quicker, more are nearer to a large model
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = BLOCK_BYTES_DEFAULT,
        value_parser = crate::cli::replay::args::block_bytes
    )]
    pub block_bytes: u64,
    /// Print one JSON object instead of tables: that of replay, and `pauses`
    #[arg(long)]
    pub json: bool,
}

const BLOCK_BYTES_DEFAULT: u64 = 256 << 10;

/// What each tier holds, in blocks: twice as much as the one above it, and all of them together
/// less than what the agents use.
const CAPACITY_BLOCKS: [u64; Tier::COUNT] = [256, 512, 1024, 2048];

/// Runs the demo and prints its result to stdout. One that found corrupt blocks, or whose blocks
/// came from one tier only, is bad.
///
/// # Errors
/// See [`LiveError`].
pub fn run(args: &DemoArgs) -> Result<Outcome, LiveError> {
    let workload = agents::workload(args.seed);
    let plan = LivePlan {
        capacity_blocks: CAPACITY_BLOCKS,
        block_bytes: args.block_bytes,
        block_tokens: agents::BLOCK_TOKENS,
        seed: args.seed,
        policy: PolicyName::default(),
    };
    let progress = progress_bar(workload.requests.len() as u64);
    let info = workload.info();
    let outcome = drive(&plan, workload.requests.into_iter().map(Ok), &progress)?;
    progress.finish_and_clear();
    outcome.note_failures(false);
    let pauses = pauses::compare(args.seed, args.block_bytes)?;
    let report = report(args, info, &outcome);
    let shown = Shown { report, pauses };
    output::show(args.json, &shown, || {
        table::show(&shown.report, &shown.pauses, &outcome, workload.agents)
    })?;
    let is_right = shown.pauses.iter().all(|side| side.corrupt_blocks == 0);
    Ok(match live::judge(&outcome.live) {
        Outcome::Good if is_right => judge_tiers(&shown.report),
        _ => Outcome::Bad,
    })
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    report: ReplayReport,
    pauses: [Pauses; 2],
}

fn report(args: &DemoArgs, info: TraceInfo, outcome: &LiveOutcome) -> ReplayReport {
    let head = ReportHead {
        trace: "demo".into(),
        info,
        mode: Mode::Live,
        policy: PolicyName::default().name(),
        hints: "none".into(),
        seed: args.seed,
    };
    let report = ReplayReport::new(head, &outcome.counts, outcome.elapsed_s, Some(outcome.live));
    ReplayReport { format: "generated", ..report }
}

fn judge_tiers(report: &ReplayReport) -> Outcome {
    let used = report.tiers.iter().filter(|tier| tier.hit_tokens > 0).count();
    if used > 1 {
        return Outcome::Good;
    }
    eprintln!(
        "terrace: {used} of the tiers served blocks: the daemon did not move them down, or could \
         not; `terrace doctor` says what this machine lacks"
    );
    Outcome::Bad
}
