//! Files come to be whole: written under another name, and then moved to their own.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, link, renameat_with};
use rustix::io::Errno;

use super::Folder;
use crate::env;

/// What became of a file that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    Done,
    /// Another one was there by then, and stays.
    Outrun,
}

impl Folder {
    pub(super) fn fresh_path(&self) -> PathBuf {
        self.unfinished().join(format!("{:032x}", u128::from_be_bytes(env::random_bytes())))
    }

    /// Makes the file of its pieces. It takes the place of what is there by then, unless that `stays`.
    pub(super) fn put(
        &self,
        path: &Path,
        (pieces, fsync): (&[&[u8]], bool),
        stays: impl FnOnce() -> bool,
    ) -> io::Result<Put> {
        let fresh = self.fresh_path();
        let put = self.write_fresh(&fresh, path, (pieces, fsync)).and_then(|()| {
            match move_to_free(&fresh, path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                moved => return moved.map(|()| Put::Done),
            }
            if stays() {
                return Ok(Put::Outrun);
            }
            fs::rename(&fresh, path).map(|()| Put::Done)
        });
        if !matches!(put, Ok(Put::Done)) {
            let _ = fs::remove_file(&fresh);
            return put;
        }
        if fsync {
            File::open(self.folder_of(path))?.sync_data()?;
        } else {
            self.unsynced.note(path);
        }
        put
    }

    fn write_fresh(
        &self,
        fresh: &Path,
        path: &Path,
        (pieces, fsync): (&[&[u8]], bool),
    ) -> io::Result<()> {
        let mut file = fresh_file(fresh)?;
        pieces.iter().try_for_each(|piece| file.write_all(piece))?;
        let folder = self.folder_of(path);
        let is_new = fsync && !folder.is_dir();
        match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if is_new && let Some(above) = folder.parent() {
            File::open(above)?.sync_data()?;
        }
        if fsync { file.sync_data() } else { Ok(()) }
    }

    fn folder_of<'a>(&'a self, path: &'a Path) -> &'a Path {
        path.parent().unwrap_or(&self.root)
    }
}

pub(super) fn fresh_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Moves the file to where none is: two daemons may write one at the same moment, and who comes second has
/// to hear of the first. Only a file system that knows no way to that lets the second replace it.
fn move_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // NFS, and others that know no such flag.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_to_free(from, to),
        moved => Ok(moved?),
    }
}

fn link_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match link(from, to) {
        Ok(()) => {
            // It is there by both names; one that can't go now is cleared by a start after it is old.
            let _ = fs::remove_file(from);
            Ok(())
        }
        Err(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MLINK) => fs::rename(from, to),
        linked => Ok(linked?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_moves_only_to_where_none_is_by_whichever_way() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
        for way in [move_to_free, link_to_free] {
            fs::write(&from, "first").unwrap();
            way(&from, &to).unwrap();
            assert!(!from.exists());
            fs::write(&from, "second").unwrap();
            let refused = way(&from, &to).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{refused}");
            assert_eq!(fs::read(&to).unwrap(), b"first");
            fs::remove_file(&to).unwrap();
        }
    }
}
