//! Huge pages made of free memory, where none are reserved.
//!
//! A device reads or writes one stretch of memory a page: 512 times as many of them without huge
//! pages, each a descriptor for the disk's queue. Since Linux 6.1 a program may ask for huge pages
//! whatever the machine's settings for shared memory say (`MADV_COLLAPSE`). It is a wish: never
//! fails, never changes a byte, and never has the kernel search for long.

use std::io;
use std::time::Duration;

use rustix::mm::Advice;

use super::SharedMemory;
use crate::domain::units::PAGE_BYTES;
use crate::env::Stopwatch;

/// What a huge page has on the machines that this runs on.
pub(super) const HUGE_BYTES: usize = 2 << 20;

/// A stretch that takes longer has the kernel move other memory out of the way.
const PATIENCE: Duration = Duration::from_millis(250);

/// The length of a memory of at least `bytes` that can lie on huge pages to its end.
pub(super) fn whole_pages(bytes: u64) -> Option<u64> {
    let huge_bytes = HUGE_BYTES as u64;
    if bytes < huge_bytes { Some(bytes) } else { bytes.checked_next_multiple_of(huge_bytes) }
}

/// Whether this machine makes huge pages of free memory now: tried out with one.
///
/// # Errors
/// There is no memory to try it out with.
pub fn are_made() -> io::Result<bool> {
    let trial = SharedMemory::touched("terrace-trial", HUGE_BYTES as u64)?;
    Ok(trial.huge_bytes() > 0)
}

/// Makes huge pages of the whole ones in a stretch of new memory that nobody uses yet. False: there
/// is no sense in asking for more of them.
pub(super) fn make(memory: &SharedMemory, start: usize, len: usize) -> bool {
    let whole = len - len % HUGE_BYTES;
    let watch = Stopwatch::start();
    let made =
        whole > 0 && begin(memory, start, whole).and_then(|()| join(memory, start, whole)).is_ok();
    if made {
        memory.note_huge(whole as u64);
    }
    made && watch.elapsed() < PATIENCE
}

/// Only what has a page already can be joined: one in each is enough, the kernel adds the rest.
fn begin(memory: &SharedMemory, start: usize, len: usize) -> io::Result<()> {
    let mut starts = (start..start + len).step_by(HUGE_BYTES);
    starts.try_for_each(|at| memory.map.advise(Advice::LinuxPopulateWrite, at, PAGE_BYTES))
}

fn join(memory: &SharedMemory, start: usize, len: usize) -> io::Result<()> {
    assert!(start + len <= memory.map.len(), "a stretch of the memory");
    let at = memory.base().wrapping_add(start);
    // SAFETY: the stretch lies in the mapping, which lives as long as `memory`; the call moves bytes
    // to other pages and changes none.
    let refused = unsafe { libc::madvise(at.cast(), len, libc::MADV_COLLAPSE) };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
