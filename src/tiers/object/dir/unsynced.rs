//! What was written to the folder, or found in it, and may be in the machine's memory alone.
//!
//! Follows no links, and never opens what is no plain file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Way, open_object};

/// Of more, none is named: where nobody stores durably they only grow.
const NAMED_MAX: usize = 4096;

/// Written since the last flush.
#[derive(Debug)]
pub(super) enum Written {
    Named(BTreeSet<PathBuf>),
    Much,
}

#[derive(Debug)]
pub(super) struct Unsynced(Mutex<Written>);

impl Default for Unsynced {
    fn default() -> Self {
        // Another run of the daemon may have written.
        Self(Mutex::new(Written::Much))
    }
}

impl Unsynced {
    /// The file was written.
    pub(super) fn note(&self, path: &Path) {
        let mut written = self.written();
        if let Written::Named(paths) = &mut *written
            && !paths.contains(path)
        {
            paths.insert(path.to_owned());
            if paths.len() > NAMED_MAX {
                *written = Written::Much;
            }
        }
    }

    /// Has all that was noted go down, with its names; the whole file system where that is much.
    ///
    /// # Errors
    /// The machine's. All of it is flushed the next time.
    pub(super) fn flush(&self, root: &Path) -> io::Result<()> {
        let written = std::mem::replace(&mut *self.written(), Written::Named(BTreeSet::new()));
        let flushed = match written {
            Written::Named(paths) => flush(&paths, root),
            Written::Much => File::open(root).and_then(|at| Ok(rustix::fs::syncfs(at)?)),
        };
        flushed.inspect_err(|_| *self.written() = Written::Much)
    }

    /// Whether the file would be flushed.
    #[cfg(test)]
    pub(super) fn has(&self, path: &Path) -> bool {
        match &*self.written() {
            Written::Named(paths) => paths.contains(path),
            Written::Much => true,
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has these files go down, with their names.
pub(super) fn flush(paths: &BTreeSet<PathBuf>, root: &Path) -> io::Result<()> {
    let mut folders = BTreeSet::new();
    for path in paths {
        match open_object(path, Way::Read) {
            Ok(file) if file.metadata()?.is_file() => file.sync_data()?,
            // Not what was written any more, or taken away since.
            Ok(_) => continue,
            Err(error) if is_gone(&error) => continue,
            Err(error) => return Err(error),
        }
        let above = path.ancestors().skip(1);
        folders.extend(above.take_while(|folder| folder.starts_with(root)));
    }
    folders.into_iter().try_for_each(|folder| File::open(folder)?.sync_data())
}

/// Nothing is there, or a link.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ELOOP)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_written_is_flushed_once_and_after_an_error_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (root, unsynced) = (folder.path(), Unsynced::default());
        let named = || match &*unsynced.written() {
            Written::Named(paths) => Some(paths.len()),
            Written::Much => None,
        };
        assert_eq!(named(), None, "of a run before");
        unsynced.flush(root).unwrap();
        fs::create_dir(root.join("a")).unwrap();
        let paths = ["a/one", "two"].map(|name| root.join(name));
        for path in &paths {
            fs::write(path, "x").unwrap();
            unsynced.note(path);
            unsynced.note(path);
        }
        assert_eq!(named(), Some(2));
        fs::remove_file(&paths[1]).unwrap();
        std::os::unix::fs::symlink("/nowhere", &paths[1]).unwrap();
        unsynced.flush(root).unwrap();
        assert_eq!(named(), Some(0));
        for number in 0..=NAMED_MAX {
            unsynced.note(&root.join(number.to_string()));
        }
        assert_eq!(named(), None);
        assert!(unsynced.flush(&root.join("gone")).is_err());
        assert_eq!(named(), None);
        unsynced.flush(root).unwrap();
        assert_eq!(named(), Some(0));
    }
}
