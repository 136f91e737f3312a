//! Where the daemon's socket and state lie; all that a command needs to find the daemon.

use std::path::{Path, PathBuf};

use super::error::{ConfigError, Problem};
use super::machine::Machine;
use super::reader::Reader;
use super::sources::Sources;

/// The daemon's socket and state folder. Neither need be there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    pub socket: PathBuf,
    pub state_dir: PathBuf,
}

impl Places {
    /// The places that the sources give; no other setting is looked at, so that a command finds a
    /// daemon that runs with settings of its own.
    ///
    /// # Errors
    /// A setting of the two can't stand, or a name is no setting at all.
    pub fn load(sources: &Sources, machine: &dyn Machine) -> Result<Self, ConfigError> {
        Self::read(&Reader::new(&sources.values()?, sources, machine))
    }

    /// The folders that the daemon makes for them.
    #[must_use]
    pub fn folders(&self) -> [&Path; 2] {
        [&self.state_dir, self.socket.parent().unwrap_or(&self.socket)]
    }

    pub(super) fn read(reader: &Reader<'_>) -> Result<Self, ConfigError> {
        let state_dir = match reader.path("state_dir")? {
            Some(given) => given,
            None => usual_state_dir(reader)?,
        };
        let usual = || {
            let runtime = reader.sources.folder("XDG_RUNTIME_DIR");
            let folder = runtime.filter(|folder| reader.machine.is_dir(folder));
            folder.as_ref().unwrap_or(&state_dir).join("terrace.sock")
        };
        let socket = reader.path("socket")?.unwrap_or_else(usual);
        Ok(Self { socket, state_dir })
    }
}

fn usual_state_dir(reader: &Reader<'_>) -> Result<PathBuf, ConfigError> {
    let home = || reader.sources.folder("HOME").map(|home| home.join(".local").join("state"));
    let folder = reader.sources.folder("XDG_STATE_HOME").or_else(home);
    folder.map(|folder| folder.join("terrace")).ok_or_else(|| {
        let problem = "neither XDG_STATE_HOME nor HOME names a folder";
        reader.wrong("state_dir", Problem::new(problem, "set state_dir to a folder of your own"))
    })
}
