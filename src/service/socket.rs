//! Makes the service's two sockets.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::sockets::{Directory, PlaceError, SocketFile, has_stale};
use crate::wire::{SOCKET_PATH_BYTES_MAX, fd_socket_path};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Why the sockets could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{0}, or choose another path with --socket")]
    Place(#[from] PlaceError),
    #[error(
        "the socket path `{}` is {} bytes long: UNIX sockets take at most {SOCKET_PATH_BYTES_MAX}; \
         choose a shorter one with --socket", .0.display(), .0.as_os_str().len()
    )]
    PathTooLong(PathBuf),
}

/// Both listeners, and the files, which go with this.
pub(super) struct Sockets {
    pub grpc: UnixListener,
    pub descriptors: UnixListener,
    _files: [SocketFile; 2],
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
            .map_err(PlaceError::io("make the directory", directory))?;
        let locked = Directory::lock(directory)?;
        let (grpc, file) = locked.listen(path, BACKLOG)?;
        let (descriptors, twin) = locked.listen(&fd_socket_path(path), BACKLOG)?;
        Ok(Self { grpc, descriptors, _files: [file, twin] })
    }
}

/// Whether [`Sockets::bind`] would find room at `path` and at its twin. Changes nothing.
///
/// # Errors
/// What it would say, as far as that is known without making anything.
pub fn look_at_socket(path: &Path) -> Result<(), BindError> {
    check_length(path)?;
    has_stale(path)?;
    has_stale(&fd_socket_path(path))?;
    Ok(())
}

fn check_length(path: &Path) -> Result<(), BindError> {
    let fits = path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX;
    fits.then_some(()).ok_or_else(|| BindError::PathTooLong(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

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
