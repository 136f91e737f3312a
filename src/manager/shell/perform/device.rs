//! The legs on a device: copies between pools, HBM and frames, and the headers of frames that are new.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt};
use tokio::sync::oneshot;

use super::{Outcomes, Performer, Piece, Work, dram_span, tell_end, write_failure};
use crate::env;
use crate::manager::api::{End, FailureKind, TransferItem};
use crate::tiers::frame::{self, HeaderDraft};
use crate::tiers::hbm::{BlockCopy, CopyEnd, FailedCopy, Stream};
use crate::tiers::store::{FrameMeta, FrameSpan, StoreError};

/// What a device's engines copy before it is sealed, while they copy the next ones.
const SEALED_BYTES: u64 = 8 << 20;
/// How many of those are under way at a time: it takes several processors to keep up with one engine.
const SEALING_MAX: usize = 8;

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
}

impl Performer {
    /// Copies from pools and HBM into DRAM's frames.
    pub(super) async fn down_to_frames(&self, work: &Work) -> Outcomes {
        let spans = work.items.iter().map(|piece| dram_span(piece.item.to));
        self.onto_frames(work, &work.items, spans.collect()).await
    }

    /// From the device into frames, and the headers of those that are sealed: some blocks at a time where
    /// the device has engines for it, so that some are sealed while others are copied.
    pub(super) async fn onto_frames(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: Vec<Option<FrameSpan>>,
    ) -> Outcomes {
        if self.device.copies_by_processor() {
            return self.land(work, pieces, &spans).await;
        }
        let together = (SEALED_BYTES / work.payload_bytes.max(1)).max(1);
        let together = usize::try_from(together).unwrap_or(usize::MAX);
        let groups = pieces.chunks(together).zip(spans.chunks(together));
        let landing: Vec<_> =
            groups.map(|(pieces, spans)| self.land(work, pieces, spans)).collect();
        let outcomes: Vec<Outcomes> = stream::iter(landing).buffered(SEALING_MAX).collect().await;
        outcomes.concat()
    }

    /// One batch on the device, then the headers.
    async fn land(&self, work: &Work, pieces: &[Piece], spans: &[Option<FrameSpan>]) -> Outcomes {
        let both = pieces.iter().zip(spans);
        let copies = both.clone().map(|(piece, span)| work.device_copy(piece, *span)).collect();
        let outcomes = self.on_device(Stream::Down, copies).await;
        let landed = both.zip(&outcomes).filter(|(_, end)| end.is_ok());
        let sealed = landed
            .filter(|((piece, _), _)| piece.item.seal)
            .filter_map(|((piece, span), _)| Some(((*span)?, piece.item.meta)));
        if self.seal_all(work, sealed.collect()).await {
            return outcomes;
        }
        vec![Err(FailureKind::TargetFailed); outcomes.len()]
    }

    /// Has the device copy between pools, HBM and DRAM's frames where there is nothing else to do, without
    /// a task of the runtime: a request may wait for it, and each thread on the way takes time to wake.
    pub(super) fn straight(&self, stream: Stream, work: &Work) {
        let copies = work.items.iter().map(|piece| work.device_copy(piece, None)).collect();
        let (events, runtime, id) = (self.events.clone(), self.runtime.clone(), work.id);
        let ended = move |outcomes| tell_end(&events, &runtime, id, outcomes);
        self.submit(stream, copies, ended);
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
    fn submit(
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

    /// Writes headers and checksums, away from the runtime's threads. False: it came to nothing.
    async fn seal_all(&self, work: &Work, frames: Vec<(FrameSpan, FrameMeta)>) -> bool {
        if frames.is_empty() {
            return true;
        }
        let (arena, digest, node_id) = (Arc::clone(&self.arena), work.digest, self.node_id);
        let payload_bytes = work.payload_bytes;
        let sealing = move || {
            for (span, meta) in frames {
                // SAFETY: the transfer owns its target frames until the manager hears of its end.
                let frame = unsafe { arena.bytes_mut(span) };
                let draft = HeaderDraft { namespace: digest, meta, payload_bytes, node_id };
                frame::seal(frame, draft);
            }
        };
        env::spawn_blocking_on(&self.runtime, sealing).await
    }
}

fn device_failure(error: &StoreError) -> FailureKind {
    match error {
        StoreError::Missing(_) => FailureKind::SourceLost,
        error => write_failure(error),
    }
}
