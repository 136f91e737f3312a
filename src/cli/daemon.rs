//! A daemon of one's own: `demo`, live replays, benches and tests each start one in a folder that
//! goes with it.
//!
//! Starts the real binary and speaks to it only through its socket. Never finds or touches a daemon
//! it did not start: it ends the process it spawned, and nothing else.

mod folder;
mod memory;

use std::fmt::Display;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::sleep;

use crate::client;
use crate::config::{Machine, ThisMachine};
use crate::domain::tier::Tier;
use crate::domain::units::Bytes;
use crate::env::Stopwatch;

pub(super) use folder::Folder as OwnFolder;
use folder::Folder;
pub use memory::ResidentMemory;

/// How long a daemon may take until it answers: touching its memory and laying out its files is
/// most of it.
const READY_TIMEOUT: Duration = Duration::from_mins(2);

/// How long a daemon that was asked to stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a daemon that starts or stops is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How long a process that ends may take to be gone after its sockets: its memory goes in between.
const CLOSING: Duration = Duration::from_secs(1);

/// How much of the log's end stands in an error.
const LOG_TAIL_LINES: usize = 12;

const MIB: u64 = 1 << 20;

/// How large a tier is; no bytes: it is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierSize {
    /// Whole chunks.
    pub bytes: u64,
    /// At most so many blocks, if bytes are not the only limit.
    pub blocks_max: Option<u64>,
}

impl TierSize {
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self { bytes, blocks_max: None }
    }
}

/// What daemon to start.
#[derive(Clone, Debug)]
pub struct DaemonSpec {
    /// The `terrace` binary.
    pub binary: PathBuf,
    /// Where the daemon's folder is made.
    pub parent: PathBuf,
    pub tiers: [TierSize; Tier::COUNT],
    /// Memory for frames on their way, in whole chunks.
    pub staging_bytes: u64,
    /// More flags of `serve`, each with its value.
    pub flags: Vec<(String, String)>,
}

impl DaemonSpec {
    /// With 128 MiB of staging, in the folder for temporary files.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, tiers: [TierSize; Tier::COUNT]) -> Self {
        Self {
            binary: binary.into(),
            parent: std::env::temp_dir(),
            tiers,
            staging_bytes: 128 * MIB,
            flags: Vec::new(),
        }
    }

    /// As [`DaemonSpec::new`], with the binary that is running now.
    ///
    /// # Errors
    /// The machine does not say which binary that is.
    pub fn of_this_binary(tiers: [TierSize; Tier::COUNT]) -> Result<Self, DaemonError> {
        let binary = std::env::current_exe()
            .map_err(|source| DaemonError::io("find the running binary", source))?;
        Ok(Self::new(binary, tiers))
    }
}

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Mend the machine's part as the text says.
    #[error("cannot {what}: {source}")]
    Io { what: String, source: io::Error },
    /// Its files don't fit where they are made.
    #[error(
        "{} has {} free, and the daemon's files take {}: free some room there, or set TMPDIR to a \
         folder on a larger disk",
        parent.display(),
        Bytes(*free_bytes),
        Bytes(*needed_bytes)
    )]
    NoRoom { parent: PathBuf, needed_bytes: u64, free_bytes: u64 },
    /// It ended before it answered: its log says why.
    #[error("the daemon ended at its start ({status}); it said:\n{log}")]
    Ended { status: ExitStatus, log: String },
    /// It ended while it was used: its log says why, unless it was killed.
    #[error("the daemon ended while it was used ({status}), so: {work}; it said:\n{log}")]
    EndedEarly { status: ExitStatus, work: String, log: String },
    /// It runs but does not answer.
    #[error("the daemon did not answer within {} s; it said:\n{log}", waited.as_secs())]
    Silent { waited: Duration, log: String },
}

impl DaemonError {
    fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }

    /// What the machine said, for who names the act himself.
    pub(super) fn into_cause(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        }
    }
}

/// A running daemon and its folder. Dropping it ends the process and removes the folder.
pub struct Daemon {
    spec: DaemonSpec,
    child: Child,
    // After the child: the folder goes when nobody writes to it any more.
    folder: Folder,
}

impl Daemon {
    /// Starts a daemon in a new folder and waits until it answers.
    ///
    /// # Errors
    /// The folder cannot be made, or the daemon does not come up; its log's end is quoted.
    pub async fn start(spec: DaemonSpec) -> Result<Self, DaemonError> {
        let folder = Folder::make(&spec.parent)?;
        check_room(&spec)?;
        let child = spawn(&spec, &folder)?;
        let mut daemon = Self { spec, child, folder };
        daemon.ready().await?;
        Ok(daemon)
    }

    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("d.sock")
    }

    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        state_dir(&self.folder)
    }

    /// Where the daemon's folder is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The daemon's resident memory now.
    ///
    /// # Errors
    /// It is gone.
    pub fn resident_memory(&self) -> io::Result<ResidentMemory> {
        ResidentMemory::of(self.pid())
    }

    /// The last lines of what the daemon logged.
    #[must_use]
    pub fn log_tail(&self) -> String {
        log_tail(&self.folder)
    }

    /// Ends the process at once, as a crash would, and leaves the folder.
    ///
    /// # Errors
    /// The machine refused.
    pub fn kill(&mut self) -> io::Result<()> {
        // A process that has ended already is what is wanted.
        let _ = self.child.kill();
        self.child.wait().map(drop)
    }

    /// Asks the process to stop, waits until it has, and leaves the folder.
    ///
    /// # Errors
    /// It is gone already, or does not stop in time.
    pub async fn stop(&mut self) -> Result<ExitStatus, DaemonError> {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM)
            .map_err(|error| DaemonError::io("ask the daemon to stop", error.into()))?;
        let waiting = Stopwatch::start();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if waiting.elapsed() > STOP_TIMEOUT {
                return Err(DaemonError::Silent { waited: STOP_TIMEOUT, log: self.log_tail() });
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Starts a daemon again in the same folder, after [`Daemon::kill`] or [`Daemon::stop`].
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub async fn restart(&mut self) -> Result<(), DaemonError> {
        self.kill().map_err(|source| DaemonError::io("end the daemon before it", source))?;
        self.child = spawn(&self.spec, &self.folder)?;
        self.ready().await
    }

    /// What the work with this daemon came to. Where it failed and the daemon is gone, that is why.
    ///
    /// # Errors
    /// The work's own, or [`DaemonError::EndedEarly`].
    pub async fn or_its_end<T, E: From<DaemonError> + Display>(
        &mut self,
        came_to: Result<T, E>,
    ) -> Result<T, E> {
        let Err(error) = came_to else { return came_to };
        let waiting = Stopwatch::start();
        while waiting.elapsed() < CLOSING {
            if let Some(status) = self.ended()? {
                let (work, log) = (error.to_string(), self.log_tail());
                return Err(DaemonError::EndedEarly { status, work, log }.into());
            }
            sleep(LOOK_EVERY).await;
        }
        Err(error)
    }

    async fn ready(&mut self) -> Result<(), DaemonError> {
        let waiting = Stopwatch::start();
        loop {
            if client::daemon_status(self.socket(), Duration::from_secs(1)).await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.ended()? {
                return Err(DaemonError::Ended { status, log: self.log_tail() });
            }
            if waiting.elapsed() > READY_TIMEOUT {
                return Err(DaemonError::Silent { waited: READY_TIMEOUT, log: self.log_tail() });
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, DaemonError> {
        self.child.try_wait().map_err(|source| DaemonError::io("look at the daemon", source))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(pid = self.pid(), %error, "a daemon of our own could not be ended");
        }
    }
}

fn state_dir(folder: &Folder) -> PathBuf {
    folder.path().join("state")
}

/// The daemon looks too, and speaks of settings that whoever started this can't give.
fn check_room(spec: &DaemonSpec) -> Result<(), DaemonError> {
    let needed_bytes = spec.tiers[Tier::Nvme.index()].bytes;
    match ThisMachine.disk(&spec.parent).map(|disk| disk.free_bytes) {
        Some(free_bytes) if free_bytes < needed_bytes => {
            let parent = spec.parent.clone();
            Err(DaemonError::NoRoom { parent, needed_bytes, free_bytes })
        }
        _ => Ok(()),
    }
}

fn spawn(spec: &DaemonSpec, folder: &Folder) -> Result<Child, DaemonError> {
    let log_path = folder.path().join("log");
    let log = File::options()
        .create(true)
        .append(true)
        .open(&log_path)
        .map_err(|source| DaemonError::io(format!("write {}", log_path.display()), source))?;
    // A file of its own, though empty, so that the user's settings are not this daemon's.
    let config = folder.path().join("config.toml");
    fs::write(&config, "# Everything is given by flags.\n")
        .map_err(|source| DaemonError::io(format!("write {}", config.display()), source))?;
    let mut command = Command::new(&spec.binary);
    command.arg("serve").arg("--config").arg(&config);
    command.arg("--socket").arg(folder.path().join("d.sock"));
    command.arg("--state-dir").arg(state_dir(folder));
    for (flag, value) in tier_flags(spec).iter().chain(&spec.flags) {
        command.arg(format!("--{flag}")).arg(value);
    }
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TERRACE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // Outside the terminal's group: ctrl-c reaches whoever started the daemon, who then ends it.
    command.process_group(0);
    end_with_this_process(&mut command);
    let what = || format!("start {} serve", spec.binary.display());
    command.spawn().map_err(|source| DaemonError::io(what(), source))
}

fn tier_flags(spec: &DaemonSpec) -> Vec<(String, String)> {
    let size = |bytes: u64| format!("{}MiB", bytes / MIB);
    let mut flags = vec![("dram-staging".to_owned(), size(spec.staging_bytes))];
    for tier in Tier::ALL {
        let TierSize { bytes, blocks_max } = spec.tiers[tier.index()];
        match (tier, bytes) {
            (Tier::Nvme, 0) => flags.push(("nvme-enabled".into(), "false".into())),
            (Tier::Object, 0) => flags.push(("object-url".into(), "off".into())),
            _ => flags.push((format!("{tier}-capacity"), size(bytes))),
        }
        if let Some(blocks) = blocks_max.filter(|_| bytes > 0) {
            flags.push((format!("{tier}-blocks-max"), blocks.to_string()));
        }
    }
    flags
}

/// Has the kernel end the child when the thread that starts it is gone, however it went: a killed
/// parent runs no destructors.
fn end_with_this_process(command: &mut Command) {
    let parent = Some(rustix::process::getpid());
    let before_exec = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have gone before the line above.
        if rustix::process::getppid() == parent {
            Ok(())
        } else {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    };
    // SAFETY: between fork and exec the closure only makes two system calls and allocates nothing,
    // so it takes no lock that another thread of the parent may have held at the fork.
    unsafe { command.pre_exec(before_exec) };
}

fn log_tail(folder: &Folder) -> String {
    let text = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    if tail.is_empty() { "(nothing)".to_owned() } else { tail.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn where_its_files_do_not_fit_the_folder_for_them_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let mut tiers = [TierSize::default(); Tier::COUNT];
        tiers[Tier::Nvme.index()] = TierSize::bytes(1 << 60);
        let spec = DaemonSpec { parent: parent.path().into(), ..DaemonSpec::new("/none", tiers) };
        let Err(refused) = Daemon::start(spec).await else { panic!("it has room") };
        let said = refused.to_string();
        let folder = parent.path().display().to_string();
        assert!(said.contains("TMPDIR") && said.contains("1048576 TiB"), "{said}");
        assert!(said.starts_with(&folder) && !said.contains("nvme"), "{said}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "nothing is left");
    }
}
