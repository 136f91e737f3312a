//! Threads that do the same thing to one block after the other, as fast as they come.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::env::{Stopwatch, spawn_thread};

/// What is done to a block, by its number; a thread has a buffer of its own for it.
pub type Deed = Arc<dyn Fn(usize, &mut [u8]) -> io::Result<()> + Send + Sync>;

struct Round {
    next: AtomicUsize,
    end: usize,
    deed: Deed,
}

/// Threads that wait for work; they end when this is dropped.
pub struct Crew {
    rounds: Sender<Arc<Round>>,
    ends: Receiver<io::Result<()>>,
    threads: usize,
}

impl Crew {
    /// Threads whose buffers have `buffer_bytes` each, page-aligned.
    ///
    /// # Errors
    /// The machine refuses threads or memory.
    pub fn start(threads: usize, buffer_bytes: usize) -> io::Result<Self> {
        let (rounds, work) = bounded::<Arc<Round>>(threads);
        let (tell, ends) = bounded(threads);
        for number in 0..threads {
            let mut buffer = memmap2::MmapMut::map_anon(buffer_bytes)?;
            buffer.fill(u8::try_from(number % 255).unwrap_or(0) + 1);
            let (work, tell) = (work.clone(), tell.clone());
            spawn_thread("bench-limit", move || {
                for round in work {
                    // Whoever asked has gone if it does not listen any more.
                    let _ = tell.send(take_part(&round, &mut buffer));
                }
            })?;
        }
        Ok(Self { rounds, ends, threads })
    }

    /// Has the deed done to every block, and says how long that took.
    ///
    /// # Errors
    /// What the deed met, or a thread that ended.
    pub fn run(&self, blocks: Range<usize>, deed: &Deed) -> io::Result<Duration> {
        let (next, end) = (AtomicUsize::new(blocks.start), blocks.end);
        let round = Arc::new(Round { next, end, deed: Arc::clone(deed) });
        let watch = Stopwatch::start();
        for _ in 0..self.threads {
            self.rounds.send(Arc::clone(&round)).map_err(io::Error::other)?;
        }
        // All of them, whatever one met: an end left here would be taken for one of the next round's.
        let ends = (0..self.threads).map(|_| self.ends.recv().map_err(io::Error::other)?);
        ends.fold(Ok(()), io::Result::and)?;
        Ok(watch.elapsed())
    }
}

fn take_part(round: &Round, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        let block = round.next.fetch_add(1, Ordering::Relaxed);
        if block >= round.end {
            return Ok(());
        }
        (round.deed)(block, buffer)?;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn every_block_is_done_once_and_errors_are_told() {
        let crew = Crew::start(3, 4096).unwrap();
        let done = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&done);
        let deed: Deed = Arc::new(move |block, buffer| {
            assert!(buffer.iter().all(|byte| *byte != 0));
            seen.lock().unwrap().push(block);
            Ok(())
        });
        crew.run(5..105, &deed).unwrap();
        let mut blocks = done.lock().unwrap().clone();
        blocks.sort_unstable();
        assert_eq!(blocks, (5..105).collect::<Vec<_>>());
        let fails: Deed = Arc::new(|_, _| Err(io::ErrorKind::StorageFull.into()));
        for _ in 0..100 {
            assert_eq!(crew.run(0..1, &fails).unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert!(crew.run(0..0, &fails).is_ok(), "an end of the round before");
        }
    }
}
