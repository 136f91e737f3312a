//! The command line: what each command takes, does and shows.
//!
//! Results go to stdout, everything else to stderr. Every command speaks to a daemon through its
//! socket only, and holds none of the daemon's rules.

pub mod bench;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod inspect;
pub mod output;
pub mod replay;
pub mod serve;
pub mod sessions;
mod signals;
pub mod status;

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::runtime;

use crate::client::ClientError;
use crate::config::{ConfigError, Places, Sources, ThisMachine, from_here};

/// Keeps an LLM engine's KV cache blocks across HBM, DRAM, NVMe and object storage
#[derive(Parser, Debug)]
#[command(name = "terrace", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Serve(serve::ServeArgs),
    Demo(demo::DemoArgs),
    Replay(replay::ReplayArgs),
    Status(status::StatusArgs),
    Sessions(sessions::SessionsArgs),
    Inspect(inspect::InspectArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
}

/// How a command ended, for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// It ran, and what it looked at is not well.
    Bad,
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// A setting or an argument has to be mended: exit code 2, as for a wrong command line.
    Usage(String),
    /// Something else has to be mended: exit code 1.
    Failed(String),
}

impl Failure {
    fn failed(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<output::Unprinted> for Failure {
    fn from(error: output::Unprinted) -> Self {
        Self::failed(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<replay::ReplayError> for Failure {
    fn from(error: replay::ReplayError) -> Self {
        match error {
            replay::ReplayError::Usage(said) => Self::Usage(said),
            error => Self::failed(error),
        }
    }
}

/// Parses this process's command line and runs it.
#[must_use]
pub fn main() -> ExitCode {
    signals::fail_long_writes();
    let (json, ended) = run(Cli::parse().command);
    let (code, said) = match ended {
        Ok(Outcome::Good) => return ExitCode::SUCCESS,
        Ok(Outcome::Bad) => return ExitCode::FAILURE,
        Err(Failure::Usage(said)) => (2, said),
        Err(Failure::Failed(said)) => (1, said),
    };
    output::print_error(&said, json);
    ExitCode::from(code)
}

/// Runs a command; says too whether it was asked for JSON.
fn run(command: Command) -> (bool, Result<Outcome, Failure>) {
    let done = |()| Outcome::Good;
    match command {
        Command::Serve(args) => (args.json, serve::run(&args).map(done)),
        Command::Demo(args) => (args.json, demo::run(&args).map_err(Failure::failed)),
        Command::Replay(args) => (args.json, replay::run(&args).map_err(Failure::from)),
        Command::Status(args) => (args.json, status::run(&args).map(done)),
        Command::Sessions(args) => (args.json, sessions::run(&args).map(done)),
        Command::Inspect(args) => (args.json, inspect::run(&args).map(done)),
        Command::Bench(args) => (args.json(), bench::run(&args).map(done)),
        Command::Doctor(args) => (args.json, doctor::run(&args)),
    }
}

/// How long a daemon may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for a daemon's answer to a question.
fn ask<T>(asking: impl Future<Output = Result<T, ClientError>>) -> Result<T, Failure> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("can't start a runtime: {error}")))?;
    runtime.block_on(asking).map_err(Failure::failed)
}

/// Which daemon a command speaks to.
#[derive(clap::Args, Clone, Debug)]
pub struct DaemonArgs {
    /// The daemon's socket [default: as for serve, by file and environment]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// The file that the daemon was started with
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
}

impl DaemonArgs {
    /// Where the daemon's socket and state lie.
    ///
    /// # Errors
    /// The settings of the two can't stand.
    pub fn places(&self) -> Result<Places, ConfigError> {
        Places::load(&self.sources()?, &ThisMachine)
    }

    /// Everything that settings are read from.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn sources(&self) -> Result<Sources, ConfigError> {
        let socket = self.socket.as_ref();
        let flags = socket.map(|path| ("socket", from_here(path))).into_iter().collect();
        Sources::gather(self.config.as_deref(), flags)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_relative_socket_is_looked_for_where_the_user_stands() {
        let args = DaemonArgs { socket: Some("t.sock".into()), config: None };
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            args.sources().unwrap().flags,
            [("socket", here.join("t.sock").to_string_lossy().into_owned())]
        );
    }
}
