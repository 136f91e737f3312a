//! The simulated half of `replay`.

use indicatif::{ProgressBar, ProgressStyle};

use crate::domain::tier::Tier;
use crate::env::Stopwatch;
use crate::sim::replay::{
    Foresight, Hints, Opt, Pace, Replay, ReplayConfig, ReplayOutcome, Told, Writes,
};
use crate::workload::trace::{Format, Trace};

use super::args::ReplayPolicy;
use super::report::{
    AssumedAnswers, Mode, ReplayReport, ReportCounts, ReportHead, TimedReport, WritesReport,
};
use super::{ReplayArgs, ReplayError};

/// What a token's KV takes where `--block-bytes` doesn't say: Llama 3.1 8B in bf16, which is 32
/// layers of K and V, 8 heads of 128 elements of 2 bytes.
const TOKEN_BYTES: u64 = 131_072;

pub(super) fn simulate(args: &ReplayArgs) -> Result<ReplayReport, ReplayError> {
    let elapsed = Stopwatch::start();
    let trace = super::open(args)?;
    let info = *trace.info();
    check_hints(args, info.format)?;
    let capacity_blocks = args.capacity_blocks(info.unique_blocks)?;
    let pace = pace(args, info.block_tokens)?;
    let answer_ms = answer_ms(args)?;
    let writes = writes(args, info.block_tokens, capacity_blocks)?;
    let limit = usize::try_from(args.limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let outcome = match args.policy {
        ReplayPolicy::Opt => upper_bound(args, &trace, capacity_blocks, limit)?,
        ReplayPolicy::Online(policy) => {
            let (block_tokens, seed) = (info.block_tokens, args.seed);
            let config = ReplayConfig {
                capacity_blocks,
                policy,
                block_tokens,
                seed,
                pace,
                answer_ms,
                writes,
            };
            run(Replay::told(&config, told(args, &trace)?), &trace, limit)?
        }
    };
    let counts = ReportCounts {
        requests: outcome.requests,
        input_tokens: outcome.input_tokens,
        capacity_blocks,
        hit_tokens: outcome.hit_tokens,
        evicted_blocks: outcome.evicted_blocks,
        traffic: [None; Tier::COUNT],
    };
    let head = ReportHead {
        trace: args.trace.display().to_string(),
        info,
        mode: Mode::Simulate,
        policy: args.policy.name(),
        hints: args.hints.to_string(),
        seed: args.seed,
    };
    let report = ReplayReport::new(head, &counts, elapsed.elapsed().as_secs_f64(), None);
    let timed = match (pace, &outcome.timed) {
        (Pace::Timed(timing), Some(timed)) => Some(TimedReport::new(&timing, timed)),
        _ => None,
    };
    let has_nvme = capacity_blocks[Tier::Nvme.index()] > 0 && is_online(args.policy);
    let nvme_writes = has_nvme
        .then(|| WritesReport::new(&writes.rules, writes.block_bytes, &outcome.nvme_writes));
    let requests = outcome.assumed_answers;
    let assumed_answers = (requests > 0).then_some(AssumedAnswers { requests, ms: answer_ms });
    Ok(ReplayReport { nvme_writes, assumed_answers, timed, ..report })
}

/// What the drive is written. Saying something of it makes no sense where there is none.
fn writes(
    args: &ReplayArgs,
    block_tokens: u32,
    capacity_blocks: [u64; Tier::COUNT],
) -> Result<Writes, ReplayError> {
    let has_nvme = capacity_blocks[Tier::Nvme.index()] > 0 && is_online(args.policy);
    if args.writes.is_given() && !has_nvme {
        return Err(ReplayError::Usage(
            "--nvme-write and its like say what an NVMe tier is written: give --nvme a capacity, \
             and a policy other than opt"
                .into(),
        ));
    }
    let block_bytes = args.block_bytes.unwrap_or(TOKEN_BYTES * u64::from(block_tokens));
    Ok(Writes { rules: args.writes.rules(), block_bytes })
}

const fn is_online(policy: ReplayPolicy) -> bool {
    matches!(policy, ReplayPolicy::Online(_))
}

fn pace(args: &ReplayArgs, block_tokens: u32) -> Result<Pace, ReplayError> {
    if args.instant {
        args.timing.refuse("has no meaning where copies take no time: leave --instant out")?;
        return Ok(Pace::Instant);
    }
    let block_bytes = args.block_bytes.unwrap_or(TOKEN_BYTES * u64::from(block_tokens));
    Ok(Pace::Timed(args.timing.timing(block_bytes)?))
}

fn answer_ms(args: &ReplayArgs) -> Result<u32, ReplayError> {
    if args.answer_ms.is_some() && args.instant && args.hints == Hints::None {
        return Err(ReplayError::Usage(
            "--answer-ms has no meaning where nothing waits for answers: leave --instant out, or \
             give --hints"
                .into(),
        ));
    }
    Ok(args.answer_ms.unwrap_or(ReplayConfig::ANSWER_MS))
}

fn run(mut replay: Replay, trace: &Trace, limit: usize) -> Result<ReplayOutcome, ReplayError> {
    let requests = u64::try_from(limit).unwrap_or(u64::MAX).min(trace.info().requests);
    let progress = progress_bar(requests);
    for request in trace.requests()?.take(limit) {
        replay.request(&request?);
        progress.inc(1);
    }
    let outcome = replay.finish();
    progress.finish_and_clear();
    Ok(outcome)
}

/// Who could say anything is a session of the trace, and who could hear it a policy that learns.
fn check_hints(args: &ReplayArgs, format: Format) -> Result<(), ReplayError> {
    let why = match (format, args.policy) {
        _ if args.hints == Hints::None => return Ok(()),
        (Format::Mooncake, _) => "a Mooncake trace has no sessions that could give any",
        (_, ReplayPolicy::Opt) => "--policy opt knows more than hints say",
        _ => return Ok(()),
    };
    Err(ReplayError::Usage(format!("--hints {}: {why}; leave it out", args.hints)))
}

/// What the agents of the trace say, and when they go on: an agent has its answer by then. They know
/// the whole trace, however little of it is replayed.
fn told(args: &ReplayArgs, trace: &Trace) -> Result<Told, ReplayError> {
    let hints = args.hints;
    let mut foresight = Foresight::default();
    if hints > Hints::None || !args.instant {
        for request in trace.requests()? {
            foresight.learn(&request?);
        }
    }
    Ok(Told { hints, sigma: args.sigma(), foresight, seed: args.seed })
}

/// Who knows the future needs no hints, no links and no tier below.
fn upper_bound(
    args: &ReplayArgs,
    trace: &Trace,
    capacity_blocks: [u64; Tier::COUNT],
    limit: usize,
) -> Result<ReplayOutcome, ReplayError> {
    let mut present = Tier::ALL.into_iter().filter(|tier| capacity_blocks[tier.index()] > 0);
    let (Some(tier), None, true) = (present.next(), present.next(), args.instant) else {
        return Err(ReplayError::Usage(
            "--policy opt is the upper bound of one tier in which copies take no time: give one \
             of --hbm --dram --nvme --object, and --instant"
                .into(),
        ));
    };
    let mut opt = Opt::default();
    for request in trace.requests()?.take(limit) {
        opt.request(request?);
    }
    Ok(opt.finish(tier.index(), capacity_blocks[tier.index()], trace.info().block_tokens))
}

/// A bar on stderr; nothing where stderr is no terminal.
pub(super) fn progress_bar(requests: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} requests, {eta} left")
        .expect("the template is constant and valid");
    ProgressBar::new(requests).with_style(style)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::replay::args::tests::parsed;

    #[test]
    fn an_agent_beyond_the_limit_goes_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("two");
        let line = |t| {
            format!(
                r#"{{"t":{t},"session":"s","agent":"a","input_length":64,"output_length":1,"hash_ids":[0]}}"#
            )
        };
        std::fs::write(&path, [line(1), line(9)].join("\n")).expect("a file");
        let trace = path.to_str().expect("a name");
        let words = [trace, "--simulate", "--limit", "1", "--hints", "lifecycle"];
        let args = parsed(words).expect("a command line");
        let told = told(&args, &Trace::open(&path).expect("a trace")).expect("the same trace");
        let goes_on = |request| told.foresight.outlook(request).next.is_some();
        assert_eq!([0, 1].map(goes_on), [true, false]);
    }
}
