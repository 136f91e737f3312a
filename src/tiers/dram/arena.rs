//! The arena: one memfd mapping, made once and never resized.
//!
//! Clients map it through [`Arena::read_only_fd`] and can never write to it: the memfd is sealed
//! against every writer but this mapping.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::slice;
use std::sync::Arc;

use crate::domain::units::{Bytes, PAGE_BYTES};
use crate::tiers::shm::{MemoryRoom, NumaNode, SharedMemory};
use crate::tiers::store::FrameSpan;

/// How the arena is made.
#[derive(Clone, Copy, Debug)]
pub struct ArenaConfig {
    /// The tier's chunks, from offset 0; a multiple of the chunk, zero when the tier is absent.
    pub tier_bytes: u64,
    /// Frames for copies that pass through memory (NVMe to object, say), after the tier's chunks.
    pub staging_bytes: u64,
    /// Threads that touch every page at the start; with zero, pages come when they are first
    /// written, which is slow.
    pub pretouch_threads: usize,
}

/// One memfd mapping.
#[derive(Debug)]
pub struct Arena {
    memory: Arc<SharedMemory>,
    len_bytes: u64,
}

impl Arena {
    /// # Errors
    /// The machine has not that much memory, or refuses memfds.
    pub fn new(config: ArenaConfig) -> io::Result<Self> {
        Self::on_node(config, None)
    }

    /// The same on a NUMA node, as far as that has room.
    ///
    /// # Errors
    /// As [`Arena::new`].
    pub fn on_node(config: ArenaConfig, node: Option<NumaNode>) -> io::Result<Self> {
        Self::with_room(config, MemoryRoom::of_this_machine(), node)
    }

    fn with_room(
        config: ArenaConfig,
        room: MemoryRoom,
        node: Option<NumaNode>,
    ) -> io::Result<Self> {
        let len_bytes = len_of(config)?;
        let threads = config.pretouch_threads;
        let memory = SharedMemory::reserve("terrace-dram", len_bytes, threads, room, node)?;
        memory.forbid_other_writers()?;
        Ok(Self { memory, len_bytes })
    }

    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.memory.base()
    }

    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// How much of the arena lies on huge pages, as far as is known; at most its length.
    #[must_use]
    pub fn huge_bytes(&self) -> u64 {
        self.memory.huge_bytes().min(self.len_bytes)
    }

    /// The NUMA node that the arena's pages come from, if it was bound to one.
    #[must_use]
    pub fn node(&self) -> Option<NumaNode> {
        self.memory.node()
    }

    /// The frame's bytes.
    ///
    /// # Safety
    /// Nobody writes to the span while the slice lives.
    ///
    /// # Panics
    /// The span is outside the arena.
    #[must_use]
    pub unsafe fn bytes(&self, span: FrameSpan) -> &[u8] {
        let (start, len) = self.locate(span);
        // SAFETY: `locate` keeps the span inside the mapping, which lives as long as `self`; the
        // caller keeps writers away.
        unsafe { slice::from_raw_parts(start, len) }
    }

    /// The frame's bytes, to write.
    ///
    /// # Safety
    /// Nobody else reads or writes the span while the slice lives.
    ///
    /// # Panics
    /// The span is outside the arena.
    #[must_use]
    #[expect(clippy::mut_from_ref, reason = "spans are owned by operations, see FrameSpan")]
    pub unsafe fn bytes_mut(&self, span: FrameSpan) -> &mut [u8] {
        let (start, len) = self.locate(span);
        // SAFETY: `locate` keeps the span inside the mapping, which lives as long as `self`; the
        // caller keeps everybody else away.
        unsafe { slice::from_raw_parts_mut(start, len) }
    }

    /// Whether the span lies in the arena.
    #[must_use]
    pub fn contains(&self, span: FrameSpan) -> bool {
        span.offset.checked_add(u64::from(span.bytes)).is_some_and(|end| end <= self.len_bytes)
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// A descriptor through which the arena can be mapped but never written.
    ///
    /// # Errors
    /// The kernel refused to reopen the memfd.
    pub fn read_only_fd(&self) -> io::Result<OwnedFd> {
        self.memory.read_only_fd()
    }

    fn locate(&self, span: FrameSpan) -> (*mut u8, usize) {
        assert!(self.contains(span), "{span:?} is outside the arena of {} bytes", self.len_bytes);
        let offset = usize::try_from(span.offset).expect("the arena is in the address space");
        (self.base().wrapping_add(offset), span.bytes as usize)
    }
}

/// The arena's length in bytes: whole pages, and at least one.
fn len_of(config: ArenaConfig) -> io::Result<u64> {
    let wanted = config.tier_bytes.checked_add(config.staging_bytes);
    let len = wanted.and_then(|bytes| bytes.checked_next_multiple_of(PAGE_BYTES as u64));
    len.filter(|len| *len > 0 && isize::try_from(*len).is_ok()).ok_or_else(|| {
        let what = format!(
            "an arena of {} for the DRAM tier and {} for staging can't be: ask for at least one \
             page and less than the address space",
            Bytes(config.tier_bytes),
            Bytes(config.staging_bytes)
        );
        io::Error::new(io::ErrorKind::InvalidInput, what)
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use memmap2::MmapOptions;
    use rustix::fs::{SealFlags, fcntl_get_seals, ftruncate};

    use super::*;

    const PAGE: u64 = PAGE_BYTES as u64;

    fn arena(pretouch_threads: usize) -> Arena {
        let config = ArenaConfig { tier_bytes: 64 * PAGE, staging_bytes: 100, pretouch_threads };
        Arena::new(config).unwrap()
    }

    #[test]
    fn spans_are_written_and_read() {
        let arena = arena(2);
        assert_eq!(arena.len_bytes(), 65 * PAGE);
        let last = FrameSpan { offset: 64 * PAGE, bytes: 4096 };
        // SAFETY: this test alone has the arena, and the slice ends with the statement.
        unsafe { arena.bytes_mut(last) }.fill(7);
        // SAFETY: as above.
        assert!(unsafe { arena.bytes(last) }.iter().all(|byte| *byte == 7));
    }

    #[test]
    #[should_panic(expected = "outside the arena")]
    fn a_span_outside_is_a_broken_invariant() {
        let arena = arena(0);
        // SAFETY: the call panics before it makes a slice.
        let _ = unsafe { arena.bytes(FrameSpan { offset: 64 * PAGE, bytes: 4097 }) };
    }

    #[test]
    fn clients_see_writes_and_can_never_write() {
        let arena = arena(0);
        let fd = arena.read_only_fd().unwrap();
        // SAFETY: this test alone has the arena, and the slice ends with the statement.
        unsafe { arena.bytes_mut(FrameSpan { offset: 0, bytes: 1 }) }.fill(42);
        // SAFETY: a mapping of a sealed memfd; nobody writes while it is read.
        let seen = unsafe { MmapOptions::new().len(4096).map(&fd) }.unwrap();
        assert_eq!(seen[0], 42);
        assert!(MmapOptions::new().len(4096).map_raw(&fd).is_err(), "mapped to write");
        assert!(rustix::io::write(&fd, b"x").is_err(), "written");
        assert!(ftruncate(arena.fd(), 0).is_err(), "shrunk");
        let seals = fcntl_get_seals(fd.as_fd()).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL));
        // A client may reopen what it was given for writing; the seal holds there too.
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let reopened = std::fs::File::options().read(true).write(true).open(path).unwrap();
        assert!(MmapOptions::new().len(4096).map_raw(&reopened).is_err(), "reopened and mapped");
    }

    #[test]
    fn what_can_not_be_is_refused_with_the_remedy() {
        let room = MemoryRoom { available_bytes: Some(64 << 20), ..MemoryRoom::default() };
        let cases = [
            (0, 0, "at least one page"),
            (u64::MAX, 1, "less than the address space"),
            (u64::MAX - 1, 0, "less than the address space"),
            (1 << 62, 0, "Lower the tier's capacity"),
            (128 << 20, 0, "terrace-dram, which wants 128 MiB: out of memory; 64 MiB is available"),
        ];
        for (tier_bytes, staging_bytes, want) in cases {
            let config = ArenaConfig { tier_bytes, staging_bytes, pretouch_threads: 1 };
            let said = Arena::with_room(config, room, None).unwrap_err().to_string();
            assert!(said.contains(want), "{config:?}: {said}");
        }
    }

    #[test]
    fn huge_pages_that_are_not_there_after_all_are_done_without() {
        let room = MemoryRoom {
            available_bytes: None,
            huge_free_bytes: 1 << 40,
            huge_page_bytes: 2 << 20,
        };
        let config = ArenaConfig { tier_bytes: 1 << 39, staging_bytes: 0, pretouch_threads: 0 };
        let arena = Arena::with_room(config, room, None).unwrap();
        assert_eq!(arena.huge_bytes(), 0, "none is touched yet");
    }
}
