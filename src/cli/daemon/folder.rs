//! A new folder that is removed with everything in it when it is dropped; by the next one that is made
//! beside it, if its process was killed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::env;

use super::DaemonError;

const NAME_PREFIX: &str = "terrace-";

/// Locked for as long as the folder is somebody's.
const MARK: &str = "in-use";

/// A folder younger than this may be about to be locked.
const SETTLED: Duration = Duration::from_mins(1);

pub(crate) struct Folder {
    path: PathBuf,
    _mark: File,
}

impl Folder {
    /// Makes it inside `parent`, for this user only.
    pub(crate) fn make(parent: &Path) -> Result<Self, DaemonError> {
        remove_left_behind(parent, SETTLED);
        let name: String = env::random_bytes::<6>().map(|byte| format!("{byte:02x}")).concat();
        let path = parent.join(format!("{NAME_PREFIX}{name}"));
        // An existing folder is refused: nobody else may have prepared it.
        let failed = |source| {
            let what = format!("make {} (set TMPDIR to a folder you can write)", path.display());
            DaemonError::io(what, source)
        };
        DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        match mark(&path) {
            Ok(mark) => Ok(Self { path, _mark: mark }),
            Err(error) => {
                // It has nothing in it yet but the mark.
                let _ = fs::remove_dir_all(&path);
                Err(failed(error))
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(folder = %self.path.display(), %error, "could not be removed");
        }
    }
}

/// A lock that the kernel lets go of when its process ends, however it ends.
fn mark(folder: &Path) -> io::Result<File> {
    let mark = File::create_new(folder.join(MARK))?;
    flock(&mark, FlockOperation::NonBlockingLockExclusive)?;
    Ok(mark)
}

/// Removes folders of processes that were killed.
fn remove_left_behind(parent: &Path, settled: Duration) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(NAME_PREFIX)
            && is_left_behind(&entry.path().join(MARK), settled)
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::warn!(folder = %entry.path().display(), %error, "left behind by a killed process");
        }
    }
}

/// Whether this user's process made the mark and is gone. Anybody may write to a folder for temporary files:
/// what is no plain file is not opened.
fn is_left_behind(mark: &Path, settled: Duration) -> bool {
    let is_own = fs::symlink_metadata(mark)
        .is_ok_and(|found| found.is_file() && found.uid() == rustix::process::getuid().as_raw());
    let mut options = File::options();
    let options = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let Some(Ok(file)) = is_own.then(|| options.open(mark)) else { return false };
    let age = file.metadata().and_then(|found| found.modified()).map(|at| at.elapsed());
    matches!(age, Ok(Ok(age)) if age >= settled)
        && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_goes_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let at = |name: &str| parent.path().join(name);
        for name in ["terrace-left", "terrace-new", "others"] {
            fs::create_dir(at(name)).unwrap();
            drop(mark(&at(name)).unwrap());
        }
        fs::create_dir(at("terrace-unmarked")).unwrap();
        fs::create_dir(at("terrace-odd")).unwrap();
        std::os::unix::fs::symlink(at("others").join(MARK), at("terrace-odd").join(MARK)).unwrap();
        let long_ago = std::time::SystemTime::UNIX_EPOCH;
        for name in ["terrace-left", "others"] {
            let mark = File::options().write(true).open(at(name).join(MARK)).unwrap();
            mark.set_modified(long_ago).unwrap();
        }
        let held = Folder::make(parent.path()).unwrap();
        assert!(!at("terrace-left").exists());
        remove_left_behind(parent.path(), Duration::ZERO);
        assert!(!at("terrace-new").exists());
        for kept in [held.path(), &at("others"), &at("terrace-unmarked"), &at("terrace-odd")] {
            assert!(kept.exists(), "{}", kept.display());
        }
    }

    #[test]
    fn it_is_private_and_goes_with_its_contents() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::make(parent.path()).unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
        let said = Folder::make(&path).err().map(|error| error.to_string()).unwrap();
        assert!(said.contains("TMPDIR"), "{said}");
    }
}
