//! The limit: as many threads as the depth, each a loop of one call past the page cache.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use memmap2::{Advice, MmapOptions};
use terrace::env::{Stopwatch, spawn_thread};

use super::{DEPTH, FILE_BYTES, FRAME_BYTES, Way, rate};

/// Each thread's frame lies in a huge page, as the arena's do.
const HUGE_BYTES: usize = 2 << 20;

/// A file of random-looking bytes; removed at the end.
pub struct Raw {
    path: PathBuf,
    file: Arc<File>,
}

impl Raw {
    pub fn prepare(dir: &Path) -> Self {
        let path = dir.join("terrace-bench-raw");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).custom_flags(libc::O_DIRECT);
        let file = options.open(&path).expect("the folder takes files past the page cache");
        let raw = Self { path, file: Arc::new(file) };
        // Written once over, so that nothing is allocated while it counts.
        let next = Arc::new(AtomicU64::new(0));
        raw.spread(move |file, frame| {
            let at = next.fetch_add(FRAME_BYTES, Ordering::Relaxed);
            (at < FILE_BYTES).then(|| file.write_all_at(frame, at).unwrap()).is_some()
        });
        raw
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn run(&self, way: Way, time: Duration) -> f64 {
        let (next, watch) = (Arc::new(AtomicU64::new(0)), Stopwatch::start());
        let moved = Arc::clone(&next);
        self.spread(move |file, frame| {
            if watch.elapsed() >= time {
                return false;
            }
            let at = next.fetch_add(FRAME_BYTES, Ordering::Relaxed) % way.span_bytes();
            match way {
                Way::Write => file.write_all_at(frame, at).unwrap(),
                Way::Read => file.read_exact_at(frame, at).unwrap(),
            }
            true
        });
        rate(moved.load(Ordering::Relaxed), watch.elapsed())
    }

    /// Runs `step` on every thread, with a frame of its own, until it says no.
    fn spread(&self, step: impl Fn(&File, &mut [u8]) -> bool + Clone + Send + 'static) {
        let threads: Vec<_> = (0..DEPTH)
            .map(|number| {
                let (file, step) = (Arc::clone(&self.file), step.clone());
                let body = move || {
                    let mut memory = MmapOptions::new().len(2 * HUGE_BYTES).map_anon().unwrap();
                    // A wish, as the arena's: with small pages a disk may be half as fast.
                    let _ = memory.advise(Advice::HugePage);
                    let start = memory.as_ptr().align_offset(HUGE_BYTES);
                    let frame = &mut memory[start..][..usize::try_from(FRAME_BYTES).unwrap()];
                    fill(frame, number.into());
                    while step(&file, frame) {}
                };
                spawn_thread("bench-raw", body).unwrap()
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Bytes that no device can press together.
pub fn fill(bytes: &mut [u8], seed: u64) {
    let mut word = seed.wrapping_mul(2).wrapping_add(1);
    for chunk in bytes.chunks_mut(8) {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}
