//! Why a store could not be opened. Every text says what to do about it.

use std::io;
use std::path::Path;

use crate::domain::units::Bytes;

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

/// What to do about an error of the machine, where that is known.
fn remedy(source: &io::Error) -> &'static str {
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
    fn no_space_says_how_much() {
        let what = "the slot file /x".into();
        let said = OpenError::NoSpace { what, needed_bytes: 3 << 30, free_bytes: 1 << 29 };
        assert!(said.to_string().contains("3 GiB") && said.to_string().contains("512 MiB"));
    }
}
