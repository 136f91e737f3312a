//! The `io_uring` engine: one thread, one ring, the slot file and the arena registered with it.
//!
//! The ring's thread only moves pieces: frames that were read are verified by threads of their
//! own. Never answers an operation while the kernel may still touch its memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};

use super::failed;
use super::flights::{Cutting, Flights, Io, IoKind};
use super::page::Page;
use super::queue::Bell;
use crate::tiers::dram::Arena;
use crate::tiers::frame;
use crate::tiers::store::StoreOp;
use crate::tiers::ticket::Ticket;
use crate::tiers::workers::Workers;

/// The kernel registers at most this much as one buffer.
const REGION_BYTES: u64 = 1 << 30;

/// Checksums run at about the speed of one core's memory; two threads keep ahead of one device.
const VERIFIERS: usize = 2;

/// The tag of the bell's poll; pieces are tagged by small indexes.
const BELL_TAG: u64 = u64::MAX;

/// What the ring is made of.
pub struct Parts {
    pub slots: Arc<File>,
    pub arena: Arc<Arena>,
    pub tickets: Receiver<Ticket>,
    pub bell: Bell,
    pub queue_depth: u32,
    pub io_bytes: u32,
    pub ops_max: usize,
}

/// Starts the ring's thread and its verifiers; ends well once the ring stands. The answer says why
/// the arena could not be registered, if so: IO works without, at a higher cost for the kernel.
///
/// # Errors
/// The kernel or the container refuses `io_uring`, or the machine another thread.
pub fn start(workers: &mut Workers, parts: Parts) -> io::Result<Result<(), String>> {
    let (verify, read) = crossbeam_channel::bounded::<Ticket>(parts.ops_max);
    let arena = Arc::clone(&parts.arena);
    workers.start("nvme-verify", VERIFIERS, move || {
        read.iter().for_each(|ticket| verify_read(&arena, ticket));
    })?;
    let (report, reported) = crossbeam_channel::bounded(1);
    // The ring is made by the thread that uses it: the kernel can then skip locks of its own.
    workers.start_one("nvme-ring", move || match Ring::new(parts, verify) {
        Err(error) => drop(report.send(Err(error))),
        Ok((mut ring, registered)) => {
            drop(report.send(Ok(registered)));
            ring.run();
        }
    })?;
    reported.recv().unwrap_or_else(|_| Err(io::Error::other("the ring's thread died")))
}

fn verify_read(arena: &Arena, ticket: Ticket) {
    let result = match ticket.op {
        StoreOp::Read { key, frame, .. } => {
            // SAFETY: the operation owns the span until it is done, and its IO is over.
            let bytes = unsafe { arena.bytes(frame) };
            frame::verify(bytes, key).map(|_| ())
        }
        StoreOp::Write { .. } | StoreOp::Erase { .. } | StoreOp::Restamp { .. } => Ok(()),
    };
    ticket.finish(result);
}

struct Ring {
    uring: IoUring,
    flights: Flights,
    parts: Parts,
    verify: Sender<Ticket>,
    erased: Box<Page>,
    fixed_buffers: bool,
    bell_armed: bool,
    /// No more tickets will come.
    closing: bool,
}

impl Ring {
    fn new(parts: Parts, verify: Sender<Ticket>) -> io::Result<(Self, Result<(), String>)> {
        let uring = build(parts.queue_depth + 1)?;
        uring.submitter().register_files(&[parts.slots.as_raw_fd()])?;
        let registered = register(&uring, &parts.arena).map_err(|error| {
            format!("the kernel refused to register the arena ({error}): raise `ulimit -l`")
        });
        let flights = Flights::new(Cutting {
            pieces_max: parts.queue_depth as usize,
            io_bytes: parts.io_bytes,
            region_bytes: REGION_BYTES,
        });
        let ring = Self {
            uring,
            flights,
            parts,
            verify,
            erased: Page::erased(),
            fixed_buffers: registered.is_ok(),
            bell_armed: false,
            closing: false,
        };
        Ok((ring, registered))
    }

    /// Works until the queue is closed and everything in hand has landed.
    fn run(&mut self) {
        loop {
            self.fill();
            if self.closing && self.flights.is_empty() {
                return;
            }
            match self.uring.submit_and_wait(1) {
                Ok(_) => {}
                // Put off, or the kernel wants its answers collected first.
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    // Not seen on any kernel. Reads already handed over may still land in memory
                    // that would be given to others; a restart recovers what is on disk.
                    tracing::error!(%error, "the ring failed with reads under way: ending");
                    std::process::abort();
                }
            }
            self.reap();
        }
    }

    /// Hands the kernel all there is room for.
    fn fill(&mut self) {
        if !self.bell_armed {
            let fd = types::Fd(self.parts.bell.file().as_raw_fd());
            let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
            self.push(&poll.user_data(BELL_TAG));
            self.bell_armed = true;
        }
        loop {
            while let Some((tag, io)) = self.flights.next_io() {
                let entry = self.entry(io).user_data(tag as u64);
                self.push(&entry);
            }
            if !self.flights.wants_more() {
                return;
            }
            match self.parts.tickets.try_recv() {
                Ok(ticket) => self.flights.add(ticket),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.closing = true;
                    return;
                }
            }
        }
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the memory is the arena's or the erased page's, both alive as long as the ring;
        // a span belongs to its operation, which is answered only after its IO has landed.
        let pushed = unsafe { self.uring.submission().push(entry) };
        pushed.expect("the ring has an entry for every piece and the bell");
    }

    fn entry(&self, io: Io) -> squeue::Entry {
        let fd = types::Fixed(0);
        let at = usize::try_from(io.memory_offset).expect("the arena is in the address space");
        let memory = self.parts.arena.base().wrapping_add(at);
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

    /// Collects what has landed.
    fn reap(&mut self) {
        let landed: Vec<cqueue::Entry> = self.uring.completion().collect();
        for entry in landed {
            if entry.user_data() == BELL_TAG {
                self.parts.bell.hush();
                self.bell_armed = false;
                continue;
            }
            let tag = usize::try_from(entry.user_data()).expect("a tag is an index");
            if let Some((ticket, outcome)) = self.flights.landed(tag, entry.result()) {
                self.end(ticket, outcome);
            }
        }
    }

    fn end(&self, ticket: Ticket, outcome: io::Result<()>) {
        let (verb, place) = match ticket.op {
            StoreOp::Read { place, .. } => ("read", place),
            StoreOp::Write { place, .. } => ("write", place),
            StoreOp::Erase { place, .. } => ("erase", place),
            StoreOp::Restamp { .. } => unreachable!("the stampers serve restamps"),
        };
        match (ticket.op, outcome) {
            (_, Err(error)) => ticket.finish(Err(failed(verb, place)(error))),
            // Holds as many as the gate lets in; a ticket that can't be sent answers itself.
            (StoreOp::Read { .. }, Ok(())) => drop(self.verify.try_send(ticket)),
            (_, Ok(())) => ticket.finish(Ok(())),
        }
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
    // SAFETY: the regions lie in the arena's mapping, which the ring keeps alive through `parts`.
    unsafe { ring.submitter().register_buffers(&regions) }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
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
