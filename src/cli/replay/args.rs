//! The arguments of `replay`, parsed once into values that need no second look.

use std::path::PathBuf;
use std::str::FromStr;

use crate::domain::tier::Tier;
use crate::manager::PolicyName;
use crate::sim::replay::hints::SIGMA;
use crate::sim::replay::{CAPACITY_BLOCKS_MAX, Hints};

use super::ReplayError;
use super::timing::TimingArgs;
use super::writes::WriteArgs;

/// Replay a trace of real requests and show where their blocks were found
#[derive(clap::Args, Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
#[command(group = clap::ArgGroup::new("mode").required(true).args(["simulate", "live"]))]
pub struct ReplayArgs {
    /// A kvtrace-rle-1, Mooncake or LMCache JSONL file, plain or zstd
    pub trace: PathBuf,
    /// Replay in virtual time, without moving a byte
    #[arg(long)]
    pub simulate: bool,
    /// Replay against a daemon, with real bytes
    #[arg(long)]
    pub live: bool,
    /// Capacity of HBM: blocks, `P%` of the trace's unique blocks, or 0: no such tier.
    /// When no tier is named: HBM 1%, DRAM 5%, NVMe 50%
    #[arg(long, value_name = "CAPACITY")]
    pub hbm: Option<Capacity>,
    /// Capacity of DRAM
    #[arg(long, value_name = "CAPACITY")]
    pub dram: Option<Capacity>,
    /// Capacity of `NVMe`
    #[arg(long, value_name = "CAPACITY")]
    pub nvme: Option<Capacity>,
    /// Capacity of the object tier
    #[arg(long, value_name = "CAPACITY")]
    pub object: Option<Capacity>,
    /// What decides which blocks go: lru, s3fifo or value; or opt, which knows the future: the
    /// upper bound for one tier, with --simulate --instant only
    #[arg(long, default_value = "lru", value_parser = policy)]
    pub policy: ReplayPolicy,
    /// What the agents say ahead of time: none, engine (sessions, why the model stopped, sub-agents),
    /// lifecycle (and ends and resets) or timing (and when tools are expected back); with --simulate
    #[arg(long, default_value = "none", value_parser = hints)]
    pub hints: Hints,
    /// How far announced times are off: the standard deviation of their logarithm; with
    /// --hints timing [default: 0.5]
    #[arg(long, value_name = "SIGMA", value_parser = sigma)]
    pub hint_sigma: Option<f64>,
    /// Stop after so many requests; capacities, and what agents know, still refer to the whole trace
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Fixes everything that is drawn: the blocks' keys and, live, their bytes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Store a request's blocks at its arrival and let copies take no time, as reference
    /// simulators do
    #[arg(long)]
    pub instant: bool,
    /// Bytes of a block: live, what is stored and loaded; simulated, what copies are timed by
    #[arg(long, value_name = "BYTES", value_parser = block_bytes)]
    pub block_bytes: Option<u64>,
    /// What an answer takes, in milliseconds, where the trace doesn't say [default: 5000]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(..=ANSWER_MS_MAX))]
    pub answer_ms: Option<u32>,
    #[command(flatten)]
    pub timing: TimingArgs,
    #[command(flatten)]
    pub writes: WriteArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// A day, as for what a trace says.
const ANSWER_MS_MAX: i64 = 24 * 3600 * 1000;

/// The smallest and the largest `--block-bytes`: a page, and what fits a chunk with its header.
const BLOCK_BYTES_MIN: u64 = 4096;
const BLOCK_BYTES_MAX: u64 = crate::domain::namespace::PAYLOAD_BYTES_MAX;

impl ReplayArgs {
    /// How far announced times are off.
    #[must_use]
    pub fn sigma(&self) -> f64 {
        self.hint_sigma.unwrap_or(SIGMA)
    }

    /// # Errors
    /// `--hint-sigma` was given, and no times are announced.
    pub fn check_sigma(&self) -> Result<(), ReplayError> {
        if self.hint_sigma.is_none() || self.hints == Hints::Timing {
            return Ok(());
        }
        Err(ReplayError::Usage(format!(
            "--hint-sigma says how far announced times are off, and --hints {} announces none: give \
             --hints timing, or leave it out",
            self.hints
        )))
    }

    /// The tiers' capacities in blocks, zero for a tier that is absent.
    ///
    /// # Errors
    /// Every tier is absent, or one is larger than its addresses reach.
    pub fn capacity_blocks(&self, unique_blocks: u64) -> Result<[u64; Tier::COUNT], ReplayError> {
        let named = [self.hbm, self.dram, self.nvme, self.object];
        let asked = if named.iter().all(Option::is_none) {
            [Some(100), Some(500), Some(5000), None].map(|p| p.map(Capacity::BasisPoints))
        } else {
            named
        };
        let blocks = asked.map(|capacity| capacity.map_or(0, |c| c.blocks(unique_blocks)));
        if blocks == [0; Tier::COUNT] {
            let said = "every tier has capacity 0: give one of --hbm --dram --nvme --object more";
            return Err(ReplayError::Usage(said.into()));
        }
        match Tier::ALL.into_iter().find(|tier| blocks[tier.index()] > CAPACITY_BLOCKS_MAX) {
            None => Ok(blocks),
            Some(tier) => Err(ReplayError::Usage(format!(
                "--{tier} {} blocks do not fit: a tier holds at most {CAPACITY_BLOCKS_MAX}",
                blocks[tier.index()]
            ))),
        }
    }
}

/// How much a tier holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    Blocks(u64),
    /// Hundredths of a percent of the trace's unique blocks.
    BasisPoints(u32),
}

/// The largest percentage taken: ten times what the trace has is room for everything, and more is
/// a slip of the keyboard.
const PERCENT_MAX: f64 = 1000.0;

impl Capacity {
    /// In blocks; more than nothing is at least one block.
    #[must_use]
    pub fn blocks(self, unique_blocks: u64) -> u64 {
        match self {
            Self::Blocks(blocks) => blocks,
            Self::BasisPoints(0) => 0,
            Self::BasisPoints(points) => {
                let blocks = u128::from(unique_blocks) * u128::from(points) / 10_000;
                u64::try_from(blocks).unwrap_or(u64::MAX).max(1)
            }
        }
    }
}

impl FromStr for Capacity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let said = || format!("`{text}` is no capacity: give blocks (20000), a share (5%) or 0");
        let Some(percent) = text.strip_suffix('%') else {
            return text.parse().map(Self::Blocks).map_err(|_| said());
        };
        let percent: f64 = percent.parse().map_err(|_| said())?;
        if !(0.0..=PERCENT_MAX).contains(&percent) {
            return Err(format!("{text} is out of range: give 0% to {PERCENT_MAX}%"));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let points = (percent * 100.0).round() as u32;
        if points == 0 && percent > 0.0 {
            return Err(format!("{text} is too fine: give hundredths of a percent, or blocks"));
        }
        Ok(Self::BasisPoints(points))
    }
}

/// What decides which blocks go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayPolicy {
    /// One that a daemon can have.
    Online(PolicyName),
    /// Furthest next use, with bypass.
    Opt,
}

impl ReplayPolicy {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Online(policy) => policy.name(),
            Self::Opt => "opt",
        }
    }
}

fn hints(name: &str) -> Result<Hints, String> {
    Hints::ALL.into_iter().find(|hints| hints.name() == name).ok_or_else(|| {
        let known = Hints::ALL.map(Hints::name).join(", ");
        format!("hints `{name}` are not known: use one of {known}")
    })
}

fn policy(name: &str) -> Result<ReplayPolicy, String> {
    let online = PolicyName::ALL.map(ReplayPolicy::Online);
    let all = [online[0], online[1], online[2], ReplayPolicy::Opt];
    all.into_iter().find(|policy| policy.name() == name).ok_or_else(|| {
        let known = all.map(ReplayPolicy::name).join(", ");
        format!("policy `{name}` is not known: use one of {known}")
    })
}

/// A hundred is beyond every estimate: e to the hundred is more than the age of the universe.
const SIGMA_MAX: f64 = 100.0;

fn sigma(text: &str) -> Result<f64, String> {
    let sigma: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.0..=SIGMA_MAX).contains(&sigma) {
        return Ok(sigma);
    }
    Err(format!("{text} is out of range: give 0 to {SIGMA_MAX}"))
}

pub(crate) fn block_bytes(text: &str) -> Result<u64, String> {
    let bytes: u64 = text.parse().map_err(|_| format!("`{text}` is no number of bytes"))?;
    let fits = (BLOCK_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&bytes);
    (fits && bytes.is_multiple_of(BLOCK_BYTES_MIN)).then_some(bytes).ok_or_else(|| {
        format!(
            "a block of {bytes} bytes can't be had: give a multiple of {BLOCK_BYTES_MIN} \
             up to {BLOCK_BYTES_MAX}"
        )
    })
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        replay: ReplayArgs,
    }

    /// What `replay` and these words come to.
    pub(in crate::cli::replay) fn parsed<'a>(
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<ReplayArgs, clap::Error> {
        let words = ["replay"].into_iter().chain(words);
        Cli::try_parse_from(words).map(|cli| cli.replay)
    }

    /// What the command line `replay trace LINE` comes to for a trace of 1,000 unique blocks.
    fn check(line: &str, expected: &str) {
        let words = ["trace"].into_iter().chain(line.split_whitespace());
        let said = match parsed(words) {
            Err(error) => error.to_string(),
            Ok(replay) => match replay.check_sigma().and_then(|()| replay.capacity_blocks(1000)) {
                Ok(blocks) => format!("{blocks:?}"),
                Err(error) => error.to_string(),
            },
        };
        assert!(said.contains(expected), "{line}\n  said   {said}\n  lacks  {expected}");
    }

    #[test]
    fn capacities() {
        check("--simulate", "[10, 50, 500, 0]");
        check("--simulate --hbm 5%", "[50, 0, 0, 0]");
        check("--simulate --hbm 0 --dram 7 --object 200%", "[0, 7, 0, 2000]");
        check("--simulate --nvme 0.25%", "[0, 0, 2, 0]");
        check("--live --nvme 0.01%", "[0, 0, 1, 0]");
        check("--simulate --hbm 0", "every tier has capacity 0: give one of");
        check("--simulate --hbm 99999999999", "--hbm 99999999999 blocks do not fit: a tier holds");
        check("--simulate --hbm=-1", "`-1` is no capacity: give blocks");
        check("--simulate --hbm five%", "`five%` is no capacity");
        check("--simulate --hbm NaN%", "NaN% is out of range");
        check("--simulate --hbm 1001%", "1001% is out of range: give 0% to 1000%");
        check("--simulate --hbm 0.001%", "0.001% is too fine: give hundredths");
    }

    #[test]
    fn everything_else() {
        check("", "<--simulate|--live>");
        check("--simulate --live", "cannot be used with");
        check(
            "--simulate --policy fifo",
            "policy `fifo` is not known: use one of lru, s3fifo, value, opt",
        );
        check("--simulate --hints full", "hints `full` are not known: use one of none, engine, ");
        check("--simulate --hint-sigma=-1", "-1 is out of range: give 0 to 100");
        check("--simulate --hint-sigma 3", "--hints none announces none: give --hints timing");
        check("--simulate --hints lifecycle --hint-sigma 3", "--hints lifecycle announces none");
        check("--simulate --hint-sigma much", "`much` is no number");
        check("--simulate --policy opt --hints timing --hint-sigma 3 --hbm 1%", "[10, 0");
        check("--simulate --limit 0", "0 is not in 1..");
        check("--simulate --answer-ms 86400001", "86400001 is not in 0..=86400000");
        check("--simulate --block-bytes 1000", "give a multiple of 4096 up to 67104768");
        check("--simulate --link device_up=0GB/s", "0GB/s is out of range: give 1kB/s to");
        check(
            "--simulate --prefetch off --prefill-tokens-per-s 1 --link device_local=1TB/s",
            "[10,",
        );
        check("--simulate --block-bytes 65536 --limit 3 --seed 9 --instant --json", "[10,");
    }
}
