//! `terrace serve`: the daemon, from its settings to its end.
//!
//! Puts the parts together and takes them apart in order; decides nothing about blocks.

pub mod node;
pub mod numa;
mod ready;
pub(super) mod state_dir;

use std::io;
use std::time::Duration;

use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use super::Failure;
use super::signals::Signals;
use crate::config::{Config, Flags, Level, ThisMachine};
use crate::env;
use crate::events;
use crate::manager::api::{ClientId, Command, Reply};
use crate::manager::shell::Handle;
use crate::observe::{self, LogFormat, LogLevel};
use crate::service::{ClosedDoor, Server, ServiceConfig, Stores, look_at_socket};

pub use node::{Node, NodeError, Site, transfers_max};
use ready::Ready;
use state_dir::StateDir;

/// Run the daemon; with no setting at all it takes modest sizes from the machine
#[derive(clap::Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    flags: Flags,
    /// Print the line that says that the daemon is ready as JSON
    #[arg(long)]
    pub json: bool,
}

/// The runtime only moves messages and waits for the object store: few threads do.
const RUNTIME_THREADS_MAX: usize = 4;

/// How often the manager's figures become metrics.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);

/// How long copies under way may take to land when the daemon stops.
const STOP_PATIENCE: Duration = Duration::from_secs(4);
/// How long what remains may take to be let go after that: a GPU's driver waits for all that it was given.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the daemon until SIGTERM, SIGINT or SIGHUP.
///
/// # Errors
/// A setting can't stand, a part can't start, the socket is lost, or the manager ended by a defect.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = Config::load(&args.flags.sources()?, &ThisMachine)?;
    start_log(&config).map_err(|error| failed("can't start the log", &error))?;
    let ended = run_with(args, &config);
    // Before what is said of a failure.
    observe::flush_log();
    ended
}

/// The same with settings that stand, and a log.
fn run_with(args: &ServeArgs, config: &Config) -> Result<(), Failure> {
    env::raise_descriptors();
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    let site = Site::of(config).map_err(|error| Failure::Usage(error.to_string()))?;
    // Both before anything large is made: that takes seconds, and changes what it finds.
    refuse_second_daemon(config)?;
    let state = StateDir::open(&config.places.state_dir).map_err(Failure::failed)?;
    let runtime = start_runtime().map_err(|error| failed("can't start the runtime", &error))?;
    if let Some(address) = config.metrics {
        observe::start_metrics(address, runtime.handle()).map_err(Failure::failed)?;
    }
    if let Some(publisher) = &config.events.publisher {
        events::look_at_endpoints(publisher, &config.places.folders()).map_err(Failure::failed)?;
    }
    let node = Node::start(config, site, &state, runtime.handle()).map_err(Failure::failed)?;
    let (served, door) = match serve(args, config, &runtime, &node) {
        Ok((ended, door)) => (ended, Some(door)),
        Err(failure) => (Err(failure), None),
    };
    tracing::info!("stopping: copies under way may end");
    node.shell.stop(STOP_PATIENCE);
    drop(door);
    end_at_last(i32::from(served.is_err()));
    // What still waits for an object store is cut off: the store writes whole objects or none.
    runtime.shutdown_background();
    tracing::info!("stopped");
    served
}

/// Ends the process if it does not end by itself. What is durable is on disk by now.
fn end_at_last(code: i32) {
    let end = move || {
        std::thread::sleep(END_PATIENCE);
        tracing::warn!("something is not let go of in {END_PATIENCE:?}: it is left where it is");
        observe::flush_log();
        // SAFETY: ends the process, which is what is wanted: nothing of it is run or waited for, above all
        // no driver's own handlers.
        unsafe { libc::_exit(code) };
    };
    if let Err(error) = env::spawn_thread("terrace-end", end) {
        tracing::warn!(%error, "nobody watches over the end");
    }
}

fn start_log(config: &Config) -> io::Result<()> {
    let level = |level| match level {
        Level::Off => None,
        Level::Error => Some(tracing::Level::ERROR),
        Level::Warn => Some(tracing::Level::WARN),
        Level::Info => Some(tracing::Level::INFO),
        Level::Debug => Some(tracing::Level::DEBUG),
        Level::Trace => Some(tracing::Level::TRACE),
    };
    let levels = config
        .log
        .levels
        .iter()
        .map(|(module, most)| LogLevel { module: module.clone(), level: level(*most) });
    let format = if config.log.json { LogFormat::Json } else { LogFormat::Text };
    observe::start_daemon_log(&levels.collect::<Vec<_>>(), format)
}

/// The threads that a daemon runs its tasks on.
///
/// # Errors
/// The machine refuses threads.
pub(super) fn start_runtime() -> io::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(1, RUNTIME_THREADS_MAX))
        .thread_name("terrace-runtime")
        .enable_all()
        .build()
}

/// What lies at the socket's path keeps it; the service would say so too, but later.
fn refuse_second_daemon(config: &Config) -> Result<(), Failure> {
    look_at_socket(&config.places.socket).map_err(Failure::failed)
}

/// Listens, says that it does, and serves until a signal comes: how that ended, and what still keeps the
/// sockets.
fn serve(
    args: &ServeArgs,
    config: &Config,
    runtime: &Runtime,
    node: &Node,
) -> Result<(Result<(), Failure>, ClosedDoor), Failure> {
    let handle = node.shell.handle();
    let _inside = runtime.enter();
    let signals = Signals::catch().map_err(|error| failed("can't catch signals", &error))?;
    let server = Server::bind(service_config(config, node), handle.clone());
    let server = server.map_err(Failure::failed)?;
    if config.metrics.is_some() {
        let publisher = Publisher::new(handle.clone());
        // Once before the daemon is ready: whoever waits for that finds the figures.
        runtime.block_on(publisher.publish());
        env::spawn_task(publisher.run());
    }
    let _events = publish_events(config, &handle, runtime)?;
    let ready = Ready::of(config, node);
    tracing::info!("{ready}");
    ready.print(args.json).map_err(|error| failed("can't say that it is ready", &error))?;
    let (told, why) = oneshot::channel();
    let manager_failed = node.shell.failed();
    let ended = runtime.block_on(server.run(async move {
        drop(told.send(until_end(signals, manager_failed).await));
    }));
    let door = ended.map_err(|error| failed("the service ended", &error))?;
    // The service may end before anything else does.
    Ok((runtime.block_on(why).unwrap_or(Ok(())), door))
}

/// Waits for who asks the daemon to stop, or for what makes it useless.
async fn until_end(
    mut signals: Signals,
    manager_failed: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let asked = tokio::select! {
        name = signals.next() => Ok(name),
        () = manager_failed => Err(()),
    };
    if let Ok(name) = asked {
        tracing::info!(signal = name, "asked to stop");
    }
    // Asked once more, the daemon ends at once: its memory and locks go with it.
    env::spawn_task(async move {
        let name = signals.again().await;
        tracing::warn!(signal = name, "asked again: what is under way is left where it is");
        observe::flush_log();
        std::process::exit(130);
    });
    // Whoever watches over the daemon starts it anew; what is on NVMe is found again then.
    let defect = "the manager ended by a defect: the log says which, and is worth a report";
    asked.map(drop).map_err(|()| Failure::Failed(defect.into()))
}

/// Publishes changes of residency over ZeroMQ, where that is asked for, until this is dropped.
fn publish_events(
    config: &Config,
    handle: &Handle,
    runtime: &Runtime,
) -> Result<Option<events::Publisher>, Failure> {
    let Some((settings, journal)) = config.events.publisher.as_ref().zip(handle.journal()) else {
        return Ok(None);
    };
    let publisher = events::Publisher::start(settings, journal, runtime.handle());
    let publisher = publisher.map_err(Failure::failed)?;
    tracing::info!(at = %settings.publish, "publishing residency");
    Ok(Some(publisher))
}

fn service_config(config: &Config, node: &Node) -> ServiceConfig {
    let usual = ServiceConfig::new(&config.places.socket);
    let mut limits = usual.limits;
    limits.clients_max = config.clients_max;
    // One for the calls and one to spare: a status is asked without a session.
    limits.connections_max = config.clients_max * 2;
    let mut times = usual.times;
    times.lease_ttl = config.lease_ttl;
    let (facts, stores) = (node.facts.clone(), Stores(node.stores.clone()));
    ServiceConfig { node_id: node.name(), limits, times, facts, stores, ..usual }
}

/// Turns the manager's figures into metrics.
struct Publisher {
    handle: Handle,
    observer: ClientId,
}

impl Publisher {
    fn new(handle: Handle) -> Self {
        Self { observer: handle.observe(), handle }
    }

    async fn publish(&self) {
        // Busy: the next tick comes soon. Stopping: the runtime ends this task.
        if let Ok(Reply::Status(status)) = self.handle.call(self.observer, Command::Status).await {
            observe::publish(&status);
        }
    }

    async fn run(self) {
        let mut ticks = interval(PUBLISH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.publish().await;
        }
    }
}

fn failed(what: &str, error: &io::Error) -> Failure {
    Failure::Failed(format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_manager_that_failed_ends_the_daemon_as_a_failure() {
        let signals = Signals::catch().unwrap();
        let ended = until_end(signals, std::future::ready(())).await;
        let Err(Failure::Failed(why)) = ended else { panic!("{ended:?}") };
        assert!(why.contains("ended by a defect"), "{why}");
    }
}
