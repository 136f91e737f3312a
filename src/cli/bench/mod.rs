//! `terrace bench`: how close the daemon's parts come to what this machine can do.
//!
//! Every figure that has a limit stands beside that limit, measured in the same run. Never touches
//! a running daemon, and takes away again what it made.

mod index;
mod rpc;
mod stats;
mod tiers;

use clap::Subcommand;

use super::Failure;

/// Measure the daemon's parts beside this machine's limits
#[derive(clap::Args, Clone, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, Debug)]
enum What {
    Tiers(Box<tiers::TiersArgs>),
    Index(index::IndexArgs),
    Rpc(rpc::RpcArgs),
}

impl BenchArgs {
    /// Whether the result is wanted as JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        match &self.what {
            What::Tiers(args) => args.json,
            What::Index(args) => args.json,
            What::Rpc(args) => args.json,
        }
    }
}

/// Runs the benchmark that was asked for and prints its result to stdout.
///
/// # Errors
/// An argument can't stand, or the machine refused something; the text says what to change.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    match &args.what {
        What::Tiers(args) => tiers::run(args),
        What::Index(args) => index::run(args),
        What::Rpc(args) => rpc::run(args),
    }
}
