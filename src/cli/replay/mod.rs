//! `terrace replay`: a trace against the manager alone, or against a running daemon.
//!
//! Reads and checks everything before it starts: a trace or a capacity that can't be had is
//! refused with nothing done.

pub mod args;
pub mod live;
pub mod report;
mod simulate;
pub mod timing;
pub mod writes;

use super::Outcome;
use super::output::{self, Unprinted};
use crate::workload::trace::{Trace, TraceError};

pub use args::ReplayArgs;

/// A replay that can't be done, in a sentence that says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Live(#[from] live::LiveError),
    #[error(transparent)]
    Unprinted(#[from] Unprinted),
}

/// Runs the command and prints its result to stdout. A replay that found corrupt blocks is bad.
///
/// # Errors
/// What is wrong with the trace or the arguments, or with the daemon of a live replay.
pub fn run(args: &ReplayArgs) -> Result<Outcome, ReplayError> {
    args.check_sigma()?;
    let report = if args.live { live::live(args)? } else { simulate::simulate(args)? };
    output::show(args.json, &report, || report.table())?;
    Ok(report.live.map_or(Outcome::Good, |live| live::judge(&live)))
}

/// Opens the trace, and says on stderr when its ids are not what a trace's must be.
fn open(args: &ReplayArgs) -> Result<Trace, TraceError> {
    let trace = Trace::open(&args.trace)?;
    let info = trace.info();
    if info.contradicted_blocks > 0 {
        eprintln!(
            "terrace: {}: {} of {} block ids stand after different blocks, and are found after one \
             only: an id must stand for a block with all that is before it",
            args.trace.display(),
            info.contradicted_blocks,
            info.unique_blocks
        );
    }
    Ok(trace)
}
