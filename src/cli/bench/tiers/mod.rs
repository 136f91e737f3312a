//! `terrace bench tiers`: every link, at several block sizes and layouts, beside its limit.
//!
//! Moves real blocks over the daemon's own code and compares every byte that comes back. Judges
//! nothing: the ratio stands in the table.

mod args;
mod carried;
mod ground;
mod limits;
mod measure;
mod path;
mod report;
mod set;
mod svg;

use std::fs::{self, File};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::super::Failure;
use crate::cli::output;
use crate::domain::tier::Tier;
use crate::domain::units::Bytes;
use crate::observe::{self, LogFormat, LogLevel};

use args::Cell;
pub use args::TiersArgs;
use carried::Carried;
use ground::Ground;
use limits::disk::{Frames, RawDisk};
use limits::files::PlainFiles;
use limits::memory::Memories;
use measure::{Effort, Figures, Mover, measure};
use path::Path;
use report::Row;
use set::BlockSet;

/// Runs the benchmark and prints its result to stdout.
///
/// # Errors
/// An argument can't stand, the machine refused something, or blocks could not be moved.
pub fn run(args: &TiersArgs) -> Result<(), Failure> {
    let cells = args.cells()?;
    args.svg.as_deref().map(can_write).transpose()?;
    // What a copy fails by is logged where it fails.
    let warnings = LogLevel { module: String::new(), level: Some(tracing::Level::WARN) };
    observe::start_log(&[warnings], LogFormat::Text);
    let ground = Ground::prepare(args, &cells)?;
    let progress = progress_bar(cells.len() as u64);
    let mut rows = measure_all(args, &cells, &ground, &progress)?;
    progress.finish_and_clear();
    report::sort(&mut rows);
    if let Some(path) = &args.svg {
        let drawn = fs::write(path, svg::chart(&rows));
        drawn.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    }
    if args.json {
        output::print_json(&rows);
    } else {
        output::print(&report::text(&rows, &ground, args));
    }
    Ok(())
}

/// Finds out before the minutes of measuring, not after them.
fn can_write(path: &std::path::Path) -> Result<(), Failure> {
    let opened = File::options().create(true).append(true).open(path);
    opened.map(drop).map_err(|error| {
        let said = format!("--svg {}: {error}; name a file that can be written", path.display());
        Failure::Usage(said)
    })
}

/// A bar on stderr; nothing where stderr is no terminal.
fn progress_bar(cells: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len}, {eta} left, {msg}")
        .expect("the template is constant and valid");
    ProgressBar::new(cells).with_style(style)
}

fn measure_all(
    args: &TiersArgs,
    cells: &[Cell],
    ground: &Ground,
    progress: &ProgressBar,
) -> Result<Vec<Row>, Failure> {
    let time = Duration::from_secs(args.seconds.into()) / u32::try_from(cells.len()).unwrap_or(1);
    let set_len = usize::try_from(args.set_bytes).expect("the set was found to fit in memory");
    let mut memories = Memories::new(if needs_memories(cells) { set_len } else { 0 });
    let mut rows = Vec::new();
    for of_size in cells.chunk_by(|a, b| a.block_bytes == b.block_bytes) {
        progress.set_message(format!("filling blocks of {}", Bytes(of_size[0].block_bytes)));
        let set = BlockSet::make(of_size[0].block_bytes, args.set_bytes, &ground.arena);
        for cell in of_size {
            progress.set_message(format!("{} at {}", cell.path, Bytes(cell.block_bytes)));
            let mut limit = Limit::of(cell.path, ground, &set, &mut memories)?;
            let figures = measure_one(*cell, ground, &set, &mut limit, time)?;
            rows.push(Row::new(*cell, figures));
            progress.inc(1);
        }
        if of_size.iter().any(|cell| cell.path.far_tier() == Tier::Object) {
            Carried::new(ground, &set, Cell { path: Path::DramObject, ..of_size[0] })?
                .rewind(0..set.len())?;
        }
    }
    Ok(rows)
}

fn needs_memories(cells: &[Cell]) -> bool {
    cells.iter().any(|cell| cell.path.far_tier() == Tier::Hbm)
}

/// Brings the blocks to where the path begins, measures, and checks every one that came back.
fn measure_one(
    cell: Cell,
    ground: &Ground,
    set: &BlockSet,
    limit: &mut Limit<'_>,
    time: Duration,
) -> Result<Figures, Failure> {
    let mut ours = Carried::new(ground, set, cell)?;
    // Within the device half of the blocks' room is the target.
    let blocks = set.len();
    if let Some(mut there) = Carried::there(ground, set, cell)? {
        there.go(0..blocks)?;
    }
    limit.fill(blocks)?;
    if cell.path.ends().1 == Tier::Dram {
        set.wipe(&ground.arena);
    }
    let whole_set = cell.path.far_tier() == Tier::Hbm;
    let effort = Effort { blocks, block_bytes: cell.block_bytes, whole_set, time };
    let figures = limit.with(cell.path, |limit| measure(&mut ours, limit, effort))?;
    if let Some(mut back) = Carried::back(ground, set, cell)? {
        set.wipe(&ground.arena);
        back.go(0..blocks)?;
    }
    set.check(&ground.arena)?;
    Ok(figures)
}

/// What a path is held against.
enum Limit<'a> {
    Memory { memories: &'a mut Memories, block_bytes: usize },
    Disk(RawDisk),
    Files(PlainFiles),
}

impl<'a> Limit<'a> {
    fn of(
        path: Path,
        ground: &Ground,
        set: &BlockSet,
        memories: &'a mut Memories,
    ) -> Result<Self, Failure> {
        let refused = |what: &'static str| {
            move |error: std::io::Error| Failure::Failed(format!("can't make {what}: {error}"))
        };
        let frame_bytes = set.frames[0].slot_bytes as usize;
        let block_bytes = usize::try_from(set.block_bytes).expect("a block fits in memory");
        match path.far_tier() {
            Tier::Hbm | Tier::Dram => Ok(Self::Memory { memories, block_bytes }),
            Tier::Nvme => {
                let offsets = set.frames.iter().map(|place| place.offset).collect();
                let frames = Frames { bytes: frame_bytes, offsets };
                let direct = ground.nvme.as_ref().is_some_and(|facts| facts.direct);
                let file = ground.beside("raw");
                let disk = RawDisk::open(&file, direct, &frames, ground.depth);
                disk.map(Self::Disk).map_err(refused("the raw file beside NVMe's"))
            }
            Tier::Object => {
                let files = PlainFiles::open(&ground.beside("plain"), frame_bytes, ground.depth);
                files.map(Self::Files).map_err(refused("the files beside the object store's"))
            }
        }
    }

    /// Writes what reads will read.
    fn fill(&mut self, blocks: usize) -> Result<(), Failure> {
        match self {
            Self::Memory { .. } => Ok(()),
            Self::Disk(disk) => disk.writes().go(0..blocks).map(drop),
            Self::Files(files) => {
                let mut writes = files.writes();
                writes.rewind(0..blocks)?;
                writes.go(0..blocks).map(drop)
            }
        }
    }

    /// Runs `work` with the limit of the path's direction.
    fn with<T>(&mut self, path: Path, work: impl FnOnce(&mut dyn Mover) -> T) -> T {
        let reads = path.ends().1 == Tier::Dram;
        match self {
            Self::Memory { memories, block_bytes } => work(&mut memories.copies(*block_bytes)),
            Self::Disk(disk) if reads => work(&mut disk.reads()),
            Self::Disk(disk) => work(&mut disk.writes()),
            Self::Files(files) if reads => work(&mut files.reads()),
            Self::Files(files) => work(&mut files.writes()),
        }
    }
}
