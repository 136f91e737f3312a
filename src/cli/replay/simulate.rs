//! The simulated half of `replay`.

use indicatif::{ProgressBar, ProgressStyle};

use crate::domain::tier::Tier;
use crate::env::Stopwatch;
use crate::sim::replay::{Pace, Replay, ReplayConfig};
use crate::workload::trace::Trace;

use super::report::{Mode, ReplayReport, ReportCounts, ReportHead};
use super::{ReplayArgs, ReplayError};

/// What a token's KV takes where `--block-bytes` doesn't say: Llama 3.1 8B in bf16, which is 32
/// layers of K and V, 8 heads of 128 elements of 2 bytes.
const TOKEN_BYTES: u64 = 131_072;

pub(super) fn simulate(args: &ReplayArgs) -> Result<ReplayReport, ReplayError> {
    let elapsed = Stopwatch::start();
    let trace = Trace::open(&args.trace)?;
    let info = *trace.info();
    let capacity_blocks = args.capacity_blocks(info.unique_blocks)?;
    let timed_bytes = args.block_bytes.unwrap_or(TOKEN_BYTES * u64::from(info.block_tokens));
    let pace = if args.instant { Pace::Instant } else { Pace::Timed { block_bytes: timed_bytes } };
    let config = ReplayConfig {
        capacity_blocks,
        policy: args.policy,
        block_tokens: info.block_tokens,
        seed: args.seed,
        pace,
    };
    let counts = run(&config, &trace, args.limit.unwrap_or(u64::MAX))?;
    let head = ReportHead {
        trace: args.trace.display().to_string(),
        info,
        mode: Mode::Simulate,
        policy: args.policy.name(),
        hints: args.hints.to_string(),
        seed: args.seed,
    };
    Ok(ReplayReport::new(head, &counts, elapsed.elapsed().as_secs_f64(), None))
}

fn run(config: &ReplayConfig, trace: &Trace, limit: u64) -> Result<ReportCounts, ReplayError> {
    let progress = progress_bar(trace.info().requests.min(limit));
    let mut replay = Replay::new(config);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    for request in trace.requests()?.take(limit) {
        replay.request(&request?);
        progress.inc(1);
    }
    let outcome = replay.finish();
    progress.finish_and_clear();
    Ok(ReportCounts {
        requests: outcome.requests,
        input_tokens: outcome.input_tokens,
        capacity_blocks: config.capacity_blocks,
        hit_tokens: outcome.hit_tokens,
        evicted_blocks: outcome.evicted_blocks,
        traffic: [None; Tier::COUNT],
    })
}

/// A bar on stderr; nothing where stderr is no terminal.
pub(super) fn progress_bar(requests: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} requests, {eta} left")
        .expect("the template is constant and valid");
    ProgressBar::new(requests).with_style(style)
}
