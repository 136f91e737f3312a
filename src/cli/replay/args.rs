//! The arguments of `replay`, parsed once into values that need no second look.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::domain::tier::Tier;
use crate::manager::PolicyName;
use crate::sim::replay::CAPACITY_BLOCKS_MAX;

use super::ReplayError;

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
    /// What decides which blocks go: lru
    #[arg(long, default_value = "lru", value_parser = policy)]
    pub policy: PolicyName,
    /// What the agents say ahead of time: none
    #[arg(long, default_value = "none", value_parser = hints)]
    pub hints: Hints,
    /// Stop after so many requests; capacities still refer to the whole trace
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
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// The smallest and the largest `--block-bytes`: a page, and what fits a chunk with its header.
const BLOCK_BYTES_MIN: u64 = 4096;
const BLOCK_BYTES_MAX: u64 = crate::domain::namespace::PAYLOAD_BYTES_MAX;

impl ReplayArgs {
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

/// What the agents say ahead of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hints {
    #[default]
    None,
}

impl fmt::Display for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("none")
    }
}

fn hints(name: &str) -> Result<Hints, String> {
    match name {
        "none" => Ok(Hints::None),
        _ => Err(format!("hints `{name}` are not known: use none")),
    }
}

fn policy(name: &str) -> Result<PolicyName, String> {
    PolicyName::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| {
        let known: Vec<_> = PolicyName::ALL.iter().map(|policy| policy.name()).collect();
        format!("policy `{name}` is not known: use {}", known.join(" or "))
    })
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
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        replay: ReplayArgs,
    }

    /// What the command line `replay trace LINE` comes to for a trace of 1,000 unique blocks.
    fn check(line: &str, expected: &str) {
        let words = ["replay", "trace"].into_iter().chain(line.split_whitespace());
        let said = match Cli::try_parse_from(words) {
            Err(error) => error.to_string(),
            Ok(cli) => match cli.replay.capacity_blocks(1000) {
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
        check("--simulate --policy fifo", "policy `fifo` is not known: use lru");
        check("--simulate --hints full", "hints `full` are not known: use none");
        check("--simulate --limit 0", "0 is not in 1..");
        check("--simulate --block-bytes 1000", "give a multiple of 4096 up to 67104768");
        check("--simulate --block-bytes 65536 --limit 3 --seed 9 --instant --json", "[10,");
    }
}
