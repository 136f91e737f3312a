//! The ring's thread: takes operations from the queue, hands their pieces to the kernel, and answers
//! them as they land.
//!
//! Only moves pieces: frames that were read are verified by threads of their own. Never answers an
//! operation while the kernel may still touch its memory.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use super::failed;
use super::flights::{Cutting, Flights, Io, Way};
use super::queue::Bell;
use super::slots::Access;
use super::uring::{self, Uring};
use crate::env;
use crate::tiers::dram::Arena;
use crate::tiers::frame;
use crate::tiers::store::StoreOp;
use crate::tiers::ticket::Ticket;
use crate::tiers::workers::Workers;

/// Checksums run at about the speed of one core's memory; two threads keep ahead of one device.
const VERIFIERS: usize = 2;

/// What the ring is made of.
pub struct Parts {
    pub slots: Arc<std::fs::File>,
    pub arena: Arc<Arena>,
    pub tickets: Receiver<Ticket>,
    pub bell: Bell,
    pub queue_depth: u32,
    pub io_bytes: u32,
    pub ops_max: usize,
    pub access: Arc<dyn Access>,
}

/// What the ring's thread needs of the kernel.
pub trait Kernel {
    /// Takes a piece; there is room for as many as the queue's depth.
    fn push(&mut self, tag: usize, io: Io);

    /// Asks to be told when the bell is rung.
    fn watch_bell(&mut self);

    /// Begins what was pushed, and waits until something has landed.
    ///
    /// # Errors
    /// The kernel's; `EINTR`, `EAGAIN` and `EBUSY` pass.
    fn enter(&mut self) -> io::Result<()>;

    /// Takes what has landed.
    fn landed(&mut self, into: &mut Vec<Landed>);
}

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// The bell was rung; it has to be watched anew.
    Bell,
    /// A piece's end: bytes moved, or a negated errno.
    Piece { tag: usize, answer: i32 },
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
    workers.start_one("nvme-ring", move || match Uring::new(&parts) {
        Err(error) => drop(report.send(Err(error))),
        Ok((uring, registered)) => {
            drop(report.send(Ok(registered)));
            let kernel = parts.access.kernel(Box::new(uring));
            Ring::new(parts, kernel, verify).run();
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
    kernel: Box<dyn Kernel>,
    flights: Flights,
    tickets: Receiver<Ticket>,
    /// What was taken from the queue, each way.
    waiting: [VecDeque<Ticket>; Way::ALL.len()],
    bell: Bell,
    verify: Sender<Ticket>,
    landed: Vec<Landed>,
    bell_watched: bool,
    /// No more tickets will come.
    closing: bool,
}

impl Ring {
    fn new(parts: Parts, kernel: Box<dyn Kernel>, verify: Sender<Ticket>) -> Self {
        let flights = Flights::new(Cutting {
            pieces_max: parts.queue_depth as usize,
            io_bytes: parts.io_bytes,
            region_bytes: uring::REGION_BYTES,
        });
        Self {
            kernel,
            flights,
            tickets: parts.tickets,
            waiting: Default::default(),
            bell: parts.bell,
            verify,
            landed: Vec::new(),
            bell_watched: false,
            closing: false,
        }
    }

    /// Works until the queue is closed and everything in hand has landed.
    fn run(&mut self) {
        loop {
            self.fill();
            let waits = self.waiting.iter().any(|waiting| !waiting.is_empty());
            if self.closing && !waits && self.flights.is_empty() {
                return;
            }
            match self.kernel.enter() {
                Ok(()) => {}
                // Put off, or the kernel wants its answers collected first.
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    // Not seen on any kernel. Reads already handed over may still land in memory
                    // that would be given to others; a restart recovers what is on disk.
                    tracing::error!(%error, "the ring failed with reads under way: ending");
                    env::abort();
                }
            }
            self.reap();
        }
    }

    /// Hands the kernel all there is room for.
    fn fill(&mut self) {
        if !self.bell_watched {
            self.kernel.watch_bell();
            self.bell_watched = true;
        }
        loop {
            while let Some((tag, io)) = self.flights.next_io() {
                self.kernel.push(tag, io);
            }
            if !self.take_in() {
                return;
            }
        }
    }

    /// Starts an operation that waits, and what is one IO with it. False: none may start.
    fn take_in(&mut self) -> bool {
        self.receive();
        let Some(way) = self.next_way() else { return false };
        let waiting = &mut self.waiting[way as usize];
        self.flights.add(waiting.pop_front().expect("it waits this way"));
        while let Some(ticket) = waiting.pop_front() {
            if let Some(other) = self.flights.join(ticket) {
                waiting.push_front(other);
                break;
            }
        }
        true
    }

    /// Reads first: a request may wait for one. Once they have their half, writes go first.
    fn next_way(&self) -> Option<Way> {
        let may = |way: &Way| !self.waiting[*way as usize].is_empty() && self.flights.takes(*way);
        let mut ways = Way::ALL;
        if self.flights.has_half(Way::In) {
            ways.reverse();
        }
        ways.into_iter().find(may)
    }

    /// Empties the queue: what waits there would wait in one line whichever way it goes.
    fn receive(&mut self) {
        loop {
            match self.tickets.try_recv() {
                Ok(ticket) => self.waiting[Way::of(&ticket.op) as usize].push_back(ticket),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.closing = true;
                    return;
                }
            }
        }
    }

    /// Collects what has landed.
    fn reap(&mut self) {
        let mut landed = std::mem::take(&mut self.landed);
        self.kernel.landed(&mut landed);
        for what in landed.drain(..) {
            match what {
                Landed::Bell => {
                    self.bell.hush();
                    self.bell_watched = false;
                }
                Landed::Piece { tag, answer } => {
                    for (ticket, outcome) in self.flights.landed(tag, answer) {
                        self.end(ticket, outcome);
                    }
                }
            }
        }
        self.landed = landed;
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

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}
