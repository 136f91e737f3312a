//! The state folder: ours alone while the daemon runs, and of a version that we know.
//!
//! Refuses before anything in it is touched; never removes or repairs what it finds, and writes nothing
//! where all is there: a full disk keeps no daemon down.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::env;
use crate::tiers::open::{OpenError, check_writable, read_plain, try_lock};

const LOCK_NAME: &str = "lock";
const MARK_NAME: &str = "version";
const NODE_NAME: &str = "node";

/// What the mark holds: the version of the folder's layout, not of the daemon.
const MARK: &str = "terrace state 1\n";

/// The folder, locked. The kernel lets go of the lock when the daemon ends, however it ends.
#[derive(Debug)]
pub(in crate::cli) struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the folder, or makes it with mode 0700.
    pub(in crate::cli) fn open(path: &Path) -> Result<Self, OpenError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("make the state folder", path))?;
        // A file of its own: the folder itself may be locked by who makes sockets in it.
        let lock_path = path.join(LOCK_NAME);
        let lock = private().open(&lock_path).map_err(failed("write", &lock_path))?;
        let lock = self::lock(path, lock, FlockOperation::NonBlockingLockExclusive)?;
        if !is_marked(path)? {
            write_whole(path, MARK_NAME, MARK)?;
        }
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The node's id: that of its NVMe tier, or else the one of its last run, or a new one. It is kept here for
    /// the next run.
    ///
    /// # Errors
    /// What is kept is no id.
    pub(super) fn node_id(&self, of_nvme: Option<[u8; 16]>) -> Result<[u8; 16], OpenError> {
        let kept = kept_id(&self.path)?;
        let id = of_nvme.or(kept).unwrap_or_else(env::random_bytes);
        if kept != Some(id)
            && let Err(error) = write_whole(&self.path, NODE_NAME, &id_text(id))
        {
            tracing::warn!(%error, "the node's id is not kept: without an NVMe tier the next start has another");
        }
        Ok(id)
    }
}

fn id_text(id: [u8; 16]) -> String {
    format!("{:032x}\n", u128::from_be_bytes(id))
}

/// The id that was kept; an error if something else is in its place.
fn kept_id(folder: &Path) -> Result<Option<[u8; 16]>, OpenError> {
    let path = folder.join(NODE_NAME);
    let bytes = match read_plain(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(failed("read", &path))?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let id = u128::from_str_radix(text.trim_end(), 16).ok().map(u128::to_be_bytes);
    let id = id.filter(|id| id_text(*id) == text);
    id.map(Some).ok_or_else(|| {
        let remedy = "remove that file: the node gets another id, and what it left in the object tier \
                      counts as another node's";
        refused(folder, "has a file `node` that holds no node id", remedy)
    })
}

/// Whether [`StateDir::open`] would take the folder as it is. Changes nothing; a daemon that starts at
/// this moment waits for it, and is taken for one that has the folder.
///
/// # Errors
/// What it would say, as far as that is known without making anything.
pub(in crate::cli) fn look(path: &Path) -> Result<(), OpenError> {
    let lock_path = path.join(LOCK_NAME);
    // As it is opened to be locked, though nothing is written.
    let mut options = File::options();
    let _lock = match options.write(true).custom_flags(libc::O_NONBLOCK).open(&lock_path) {
        Ok(file) => Some(lock(path, file, FlockOperation::NonBlockingLockShared)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("write", &lock_path)(error)),
    };
    is_marked(path)?;
    kept_id(path).map(drop)
}

/// The lock file of `folder`, locked.
fn lock(folder: &Path, file: File, how: FlockOperation) -> Result<File, OpenError> {
    if try_lock(&file, how).map_err(failed("lock the state folder", folder))? {
        return check_writable(folder).map(|()| file);
    }
    Err(OpenError::InUse(format!(
        "another daemon uses the state folder {}: stop that one, or give this one another with \
         --state-dir",
        folder.display()
    )))
}

/// Whether the folder has a mark; an error unless it is ours.
fn is_marked(folder: &Path) -> Result<bool, OpenError> {
    let path = folder.join(MARK_NAME);
    let text = |bytes| String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into());
    match read_plain(&path).and_then(text) {
        Ok(found) if found == MARK => Ok(true),
        Ok(found) if found.is_empty() => Err(refused(
            folder,
            "has an empty version file",
            "remove that file if the folder is this daemon's, or give it another with --state-dir",
        )),
        Ok(found) => Err(refused(
            folder,
            &format!("is of another version ({})", found.trim().escape_debug()),
            "run the terrace that made it, or give this one another folder with --state-dir",
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(refused(
            folder,
            "has a version file that is not ours",
            "give the daemon a folder of its own with --state-dir",
        )),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// Whole or not at all, also after a loss of power.
fn write_whole(folder: &Path, name: &str, text: &str) -> Result<(), OpenError> {
    let new: PathBuf = folder.join(format!("{name}.new"));
    let write = |mut file: File| file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
    let written = private().open(&new).and_then(write);
    written.map_err(failed("write", &new))?;
    let path = folder.join(name);
    fs::rename(&new, &path).map_err(failed("write", &path))
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NONBLOCK);
    options
}

fn failed(verb: &str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    OpenError::io(verb, path)
}

fn refused(folder: &Path, said: &str, remedy: &str) -> OpenError {
    OpenError::Refused(format!(
        "the state folder {} {said}; nothing was changed: {remedy}",
        folder.display()
    ))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_folder_is_made_locked_and_opened_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a").join("state");
        look(&path).unwrap();
        assert!(!path.exists(), "only looked for");
        let first = StateDir::open(&path).unwrap();
        assert!(matches!(StateDir::open(&path), Err(OpenError::InUse(_))));
        assert!(matches!(look(&path), Err(OpenError::InUse(_))));
        drop(first);
        look(&path).unwrap();
        let mark = || fs::metadata(path.join(MARK_NAME)).unwrap().ino();
        let before = mark();
        StateDir::open(&path).unwrap();
        assert_eq!(mark(), before, "a full disk would have refused another one");
    }

    #[test]
    fn another_version_is_refused_and_left_as_it_is() {
        for mark in [&b"terrace state 2\n"[..], b"", b"\xff\xfe"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(MARK_NAME);
            fs::write(&path, mark).unwrap();
            let said = StateDir::open(folder.path()).unwrap_err();
            assert!(matches!(said, OpenError::Refused(_)), "{said}");
            assert!(said.to_string().contains("--state-dir"), "{said}");
            assert_eq!(look(folder.path()).unwrap_err().to_string(), said.to_string());
            assert_eq!(fs::read(&path).unwrap(), mark);
        }
    }

    #[test]
    fn the_nodes_id_is_kept_and_that_of_its_nvme_tier_counts_more() {
        let folder = tempfile::tempdir().unwrap();
        let open = || StateDir::open(folder.path()).unwrap();
        let first = open().node_id(None).unwrap();
        assert_eq!(open().node_id(None).unwrap(), first);
        assert_eq!(open().node_id(Some([7; 16])).unwrap(), [7; 16]);
        assert_eq!(open().node_id(None).unwrap(), [7; 16]);
        let path = folder.path().join(NODE_NAME);
        for other in ["", "7", "+0000000000000000000000000000007"] {
            fs::write(&path, other).unwrap();
            let said = open().node_id(Some([7; 16])).unwrap_err();
            assert!(matches!(said, OpenError::Refused(_)), "{other}: {said}");
            assert!(said.to_string().contains("remove that file"), "{said}");
            assert_eq!(look(folder.path()).unwrap_err().to_string(), said.to_string());
            assert_eq!(fs::read(&path).unwrap(), other.as_bytes());
        }
    }

    #[test]
    fn a_pipe_in_a_files_place_is_not_waited_for() {
        for name in [LOCK_NAME, MARK_NAME] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
            let said = StateDir::open(folder.path()).unwrap_err().to_string();
            assert!(said.contains(name), "{said}");
            assert_eq!(look(folder.path()).unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "").unwrap();
        let said = StateDir::open(&path).unwrap_err().to_string();
        assert!(said.contains("a file is in the way"), "{said}");
    }
}
