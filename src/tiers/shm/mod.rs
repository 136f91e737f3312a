//! Shared memory: memfds, mapped.
//!
//! Never maps a memory that could shrink under the mapping: an access past its end would kill the
//! daemon. So a memory is sealed against shrinking before its length is read.

mod huge;
mod mapping;
mod numa;
mod room;
mod touch;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::mm::Advice;

use crate::domain::units::Bytes;
use crate::tiers::open::is_out_of_descriptors;

use mapping::Mapping;

pub use huge::are_made as makes_huge_pages;
pub use numa::{Nodes, NumaChoice, NumaNode};
pub use room::MemoryRoom;

/// A mapped memfd whose length can't change.
#[derive(Debug)]
pub struct SharedMemory {
    fd: OwnedFd,
    map: Mapping,
    /// Whether it lies on reserved huge pages, as a whole.
    huge_pages: bool,
    /// Bytes that were made huge pages of free memory.
    made_huge_bytes: AtomicU64,
    node: Option<NumaNode>,
}

impl SharedMemory {
    /// A new memory of `bytes` zero bytes, read and written through its mapping. `name` shows in
    /// `/proc/PID/maps`. Pages come when they are first written.
    ///
    /// # Errors
    /// The machine refuses memfds or the mapping.
    pub fn create(name: &str, bytes: u64) -> io::Result<Self> {
        Self::create_with(name, bytes, MemfdFlags::empty())
    }

    /// A new memory of at least `bytes` zero bytes, every page of it touched, on huge pages made of
    /// free memory as far as the machine makes them.
    ///
    /// # Errors
    /// The machine refuses memfds or the mapping, or has not that much memory.
    pub fn touched(name: &str, bytes: u64) -> io::Result<Arc<Self>> {
        let memory = Arc::new(Self::create_plain(name, bytes, MemoryRoom::default())?);
        touch::pretouch(&memory, 1)?;
        Ok(memory)
    }

    /// A new memory of at least `bytes` zero bytes for long use: on reserved huge pages when there
    /// are enough, on `node` as far as that has room, and with every page touched by
    /// `pretouch_threads` threads (none with zero), who make huge pages as far as they can.
    ///
    /// # Errors
    /// `room` is too small, or the machine refuses; the text says how much was asked, how much is
    /// there, and what to do.
    pub(super) fn reserve(
        name: &str,
        bytes: u64,
        pretouch_threads: usize,
        room: MemoryRoom,
        node: Option<NumaNode>,
    ) -> io::Result<Arc<Self>> {
        let refused = |cause: io::Error| no_room(name, bytes, room, &cause);
        let mut memory = match Self::create_huge(name, bytes, room) {
            Some(memory) => memory,
            None => Self::create_plain(name, bytes, room).map_err(refused)?,
        };
        memory.node = node.filter(|node| prefer(&memory, name, *node));
        let memory = Arc::new(memory);
        touch::pretouch(&memory, pretouch_threads).map_err(refused)?;
        Ok(memory)
    }

    /// Maps `bytes` of a memory that is sealed against shrinking and holds that many.
    pub(super) fn map_sealed(fd: OwnedFd, bytes: u64) -> io::Result<Self> {
        let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
        let map = Mapping::of(fd.as_fd(), bytes)?;
        Ok(Self { fd, map, huge_pages: false, made_huge_bytes: AtomicU64::new(0), node: None })
    }

    /// Maps every page of a memory that its owner has already filled, soon and on another thread, so
    /// that the first copies don't wait for the kernel.
    pub(super) fn map_pages_soon(self: &Arc<Self>) {
        touch::map_beside(self);
    }

    /// Where the mapping begins in this process.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.map.base()
    }

    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A descriptor through which the memory can be mapped, and not written where
    /// `forbid_other_writers` was called.
    ///
    /// # Errors
    /// The kernel refused to reopen the memfd.
    pub fn read_only_fd(&self) -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// How much of the memory lies on huge pages, as far as is known: all of it where enough are
    /// reserved, else what could be made of free memory when it was touched.
    pub(super) fn huge_bytes(&self) -> u64 {
        if self.huge_pages {
            return self.len_bytes();
        }
        self.made_huge_bytes.load(Ordering::Relaxed)
    }

    fn note_huge(&self, bytes: u64) {
        self.made_huge_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The NUMA node that its pages come from as long as there are any.
    pub(super) fn node(&self) -> Option<NumaNode> {
        self.node
    }

    /// Forbids writing through any mapping but this one, whoever holds a descriptor. A kernel
    /// before 5.1 does not know the seal; a descriptor opened for reading must do there.
    pub(super) fn forbid_other_writers(&self) -> io::Result<()> {
        match fcntl_add_seals(&self.fd, SealFlags::FUTURE_WRITE) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        fcntl_add_seals(&self.fd, SealFlags::SEAL).map_err(io::Error::from)
    }

    fn create_with(name: &str, bytes: u64, more: MemfdFlags) -> io::Result<Self> {
        let fd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | more)?;
        ftruncate(&fd, bytes)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
        Self::map_sealed(fd, bytes)
    }

    /// On reserved huge pages, when enough of them are free.
    fn create_huge(name: &str, bytes: u64, room: MemoryRoom) -> Option<Self> {
        let huge_bytes = bytes.checked_next_multiple_of(room.huge_page_bytes.max(1))?;
        if room.huge_page_bytes == 0 || huge_bytes > room.huge_free_bytes {
            return None;
        }
        // Someone else may take the pages between the look and the mapping; plain pages do then.
        let memory = Self::create_with(name, huge_bytes, MemfdFlags::HUGETLB).ok()?;
        Some(Self { huge_pages: true, ..memory })
    }

    fn create_plain(name: &str, bytes: u64, room: MemoryRoom) -> io::Result<Self> {
        if room.available_bytes.is_some_and(|available| bytes > available) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let memory =
            Self::create(name, huge::whole_pages(bytes).ok_or(io::ErrorKind::OutOfMemory)?)?;
        // Both are wishes: a kernel without transparent huge pages for shared memory, or without
        // the flag, gives a memory that is as right.
        for wish in [Advice::LinuxHugepage, Advice::LinuxDontDump] {
            let _ = memory.map.advise(wish, 0, memory.map.len());
        }
        Ok(memory)
    }
}

/// False: the kernel refused, as it does in containers that forbid the call.
fn prefer(memory: &SharedMemory, name: &str, node: NumaNode) -> bool {
    numa::prefer(memory, node)
        .inspect_err(|error| {
            tracing::warn!(
                memory = name,
                node = node.0,
                %error,
                "its pages lie on any NUMA node: in a container, allow mbind (docker: --cap-add \
                 SYS_NICE), or set dram.numa_node to off"
            );
        })
        .is_ok()
}

fn no_room(name: &str, bytes: u64, room: MemoryRoom, cause: &io::Error) -> io::Error {
    let available =
        room.available_bytes.map_or("an unknown amount".into(), |bytes| Bytes(bytes).to_string());
    let remedy = if cause.kind() == io::ErrorKind::FileTooLarge {
        "It counts as a file, and `ulimit -f` allows none as long: raise that, or LimitFSIZE in the \
         service's unit"
    } else if is_out_of_descriptors(cause) {
        "It counts as an open file, and `ulimit -Hn` allows no more: raise that, or LimitNOFILE in the \
         service's unit"
    } else {
        "Lower the tier's capacity, stop what else holds memory, or raise the container's limit"
    };
    let what = format!(
        "no memory for {name}, which wants {}: {cause}; {available} is available on this machine. \
         {remedy}",
        Bytes(bytes)
    );
    io::Error::new(cause.kind(), what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_was_too_little_of_is_what_the_remedy_is_about() {
        for (cause, remedy) in [
            (libc::ENOMEM, "Lower the tier's capacity"),
            (libc::EFBIG, "`ulimit -f`"),
            (libc::EMFILE, "`ulimit -Hn`"),
        ] {
            let cause = io::Error::from_raw_os_error(cause);
            let said = no_room("it", 1 << 20, MemoryRoom::default(), &cause).to_string();
            assert!(said.contains(remedy), "{said}");
            assert_eq!(said.contains("capacity"), remedy.contains("capacity"), "{said}");
        }
    }
}
