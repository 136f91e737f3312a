//! Makes the two sockets, and takes them away again.
//!
//! Never takes a socket from a living daemon, never removes what is not a socket, and nobody can
//! connect before the mode is 0600.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::wire::{SOCKET_PATH_BYTES_MAX, fd_socket_path};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

const LOCK_TRIES_MAX: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why the sockets could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "`{}` is in use: a daemon is running there; stop it, or choose another path with --socket",
        .0.display()
    )]
    InUse(PathBuf),
    #[error(
        "`{}` exists and is not a socket: remove it, or choose another path with --socket",
        .0.display()
    )]
    NotASocket(PathBuf),
    #[error(
        "the socket path `{}` is {} bytes long: UNIX sockets take at most {SOCKET_PATH_BYTES_MAX}; \
         choose a shorter one with --socket", .0.display(), .0.as_os_str().len()
    )]
    PathTooLong(PathBuf),
    #[error(
        "`{}` stays locked by another process: see who holds it with `fuser`, or choose another \
         path with --socket", .0.display()
    )]
    Locked(PathBuf),
    #[error(
        "cannot {what} `{}`: {source}; see that its directory is yours to write, or choose another \
         path with --socket", path.display()
    )]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// Both listeners, and the files to remove when they go.
pub(super) struct Sockets {
    pub grpc: UnixListener,
    pub descriptors: UnixListener,
    pub files: SocketFiles,
}

impl Sockets {
    /// Listens at `path` and at its `.fd` twin. The directory is made (0700) if it is missing.
    pub(super) fn bind(path: &Path) -> Result<Self, BindError> {
        check_length(path)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed("make the directory", directory))?;
        // Two daemons that start at once would each remove the other's fresh socket as stale.
        let _lock = lock(directory)?;

        let mut files = SocketFiles::default();
        let grpc = listen(path, &mut files)?;
        let descriptors = listen(&fd_socket_path(path), &mut files)?;
        Ok(Self { grpc, descriptors, files })
    }
}

/// Socket files of ours: removed when this goes, unless something else has taken their place.
#[derive(Default)]
pub(super) struct SocketFiles(Vec<(PathBuf, u64, u64)>);

impl Drop for SocketFiles {
    fn drop(&mut self) {
        for (path, device, inode) in &self.0 {
            let ours = fs::symlink_metadata(path)
                .is_ok_and(|file| (file.dev(), file.ino()) == (*device, *inode));
            if ours && let Err(error) = fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "the socket file stays behind");
            }
        }
    }
}

/// Held while sockets of a directory are made; free again when it is dropped.
fn lock(directory: &Path) -> Result<OwnedFd, BindError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let handle = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|error| failed("open the directory", directory)(error.into()))?;
    for _ in 0..LOCK_TRIES_MAX {
        match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(handle),
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(error) => return Err(failed("lock the directory", directory)(error.into())),
        }
    }
    Err(BindError::Locked(directory.to_owned()))
}

fn listen(path: &Path, files: &mut SocketFiles) -> Result<UnixListener, BindError> {
    remove_stale(path)?;
    let address = SocketAddrUnix::new(path).map_err(|_| BindError::PathTooLong(path.to_owned()))?;
    let socket = unix_socket().map_err(failed("make a socket for", path))?;
    rustix::net::bind(&socket, &address).map_err(|error| match error {
        Errno::ADDRINUSE => BindError::InUse(path.to_owned()),
        error => failed("make the socket", path)(error.into()),
    })?;
    let made = fs::symlink_metadata(path).map_err(failed("read", path))?;
    files.0.push((path.to_owned(), made.dev(), made.ino()));
    // Until `listen` nobody can connect, so the mode is in force from the first connection.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .map_err(failed("set the mode of", path))?;
    rustix::net::listen(&socket, BACKLOG)
        .map_err(|error| failed("listen at", path)(error.into()))?;
    Ok(socket.into())
}

/// Whether [`Sockets::bind`] would find room at `path` and at its twin. Changes nothing.
///
/// # Errors
/// What it would say, as far as that is known without making anything.
pub fn look_at_socket(path: &Path) -> Result<(), BindError> {
    check_length(path)?;
    has_stale(path)?;
    has_stale(&fd_socket_path(path)).map(drop)
}

fn check_length(path: &Path) -> Result<(), BindError> {
    let fits = path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX;
    fits.then_some(()).ok_or_else(|| BindError::PathTooLong(path.to_owned()))
}

/// Makes room at `path`: a socket nobody listens at is removed, anything else is an error.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    if has_stale(path)? {
        tracing::info!(path = %path.display(), "a daemon that died left this socket: removed");
        fs::remove_file(path).map_err(failed("remove the stale socket", path))?;
    }
    Ok(())
}

/// Whether a socket that nobody listens at is in the way; an error if anything else is.
fn has_stale(path: &Path) -> Result<bool, BindError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("read", path)(error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match connect(path) {
        Err(Errno::CONNREFUSED) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        // A full queue of connections: somebody listens.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::InUse(path.to_owned())),
        Err(error) => Err(failed("connect to", path)(error.into())),
    }
}

/// Whether somebody listens at `path`, without waiting.
fn connect(path: &Path) -> Result<(), Errno> {
    let socket = unix_socket().map_err(|_| Errno::AGAIN)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

fn unix_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BindError + 'a {
    move |source| BindError::Io { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prepare: impl FnOnce(&Path), expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.sock");
        prepare(&path);
        let looked =
            look_at_socket(&path).map_or_else(|error| error.to_string(), |()| "bound".into());
        let said =
            Sockets::bind(&path).map_or_else(|error| error.to_string(), |_| "bound".to_owned());
        assert!(said.contains(expected), "`{said}` lacks `{expected}`");
        assert_eq!(looked, said, "and beforehand");
    }

    #[test]
    fn only_a_dead_socket_makes_way() {
        check(|_| (), "bound");
        check(|path| drop(UnixListener::bind(path).unwrap()), "bound");
        check(|path| drop(UnixListener::bind(fd_socket_path(path)).unwrap()), "bound");
        check(|path| std::mem::forget(UnixListener::bind(path).unwrap()), "is in use");
        let twin_alive =
            |path: &Path| std::mem::forget(UnixListener::bind(fd_socket_path(path)).unwrap());
        check(twin_alive, ".fd` is in use");
        check(|path| fs::write(path, "x").unwrap(), "is not a socket: remove it");
        check(|path| fs::create_dir(path).unwrap(), "is not a socket");
        check(|path| std::os::unix::fs::symlink("nowhere", path).unwrap(), "is not a socket");
    }

    #[test]
    fn a_long_path_and_a_bad_directory_name_the_remedy() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(SOCKET_PATH_BYTES_MAX)));
        let said = Sockets::bind(&long).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("choose a shorter one"), "{said}");
        let said = Sockets::bind(Path::new("/proc/t/t.sock")).map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("--socket"), "{said}");
    }

    #[test]
    fn modes_are_0600_and_files_go_with_their_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/t.sock");
        let sockets = Sockets::bind(&path).unwrap();
        for file in [path.clone(), fd_socket_path(&path)] {
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        }
        // Somebody took the first place meanwhile: theirs stays.
        fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(sockets);
        assert!(path.exists());
        assert!(!fd_socket_path(&path).exists());
    }
}
