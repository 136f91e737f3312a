//! The slot file as engines and helpers see it: one call is one try, which may do less than was asked.
//!
//! A seam: tests put faults between the store and its file, and between the ring and the kernel. Never
//! loops or retries: `FileExt::read_exact_at` and `write_all_at` do, and the ring's flights.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FallocateFlags;

use super::ring::Kernel;

/// What is asked of the slot file, apart from what goes through a ring.
pub trait SlotFile: FileExt + Send + Sync {
    /// Has the device keep what it was given.
    ///
    /// # Errors
    /// The device's.
    fn flush(&self) -> io::Result<()>;

    /// Makes the bytes zeros without writing them; the room stays.
    ///
    /// # Errors
    /// `Unsupported` where the file system has no such way.
    fn zero(&self, at: u64, bytes: u64) -> io::Result<()>;
}

impl SlotFile for File {
    fn flush(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn zero(&self, at: u64, bytes: u64) -> io::Result<()> {
        let how = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(self, how, at, bytes)?)
    }
}

/// The ways to the device that a store uses.
pub trait Access: Send + Sync {
    fn slots(&self, file: Arc<File>) -> Arc<dyn SlotFile> {
        file
    }

    fn kernel(&self, kernel: Box<dyn Kernel>) -> Box<dyn Kernel> {
        kernel
    }

    /// Has the folder's names outlive a loss of power.
    ///
    /// # Errors
    /// The machine's.
    fn sync_folder(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_data()
    }

    /// Lets the device be for so long.
    fn pause(&self, how_long: Duration) {
        std::thread::sleep(how_long);
    }
}

/// Straight to the device.
pub struct Straight;

impl Access for Straight {}
