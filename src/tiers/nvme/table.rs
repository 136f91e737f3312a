//! How the chunks are cut into slots, as it stands on disk; and the clerk, who changes that.
//!
//! A write to a chunk that is cut otherwise waits for the clerk: the new cut is durable before the
//! first frame of that length is written, so a scan always knows where slots begin. A chunk that is
//! cut anew forgets what was in it. So it does where the first write was none: whoever has a slot of the
//! new length in it and erases that, ends what was there before, which a scan would find else. Never
//! blocks whoever submits.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_channel::Receiver;

use super::page::Page;
use super::queue::Queue;
use super::slots::{Access, SlotFile};
use super::superblock::{Superblock, is_slot_length};
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::store::{Place, StoreError, StoreOp};
use crate::tiers::ticket::Ticket;

/// The durable cut of every chunk.
#[derive(Debug)]
pub struct ChunkTable {
    slot_bytes: Vec<AtomicU32>,
}

impl ChunkTable {
    #[must_use]
    pub fn new(superblock: &Superblock) -> Self {
        Self { slot_bytes: superblock.slot_bytes.iter().copied().map(AtomicU32::new).collect() }
    }

    #[must_use]
    pub fn chunks(&self) -> usize {
        self.slot_bytes.len()
    }

    /// The length of the chunk's slots in bytes; zero when it was never written, or when nobody knows.
    #[must_use]
    pub fn slot_bytes(&self, chunk: usize) -> u32 {
        self.slot_bytes[chunk].load(Ordering::Acquire)
    }

    fn set(&self, chunk: usize, slot_bytes: u32) {
        self.slot_bytes[chunk].store(slot_bytes, Ordering::Release);
    }

    /// Whether the chunk of `place` is cut into slots of its length.
    #[must_use]
    pub fn is_cut_for(&self, place: Place) -> bool {
        self.slot_bytes(chunk_of(place)) == place.slot_bytes
    }

    /// Whether `place` is a slot of this address space.
    #[must_use]
    pub fn holds(&self, place: Place) -> bool {
        let within = place.offset % CHUNK_BYTES;
        let slot = u64::from(place.slot_bytes);
        is_slot_length(place.slot_bytes)
            && place.offset / CHUNK_BYTES < self.chunks() as u64
            && within.is_multiple_of(slot)
            && within + slot <= CHUNK_BYTES
    }
}

/// The chunk of a place that the table holds.
#[must_use]
pub fn chunk_of(place: Place) -> usize {
    usize::try_from(place.offset / CHUNK_BYTES).expect("chunks are counted in usize")
}

/// Cuts chunks anew, and sends what waited for it on to the engine.
pub struct Clerk {
    pub dir: PathBuf,
    pub access: Arc<dyn Access>,
    pub slots: Arc<dyn SlotFile>,
    /// The last one that was saved.
    pub superblock: Superblock,
    pub table: Arc<ChunkTable>,
    pub waiting: Receiver<Ticket>,
    pub engine: Queue,
}

impl Clerk {
    /// Works until nobody can send any more.
    pub fn run(&mut self) {
        while let Ok(first) = self.waiting.recv() {
            let batch: Vec<Ticket> =
                std::iter::once(first).chain(self.waiting.try_iter()).collect();
            self.serve(batch);
        }
    }

    /// One write of the superblock serves all that wait.
    fn serve(&mut self, batch: Vec<Ticket>) {
        let cuts = self.new_cuts(&batch);
        let outcome = self.cut(&cuts);
        if outcome.is_err() {
            // The disk may have either cut: whatever is written next comes here and settles that.
            for &chunk in cuts.keys() {
                self.table.set(chunk, 0);
            }
        }
        for ticket in batch {
            match &outcome {
                _ if self.has_nothing_for(&ticket.op) => ticket.finish(Ok(())),
                Err(error) => ticket.finish(Err(StoreError::Io {
                    what: "can't record how a chunk is cut into slots".into(),
                    source: io::Error::new(error.kind(), error.to_string()),
                })),
                Ok(())
                    if place_of(&ticket.op).is_some_and(|place| self.table.is_cut_for(place)) =>
                {
                    self.engine.push(ticket);
                }
                Ok(()) => ticket.finish(Err(StoreError::Io {
                    what: "writes of two slot lengths wait for one chunk".into(),
                    source: io::ErrorKind::InvalidInput.into(),
                })),
            }
        }
    }

    /// The chunks that must be cut otherwise, and how.
    fn new_cuts(&self, batch: &[Ticket]) -> BTreeMap<usize, u32> {
        let mut cuts = BTreeMap::new();
        let ops = batch.iter().map(|ticket| &ticket.op);
        for place in ops.filter(|op| !self.has_nothing_for(op)).filter_map(place_of) {
            if !self.table.is_cut_for(place) {
                cuts.entry(chunk_of(place)).or_insert(place.slot_bytes);
            }
        }
        cuts
    }

    /// Whether it is to erase what was never there: nothing was written in the chunk.
    fn has_nothing_for(&self, op: &StoreOp) -> bool {
        matches!(*op, StoreOp::Erase { place, .. } if self.superblock.slot_bytes[chunk_of(place)] == 0)
    }

    fn cut(&mut self, cuts: &BTreeMap<usize, u32>) -> io::Result<()> {
        if cuts.is_empty() {
            return Ok(());
        }
        let mut next = self.superblock.clone();
        for (&chunk, &slot_bytes) in cuts {
            self.forget(chunk, slot_bytes)?;
            next.slot_bytes[chunk] = slot_bytes;
        }
        next.save(&self.dir, &*self.access)?;
        self.superblock = next;
        for (&chunk, &slot_bytes) in cuts {
            self.table.set(chunk, slot_bytes);
        }
        Ok(())
    }

    /// Makes every frame of the chunk's old cut unreadable, so that none comes back when the chunk
    /// is cut that way again, and leaves nothing where the new cut's headers will be.
    fn forget(&self, chunk: usize, new_slot_bytes: u32) -> io::Result<()> {
        let old = u64::from(self.superblock.slot_bytes[chunk]);
        if old == 0 {
            return Ok(());
        }
        let start = chunk as u64 * CHUNK_BYTES;
        // Keeps the room and costs no writing, where the file system can do it.
        match self.slots.zero(start, CHUNK_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let erased = Page::erased();
                let starts = |slot: u64| (0..CHUNK_BYTES / slot).map(move |i| start + i * slot);
                starts(old)
                    .chain(starts(u64::from(new_slot_bytes)))
                    .try_for_each(|at| self.slots.write_all_at(erased.bytes(), at))
            }
            result => result,
        }
    }
}

fn place_of(op: &StoreOp) -> Option<Place> {
    match *op {
        StoreOp::Write { place, .. } | StoreOp::Erase { place, .. } => Some(place),
        StoreOp::Read { .. } | StoreOp::Restamp { .. } => None,
    }
}
