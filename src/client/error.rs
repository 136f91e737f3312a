//! Why a call of the client failed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Named by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Start the daemon, or name its socket.
    #[error(
        "no daemon answers: {what}; is `terrace serve` running? socket {}", socket.display()
    )]
    NotConnected { socket: PathBuf, what: String },
    /// Upgrade the older side.
    #[error("{0}")]
    VersionMismatch(String),
    /// Choose another `client_id`, or stop the client that has it.
    #[error("{0}")]
    NameTaken(String),
    /// Connect again: this session is over.
    #[error("{0}")]
    SessionLost(String),
    /// Try again after the given time.
    #[error("{what}")]
    Busy { what: String, retry_after: Duration },
    /// Mend the request as the text says.
    #[error("{0}")]
    Invalid(String),
    /// What it names is not there.
    #[error("{0}")]
    NotFound(String),
    /// It came in the wrong order.
    #[error("{0}")]
    Precondition(String),
    /// Nothing is known of how it went.
    #[error("{0}")]
    TimedOut(String),
    /// This machine refused something.
    #[error("cannot {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    /// A fault of the daemon, or a daemon that speaks otherwise.
    #[error("the daemon's fault: {0}")]
    Daemon(String),
}

impl ClientError {
    /// When to try again, if trying again helps.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }

    pub(super) fn timed_out(what: &str, patience: Duration) -> Self {
        Self::TimedOut(format!(
            "{what} took longer than {} ms: the daemon is stopped, overloaded or stuck",
            patience.as_millis()
        ))
    }

    /// A socket could not be connected to.
    pub(super) fn unreachable(socket: &Path, error: &io::Error) -> Self {
        let what = match error.kind() {
            io::ErrorKind::NotFound => "there is no such socket".to_owned(),
            io::ErrorKind::ConnectionRefused if socket.is_file() => {
                "that is a plain file, no socket".to_owned()
            }
            io::ErrorKind::ConnectionRefused if socket.is_dir() => {
                "that is a folder: name the socket in it".to_owned()
            }
            io::ErrorKind::ConnectionRefused => "a daemon that died left this socket".to_owned(),
            io::ErrorKind::PermissionDenied => {
                "the socket belongs to another user: run as the daemon's user".to_owned()
            }
            _ => error.to_string(),
        };
        Self::NotConnected { socket: socket.to_owned(), what }
    }

    pub(super) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn who_does_not_answer_at_a_path_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        drop(UnixListener::bind(path("left")).unwrap());
        std::fs::write(path("plain"), "").unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let cases = [
            ("left", "daemon that died"),
            ("plain", "no socket"),
            ("folder", "that is a folder"),
            ("nowhere", "no such socket"),
        ];
        for (name, wanted) in cases {
            let refused = UnixStream::connect(path(name)).unwrap_err();
            let said = ClientError::unreachable(&path(name), &refused).to_string();
            assert!(said.contains(wanted), "{name}: {said}");
        }
    }
}
