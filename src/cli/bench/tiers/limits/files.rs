//! Plain files, one a block: what an object store in a folder is held against.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::bench::tiers::measure::Mover;

use super::crew::{Crew, Deed};

/// A folder of files of one length.
pub struct PlainFiles {
    crew: Crew,
    folder: PathBuf,
    syncs: bool,
}

/// One direction: files written anew, or read.
pub struct FileLoop<'a> {
    files: &'a PlainFiles,
    deed: Deed,
    writes: bool,
}

impl PlainFiles {
    /// # Errors
    /// The folder can't be made, or the machine refuses threads.
    pub fn open(folder: &Path, file_bytes: usize, threads: usize, syncs: bool) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { crew: Crew::start(threads, file_bytes)?, folder: folder.to_owned(), syncs })
    }

    pub fn writes(&self) -> FileLoop<'_> {
        let (folder, syncs) = (self.folder.clone(), self.syncs);
        let deed: Deed = Arc::new(move |block, bytes| write(&folder, block, bytes, syncs));
        FileLoop { files: self, deed, writes: true }
    }

    pub fn reads(&self) -> FileLoop<'_> {
        let folder = self.folder.clone();
        let deed: Deed =
            Arc::new(move |block, bytes| File::open(path(&folder, block))?.read_exact(bytes));
        FileLoop { files: self, deed, writes: false }
    }
}

fn write(folder: &Path, block: usize, bytes: &[u8], syncs: bool) -> io::Result<()> {
    let mut file = File::create_new(path(folder, block))?;
    file.write_all(bytes)?;
    if syncs {
        // The bytes, and the name that leads to them.
        file.sync_data()?;
        File::open(folder)?.sync_data()?;
    }
    Ok(())
}

fn path(folder: &Path, block: usize) -> PathBuf {
    folder.join(block.to_string())
}

impl Mover for FileLoop<'_> {
    fn go(&mut self, blocks: Range<usize>) -> Result<Duration, Failure> {
        self.files.crew.run(blocks, &self.deed).map_err(|error| failed(&error))
    }

    /// A file is written once, as an object is.
    fn rewind(&mut self, blocks: Range<usize>) -> Result<(), Failure> {
        for block in blocks.filter(|_| self.writes) {
            match fs::remove_file(path(&self.files.folder, block)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(&error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn failed(error: &io::Error) -> Failure {
    Failure::Failed(format!("the plain files beside the object store: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_anew_and_read() {
        for syncs in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let files = PlainFiles::open(&folder.path().join("plain"), 5000, 2, syncs).unwrap();
            let mut writes = files.writes();
            writes.go(0..4).unwrap();
            assert!(writes.go(0..1).is_err(), "not written twice");
            writes.rewind(0..4).unwrap();
            writes.go(0..4).unwrap();
            files.reads().go(0..4).unwrap();
            assert!(files.reads().go(4..5).is_err());
            assert_eq!(fs::metadata(path(&files.folder, 3)).unwrap().len(), 5000);
        }
    }
}
