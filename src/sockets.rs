//! UNIX sockets at paths: how they are made, and taken away again.
//!
//! Never takes a socket from a living process, never removes what is not a socket or is another's, never
//! waits for who listens, and nobody can connect before the mode is 0600.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Access, FlockOperation, Mode, OFlags, access, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

const LOCK_TRIES_MAX: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why a socket can't be had at a path. Each says what to do, beside choosing another path.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("`{}` is in use: a daemon is running there; stop it", .0.display())]
    InUse(PathBuf),
    #[error("`{}` exists and is not a socket: remove it", .0.display())]
    NotASocket(PathBuf),
    #[error("`{}` stays locked by another process: see who holds it with `fuser`", .0.display())]
    Locked(PathBuf),
    #[error("cannot {what} `{}`: {source}; {}", path.display(), remedy(source))]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl PlaceError {
    /// That this could not be done with `path`.
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, path: path.to_owned(), source }
    }
}

/// What to do about an error of the machine.
fn remedy(source: &io::Error) -> &'static str {
    match Errno::from_io_error(source) {
        Some(Errno::MFILE | Errno::NFILE) => {
            "raise `ulimit -Hn`, or LimitNOFILE in the service's unit"
        }
        Some(Errno::NOENT) => "make the directory",
        _ => "see that its directory is yours to write",
    }
}

/// A directory that nobody else makes sockets in while this is there: two daemons that start at once
/// would each remove the other's fresh socket as stale.
#[derive(Debug)]
pub struct Directory {
    _lock: OwnedFd,
}

impl Directory {
    /// Locks the directory of sockets at `path`.
    ///
    /// # Errors
    /// It is not there, or stays locked for two seconds.
    pub fn lock(path: &Path) -> Result<Self, PlaceError> {
        let handle = open_directory(path)?;
        for _ in 0..LOCK_TRIES_MAX {
            match flock(&handle, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _lock: handle }),
                Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(error) => return Err(PlaceError::io("lock the directory", path)(error.into())),
            }
        }
        Err(PlaceError::Locked(path.to_owned()))
    }

    /// Listens at `path`, which lies in this directory, with room for `backlog` connections that wait to be
    /// accepted. A socket there that nobody listens at makes way.
    ///
    /// # Errors
    /// Somebody listens there, something else is in the way, or it can't be made.
    pub fn listen(
        &self,
        path: &Path,
        backlog: i32,
    ) -> Result<(UnixListener, SocketFile), PlaceError> {
        remove_stale(path)?;
        let failed = |what| move |error: Errno| PlaceError::io(what, path)(error.into());
        let address = SocketAddrUnix::new(path).map_err(failed("name a socket"))?;
        let socket = unix_socket().map_err(PlaceError::io("make a socket for", path))?;
        rustix::net::bind(&socket, &address).map_err(|error| match error {
            Errno::ADDRINUSE => PlaceError::InUse(path.to_owned()),
            error => failed("make the socket")(error),
        })?;
        let made = fs::symlink_metadata(path).map_err(PlaceError::io("read", path))?;
        let file = SocketFile { path: path.to_owned(), device: made.dev(), inode: made.ino() };
        // Until `listen` nobody can connect, so the mode is in force from the first connection.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))
            .map_err(PlaceError::io("set the mode of", path))?;
        rustix::net::listen(&socket, backlog).map_err(failed("listen at"))?;
        Ok((socket.into(), file))
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd, PlaceError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| PlaceError::io("open the directory", path)(error.into()))
}

/// Whether [`Directory::listen`] would find room at `path`. Changes nothing.
///
/// # Errors
/// What it would say, as far as that is known without making anything.
pub fn look(path: &Path) -> Result<(), PlaceError> {
    let directory = path.parent().unwrap_or(path);
    open_directory(directory)?;
    has_stale(path)?;
    access(directory, Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|error| PlaceError::io("make a socket in", directory)(error.into()))
}

/// A socket file of ours: removed when this goes, unless something else has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode));
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the socket file stays behind");
        }
    }
}

/// Makes room at `path`: a socket nobody listens at is removed, anything else is an error.
fn remove_stale(path: &Path) -> Result<(), PlaceError> {
    if has_stale(path)? {
        tracing::info!(path = %path.display(), "a daemon that died left this socket: removed");
        fs::remove_file(path).map_err(PlaceError::io("remove the stale socket", path))?;
    }
    Ok(())
}

/// Whether a socket that nobody listens at is in the way. Changes nothing.
///
/// # Errors
/// Anything else is in the way, or it can't be told.
pub fn has_stale(path: &Path) -> Result<bool, PlaceError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(PlaceError::io("read", path)(error)),
    };
    if !found.file_type().is_socket() {
        return Err(PlaceError::NotASocket(path.to_owned()));
    }
    match connect(path) {
        Err(Errno::CONNREFUSED) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        // A full queue of connections: somebody listens.
        Ok(()) | Err(Errno::AGAIN) => Err(PlaceError::InUse(path.to_owned())),
        Err(error) => Err(PlaceError::io("connect to", path)(error.into())),
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

/// Somebody who listens at `path` and takes no further connection.
#[cfg(test)]
pub(crate) fn full(path: &Path) -> (OwnedFd, Vec<OwnedFd>) {
    let listener = unix_socket().unwrap();
    let address = SocketAddrUnix::new(path).unwrap();
    rustix::net::bind(&listener, &address).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = unix_socket().unwrap();
        match rustix::net::connect(&socket, &address) {
            Ok(()) => waiting.push(socket),
            Err(error) => {
                assert_eq!(error, Errno::AGAIN);
                return (listener, waiting);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What listening at a path is answered with that was prepared so.
    fn check(prepare: impl FnOnce(&Path), expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.sock");
        prepare(&path);
        let looked = look(&path).map_or_else(|error| error.to_string(), |()| "listens".to_owned());
        let directory = Directory::lock(folder.path()).unwrap();
        let said = directory
            .listen(&path, 1)
            .map_or_else(|error| error.to_string(), |_| "listens".to_owned());
        assert!(said.contains(expected), "`{said}` lacks `{expected}`");
        assert_eq!(looked, said, "and beforehand");
    }

    #[test]
    fn only_a_dead_socket_makes_way() {
        check(|_| (), "listens");
        check(|path| drop(UnixListener::bind(path).unwrap()), "listens");
        check(|path| std::mem::forget(UnixListener::bind(path).unwrap()), "is in use");
        check(|path| std::mem::forget(full(path)), "is in use");
        let closed = |path: &Path| {
            std::mem::forget(UnixListener::bind(path).unwrap());
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        };
        // Root connects all the same.
        let root = rustix::process::geteuid().is_root();
        check(closed, if root { "is in use" } else { "cannot connect to" });
        check(|path| fs::write(path, "x").unwrap(), "is not a socket: remove it");
        check(|path| std::os::unix::fs::symlink("nowhere", path).unwrap(), "is not a socket");
    }

    #[test]
    fn a_file_is_its_owners_alone_and_goes_with_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.sock");
        let directory = Directory::lock(folder.path()).unwrap();
        let (_listener, file) = directory.listen(&path, 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(file);
        assert!(!path.exists());
        // Somebody took the place meanwhile: theirs stays.
        let (_listener, file) = directory.listen(&path, 1).unwrap();
        fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn what_the_machine_refuses_says_what_to_do() {
        let said = look(Path::new("/nowhere/at/all.sock")).unwrap_err().to_string();
        assert!(said.contains("`/nowhere/at`") && said.ends_with("make the directory"), "{said}");
        let none = io::Error::from_raw_os_error(libc::EMFILE);
        let said = PlaceError::io("make a socket for", Path::new("/t.sock"))(none).to_string();
        assert!(said.contains("raise `ulimit -Hn`"), "{said}");
    }

    #[test]
    fn a_directory_is_locked_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let first = Directory::lock(folder.path()).unwrap();
        let said = Directory::lock(folder.path()).unwrap_err().to_string();
        assert!(said.contains("stays locked"), "{said}");
        drop(first);
        Directory::lock(folder.path()).unwrap();
    }
}
