//! The arguments of `bench tiers`, parsed once into what is to be measured.

use std::path::PathBuf;
use std::str::FromStr;

use crate::cli::Failure;
use crate::cli::serve::transfers_max;
use crate::config::parse;
use crate::domain::namespace::PAYLOAD_BYTES_MAX;
use crate::domain::units::{Bytes, CHUNK_BYTES, PAGE_BYTES};
use crate::movement::Link;
use crate::tiers::hbm::DeviceChoice;
use crate::tiers::object::Target;

use super::path::{Choice, Path};

/// Measure every link of the daemon beside what the machine itself can do
///
/// Blocks go round and round between the tiers over the daemon's own code, and in turns with them
/// as many bytes by the simplest means there are: one thread's memcpy or a GPU's single copies for
/// HBM, a loop of reads and writes past the page cache for NVMe, plain files for an object store in
/// a folder, and a bare HTTP client for a bucket.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Takes about five times the set in memory, and four times as much on the \
                        disk, in a folder of its own that goes again. Quiet the machine first. \
                        docs/bench.md says how to read the result.")]
pub struct TiersArgs {
    /// What to measure: all, hbm, nvme, object, or single paths such as dram-nvme or hbm-both (both ways
    /// at once) [default: all]
    #[arg(long = "path", value_name = "PATH", value_delimiter = ',')]
    pub paths: Vec<Choice>,
    /// Payload of a block: whole pages of 4 KiB
    #[arg(
        long = "block",
        value_name = "SIZE",
        value_delimiter = ',',
        default_value = "64KiB,256KiB,1MiB,2MiB,4MiB,8MiB",
        value_parser = block
    )]
    pub blocks: Vec<u64>,
    /// Pages that a block is cut into on the device, as engines lay them out; `block` is one piece
    /// [default: block, and 16KiB where that divides the block]
    #[arg(long = "fragment", value_name = "SIZE", value_delimiter = ',')]
    pub fragments: Vec<Fragment>,
    /// About how long to measure, all in all
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Blocks under way at once on disks and object stores, and threads of the loops beside them
    #[arg(long, value_name = "BLOCKS", default_value_t = 16,
        value_parser = depth)]
    pub depth: u16,
    /// Bytes that go round, on each side, in whole 64MiB up to 64GiB: more than the caches hold
    #[arg(long = "set", value_name = "SIZE", default_value = "256MiB", value_parser = set)]
    pub set_bytes: u64,
    /// A folder on the disk to measure [default: the one for temporary files, $TMPDIR]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// The object store to measure: a folder as file:// and its path, or a bucket as
    /// `s3://bucket?endpoint=http://host:port` [default: a folder in --dir]
    #[arg(long, value_name = "URL")]
    pub object: Option<Target>,
    /// Where HBM is: host, cuda:N (that GPU), or auto (the first GPU, or host without one)
    #[arg(long, value_name = "DEVICE", default_value = "host", value_parser = device)]
    pub device: DeviceChoice,
    /// What HBM is held against: memory (copies as long as a block, or on a GPU as the whole set), or
    /// calls (a copy call a fragment)
    #[arg(long, value_name = "WHAT", default_value = "memory")]
    pub against: Against,
    /// Draw the ratios by block size into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Print one JSON array instead of a table
    #[arg(long)]
    pub json: bool,
}

/// How a block lies on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// In one piece.
    Block,
    /// In pages of so many bytes.
    Pages(u64),
}

/// One row of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    pub path: Path,
    pub block_bytes: u64,
    /// As long as the block where it lies in one piece.
    pub fragment_bytes: u64,
}

impl TiersArgs {
    /// Everything to measure, block size by block size.
    ///
    /// # Errors
    /// Two arguments don't go together.
    pub fn cells(&self) -> Result<Vec<Cell>, Failure> {
        let mut cells = Vec::new();
        for &block_bytes in &self.blocks {
            let paged = self.fragments_of(block_bytes)?;
            for path in Path::ALL.into_iter().filter(|path| self.takes(*path)) {
                let fragments: &[Fragment] =
                    if path.is_paged() { &paged } else { &[Fragment::Block] };
                for fragment_bytes in fragments.iter().filter_map(|f| f.within(block_bytes)) {
                    let cell = Cell { path, block_bytes, fragment_bytes };
                    if !cells.contains(&cell) {
                        cells.push(cell);
                    }
                }
            }
        }
        if cells.is_empty() {
            let said = "nothing to measure: every --fragment is longer than every --block; add \
                        `block` to the fragments";
            return Err(Failure::Usage(said.into()));
        }
        Ok(cells)
    }

    #[must_use]
    pub fn takes(&self, path: Path) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|choice| choice.includes(path))
    }

    /// How blocks of this length lie on the device.
    fn fragments_of(&self, block_bytes: u64) -> Result<Vec<Fragment>, Failure> {
        if self.fragments.is_empty() {
            let usual = [Fragment::Block, Fragment::Pages(16 << 10)];
            return Ok(usual.into_iter().filter(|usual| usual.divides(block_bytes)).collect());
        }
        match self.fragments.iter().find(|fragment| !fragment.divides(block_bytes)) {
            Some(Fragment::Pages(bytes)) if self.is_paged() => Err(Failure::Usage(format!(
                "a block of {} can't be cut into fragments of {}: give sizes that divide it",
                Bytes(block_bytes),
                Bytes(*bytes)
            ))),
            _ => Ok(self.fragments.clone()),
        }
    }

    fn is_paged(&self) -> bool {
        Path::ALL.into_iter().any(|path| path.is_paged() && self.takes(path))
    }
}

impl Fragment {
    /// Whether a block of this length is whole fragments, or shorter than one.
    fn divides(self, block_bytes: u64) -> bool {
        match self {
            Self::Block => true,
            Self::Pages(bytes) => bytes > block_bytes || block_bytes.is_multiple_of(bytes),
        }
    }

    /// The fragment's length in a block of this length, if it fits one.
    fn within(self, block_bytes: u64) -> Option<u64> {
        match self {
            Self::Block => Some(block_bytes),
            Self::Pages(bytes) => (bytes <= block_bytes).then_some(bytes),
        }
    }
}

impl FromStr for Fragment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "block" {
            return Ok(Self::Block);
        }
        let bytes = size(text).map_err(|said| format!("{said}, or `block` for one piece"))?;
        let fits = (FRAGMENT_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&bytes);
        fits.then_some(Self::Pages(bytes)).ok_or_else(|| {
            let most = parse::size_text(PAYLOAD_BYTES_MAX);
            format!("a fragment of {} can't be had: give 512B to {most}", Bytes(bytes))
        })
    }
}

/// Shorter pages than any engine's.
const FRAGMENT_BYTES_MIN: u64 = 512;

/// What HBM's paths are held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// What the memories can do: one copy as long as a block, or on a GPU as the whole set.
    Memory,
    /// One copy call a fragment.
    Calls,
}

impl FromStr for Against {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "memory" => Ok(Self::Memory),
            "calls" => Ok(Self::Calls),
            _ => Err(format!("`{text}` is nothing to hold HBM against: use memory or calls")),
        }
    }
}

fn device(text: &str) -> Result<DeviceChoice, String> {
    DeviceChoice::parse(text)
        .ok_or_else(|| format!("device `{text}` is not known: use host, auto, or cuda:0 and so on"))
}

fn size(text: &str) -> Result<u64, String> {
    parse::size(text).map_err(|wrong| format!("{}: {}", wrong.problem, wrong.remedy))
}

fn block(text: &str) -> Result<u64, String> {
    let (bytes, page) = (size(text)?, PAGE_BYTES as u64);
    let fits = (page..=PAYLOAD_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(page);
    fits.then_some(bytes).ok_or_else(|| {
        let largest = parse::size_text(PAYLOAD_BYTES_MAX);
        format!("a block of {bytes} bytes can't be had: give a multiple of 4KiB up to {largest}")
    })
}

/// The largest set: beyond it only time is spent.
const SET_BYTES_MAX: u64 = 64 << 30;

fn set(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    let fits = (CHUNK_BYTES..=SET_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(CHUNK_BYTES);
    fits.then_some(bytes).ok_or_else(|| {
        format!("a set of {} can't be had: give a multiple of 64MiB up to 64GiB", Bytes(bytes))
    })
}

const DEPTH_MAX: u16 = 256;

/// The daemon cuts a depth into transfers of as many blocks each, the limit beside it does not: only
/// where they come out even, both have as much under way.
fn depth(text: &str) -> Result<u16, String> {
    let transfers = transfers_max(Link::NvmeRead);
    let depth = text.parse::<u16>().map_err(|error| error.to_string())?;
    let comes_out = usize::from(depth) <= transfers || usize::from(depth).is_multiple_of(transfers);
    if depth > 0 && depth <= DEPTH_MAX && comes_out {
        return Ok(depth);
    }
    Err(format!("give 1 to {transfers}, or a multiple of {transfers} up to {DEPTH_MAX}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        tiers: TiersArgs,
    }

    /// What the command line comes to: how many rows, or what is said of it.
    fn check(line: &str, expected: &str) {
        let words = ["tiers"].into_iter().chain(line.split_whitespace());
        let said = match Cli::try_parse_from(words) {
            Err(error) => error.to_string(),
            Ok(cli) => match cli.tiers.cells() {
                Ok(cells) => format!("{} rows", cells.len()),
                Err(Failure::Usage(said) | Failure::Failed(said)) => said,
            },
        };
        assert!(said.contains(expected), "{line}\n  said   {said}\n  lacks  {expected}");
    }

    #[test]
    fn what_is_measured() {
        // Six sizes; four device paths in two layouts, and four others.
        check("", "72 rows");
        check("--path hbm-both --block 1MiB --fragment 16KiB --device cuda:3", "1 rows");
        check("--path nvme --block 1MiB", "2 rows");
        // What doesn't divide it counts only where it was asked for, and where there are pages.
        check("--path hbm-dram --block 20KiB", "1 rows");
        check("--path nvme --block 20KiB --fragment 16KiB", "2 rows");
        check("--path hbm-dram,dram-hbm --block 1MiB --fragment block,8KiB,64KiB", "6 rows");
        check("--path object-dram --path nvme", "18 rows");
        // A block no longer than its fragments is in one piece already.
        check("--path hbm-dram --block 64KiB --fragment block,64KiB,1MiB", "1 rows");
    }

    #[test]
    fn what_can_not_be_measured() {
        check("--path ssd", "path `ssd` is not known: use all; hbm, nvme or object");
        check("--block 65000B", "a block of 65000 bytes can't be had: give a multiple of 4KiB");
        check("--block 65536", "the unit is missing: units are B, KiB");
        check("--block 64MiB", "give a multiple of 4KiB up to 65532KiB");
        check(
            "--block 1MiB --fragment 24KiB",
            "a block of 1 MiB can't be cut into fragments of 24",
        );
        check("--path hbm --block 64KiB --fragment 1MiB", "every --fragment is longer than every");
        check("--fragment 100B", "a fragment of 100 B can't be had");
        check("--fragment 100GiB", "give 512B to 65532KiB");
        check("--fragment pages", "not a size: give a whole number and a unit");
        check("--set 100MiB", "a set of 100 MiB can't be had: give a multiple of 64MiB");
        check("--seconds 0", "0 is not in 1..=86400");
        check("--depth 1000", "give 1 to 8, or a multiple of 8 up to 256");
        check("--depth 15", "give 1 to 8, or a multiple of 8 up to 256");
        check("--device gpu", "device `gpu` is not known: use host, auto, or cuda:0");
        check("--against disk", "`disk` is nothing to hold HBM against: use memory or calls");
        check("--object gs://x", "`gs://` is not known");
    }
}
