//! The kernel's `io_uring`: a ring with the slot file and the arena registered.
//!
//! Only asks and collects: which piece is next and what becomes of it is decided elsewhere. Never
//! lets go of memory that the kernel may still touch.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, squeue, types};

use super::flights::{Io, IoKind};
use super::page::Page;
use super::queue::Bell;
use super::ring::{Kernel, Landed, Parts};
use crate::tiers::dram::Arena;

/// The kernel registers at most this much as one buffer.
pub const REGION_BYTES: u64 = 1 << 30;

/// The tag of the bell's poll; pieces are tagged by small indexes.
const BELL_TAG: u64 = u64::MAX;

pub struct Uring {
    // Dropped first: the kernel is done with the rest then.
    ring: IoUring,
    arena: Arc<Arena>,
    _slots: Arc<File>,
    bell: Bell,
    erased: Box<Page>,
    fixed_buffers: bool,
}

impl Uring {
    /// The ring, and why the arena could not be registered with it, if so.
    ///
    /// # Errors
    /// The kernel or the container refuses `io_uring`.
    pub fn new(parts: &Parts) -> io::Result<(Self, Result<(), String>)> {
        let ring = build(parts.queue_depth + 1)?;
        ring.submitter().register_files(&[parts.slots.as_raw_fd()])?;
        let registered = register(&ring, &parts.arena).map_err(|error| {
            format!("the kernel refused to register the arena ({error}): raise `ulimit -l`")
        });
        let uring = Self {
            ring,
            arena: Arc::clone(&parts.arena),
            _slots: Arc::clone(&parts.slots),
            bell: parts.bell.clone(),
            erased: Page::erased(),
            fixed_buffers: registered.is_ok(),
        };
        Ok((uring, registered))
    }

    fn hand_over(&mut self, entry: &squeue::Entry) {
        // SAFETY: the memory is the arena's or the erased page's, both alive as long as the ring;
        // a span belongs to its operation, which is answered only after its IO has landed.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("the ring has an entry for every piece and the bell");
    }

    fn entry(&self, io: Io) -> squeue::Entry {
        let fd = types::Fixed(0);
        let at = usize::try_from(io.memory_offset).expect("the arena is in the address space");
        let memory = self.arena.base().wrapping_add(at);
        let region = u16::try_from(io.memory_offset / REGION_BYTES).expect("register checked it");
        match (io.kind, self.fixed_buffers) {
            (IoKind::Read, true) => {
                opcode::ReadFixed::new(fd, memory, io.bytes, region).offset(io.file_offset).build()
            }
            (IoKind::Read, false) => {
                opcode::Read::new(fd, memory, io.bytes).offset(io.file_offset).build()
            }
            (IoKind::Write, true) => {
                opcode::WriteFixed::new(fd, memory, io.bytes, region).offset(io.file_offset).build()
            }
            (IoKind::Write, false) => {
                opcode::Write::new(fd, memory, io.bytes).offset(io.file_offset).build()
            }
            (IoKind::Erase, _) => {
                let memory = self.erased.bytes().as_ptr().wrapping_add(at);
                opcode::Write::new(fd, memory, io.bytes).offset(io.file_offset).build()
            }
        }
    }
}

impl Kernel for Uring {
    fn push(&mut self, tag: usize, io: Io) {
        let entry = self.entry(io).user_data(tag as u64);
        self.hand_over(&entry);
    }

    fn watch_bell(&mut self) {
        let fd = types::Fd(self.bell.file().as_raw_fd());
        let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
        self.hand_over(&poll.user_data(BELL_TAG));
    }

    fn enter(&mut self) -> io::Result<()> {
        self.ring.submit_and_wait(1).map(drop)
    }

    fn landed(&mut self, into: &mut Vec<Landed>) {
        into.extend(self.ring.completion().map(|entry| match entry.user_data() {
            BELL_TAG => Landed::Bell,
            tag => Landed::Piece {
                tag: usize::try_from(tag).expect("a tag is an index"),
                answer: entry.result(),
            },
        }));
    }
}

/// A ring with the flags that suit one thread, or without where the kernel is older than 6.1.
fn build(entries: u32) -> io::Result<IoUring> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .build(entries)
        .or_else(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => IoUring::new(entries),
            _ => Err(error),
        })?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::ReadFixed::CODE,
        opcode::WriteFixed::CODE,
        opcode::PollAdd::CODE,
    ];
    if needed.iter().all(|code| probe.is_supported(*code)) {
        return Ok(ring);
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring is older than Linux 5.6"))
}

/// Registers the arena in regions.
fn register(ring: &IoUring, arena: &Arena) -> io::Result<()> {
    let bytes = arena.len_bytes();
    let regions: Vec<libc::iovec> = (0..bytes.div_ceil(REGION_BYTES))
        .map(|region| {
            let start = region * REGION_BYTES;
            let in_memory = |bytes| usize::try_from(bytes).expect("the arena is mapped");
            libc::iovec {
                iov_base: arena.base().wrapping_add(in_memory(start)).cast(),
                iov_len: in_memory(REGION_BYTES.min(bytes - start)),
            }
        })
        .collect();
    if u16::try_from(regions.len()).is_err() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    // SAFETY: the regions lie in the arena's mapping, which the ring's owner keeps alive.
    unsafe { ring.submitter().register_buffers(&regions) }
}

/// Whether the machine refuses `io_uring` to us, rather than something being wrong.
#[must_use]
pub fn refusal(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => Some("this kernel has no io_uring"),
        Some(libc::EPERM | libc::EACCES) => Some(
            "io_uring is forbidden here: by the container's seccomp profile, or by the sysctl \
             kernel.io_uring_disabled",
        ),
        Some(libc::ENOMEM) => Some("locked memory is limited: raise `ulimit -l`"),
        _ if error.kind() == io::ErrorKind::Unsupported => {
            Some("the kernel's io_uring is older than Linux 5.6")
        }
        _ => None,
    }
}
