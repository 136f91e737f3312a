//! Records in the headers of frames that are on the device: read, changed, written back.
//!
//! One page in and one page out, whatever the engine: too rare to be worth a place in the ring.
//! Never touches a payload, and never writes a page that it has not found to be the block's header.

use std::io;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::failed;
use super::page::Page;
use super::slots::SlotFile;
use crate::domain::block::Key;
use crate::domain::retention::RetentionRecord;
use crate::tiers::frame;
use crate::tiers::store::{Place, StoreError, StoreOp};
use crate::tiers::ticket::Ticket;
use crate::tiers::workers::Workers;

/// Single pages at once: more would only be in the way of the frames.
const THREADS: usize = 2;

/// Starts the threads that serve `tickets`, which are restamps.
///
/// # Errors
/// The machine refused a thread.
pub fn start(
    workers: &mut Workers,
    slots: &Arc<dyn SlotFile>,
    tickets: &Receiver<Ticket>,
) -> io::Result<()> {
    let (slots, tickets) = (Arc::clone(slots), tickets.clone());
    workers.start("nvme-stamp", THREADS, move || {
        let mut page = Page::zeroed();
        for ticket in &tickets {
            let StoreOp::Restamp { key, place, record, .. } = ticket.op else {
                unreachable!("the store sends nothing but restamps this way");
            };
            let result = restamp(&*slots, &mut page, (key, place), &record);
            ticket.finish(result);
        }
    })
}

fn restamp(
    slots: &dyn SlotFile,
    page: &mut Page,
    (key, place): (Key, Place),
    record: &RetentionRecord,
) -> Result<(), StoreError> {
    slots.read_exact_at(page.bytes_mut(), place.offset).map_err(failed("restamp", place))?;
    frame::restamp(page.bytes_mut(), key, record)?;
    // Whole pages are what every device takes; all but one sector of it is as it was.
    slots.write_all_at(page.bytes(), place.offset).map_err(failed("restamp", place))
}
