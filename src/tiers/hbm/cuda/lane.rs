//! One stream of the device: a thread that queues batches on the GPU, and one that waits for them.
//!
//! Up to [`FLIGHTS_MAX`] batches are on the GPU at a time, so that it never waits for this machine
//! between two of them. A batch is over only when the GPU is done with it, whatever failed.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::super::batch::Batch;
use super::super::chunks::Uses;
use super::super::device::{CopiesEnd, CopyEnd, FailedCopy, Stream};
use super::super::pool::EnginePool;
use super::calibration::Strategy;
use super::copier::{Copier, Flight};
use super::core::{Core, Located};
use super::driver::DriverError;
use super::piece::Piece;
use super::pool::OpenPool;
use crate::env::spawn_thread;
use crate::tiers::store::StoreError;

/// Batches that wait on one stream before it is busy: those of some transfers, which are cut into several
/// each.
const QUEUED_BATCHES_MAX: usize = 1024;
/// Batches that are on the GPU at a time.
pub(super) const FLIGHTS_MAX: usize = 4;

/// One stream's threads and the queue to them.
pub(super) struct Lane {
    queue: Option<Sender<Batch>>,
    threads: Vec<JoinHandle<()>>,
}

impl Lane {
    pub(super) fn start(
        core: &Arc<Core>,
        copier: Copier,
        flights: Vec<Flight>,
    ) -> io::Result<Self> {
        let (queue, batches) = bounded(QUEUED_BATCHES_MAX);
        let (take_off, landings) = bounded::<Landing>(flights.len());
        let (give_back, free) = bounded(flights.len());
        for flight in flights {
            give_back.send(flight).expect("there is room for each flight");
        }
        let [first, second] = names(copier.kind);
        let issuer = Issuer { core: Arc::clone(core), copier };
        let issuing = move || issuer.run(&batches, &free, &take_off);
        // The second thread first: without it a batch would never end.
        let ending = move || {
            for landing in landings {
                if let Some(flight) = landing.finish() {
                    // The other thread has ended: nobody needs the flight.
                    let _ = give_back.send(flight);
                }
            }
        };
        let threads = vec![spawn_thread(second, ending)?, spawn_thread(first, issuing)?];
        Ok(Self { queue: Some(queue), threads })
    }

    pub(super) fn submit(&self, batch: Batch) {
        let queue = self.queue.as_ref().expect("the queue lives until the drop");
        match queue.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => batch.fail_all(|| StoreError::Busy),
            // A thread ended by a panic in someone's `done`; the batch says so when it drops.
            Err(TrySendError::Disconnected(batch)) => drop(batch),
        }
    }
}

const fn names(kind: Stream) -> [&'static str; 2] {
    match kind {
        Stream::Up => ["cuda-up", "cuda-up-ends"],
        Stream::Down => ["cuda-down", "cuda-down-ends"],
        Stream::Local => ["cuda-local", "cuda-local-ends"],
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.queue = None;
        let own = thread::current().id();
        // A `done` may hold the last reference to the device: its thread can't wait for itself, and
        // the other one waits for it. Both end when what is queued is over.
        if self.threads.iter().any(|thread| thread.thread().id() == own) {
            return;
        }
        for thread in self.threads.drain(..) {
            // It panicked in someone's `done`; that was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// Queues batches on the GPU, in order.
struct Issuer {
    core: Arc<Core>,
    copier: Copier,
}

impl Issuer {
    fn run(&self, batches: &Receiver<Batch>, free: &Receiver<Flight>, to: &Sender<Landing>) {
        for batch in batches {
            // Fails when the thread that ends batches has panicked.
            let Ok(flight) = free.recv() else { return };
            if to.send(self.issue(batch, flight)).is_err() {
                return;
            }
        }
    }

    fn issue(&self, batch: Batch, flight: Flight) -> Landing {
        let mut landing = Landing::new(&self.core, flight);
        let mut located: Vec<Located<'_>> = Vec::with_capacity(batch.copies().len());
        let ((), uses) = self.core.chunks.begin(|chunks| {
            for (copy, ends) in batch.copies().iter().enumerate() {
                let found = match self.core.lost() {
                    None if ends.comes_too_late() => Err(StoreError::Busy),
                    None => self.core.locate(ends, chunks),
                    Some(error) => Err(error),
                };
                match found {
                    Ok(found) => {
                        located.push(found);
                        landing.copies.push(copy);
                    }
                    Err(error) => landing.failed.push(FailedCopy { copy, error }),
                }
            }
        });
        landing.uses = Some(uses);
        if !located.is_empty() {
            let far = located.iter().any(|found| found.far);
            let independent = !far && batch.is_independent();
            let pieces: Vec<_> = located.iter().map(|found| found.piece.clone()).collect();
            let (table, flight) = (&self.core.table, landing.flight());
            let way = self.copier.choose(table, &pieces, independent, flight);
            let queued = self.enqueue(&pieces, way, flight);
            (landing.way, landing.error) = (Some(way), queued.err());
        }
        drop(located);
        landing.batch = Some(batch);
        landing
    }

    fn enqueue(
        &self,
        pieces: &[Piece<'_>],
        way: Strategy,
        flight: &Flight,
    ) -> Result<(), DriverError> {
        // SAFETY: `locate` found every page in memory that the core or the copies' pools keep; the
        // batch keeps the pools and its submitter the bytes until the landing is over, and an
        // engine that writes to its pool meanwhile gets torn bytes, no more. `choose` gave what
        // can be for these pieces, and the flight is this batch's.
        let queued = unsafe { self.copier.enqueue(way, pieces, flight) };
        // What was queued before an error is waited for as well.
        self.copier.close(way, flight).and(queued)
    }
}

/// A batch on the GPU.
struct Landing {
    core: Arc<Core>,
    batch: Option<Batch>,
    /// Copies that were queued, by their index in the batch.
    copies: Vec<usize>,
    failed: Vec<FailedCopy>,
    /// Why those that were queued did not all land.
    error: Option<DriverError>,
    uses: Option<Uses>,
    flight: Option<Flight>,
    /// How they were queued; nothing was, if none.
    way: Option<Strategy>,
}

impl Landing {
    fn new(core: &Arc<Core>, flight: Flight) -> Self {
        Self {
            core: Arc::clone(core),
            batch: None,
            copies: Vec::new(),
            failed: Vec::new(),
            error: None,
            uses: None,
            flight: Some(flight),
            way: None,
        }
    }

    fn flight(&self) -> &Flight {
        self.flight.as_ref().expect("a landing has its flight until it is over")
    }

    /// Waits for the GPU and says how the copies ended; gives the flight back.
    fn finish(mut self) -> Option<Flight> {
        let waited = self.wait();
        let failed: Vec<_> = match self.error.take().or(waited.err()) {
            Some(error) => {
                let failed = |copy: &usize| (*copy, self.core.failed(&error));
                self.copies.iter().map(failed).collect()
            }
            None => self.orphaned().map(|copy| (copy, StoreError::Busy)).collect(),
        };
        self.failed.extend(failed.into_iter().map(|(copy, error)| FailedCopy { copy, error }));
        self.failed.sort_by_key(|failed| failed.copy);
        let flight = self.flight.take();
        let (batch, failed) = (self.batch.take(), std::mem::take(&mut self.failed));
        self.uses = None;
        if let Some(batch) = batch {
            batch.end(CopiesEnd { failed, sums: Vec::new() });
        }
        flight
    }

    /// Copies out of pools whose engines have ended.
    fn orphaned(&self) -> impl Iterator<Item = usize> {
        let copies = self.batch.as_ref().map_or(&[][..], Batch::copies);
        let mut asked: Option<(&Arc<EnginePool>, bool)> = None;
        self.copies.iter().copied().filter(move |copy| {
            let CopyEnd::Pool { pool, .. } = &copies[*copy].from else { return false };
            match asked {
                Some((known, orphaned)) if Arc::ptr_eq(known, pool) => orphaned,
                _ => {
                    let open = pool.opened_as::<OpenPool>();
                    let orphaned = open.is_some_and(|open| open.is_orphaned(pool));
                    asked = Some((pool, orphaned));
                    orphaned
                }
            }
        })
    }

    fn wait(&self) -> Result<(), DriverError> {
        let (Some(flight), Some(way)) = (&self.flight, self.way) else { return Ok(()) };
        flight.wait(way, self.core.driver.as_ref())
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // Unfinished, its ends are let go only after the GPU has let go of them. An error says
        // that the GPU does nothing any more.
        let _ = self.wait();
    }
}
