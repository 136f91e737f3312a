//! `terrace bench tiers`: every link, at several block sizes and layouts, beside its limit.
//!
//! Moves real blocks over the daemon's own code and compares every byte that comes back. Judges
//! nothing: the ratio stands in the table.

mod args;
mod carried;
mod device;
mod ground;
mod limit;
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
use limit::{Limit, Plain};
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
    // Either, whatever becomes of the other.
    let shown = output::show(args.json, &rows, || report::text(&rows, &ground, args));
    if let Some(path) = &args.svg {
        let drawn = fs::write(path, svg::chart(&rows));
        drawn.map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
    }
    Ok(shown?)
}

/// Finds out before the minutes of measuring, not after them. Leaves no file where there was none.
fn can_write(path: &std::path::Path) -> Result<(), Failure> {
    let was_there = path.symlink_metadata().is_ok();
    let opened = File::options().create(true).append(true).open(path);
    let removed = || if was_there { Ok(()) } else { fs::remove_file(path) };
    opened.and_then(|_| removed()).map_err(|error| {
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
    let mut plain = Plain::make(args, cells, &ground.hbm)?;
    let mut rows = Vec::new();
    for of_size in cells.chunk_by(|a, b| a.block_bytes == b.block_bytes) {
        progress.set_message(format!("filling blocks of {}", Bytes(of_size[0].block_bytes)));
        let set = BlockSet::make(of_size[0].block_bytes, args.set_bytes, &ground.arena);
        let measured: Result<(), Failure> = of_size.iter().try_for_each(|cell| {
            progress.set_message(format!("{} at {}", cell.path, Bytes(cell.block_bytes)));
            let mut limit = Limit::of(*cell, ground, &set, &mut plain)?;
            let figures = measure_one(*cell, ground, &set, &mut limit, time);
            // Objects in a bucket go whatever happened.
            rows.push(Row::new(*cell, ground.with_left(figures, limit.clear())?));
            progress.inc(1);
            Ok(())
        });
        if of_size.iter().any(|cell| cell.path.far_tier() == Tier::Object) {
            let written = Cell { path: Path::DramObject, ..of_size[0] };
            let cleared = Carried::new(ground, &set, written)
                .and_then(|mut written| written.rewind(0..set.len()));
            ground.with_left(measured, cleared)?;
        } else {
            measured?;
        }
    }
    Ok(rows)
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
        there.go(cell.path.begins_far(blocks))?;
    }
    limit.fill(blocks)?;
    let gone = cell.path.ends_far(blocks);
    set.wipe(gone.end..blocks, &ground.arena);
    let whole_set = cell.path.far_tier() == Tier::Hbm;
    let effort = Effort { blocks, block_bytes: cell.block_bytes, whole_set, time };
    let figures = limit.with(cell.path, |limit| measure(&mut ours, limit, effort))?;
    if let Some(mut back) = Carried::back(ground, set, cell)? {
        set.wipe(gone.clone(), &ground.arena);
        back.go(gone)?;
    }
    set.check(&ground.arena)?;
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::device::Hbm;
    use super::*;
    use crate::tiers::hbm::cuda::{CudaConfig, fake_device};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        tiers: TiersArgs,
    }

    /// The whole benchmark on a GPU that is none: every path to it, each layout, and each limit.
    #[test]
    fn a_gpu_is_measured_beside_its_own_copies() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().display();
        for against in ["memory", "calls"] {
            let line = format!(
                "tiers --path hbm --set 64MiB --block 2MiB --fragment block,32KiB --seconds 1 \
                 --device cuda:0 --against {against} --dir {here}"
            );
            let args = Cli::try_parse_from(line.split_whitespace()).unwrap().tiers;
            let cells = args.cells().unwrap();
            let open = |arena: &_, tier_bytes| {
                let config = CudaConfig { tier_bytes, multiprocessors_max: 1 };
                Ok(Hbm::Gpu(fake_device(arena, config).into()))
            };
            let ground = Ground::with_device(&args, &cells, None, open).ok().unwrap();
            let rows = measure_all(&args, &cells, &ground, &ProgressBar::hidden()).ok().unwrap();
            assert_eq!(rows.len(), 8, "four paths in two layouts");
            for row in &rows {
                assert!(row.gbps > 0.0 && row.limit_gbps > 0.0 && row.ratio > 0.0, "{row:?}");
            }
            let said = report::text(&rows, &ground, &args);
            let wanted = if against == "calls" { "call a fragment" } else { "one copy of the set" };
            assert!(said.contains(wanted) && said.contains("hbm ran on cuda:0, no GPU"), "{said}");
        }
    }
}
