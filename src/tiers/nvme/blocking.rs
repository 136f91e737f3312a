//! The blocking engine: the same contract as the ring's, for kernels and containers that forbid
//! `io_uring`.
//!
//! Never splits or reorders an operation: one thread carries it from start to end.

use std::io;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::failed;
use super::page::Page;
use super::slots::SlotFile;
use crate::tiers::dram::Arena;
use crate::tiers::frame;
use crate::tiers::store::{StoreError, StoreOp};
use crate::tiers::ticket::Ticket;
use crate::tiers::workers::Workers;

/// More threads than this only queue in the kernel.
const THREADS_MAX: usize = 16;

/// Starts the threads that serve `tickets`.
///
/// # Errors
/// The machine refused a thread.
pub fn start(
    workers: &mut Workers,
    slots: &Arc<dyn SlotFile>,
    arena: &Arc<Arena>,
    tickets: &Receiver<Ticket>,
    queue_depth: u32,
) -> io::Result<()> {
    let threads = (queue_depth as usize).clamp(1, THREADS_MAX);
    let (slots, arena, tickets) = (Arc::clone(slots), Arc::clone(arena), tickets.clone());
    workers.start("nvme-io", threads, move || {
        let erased = Page::erased();
        for ticket in &tickets {
            let result = perform(&*slots, &arena, &erased, ticket.op);
            ticket.finish(result);
        }
    })
}

fn perform(
    slots: &dyn SlotFile,
    arena: &Arena,
    erased: &Page,
    op: StoreOp,
) -> Result<(), StoreError> {
    match op {
        StoreOp::Write { place, frame, .. } => {
            // SAFETY: the operation shares the span until it is done: nobody writes to it.
            let bytes = unsafe { arena.bytes(frame) };
            slots.write_all_at(bytes, place.offset).map_err(failed("write", place))
        }
        StoreOp::Read { key, place, frame } => {
            // SAFETY: the operation owns the span until it is done.
            let bytes = unsafe { arena.bytes_mut(frame) };
            slots.read_exact_at(bytes, place.offset).map_err(failed("read", place))?;
            frame::verify(bytes, key).map(|_| ())
        }
        StoreOp::Erase { place, .. } => {
            slots.write_all_at(erased.bytes(), place.offset).map_err(failed("erase", place))
        }
        StoreOp::Restamp { .. } => unreachable!("the stampers serve restamps"),
    }
}
