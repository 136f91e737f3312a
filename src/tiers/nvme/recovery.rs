//! Finds the frames of a former run: one header page a slot, many reads at once. Where slots are so
//! short that their headers lie close together, a run of slots is read through instead.
//!
//! Never looks at payloads (a torn one is noticed when it is read), never judges between duplicates,
//! and never writes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Sender;

use super::failed;
use super::page::Page;
use super::slots::SlotFile;
use super::table::ChunkTable;
use crate::domain::units::{CHUNK_BYTES, PAGE_BYTES};
use crate::tiers::frame::{FrameError, FrameHeader};
use crate::tiers::store::{FoundFrame, Place, StoreError};
use crate::tiers::workers::Workers;

/// Enough single-page reads at once to keep a device busy.
const READERS: usize = 16;

/// Slots of at most so many bytes are read through: for the time of one page by itself, a device moves
/// about as much in a row.
const READ_THROUGH_BYTES_MAX: u32 = 16 << 10;

/// What is read through at once, in pages.
const ROW_PAGES: usize = 64;

/// Frames that wait for the caller at most.
const FOUND_MAX: usize = 1024;

/// What the readers share.
struct Search {
    slots: Arc<dyn SlotFile>,
    table: Arc<ChunkTable>,
    next_chunk: AtomicUsize,
    headers_read: AtomicUsize,
    foreign: AtomicUsize,
    damaged: AtomicUsize,
}

/// Slots that were passed over: those with headers of another format version, and those with what is
/// neither a header nor nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub foreign: usize,
    pub damaged: usize,
    /// Why others could not be read, if there are any.
    pub unreadable: Option<String>,
}

/// Reports every whole header in the chunks that were ever written, and tells the operator what was
/// passed over in this folder.
///
/// # Errors
/// Not one page could be read although there were some, or the machine refused a thread.
pub fn scan(
    dir: &Path,
    slots: &Arc<dyn SlotFile>,
    table: &Arc<ChunkTable>,
    found: &mut dyn FnMut(FoundFrame),
) -> Result<(), StoreError> {
    let (Passed { foreign, damaged, unreadable }, folder) =
        (look_through(slots, table, found)?, dir.display());
    if foreign > 0 {
        tracing::warn!(%folder, frames = foreign, "frames of another format version were passed over");
    }
    if damaged > 0 {
        tracing::warn!(
            %folder,
            slots = damaged,
            "slots hold neither a frame nor nothing: power was lost in the middle of a write, something \
             else wrote to the slot file, or the disk loses data. Their blocks, and those that hang on \
             them, are computed anew"
        );
    }
    if let Some(error) = unreadable {
        tracing::warn!(%folder, error, "some headers could not be read and were passed over");
    }
    Ok(())
}

/// [`scan`] without a word to the operator.
///
/// # Errors
/// As [`scan`].
pub(super) fn look_through(
    slots: &Arc<dyn SlotFile>,
    table: &Arc<ChunkTable>,
    found: &mut dyn FnMut(FoundFrame),
) -> Result<Passed, StoreError> {
    let search = Arc::new(Search {
        slots: Arc::clone(slots),
        table: Arc::clone(table),
        next_chunk: AtomicUsize::new(0),
        headers_read: AtomicUsize::new(0),
        foreign: AtomicUsize::new(0),
        damaged: AtomicUsize::new(0),
    });
    // Before the channel, so that it closes first: readers that nobody hears end, and are waited
    // for.
    let mut readers = Workers::default();
    let (report, reports) = crossbeam_channel::bounded(FOUND_MAX);
    for index in 0..READERS.min(table.chunks()) {
        let (search, report) = (Arc::clone(&search), report.clone());
        readers
            .start_one(&format!("nvme-scan-{index}"), move || search.read_chunks(&report))
            .map_err(|source| StoreError::Io { what: "can't start the scan".into(), source })?;
    }
    drop(report);
    let mut unreadable = None;
    for result in reports {
        match result {
            Ok(frame) => found(frame),
            Err(error) => unreadable = Some(error),
        }
    }
    let passed = Passed {
        foreign: search.foreign.load(Ordering::Relaxed),
        damaged: search.damaged.load(Ordering::Relaxed),
        unreadable: unreadable.as_ref().map(ToString::to_string),
    };
    match unreadable {
        Some(error) if search.headers_read.load(Ordering::Relaxed) == 0 => Err(error),
        _ => Ok(passed),
    }
}

impl Search {
    /// Takes chunks until there are none, or nobody listens any more.
    fn read_chunks(&self, report: &Sender<Result<FoundFrame, StoreError>>) {
        let mut row = Page::row(ROW_PAGES);
        loop {
            let chunk = self.next_chunk.fetch_add(1, Ordering::Relaxed);
            if chunk >= self.table.chunks() {
                return;
            }
            let places: Vec<Place> = slots_of(chunk, self.table.slot_bytes(chunk)).collect();
            for run in places.chunks(slots_a_read(self.table.slot_bytes(chunk))) {
                if !self.read_run(run, &mut row, report) {
                    return;
                }
            }
        }
    }

    /// Reads the headers of neighbours. False: nobody listens any more.
    fn read_run(
        &self,
        run: &[Place],
        row: &mut [Page],
        report: &Sender<Result<FoundFrame, StoreError>>,
    ) -> bool {
        let pages_a_slot = run[0].slot_bytes as usize / PAGE_BYTES;
        let span = if run.len() > 1 { pages_a_slot * run.len() } else { 1 };
        let read = self.slots.read_exact_at(Page::bytes_of_row(&mut row[..span]), run[0].offset);
        if read.is_err() && run.len() > 1 {
            // One bad page must not hide its neighbours.
            return run.iter().all(|place| self.read_run(&[*place], row, report));
        }
        if let Err(error) = read {
            return report.send(Err(failed("scan", run[0])(error))).is_ok();
        }
        let headers = row.iter().step_by(pages_a_slot);
        let found = run.iter().zip(headers).filter_map(|(place, page)| self.look(*place, page));
        found.into_iter().all(|frame| report.send(Ok(frame)).is_ok())
    }

    fn look(&self, place: Place, page: &Page) -> Option<FoundFrame> {
        self.headers_read.fetch_add(1, Ordering::Relaxed);
        match FrameHeader::parse(page.bytes()) {
            Ok(header) if header.frame_bytes() <= u64::from(place.slot_bytes) => {
                Some(FoundFrame { place, header })
            }
            Err(FrameError::UnsupportedVersion { .. }) => {
                self.foreign.fetch_add(1, Ordering::Relaxed);
                None
            }
            Ok(_) | Err(FrameError::Corrupt(_)) => {
                self.damaged.fetch_add(1, Ordering::Relaxed);
                None
            }
            Err(FrameError::Missing(_)) => None,
        }
    }
}

/// How many neighbours are read at once.
fn slots_a_read(slot_bytes: u32) -> usize {
    if (1..=READ_THROUGH_BYTES_MAX).contains(&slot_bytes) {
        ROW_PAGES * PAGE_BYTES / slot_bytes as usize
    } else {
        1
    }
}

/// The chunk's slots; none when it was never written.
fn slots_of(chunk: usize, slot_bytes: u32) -> impl Iterator<Item = Place> {
    let slots = CHUNK_BYTES.checked_div(u64::from(slot_bytes)).unwrap_or(0);
    let start = chunk as u64 * CHUNK_BYTES;
    (0..slots).map(move |i| Place { offset: start + i * u64::from(slot_bytes), slot_bytes })
}
