//! A mapping of shared memory, laid where it can lie on huge pages.
//!
//! The kernel joins pages to a huge one only where both the address and the place in the memory are a
//! multiple of it. A mapping of shared memory it lays anywhere, so here the kernel is asked for room
//! first, and the memory is laid where that was. Never in the place of anything else, never moves, and
//! never looks at a byte.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::huge::HUGE_BYTES;

/// Another thread may take the room that was found.
const TRIES_MAX: usize = 8;

const READ_WRITE: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);

/// Some address space of this process; given back at the end.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: an address range belongs to the whole process; what is read and written there is the
// business of those who do it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a memory, to read and write.
    ///
    /// # Errors
    /// The memory can't be mapped so, or there is no such address space.
    pub(super) fn of(memory: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        if len >= HUGE_BYTES {
            let taken = |tried: &io::Result<Self>| matches!(tried, Err(error) if error.kind() == io::ErrorKind::AlreadyExists);
            let mut tries = (0..TRIES_MAX).map(|_| Self::on_a_huge_page(memory, len));
            if let Some(Ok(mapping)) = tries.find(|tried| !taken(tried)) {
                return Ok(mapping);
            }
        }
        // Also a memory on reserved pages that are still longer: the kernel knows what it needs.
        // SAFETY: the kernel chooses an address where nothing is.
        let base = unsafe { mmap(ptr::null_mut(), len, READ_WRITE, MapFlags::SHARED, memory, 0) };
        Ok(Self::at(base?.cast(), len))
    }

    fn on_a_huge_page(memory: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let room = Self::room(len.checked_add(HUGE_BYTES).ok_or(io::ErrorKind::OutOfMemory)?)?;
        let base = room.base().wrapping_add(room.base().align_offset(HUGE_BYTES));
        // Not laid into it: a kernel that refuses may have taken it away by then, and nobody could say
        // whose it is.
        drop(room);
        let here = MapFlags::SHARED | MapFlags::FIXED_NOREPLACE;
        // SAFETY: it replaces nothing: where something is by now, the kernel refuses, or, before Linux
        // 4.17, lays it elsewhere.
        let base = unsafe { mmap(base.cast(), len, READ_WRITE, here, memory, 0) }?;
        Ok(Self::at(base.cast(), len))
    }

    /// Address space with nothing in it.
    fn room(len: usize) -> io::Result<Self> {
        let nothing = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the kernel chooses an address where nothing is.
        let base = unsafe { mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), nothing) }?;
        Ok(Self::at(base.cast(), len))
    }

    fn at(base: *mut u8, len: usize) -> Self {
        Self { base: NonNull::new(base).expect("nothing is ever mapped at zero"), len }
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Tells the kernel something about `len` bytes from `start` on.
    ///
    /// # Errors
    /// The kernel does not know the advice, or could not follow it.
    ///
    /// # Panics
    /// The stretch is not in the mapping, or the advice is one that may change bytes.
    pub(super) fn advise(&self, advice: Advice, start: usize, len: usize) -> io::Result<()> {
        assert!(
            matches!(
                advice,
                Advice::LinuxHugepage | Advice::LinuxDontDump | Advice::LinuxPopulateWrite
            ),
            "{advice:?} may change bytes"
        );
        let is_inside = start.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(is_inside, "{len} bytes from {start} on are not in a mapping of {}", self.len);
        let at = self.base().wrapping_add(start);
        // SAFETY: the stretch is mapped, and none of these changes a byte of it.
        Ok(unsafe { madvise(at.cast(), len, advice) }?)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the range is this mapping's alone, and nobody uses it without the mapping.
            let _ = unsafe { munmap(self.base().cast(), self.len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;
    use crate::domain::units::PAGE_BYTES;

    fn memory(bytes: usize) -> OwnedFd {
        let fd = memfd_create("mapping", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, bytes as u64).unwrap();
        fd
    }

    /// The mappings of this memory as this process has them now: start, end.
    fn told(base: *mut u8) -> Vec<(usize, usize)> {
        let text = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ranges = text.lines().map(|line| {
            let (start, rest) = line.split_once('-').unwrap();
            let end = rest.split_whitespace().next().unwrap();
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            (number(start), number(end))
        });
        ranges.filter(|(start, end)| (*start..*end).contains(&base.addr())).collect()
    }

    #[test]
    fn a_long_memory_begins_on_a_huge_page_wherever_others_lie() {
        // Each takes the next free address, which the odd ones between have moved off.
        for odd in 1..20 {
            let (off, fd) = (memory(odd * PAGE_BYTES), memory(3 * HUGE_BYTES + PAGE_BYTES));
            let _off = Mapping::of(off.as_fd(), odd * PAGE_BYTES).unwrap();
            let mapping = Mapping::of(fd.as_fd(), 3 * HUGE_BYTES + PAGE_BYTES).unwrap();
            assert_eq!(mapping.base().addr() % HUGE_BYTES, 0);
            let mapped = told(mapping.base())[0];
            let start = mapping.base().addr();
            assert_eq!(mapped, (start, start + mapping.len()), "no more and no less");
        }
    }

    #[test]
    fn bytes_go_to_the_memory_and_the_range_is_given_back() {
        let fd = memory(2 * HUGE_BYTES);
        let one = Mapping::of(fd.as_fd(), 2 * HUGE_BYTES).unwrap();
        let other = Mapping::of(fd.as_fd(), 2 * HUGE_BYTES).unwrap();
        let last = one.base().wrapping_add(2 * HUGE_BYTES - 1);
        // SAFETY: in the mapping, which this test alone has.
        unsafe { last.write_volatile(7) };
        let seen = other.base().wrapping_add(2 * HUGE_BYTES - 1);
        // SAFETY: as above.
        assert_eq!(unsafe { seen.read_volatile() }, 7);
        let base = one.base();
        drop(one);
        let left = told(base);
        assert!(left.iter().all(|(start, _)| *start != base.addr()), "{left:x?}");
    }

    #[test]
    fn what_can_not_be_mapped_is_an_error() {
        let fd = memory(PAGE_BYTES);
        assert!(Mapping::of(fd.as_fd(), 0).is_err(), "nothing at all");
        assert!(Mapping::of(fd.as_fd(), usize::MAX / 2).is_err(), "more than the address space");
        assert!(Mapping::of(fd.as_fd(), usize::MAX).is_err());
        let read_only = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(Mapping::of(read_only.as_fd(), 4 * HUGE_BYTES).is_err(), "not to be written");
    }

    #[test]
    #[should_panic(expected = "may change bytes")]
    fn advice_that_throws_bytes_away_is_a_broken_invariant() {
        let fd = memory(PAGE_BYTES);
        let mapping = Mapping::of(fd.as_fd(), PAGE_BYTES).unwrap();
        let _ = mapping.advise(Advice::LinuxDontNeed, 0, PAGE_BYTES);
    }
}
