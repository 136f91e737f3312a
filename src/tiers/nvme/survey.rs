//! Finds out how a device likes to be asked: how many reads at once, and how long ones.
//!
//! Reads what was written before, for a moment, at rising depths and then in shorter pieces. Never
//! writes, and never reads what was never written: that is answered at once, and by nobody.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::domain::units::{Bytes, CHUNK_BYTES};
use rand::RngCore;

use super::home::private_file;
use crate::env::{Stopwatch, seeded_rng};
use crate::tiers::dram::{Arena, ArenaConfig};
use crate::tiers::store::FrameSpan;
use crate::tiers::workers::Workers;

const DEPTHS: [u32; 6] = [2, 4, 8, 16, 32, 64];
const IO_BYTES: [u32; 4] = [1 << 20, 512 << 10, 256 << 10, 128 << 10];

/// How long each trial takes: all of them a third of a second.
const TRIAL: Duration = Duration::from_millis(40);

/// More at once must bring so much more, in hundredths, and so must shorter pieces: what waits in the
/// device's queue only waits there instead of here.
const WORTH_PERCENT: u64 = 105;

/// Below this one slow read would hold up too much.
const DEPTH_MIN: u32 = 8;

/// How the device likes to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Survey {
    pub queue_depth: u32,
    pub io_bytes: u32,
    /// What it read that way.
    pub bytes_per_s: u64,
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (io_bytes, rate) = (Bytes(self.io_bytes.into()), Bytes(self.bytes_per_s));
        write!(f, "{rate} a second, {} reads of {io_bytes} at once", self.queue_depth)
    }
}

/// Tries the device out. `chunks` are the offsets of those that were written; the arena is nobody
/// else's yet.
///
/// # Errors
/// A read failed, or the machine refused a thread.
pub fn survey(slots: &Arc<File>, arena: &Arc<Arena>, chunks: &[u64]) -> io::Result<Survey> {
    let trial = |queue_depth: u32, io_bytes: u32| {
        let bytes_per_s = read_for_a_moment(slots, arena, chunks, (queue_depth, io_bytes))?;
        Ok::<_, io::Error>(Survey { queue_depth, io_bytes, bytes_per_s })
    };
    let fits = |depth: &u32| u64::from(*depth) * u64::from(IO_BYTES[0]) <= arena.len_bytes();
    let mut best = trial(DEPTHS[0], IO_BYTES[0])?;
    for depth in DEPTHS.into_iter().skip(1).filter(fits) {
        best = better(best, trial(depth, IO_BYTES[0])?);
    }
    best.queue_depth = best.queue_depth.max(DEPTH_MIN);
    let in_flight_bytes = best.queue_depth * IO_BYTES[0];
    for io_bytes in IO_BYTES.into_iter().skip(1) {
        best = better(best, trial(in_flight_bytes / io_bytes, io_bytes)?);
    }
    Ok(best)
}

/// Tries the disk under `folder` out, with a chunk of bytes that it can't press together.
///
/// # Errors
/// The folder takes no such file past the page cache, or the machine no such memory.
pub fn of_folder(folder: &Path) -> io::Result<Survey> {
    let config = ArenaConfig { tier_bytes: 0, staging_bytes: CHUNK_BYTES, pretouch_threads: 1 };
    let arena = Arc::new(Arena::new(config)?);
    let whole = u32::try_from(CHUNK_BYTES).expect("a chunk's length is small");
    // SAFETY: nobody else has this arena.
    let bytes = unsafe { arena.bytes_mut(FrameSpan { offset: 0, bytes: whole }) };
    seeded_rng(1).fill_bytes(bytes);
    let path = folder.join("nvme.trial");
    let mut options = private_file();
    let options = options.create_new(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECT);
    let file = Arc::new(options.open(&path)?);
    let tried = file.write_all_at(bytes, 0).and_then(|()| survey(&file, &arena, &[0]));
    std::fs::remove_file(&path)?;
    tried
}

/// The second, if it is worth it.
fn better(one: Survey, other: Survey) -> Survey {
    if other.bytes_per_s > one.bytes_per_s / 100 * WORTH_PERCENT { other } else { one }
}

/// Bytes a second, with as many threads as reads at once.
fn read_for_a_moment(
    slots: &Arc<File>,
    arena: &Arc<Arena>,
    chunks: &[u64],
    (queue_depth, io_bytes): (u32, u32),
) -> io::Result<u64> {
    let (watch, moved, number) =
        (Stopwatch::start(), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let failed = Arc::new(AtomicU64::new(0));
    let chunks: Arc<[u64]> = chunks.into();
    let mut workers = Workers::default();
    for lane in 0..queue_depth {
        let (slots, arena, chunks) = (Arc::clone(slots), Arc::clone(arena), Arc::clone(&chunks));
        let (moved, number, failed) =
            (Arc::clone(&moved), Arc::clone(&number), Arc::clone(&failed));
        let span = FrameSpan { offset: u64::from(lane) * u64::from(io_bytes), bytes: io_bytes };
        workers.start_one(&format!("nvme-try-{lane}"), move || {
            // SAFETY: each lane has a span of its own, and the arena is nobody else's yet.
            let into = unsafe { arena.bytes_mut(span) };
            while watch.elapsed() < TRIAL {
                let at = piece(number.fetch_add(1, Ordering::Relaxed), &chunks, io_bytes);
                match slots.read_exact_at(into, at) {
                    Ok(()) => moved.fetch_add(io_bytes.into(), Ordering::Relaxed),
                    Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                };
            }
        })?;
    }
    drop(workers);
    if failed.load(Ordering::Relaxed) > 0 {
        return Err(io::Error::other("reads failed while the device was tried out"));
    }
    let micros = u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
    Ok(moved.load(Ordering::Relaxed).saturating_mul(1_000_000) / micros)
}

/// Where read `number` goes: here and there in what was written, so that no cache on the way helps.
fn piece(number: u64, chunks: &[u64], io_bytes: u32) -> u64 {
    let anywhere = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let chunks_len = chunks.len() as u64;
    let chunk = chunks[usize::try_from(anywhere % chunks_len).expect("an index of a slice")];
    chunk + anywhere / chunks_len % (CHUNK_BYTES / u64::from(io_bytes)) * u64::from(io_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_lies_in_what_was_written() {
        let chunks = [3 * CHUNK_BYTES, 7 * CHUNK_BYTES];
        for io_bytes in IO_BYTES {
            for number in 0..10_000 {
                let at = piece(number, &chunks, io_bytes);
                let chunk =
                    chunks.iter().find(|chunk| (**chunk..**chunk + CHUNK_BYTES).contains(&at));
                let chunk = chunk.expect("it starts in a chunk that was written");
                assert!(at + u64::from(io_bytes) <= chunk + CHUNK_BYTES);
                assert!(at.is_multiple_of(io_bytes.into()));
            }
        }
    }

    #[test]
    fn a_device_is_asked_in_a_way_that_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chunk");
        std::fs::write(&path, vec![7; usize::try_from(CHUNK_BYTES).unwrap()]).unwrap();
        let staging_bytes = 16 << 20;
        let config = ArenaConfig { tier_bytes: 0, staging_bytes, pretouch_threads: 0 };
        let arena = Arc::new(Arena::new(config).unwrap());
        let found = survey(&Arc::new(File::open(path).unwrap()), &arena, &[0]).unwrap();
        let in_flight_bytes = u64::from(found.queue_depth) * u64::from(found.io_bytes);
        assert!((8 << 20..=arena.len_bytes()).contains(&in_flight_bytes), "{found:?}");
        assert!(found.bytes_per_s > 0 && found.io_bytes.is_multiple_of(4096), "{found}");
    }

    #[test]
    fn more_at_once_has_to_be_worth_it() {
        let at = |queue_depth, bytes_per_s| Survey { queue_depth, io_bytes: 1 << 20, bytes_per_s };
        assert_eq!(better(at(8, 1_000), at(16, 1_040)), at(8, 1_000));
        assert_eq!(better(at(8, 1_000), at(16, 1_100)), at(16, 1_100));
    }
}
