//! Touching pages before they are needed: the first touch of a page can cost more than its copy.
//!
//! Never changes a byte that someone else may have written.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use rustix::mm::Advice;

use crate::domain::units::PAGE_BYTES;
use crate::env::spawn_thread;

use super::{SharedMemory, huge};

/// The most threads that touch pages at the start.
const THREADS_MAX: usize = 64;

/// What a thread touches at a time: small enough that the threads share the work evenly.
const STEP_BYTES: usize = 32 << 20;

/// Makes the kernel give every page of a new memory now, `threads` at a time; none with zero.
pub(super) fn pretouch(memory: &Arc<SharedMemory>, threads: usize) -> io::Result<()> {
    let threads = threads.min(THREADS_MAX);
    let (tell, told) = sync_channel(threads.max(1));
    for thread in 0..threads {
        let (memory, tell) = (Arc::clone(memory), tell.clone());
        spawn_thread("pretouch", move || {
            // Whoever asked has gone if it does not listen any more.
            let _ = tell.send(touch_every(&memory, thread, threads));
        })?;
    }
    drop(tell);
    told.iter().collect()
}

/// Maps the pages of a memory that its owner has already filled, beside whoever uses it, and stops
/// when nobody does any more. A wish: without it each page is mapped when it is first used.
pub(super) fn map_beside(memory: &Arc<SharedMemory>) {
    let memory = Arc::clone(memory);
    let walk = move || {
        let len = memory.map.len();
        for start in (0..len).step_by(STEP_BYTES) {
            let step = STEP_BYTES.min(len - start);
            let alone = Arc::strong_count(&memory) == 1;
            if alone || memory.map.advise(Advice::LinuxPopulateWrite, start, step).is_err() {
                return;
            }
        }
    };
    let _ = spawn_thread("pool-map", walk);
}

/// Touches every `threads`th step of the memory, from the `thread`th on; as huge pages until the
/// kernel has had enough of that.
fn touch_every(memory: &SharedMemory, thread: usize, threads: usize) -> io::Result<()> {
    let len = memory.map.len();
    let mut ask_huge = !memory.huge_pages;
    for start in (0..len).step_by(STEP_BYTES).skip(thread).step_by(threads) {
        let step = STEP_BYTES.min(len - start);
        ask_huge = ask_huge && huge::make(memory, start, step);
        touch(memory, start, step)?;
    }
    Ok(())
}

fn touch(memory: &SharedMemory, start: usize, len: usize) -> io::Result<()> {
    match memory.map.advise(Advice::LinuxPopulateWrite, start, len) {
        // A kernel before 5.14: touch each page by hand.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            for page in (start..start + len).step_by(PAGE_BYTES) {
                let at = memory.base().wrapping_add(page);
                // SAFETY: `at` is inside the mapping, and nobody else uses the memory yet.
                unsafe { at.write_volatile(0) };
            }
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::MemoryRoom;
    use super::*;
    use crate::env::Stopwatch;

    /// What the kernel tells of the mapping, in bytes.
    fn told(memory: &SharedMemory, what: &str) -> u64 {
        let start = format!("{:x}-", memory.base() as usize);
        let text = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
        let found = lines.find_map(|line| line.strip_prefix(what)).unwrap();
        found.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    /// Bytes that have a page.
    fn mapped_bytes(memory: &SharedMemory) -> u64 {
        told(memory, "Rss:")
    }

    #[test]
    fn every_page_is_there_after_a_pretouch() {
        let memory = Arc::new(SharedMemory::create("touched", 3 << 20).unwrap());
        assert_eq!(mapped_bytes(&memory), 0);
        pretouch(&memory, 2).unwrap();
        assert_eq!(mapped_bytes(&memory), 3 << 20);
    }

    #[test]
    fn huge_pages_are_made_as_far_as_the_kernel_gives_them_and_the_rest_is_touched() {
        // Two threads' steps and a tail; nothing of it is reserved.
        let bytes = (80 << 20) + 4096;
        let room = MemoryRoom::default();
        let memory = SharedMemory::reserve("huge", bytes, 2, room, None).unwrap();
        assert!(told(&memory, "ShmemPmdMapped:") >= memory.huge_bytes());
        assert_eq!(mapped_bytes(&memory), memory.len_bytes());
        assert_eq!(memory.len_bytes(), 82 << 20);
    }

    #[test]
    fn a_filled_memory_is_mapped_beside_its_users() {
        let owner = Arc::new(SharedMemory::create("owner", 3 << 20).unwrap());
        pretouch(&owner, 1).unwrap();
        let fd = owner.fd().try_clone_to_owned().unwrap();
        let memory = Arc::new(SharedMemory::map_sealed(fd, 3 << 20).unwrap());
        map_beside(&memory);
        let waited = Stopwatch::start();
        while mapped_bytes(&memory) < 3 << 20 {
            assert!(waited.elapsed().as_secs() < 60, "{} bytes", mapped_bytes(&memory));
            std::thread::yield_now();
        }
    }
}
