//! The legs on a device: copies between pools, HBM and frames, and the headers of frames that are new.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Outcomes, Performer, Piece, Work, dram_span, read_failure, write_failure};
use crate::env;
use crate::manager::api::{End, FailureKind, TransferItem};
use crate::manager::shell::complaints::Deed;
use crate::manager::shell::sealing::{Ends, Seal, Unsealed};
use crate::tiers::hbm::{BlockCopy, CopiesEnd, CopyEnd, FailedCopy, Stream};
use crate::tiers::store::{FrameSpan, StoreError};

/// Payloads' checksums, by their copy's index in a list.
type Sums = Vec<(usize, u64)>;

/// What a device's engines copy before it is sealed, while they copy the next ones.
const SEALED_BYTES: u64 = 8 << 20;

impl Work {
    /// The copy on the device, if there is anything to copy; `staged` is its frame in memory, which may be
    /// left out where an end is DRAM.
    pub(super) fn device_copy(
        &self,
        piece: &Piece,
        staged: Option<FrameSpan>,
    ) -> Option<BlockCopy> {
        let TransferItem { from, to, .. } = piece.item;
        let geometry = self.geometry.expect("only a known namespace's blocks are on a device");
        let end = |end: End| match end {
            End::Pool { slot, .. } => {
                let pool = Arc::clone(piece.pool.as_ref().expect("looked up at the start"));
                CopyEnd::Pool { pool, slot }
            }
            End::Hbm(place) => CopyEnd::Tier(place),
            End::Dram(_) | End::Nvme(_) | End::Object => {
                CopyEnd::Frame(staged.or(dram_span(end)).expect("a frame is in DRAM or staged"))
            }
        };
        (from != to).then(|| BlockCopy { geometry, from: end(from), to: end(to) })
    }

    /// What each copy moves: a pool holds one shard of a block.
    fn copy_bytes(&self) -> u64 {
        let of_pools = self.items.first().is_some_and(|piece| piece.pool.is_some());
        let shards = self.geometry.filter(|_| of_pools).map_or(1, |blocks| blocks.shard_count());
        self.payload_bytes / u64::from(shards.max(1))
    }

    fn device_copies(&self, pieces: &[Piece], spans: &[FrameSpan]) -> Vec<Option<BlockCopy>> {
        pieces.iter().zip(spans).map(|(piece, span)| self.device_copy(piece, Some(*span))).collect()
    }
}

impl Performer {
    /// From the device into staging frames.
    pub(super) async fn onto_frames(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: &[FrameSpan],
    ) -> Outcomes {
        let (told, all) = oneshot::channel();
        // The receiver is gone only when the runtime stops.
        self.land(work, pieces, spans, move |outcomes| drop(told.send(outcomes)));
        all.await.unwrap_or_else(|_| vec![Err(FailureKind::TargetFailed); pieces.len()])
    }

    /// From the device into frames, and the headers of those that are new. Tells `ended`, once and on any
    /// thread, how they ended.
    pub(super) fn land(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: &[FrameSpan],
        ended: impl FnOnce(Outcomes) + Send + 'static,
    ) {
        // Where nothing is copied, the thread that hears of it at once is the caller's.
        if self.device.copies_by_processor() && work.copies() {
            self.land_by_processor(work, pieces, spans, ended);
        } else {
            self.land_by_engines(work, pieces, spans, ended);
        }
    }

    /// Headers by the threads that seal.
    fn land_by_engines(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: &[FrameSpan],
        ended: impl FnOnce(Outcomes) + Send + 'static,
    ) {
        let refused = vec![Err(FailureKind::NotDone); pieces.len()];
        let (ends, seal) = (Ends::of(refused, Box::new(ended) as _), Arc::new(self.seal(work)));
        let together = (SEALED_BYTES / work.copy_bytes().max(1)).max(1);
        let together = usize::try_from(together).unwrap_or(usize::MAX);
        let groups = pieces.chunks(together).zip(spans.chunks(together));
        // The device has all of them from the start: it rests for nobody who seals.
        for ((pieces, spans), first) in groups.zip((0..).step_by(together)) {
            let mut unsealed = unsealed(first, pieces, spans);
            let (ends, seal) = (Arc::clone(&ends), Arc::clone(&seal));
            let threads = Arc::clone(&self.seal_threads);
            self.submit(Stream::Down, work.device_copies(pieces, spans), move |outcomes, sums| {
                note_sums(&mut unsealed, sums);
                let mut frames = Vec::with_capacity(outcomes.len());
                for ((at, outcome), frame) in (first..).zip(outcomes).zip(unsealed) {
                    match frame.filter(|_| outcome.is_ok()) {
                        Some(frame) => frames.push(frame),
                        None => ends.enter(at, outcome),
                    }
                }
                threads.seal(&seal, &frames, &ends);
                // The last to let go of `ends` tells; it is to hold nothing else by then.
                drop((threads, seal));
            });
        }
    }

    /// Headers by the thread that copies: it has summed nearly all of them, no other has to wake, and it takes
    /// turns with loads.
    fn land_by_processor(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: &[FrameSpan],
        ended: impl FnOnce(Outcomes) + Send + 'static,
    ) {
        let (mut unsealed, seal) = (unsealed(0, pieces, spans), self.seal(work));
        self.submit(Stream::Down, work.device_copies(pieces, spans), move |mut outcomes, sums| {
            note_sums(&mut unsealed, sums);
            for frame in unsealed.into_iter().flatten() {
                let outcome = &mut outcomes[frame.at];
                *outcome = outcome.and_then(|()| {
                    if frame.sum.is_none() {
                        // It takes a while, and what a request waits for may need this processor.
                        env::await_turn();
                    }
                    seal.put(frame)
                });
            }
            ended(outcomes);
        });
    }

    /// Runs all copies on one stream; those that are none end well.
    pub(super) async fn on_device(
        &self,
        stream: Stream,
        copies: Vec<Option<BlockCopy>>,
    ) -> Outcomes {
        let count = copies.len();
        let (ended, end) = oneshot::channel();
        // The receiver is gone only when the runtime stops.
        self.submit(stream, copies, move |outcomes, _| drop(ended.send(outcomes)));
        end.await.unwrap_or_else(|_| vec![Err(FailureKind::TargetFailed); count])
    }

    /// Queues the copies on a stream and tells `ended`, once and on any thread, how they ended, and what the
    /// device has summed.
    pub(super) fn submit(
        &self,
        stream: Stream,
        copies: Vec<Option<BlockCopy>>,
        ended: impl FnOnce(Outcomes, Sums) + Send + 'static,
    ) {
        let mut outcomes = vec![Ok(()); copies.len()];
        let (at, copies): (Vec<usize>, Vec<BlockCopy>) =
            copies.into_iter().enumerate().filter_map(|(at, copy)| Some((at, copy?))).unzip();
        if copies.is_empty() {
            return ended(outcomes, Vec::new());
        }
        let complaints = Arc::clone(&self.complaints);
        let kinds: Vec<_> = copies.iter().map(|copy| failure_of(&copy.from)).collect();
        let done = move |end: CopiesEnd| {
            for FailedCopy { copy, error } in end.failed {
                let deed = match error {
                    StoreError::Busy => Deed::DeviceTurn,
                    _ => Deed::DeviceCopy,
                };
                complaints.note(deed, &error);
                outcomes[at[copy]] = Err(kinds[copy](&error));
            }
            let sums = end.sums.into_iter().map(|(copy, sum)| (at[copy], sum));
            ended(outcomes, sums.collect());
        };
        self.device.submit(stream, copies, Box::new(done));
    }

    fn seal(&self, work: &Work) -> Seal {
        Seal {
            arena: Arc::clone(&self.arena),
            namespace: work.digest,
            payload_bytes: work.payload_bytes,
            node_id: self.node_id,
        }
    }
}

/// What is to be sealed of these pieces, of which the first is number `first` of those that land together;
/// nothing where a frame has its header, or gets it later.
fn unsealed(first: usize, pieces: &[Piece], spans: &[FrameSpan]) -> Vec<Option<Unsealed>> {
    let pieces = (first..).zip(pieces).zip(spans);
    let frame = |((at, piece), &span): ((usize, &Piece), &FrameSpan)| {
        let TransferItem { seal, meta, .. } = piece.item;
        seal.then_some(Unsealed { at, span, meta, sum: None })
    };
    pieces.map(frame).collect()
}

fn note_sums(unsealed: &mut [Option<Unsealed>], sums: Sums) {
    for (at, sum) in sums {
        if let Some(frame) = &mut unsealed[at] {
            frame.sum = Some(sum);
        }
    }
}

/// What an error of a copy from there means. A device does not say which end is at fault: where it is HBM
/// that gives, another tier may give the same.
fn failure_of(from: &CopyEnd) -> fn(&StoreError) -> FailureKind {
    match from {
        CopyEnd::Tier(_) => read_failure,
        CopyEnd::Pool { .. } | CopyEnd::Frame(_) => device_failure,
    }
}

fn device_failure(error: &StoreError) -> FailureKind {
    match error {
        StoreError::Missing(_) => FailureKind::SourceMissing,
        error => write_failure(error),
    }
}
