//! The live half of `replay`: a trace against a daemon of its own, through its real socket and
//! shared memory.
//!
//! Requests follow each other without waiting for the trace's time, each in full before the next:
//! so a hit is what a daemon that keeps up would have had. Every byte that comes back is compared
//! with what was stored.

mod capacity;
mod chain;
mod drive;
mod engine;
mod sampler;
mod tally;
mod windows;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Outcome;
use crate::cli::daemon::DaemonError;
use crate::cli::output::Unprinted;
use crate::client::ClientError;
use crate::sim::replay::Hints;
use crate::workload::trace::TraceError;

use super::args::ReplayPolicy;
use super::report::{LiveReport, Mode, ReplayReport, ReportHead};
use super::{ReplayArgs, ReplayError};

pub(crate) use capacity::size_of;
pub(crate) use drive::{LiveOutcome, LivePlan, drive, unless_interrupted};
pub(crate) use windows::namespace_of;

/// Bytes of a block where `--block-bytes` doesn't say.
pub(crate) const BLOCK_BYTES_DEFAULT: u64 = 64 << 10;

/// Why a live run came to no result.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error("the daemon refused the replay's client: {0}")]
    Client(#[from] ClientError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("cannot {what}: {source}")]
    Machine { what: &'static str, source: std::io::Error },
    #[error("interrupted: the daemon was ended and its folder removed")]
    Interrupted,
    #[error(transparent)]
    Unprinted(#[from] Unprinted),
}

/// Replays the trace that the arguments name.
///
/// # Errors
/// The trace or the arguments can't be had, or the daemon failed the run. Blocks that it could not
/// keep or load are no error, and corrupt ones stand in the report.
pub(super) fn live(args: &ReplayArgs) -> Result<ReplayReport, ReplayError> {
    let (policy, Hints::None) = (args.policy, args.hints) else {
        return Err(ReplayError::Usage(format!(
            "--hints {} needs --simulate: a live replay does not wait for the trace's time, and \
             hints speak of it",
            args.hints
        )));
    };
    let ReplayPolicy::Online(policy) = policy else {
        return Err(ReplayError::Usage(
            "--policy opt needs --simulate: no daemon knows the future".into(),
        ));
    };
    args.timing.refuse("needs --simulate: a live replay takes the time that it takes")?;
    if args.instant {
        return Err(ReplayError::Usage(
            "--instant needs --simulate: in a live replay copies take the time that they take"
                .into(),
        ));
    }
    if args.answer_ms.is_some() {
        return Err(ReplayError::Usage(
            "--answer-ms needs --simulate: a live replay does not wait for answers".into(),
        ));
    }
    if args.writes.is_given() {
        return Err(ReplayError::Usage(
            "--nvme-write and its like need --simulate: a daemon has settings for them".into(),
        ));
    }
    let trace = super::open(args)?;
    let info = *trace.info();
    let plan = LivePlan {
        capacity_blocks: args.capacity_blocks(info.unique_blocks)?,
        block_bytes: args.block_bytes.unwrap_or(BLOCK_BYTES_DEFAULT),
        block_tokens: info.block_tokens,
        seed: args.seed,
        policy,
    };
    let limit = args.limit.unwrap_or(u64::MAX);
    let progress = progress_bar(info.requests.min(limit));
    let requests = trace.requests()?.take(usize::try_from(limit).unwrap_or(usize::MAX));
    let outcome = drive(&plan, requests, &progress)?;
    progress.finish_and_clear();
    let head = ReportHead {
        trace: args.trace.display().to_string(),
        info,
        mode: Mode::Live,
        policy: args.policy.name(),
        hints: args.hints.to_string(),
        seed: args.seed,
    };
    outcome.note_failures(info.contradicted_blocks > 0);
    Ok(ReplayReport::new(head, &outcome.counts, outcome.elapsed_s, Some(outcome.live)))
}

/// Says on stderr what wrong bytes mean; the exit code says it too.
pub(crate) fn judge(live: &LiveReport) -> Outcome {
    if live.corrupt_blocks == 0 {
        return Outcome::Good;
    }
    eprintln!(
        "terrace: {} loaded blocks were not what had been stored: a defect of the daemon, or of \
         this machine's memory or disk; keep this output and report it",
        live.corrupt_blocks
    );
    Outcome::Bad
}

/// A bar on stderr that also shows what was loaded; nothing where stderr is no terminal.
pub(crate) fn progress_bar(requests: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} requests, {eta} left, {msg}")
        .expect("the template is constant and valid");
    ProgressBar::new(requests).with_style(style)
}
