//! A loop of reads or writes past the page cache, at the length and depth of the daemon's.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::bench::tiers::measure::Mover;

use super::crew::{Crew, Deed};

/// A file of the set's length, opened as the daemon opens its own.
pub struct RawDisk {
    crew: Crew,
    read: Deed,
    write: Deed,
}

/// One direction of it.
pub struct RawLoop<'a> {
    crew: &'a Crew,
    deed: &'a Deed,
}

impl RawDisk {
    /// Makes the file: `direct` says whether the file system takes `O_DIRECT`, as it did of the
    /// daemon's file.
    ///
    /// # Errors
    /// There is no room, or the machine refuses.
    pub fn open(path: &Path, direct: bool, frames: &Frames, threads: usize) -> io::Result<Self> {
        let flags = if direct { libc::O_DIRECT } else { 0 };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(flags)
            .open(path)?;
        file.set_len(frames.file_bytes())?;
        let crew = Crew::start(threads, frames.bytes)?;
        let (file, offsets) = (Arc::new(file), Arc::new(frames.offsets.clone()));
        let (from, at) = (Arc::clone(&file), Arc::clone(&offsets));
        let read: Deed = Arc::new(move |block, buffer| from.read_exact_at(buffer, at[block]));
        let write: Deed = Arc::new(move |block, buffer| file.write_all_at(buffer, offsets[block]));
        Ok(Self { crew, read, write })
    }

    pub fn reads(&self) -> RawLoop<'_> {
        RawLoop { crew: &self.crew, deed: &self.read }
    }

    pub fn writes(&self) -> RawLoop<'_> {
        RawLoop { crew: &self.crew, deed: &self.write }
    }
}

/// Where the frames lie in the file: where they lie in the tier.
#[derive(Clone, Debug)]
pub struct Frames {
    pub bytes: usize,
    pub offsets: Vec<u64>,
}

impl Frames {
    fn file_bytes(&self) -> u64 {
        self.offsets.iter().max().map_or(0, |last| last + self.bytes as u64)
    }
}

impl Mover for RawLoop<'_> {
    fn go(&mut self, blocks: Range<usize>) -> Result<Duration, Failure> {
        self.crew.run(blocks, self.deed).map_err(|error| {
            Failure::Failed(format!("the raw loop beside NVMe could not go on: {error}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("raw");
        let frames = Frames { bytes: 8192, offsets: vec![0, 65_536, 8192] };
        let disk = RawDisk::open(&path, false, &frames, 2).unwrap();
        disk.writes().go(0..3).unwrap();
        disk.reads().go(0..3).unwrap();
        let found = std::fs::read(&path).unwrap();
        assert_eq!(found.len(), 65_536 + 8192);
        let written = [0..16_384, 65_536..73_728].map(|at| found[at].iter().all(|b| *b != 0));
        assert_eq!(written, [true, true]);
    }
}
