//! What every store does to be opened, and why it could not be. Every text says what to do about it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Access, FlockOperation, access, flock};
use rustix::io::Errno;

use crate::domain::units::Bytes;

/// How often a lock that somebody has is tried, and the pause in between.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why a store could not be opened, named by what the operator does next.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The config asks for what can't be: mend it.
    #[error("{0}")]
    Config(String),
    /// Another process has it: stop that one, or use another folder.
    #[error("{0}")]
    InUse(String),
    /// What lies there is of another node or version, or damaged: nothing was touched.
    #[error("{0}")]
    Refused(String),
    /// The disk is too small: free some room or ask for less.
    #[error(
        "{what} needs {} more and {} are free: free some room, or ask for less",
        Bytes(*needed_bytes),
        Bytes(*free_bytes)
    )]
    NoSpace { what: String, needed_bytes: u64, free_bytes: u64 },
    /// The machine refused.
    #[error("{what}: {source}{}", remedy(source))]
    Io { what: String, source: io::Error },
}

impl OpenError {
    /// An error of the machine while doing `verb` to `path`.
    pub(crate) fn io(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("can't {verb} {}", path.display());
        move |source| Self::Io { what, source }
    }
}

/// Whether it was refused because this process, or the machine, has all files open that it may.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// The whole of a plain file. Never waits for the other end of a pipe.
///
/// # Errors
/// The machine's, or it is something else.
pub fn read_plain(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is no plain file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map(|_| bytes)
}

/// Locks the file. False if somebody else has it. Who wants it alone waits a fifth of a second at most: who
/// only looks has it for less; who looks is refused by one that keeps it.
///
/// # Errors
/// The machine's.
pub fn try_lock(file: &File, how: FlockOperation) -> io::Result<bool> {
    let looks = matches!(how, FlockOperation::NonBlockingLockShared);
    let tries = if looks { 1 } else { LOCK_TRIES };
    for attempt in 1..=tries {
        match flock(file, how) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK) if attempt < tries => std::thread::sleep(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(false)
}

/// Whether this user may make files in the folder. Changes nothing, and needs no room.
///
/// # Errors
/// They may not.
pub fn check_writable(folder: &Path) -> Result<(), OpenError> {
    let may = if folder.is_dir() {
        access(folder, Access::WRITE_OK | Access::EXEC_OK)
    } else {
        Err(Errno::NOTDIR)
    };
    may.map_err(|errno| OpenError::io("write to the folder", folder)(errno.into()))
}

/// What to do about an error of the machine, where that is known.
fn remedy(source: &io::Error) -> &'static str {
    if is_out_of_descriptors(source) {
        return " (raise `ulimit -Hn`, or LimitNOFILE in the service's unit)";
    }
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            " (give this user write access to the folder, or choose another folder)"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            " (the file system is mounted read-only: remount it, or choose another folder)"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            " (a file is in the way: move it, or choose another folder)"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (free some room, or choose another folder)"
        }
        io::ErrorKind::FileTooLarge => " (raise `ulimit -f`, or LimitFSIZE in the service's unit)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_the_machine_that_an_operator_meets_has_a_remedy() {
        for errno in [libc::EACCES, libc::EPERM, libc::EROFS, libc::ENOTDIR, libc::ENOSPC] {
            let source = io::Error::from_raw_os_error(errno);
            let said = OpenError::io("create", Path::new("/x"))(source).to_string();
            assert!(said.contains("/x") && said.contains("choose another folder"), "{said}");
        }
    }

    #[test]
    fn a_file_where_a_folder_should_be_is_in_the_way() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = check_writable(file.path()).unwrap_err().to_string();
        assert!(said.contains("a file is in the way"), "{said}");
    }

    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let [held, asked] = [(); 2].map(|()| File::open(file.path()).unwrap());
        let lock = |file: &File| try_lock(file, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(lock(&held));
        assert!(!lock(&asked));
        let looker = crate::env::spawn_thread("looker", move || {
            std::thread::sleep(LOCK_PAUSE);
            drop(held);
        });
        assert!(lock(&asked));
        looker.unwrap().join().unwrap();
    }

    #[test]
    fn a_limit_of_open_files_is_named() {
        let none = io::Error::from_raw_os_error(libc::EMFILE);
        let said = OpenError::io("read", Path::new("/x"))(none).to_string();
        assert!(said.contains("raise `ulimit -Hn`"), "{said}");
    }

    #[test]
    fn no_space_says_how_much() {
        let what = "the slot file /x".into();
        let said = OpenError::NoSpace { what, needed_bytes: 3 << 30, free_bytes: 1 << 29 };
        assert!(said.to_string().contains("3 GiB") && said.to_string().contains("512 MiB"));
    }
}
