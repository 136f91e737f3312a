//! Finds the frames of a former run: one header page a slot, many reads at once. Where slots are so
//! short that their headers lie close together, a run of slots is read through instead.
//!
//! A slot whose header was passed over counts as free and is written over. So headers that could not be
//! read are read again, and a device that gives nothing at all is waited for, however long.
//!
//! Never looks at payloads (a torn one is noticed when it is read), never judges between duplicates,
//! and never writes.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::Sender;

use super::failed;
use super::page::Page;
use super::slots::SlotFile;
use super::stall::Stall;
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

/// How long a device that answers is let be before each further try at headers that it did not give:
/// one that was reset is back by then, and a page that is still unreadable will stay so.
const PAUSES: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
];

/// How long one that gives nothing is let be.
const PAUSE_AWAY: Duration = Duration::from_secs(2);

/// Headers that are tried to see whether a device gives anything, where none was ever read.
const PROBES: usize = 8;

/// Headers that one reader takes at a time when they are read again.
const AGAIN_AT_ONCE: usize = 64;

/// What all passes over the headers share.
struct Search {
    slots: Arc<dyn SlotFile>,
    /// The first whose header was read.
    readable: OnceLock<Place>,
    foreign: AtomicUsize,
    damaged: AtomicUsize,
}

/// Headers that are read once, by many readers.
struct Pass {
    search: Arc<Search>,
    headers: Headers,
    next_part: AtomicUsize,
}

enum Headers {
    /// Those of all chunks that were ever written.
    All(Arc<ChunkTable>),
    /// Those that could not be read before.
    Again(Vec<Place>),
}

/// What a reader tells: a frame, or a header that it could not read.
type Told = Result<FoundFrame, (Place, StoreError)>;

/// Headers that could not be read, and why the last of them.
#[derive(Default)]
struct Unread {
    places: Vec<Place>,
    error: String,
}

/// Slots that were passed over: those with headers of another format version, and those with what is
/// neither a header nor nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub foreign: usize,
    pub damaged: usize,
    /// How many others could not be read, and why the last of them, if there are any.
    pub unreadable: Option<(usize, String)>,
}

/// Reports every whole header in the chunks that were ever written, and tells the operator what was
/// passed over in this folder. Lasts until the device has given the headers, or all but some of them.
///
/// # Errors
/// The machine refused a thread.
pub fn scan(
    dir: &Path,
    slots: &Arc<dyn SlotFile>,
    table: &Arc<ChunkTable>,
    stall: &Stall,
    found: &mut dyn FnMut(FoundFrame),
) -> Result<(), StoreError> {
    let (Passed { foreign, damaged, unreadable }, folder) =
        (look_through(slots, table, stall, found)?, dir.display());
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
    if let Some((slots, error)) = unreadable {
        tracing::warn!(%folder, slots, error, "headers could not be read and were passed over");
    }
    Ok(())
}

/// [`scan`] without a word of what was passed over.
///
/// # Errors
/// As [`scan`].
pub(super) fn look_through(
    slots: &Arc<dyn SlotFile>,
    table: &Arc<ChunkTable>,
    stall: &Stall,
    found: &mut dyn FnMut(FoundFrame),
) -> Result<Passed, StoreError> {
    let search = Arc::new(Search {
        slots: Arc::clone(slots),
        readable: OnceLock::new(),
        foreign: AtomicUsize::new(0),
        damaged: AtomicUsize::new(0),
    });
    let mut unread = pass(&search, Headers::All(Arc::clone(table)), found)?;
    let mut pauses = PAUSES.into_iter().peekable();
    while let Some(pause) = pauses.peek().filter(|_| !unread.places.is_empty()) {
        stall.pause(*pause);
        while let Err(error) = search.answers(&unread.places) {
            stall.begin(&error.to_string());
            stall.pause(PAUSE_AWAY);
        }
        stall.end();
        unread = pass(&search, Headers::Again(unread.places), found)?;
        // A device that went away meanwhile was not asked.
        if search.answers(&unread.places).is_ok() {
            pauses.next();
        }
    }
    let unreadable = (unread.places.len(), unread.error);
    Ok(Passed {
        foreign: search.foreign.load(Ordering::Relaxed),
        damaged: search.damaged.load(Ordering::Relaxed),
        unreadable: Some(unreadable).filter(|(slots, _)| *slots > 0),
    })
}

/// Reads the headers once, and says which could not be read.
fn pass(
    search: &Arc<Search>,
    headers: Headers,
    found: &mut dyn FnMut(FoundFrame),
) -> Result<Unread, StoreError> {
    let (search, next_part) = (Arc::clone(search), AtomicUsize::new(0));
    let pass = Arc::new(Pass { search, headers, next_part });
    // Before the channel, so that it closes first: readers that nobody hears end, and are waited
    // for.
    let mut readers = Workers::default();
    let (report, reports) = crossbeam_channel::bounded(FOUND_MAX);
    for index in 0..READERS.min(pass.headers.parts()) {
        let (pass, report) = (Arc::clone(&pass), report.clone());
        readers
            .start_one(&format!("nvme-scan-{index}"), move || pass.read(&report))
            .map_err(|source| StoreError::Io { what: "can't start the scan".into(), source })?;
    }
    drop(report);
    let mut unread = Unread::default();
    for told in reports {
        match told {
            Ok(frame) => found(frame),
            Err((place, error)) => {
                unread.places.push(place);
                unread.error = error.to_string();
            }
        }
    }
    Ok(unread)
}

impl Headers {
    fn parts(&self) -> usize {
        match self {
            Self::All(table) => table.chunks(),
            Self::Again(places) => places.len().div_ceil(AGAIN_AT_ONCE),
        }
    }

    /// The places of a part, and how many neighbours are read at once.
    fn part(&self, part: usize) -> (Vec<Place>, usize) {
        match self {
            Self::All(table) => {
                let slot_bytes = table.slot_bytes(part);
                (slots_of(part, slot_bytes).collect(), slots_a_read(slot_bytes))
            }
            Self::Again(places) => {
                let of_part = places.iter().skip(part * AGAIN_AT_ONCE).take(AGAIN_AT_ONCE);
                (of_part.copied().collect(), 1)
            }
        }
    }
}

impl Pass {
    /// Takes parts until there are none, or nobody listens any more.
    fn read(&self, report: &Sender<Told>) {
        let mut row = Page::row(ROW_PAGES);
        loop {
            let part = self.next_part.fetch_add(1, Ordering::Relaxed);
            if part >= self.headers.parts() {
                return;
            }
            let (places, at_once) = self.headers.part(part);
            for run in places.chunks(at_once) {
                if !self.search.read_run(run, &mut row, report) {
                    return;
                }
            }
        }
    }
}

impl Search {
    /// Whether the device gives anything: one that gives what it gave before has only bad pages.
    fn answers(&self, unread: &[Place]) -> Result<(), StoreError> {
        let mut page = Page::zeroed();
        let mut read = |place: Place| {
            let read = self.slots.read_exact_at(page.bytes_mut(), place.offset);
            read.map_err(failed("scan", place))
        };
        if let Some(place) = self.readable.get() {
            return read(*place);
        }
        let mut answer = Ok(());
        for place in unread.iter().step_by(unread.len() / PROBES + 1) {
            answer = read(*place);
            if answer.is_ok() {
                break;
            }
        }
        answer
    }

    /// Reads the headers of neighbours. False: nobody listens any more.
    fn read_run(&self, run: &[Place], row: &mut [Page], report: &Sender<Told>) -> bool {
        let pages_a_slot = run[0].slot_bytes as usize / PAGE_BYTES;
        let span = if run.len() > 1 { pages_a_slot * run.len() } else { 1 };
        let read = self.slots.read_exact_at(Page::bytes_of_row(&mut row[..span]), run[0].offset);
        if read.is_err() && run.len() > 1 {
            // One bad page must not hide its neighbours.
            return run.iter().all(|place| self.read_run(&[*place], row, report));
        }
        if let Err(error) = read {
            return report.send(Err((run[0], failed("scan", run[0])(error)))).is_ok();
        }
        self.readable.get_or_init(|| run[0]);
        let headers = row.iter().step_by(pages_a_slot);
        let found = run.iter().zip(headers).filter_map(|(place, page)| self.look(*place, page));
        found.into_iter().all(|frame| report.send(Ok(frame)).is_ok())
    }

    fn look(&self, place: Place, page: &Page) -> Option<FoundFrame> {
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
