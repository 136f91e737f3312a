//! The legs on a device: copies between pools, HBM and frames, and the headers of frames that are new.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Outcomes, Performer, Piece, Work, dram_span, write_failure};
use crate::manager::api::{End, FailureKind, TransferItem};
use crate::manager::shell::sealing::{Landing, Sealer, Unsealed};
use crate::tiers::hbm::{BlockCopy, CopyEnd, FailedCopy, Stream};
use crate::tiers::store::{FrameSpan, StoreError};

/// What a device's engines copy before it is sealed, while they copy the next ones.
const SEALED_BYTES: u64 = 8 << 20;

impl Work {
    /// The copy on the device, if there is anything to copy; `staged` is the frame in memory when
    /// neither end is DRAM.
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

    fn device_copies(
        &self,
        pieces: &[Piece],
        spans: &[Option<FrameSpan>],
    ) -> Vec<Option<BlockCopy>> {
        pieces.iter().zip(spans).map(|(piece, span)| self.device_copy(piece, *span)).collect()
    }
}

impl Performer {
    /// From the device into frames that are not DRAM's own.
    pub(super) async fn onto_frames(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: &[FrameSpan],
    ) -> Outcomes {
        let (told, all) = oneshot::channel();
        let spans: Vec<_> = spans.iter().copied().map(Some).collect();
        // The receiver is gone only when the runtime stops.
        self.land(work, pieces, &spans, move |outcomes| drop(told.send(outcomes)));
        all.await.expect("the last frame to land tells of all")
    }

    /// From the device into frames, and the headers of those that are new; tells `ended`, once and on any
    /// thread, how they ended.
    pub(super) fn land(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: &[Option<FrameSpan>],
        ended: impl FnOnce(Outcomes) + Send + 'static,
    ) {
        if self.device.copies_by_processor() && work.copies() {
            return self.land_by_processor(work, pieces, spans, ended);
        }
        let lost = vec![Err(FailureKind::TargetFailed); pieces.len()];
        let (landing, sealer) = (Landing::of(lost, Box::new(ended) as _), self.sealer(work));
        let sealer = Arc::new(sealer);
        let together = (SEALED_BYTES / work.payload_bytes.max(1)).max(1);
        let together = usize::try_from(together).unwrap_or(usize::MAX);
        let groups = pieces.chunks(together).zip(spans.chunks(together));
        // The device has all of them from the start: it rests for nobody who seals.
        for ((pieces, spans), first) in groups.zip((0..).step_by(together)) {
            let unsealed = unsealed(first, pieces, spans);
            let (landing, sealer) = (Arc::clone(&landing), Arc::clone(&sealer));
            let sealers = Arc::clone(&self.sealers);
            self.submit(Stream::Down, work.device_copies(pieces, spans), move |outcomes| {
                let mut frames = Vec::with_capacity(outcomes.len());
                for ((at, outcome), frame) in (first..).zip(outcomes).zip(unsealed) {
                    match frame.filter(|_| outcome.is_ok()) {
                        Some(frame) => frames.push(frame),
                        None => landing.enter(at, outcome),
                    }
                }
                sealers.seal(&sealer, &frames, &landing);
            });
        }
    }

    /// Who copies seals as well: the bytes are in that processor's caches.
    fn land_by_processor(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: &[Option<FrameSpan>],
        ended: impl FnOnce(Outcomes) + Send + 'static,
    ) {
        let (unsealed, sealer) = (unsealed(0, pieces, spans), self.sealer(work));
        self.submit(Stream::Down, work.device_copies(pieces, spans), move |mut outcomes| {
            for frame in unsealed.into_iter().flatten() {
                let outcome = &mut outcomes[frame.at];
                *outcome = outcome.and_then(|()| sealer.seal(frame));
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
        self.submit(stream, copies, move |outcomes| drop(ended.send(outcomes)));
        end.await.unwrap_or_else(|_| vec![Err(FailureKind::TargetFailed); count])
    }

    /// Queues the copies on a stream and tells `ended`, once and on any thread, how they ended.
    pub(super) fn submit(
        &self,
        stream: Stream,
        copies: Vec<Option<BlockCopy>>,
        ended: impl FnOnce(Outcomes) + Send + 'static,
    ) {
        let mut outcomes = vec![Ok(()); copies.len()];
        let (at, copies): (Vec<usize>, Vec<BlockCopy>) =
            copies.into_iter().enumerate().filter_map(|(at, copy)| Some((at, copy?))).unzip();
        if copies.is_empty() {
            return ended(outcomes);
        }
        let complaints = Arc::clone(&self.complaints);
        let done = move |failed: Vec<FailedCopy>| {
            for FailedCopy { copy, error } in failed {
                complaints.note(&format!("device: {error}"));
                outcomes[at[copy]] = Err(device_failure(&error));
            }
            ended(outcomes);
        };
        self.device.submit(stream, copies, Box::new(done));
    }

    fn sealer(&self, work: &Work) -> Sealer {
        Sealer {
            arena: Arc::clone(&self.arena),
            namespace: work.digest,
            payload_bytes: work.payload_bytes,
            node_id: self.node_id,
        }
    }
}

/// What is to be sealed of these pieces, of which the first is the transfer's `first`; nothing where a
/// frame has its header.
fn unsealed(first: usize, pieces: &[Piece], spans: &[Option<FrameSpan>]) -> Vec<Option<Unsealed>> {
    let pieces = (first..).zip(pieces).zip(spans);
    let frame = |((at, piece), span): ((usize, &Piece), &Option<FrameSpan>)| {
        let TransferItem { seal, meta, .. } = piece.item;
        span.filter(|_| seal).map(|span| Unsealed { at, span, meta })
    };
    pieces.map(frame).collect()
}

fn device_failure(error: &StoreError) -> FailureKind {
    match error {
        StoreError::Missing(_) => FailureKind::SourceLost,
        error => write_failure(error),
    }
}
