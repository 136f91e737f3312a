//! The legs on a device: copies between pools, HBM and frames, and the headers of frames that are new.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::{Semaphore, oneshot};

use super::{Outcomes, Performer, Piece, Work, dram_span, write_failure};
use crate::domain::namespace::NamespaceDigest;
use crate::env;
use crate::manager::api::{End, FailureKind, TransferItem};
use crate::tiers::dram::Arena;
use crate::tiers::frame::{self, HeaderDraft};
use crate::tiers::hbm::{BlockCopy, CopyEnd, FailedCopy, Stream};
use crate::tiers::store::{FrameMeta, FrameSpan, StoreError};

/// What a device's engines copy before it is sealed, while they copy the next ones.
const SEALED_BYTES: u64 = 8 << 20;
/// How many of those a transfer has sealed at a time: it takes several processors to keep up with one
/// engine.
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
    /// From the device into frames, and the headers of those that are sealed: some blocks at a time where
    /// the device has engines for it, so that some are sealed while others are copied. The device has all
    /// of them from the start: it rests for nobody who seals.
    pub(super) async fn onto_frames(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: Vec<Option<FrameSpan>>,
    ) -> Outcomes {
        let sealing = Semaphore::new(SEALING_MAX);
        if self.device.copies_by_processor() {
            return self.land(work, pieces, &spans, &sealing).await;
        }
        let together = (SEALED_BYTES / work.payload_bytes.max(1)).max(1);
        let together = usize::try_from(together).unwrap_or(usize::MAX);
        let groups = pieces.chunks(together).zip(spans.chunks(together));
        let landing = groups.map(|(pieces, spans)| self.land(work, pieces, spans, &sealing));
        join_all(landing).await.concat()
    }

    /// One batch on the device, then the headers when it is their turn.
    async fn land(
        &self,
        work: &Work,
        pieces: &[Piece],
        spans: &[Option<FrameSpan>],
        sealing: &Semaphore,
    ) -> Outcomes {
        let both = pieces.iter().zip(spans);
        let copies = both.clone().map(|(piece, span)| work.device_copy(piece, *span)).collect();
        let outcomes = self.on_device(Stream::Down, copies).await;
        let landed = both.zip(&outcomes).filter(|(_, end)| end.is_ok());
        let sealed = landed
            .filter(|((piece, _), _)| piece.item.seal)
            .filter_map(|((piece, span), _)| Some(((*span)?, piece.item.meta)));
        let _turn = sealing.acquire().await.expect("nobody closes it");
        if self.seal_all(work, sealed.collect()).await {
            return outcomes;
        }
        vec![Err(FailureKind::TargetFailed); outcomes.len()]
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

    /// Writes headers and checksums, away from the runtime's threads. False: it came to nothing.
    async fn seal_all(&self, work: &Work, frames: Vec<(FrameSpan, FrameMeta)>) -> bool {
        if frames.is_empty() {
            return true;
        }
        let sealer = self.sealer(work);
        let sealing = move || frames.into_iter().for_each(|(span, meta)| sealer.seal(span, meta));
        env::spawn_blocking_on(&self.runtime, sealing).await
    }

    pub(super) fn sealer(&self, work: &Work) -> Sealer {
        Sealer {
            arena: Arc::clone(&self.arena),
            namespace: work.digest,
            payload_bytes: work.payload_bytes,
            node_id: self.node_id,
        }
    }
}

/// Writes the headers and checksums of one transfer's frames.
pub(super) struct Sealer {
    arena: Arc<Arena>,
    namespace: NamespaceDigest,
    payload_bytes: u64,
    node_id: [u8; 16],
}

impl Sealer {
    pub(super) fn seal(&self, span: FrameSpan, meta: FrameMeta) {
        // SAFETY: the transfer owns its target frames until the manager hears of its end.
        let frame = unsafe { self.arena.bytes_mut(span) };
        let Self { namespace, payload_bytes, node_id, .. } = *self;
        frame::seal(frame, HeaderDraft { namespace, meta, payload_bytes, node_id });
    }
}

fn device_failure(error: &StoreError) -> FailureKind {
    match error {
        StoreError::Missing(_) => FailureKind::SourceLost,
        error => write_failure(error),
    }
}
