//! The headers and checksums of frames that are new. What a device's engines have copied is sealed by
//! threads of their own, which all transfers share: it takes several processors to keep up with one
//! engine, and the last frames of a transfer are waited for.
//!
//! Copies nothing.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use super::ends::Gathering;
use super::perform::Outcomes;
use crate::domain::namespace::NamespaceDigest;
use crate::env;
use crate::manager::api::{FailureKind, Transfer};
use crate::tiers::dram::Arena;
use crate::tiers::frame::{self, HeaderDraft};
use crate::tiers::store::{FrameMeta, FrameSpan};
use crate::tiers::workers::Pool;

/// One engine brings 55 GB a second over PCIe 5. A processor sums 20 where it has the memory for itself, and
/// far less beside others: more threads would take the inference engine's processors for nothing.
const SEALERS_MAX: usize = 16;
/// Frames that may wait: those of more transfers than all links work on at once.
const QUEUED_MAX: usize = 64 * Transfer::ITEMS_MAX;
/// What a thread seals in one go: whole frames, of this much together where they are small.
const JOB_BYTES: u64 = 1 << 20;

/// What frames of one transfer are sealed with.
pub(super) struct Sealer {
    pub(super) arena: Arc<Arena>,
    pub(super) namespace: NamespaceDigest,
    pub(super) payload_bytes: u64,
    pub(super) node_id: [u8; 16],
}

impl Sealer {
    /// Writes the frame's header, as soon as nobody else needs the processor.
    pub(super) fn seal(&self, Unsealed { span, meta, .. }: Unsealed) -> Result<(), FailureKind> {
        env::await_turn();
        // SAFETY: the transfer owns its target frames until the manager hears of its end.
        let frame = unsafe { self.arena.bytes_mut(span) };
        let Self { namespace, payload_bytes, node_id, .. } = *self;
        let draft = HeaderDraft { namespace, meta, payload_bytes, node_id };
        // A defect costs its own frame, never the thread.
        let sealed = catch_unwind(AssertUnwindSafe(|| frame::seal(frame, draft)));
        sealed.map(drop).map_err(|_| FailureKind::TargetFailed)
    }
}

/// A frame to be sealed.
#[derive(Clone, Copy)]
pub(super) struct Unsealed {
    /// Which copy of the transfer it is of.
    pub(super) at: usize,
    pub(super) span: FrameSpan,
    pub(super) meta: FrameMeta,
}

/// Where the ends of a transfer's copies come together.
pub(super) type Landing = Gathering<Result<(), FailureKind>, Box<dyn FnOnce(Outcomes) + Send>>;

/// The threads.
pub(super) struct Sealers(Pool<Job>);

struct Job {
    sealer: Arc<Sealer>,
    frames: Vec<Unsealed>,
    landing: Arc<Landing>,
}

impl Sealers {
    /// # Errors
    /// The machine refused a thread.
    pub(super) fn start() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(processors.min(SEALERS_MAX))
    }

    fn with_threads(threads: usize) -> io::Result<Self> {
        Ok(Self(Pool::start("seal", threads, QUEUED_MAX, Job::run)?))
    }

    /// Has the frames sealed; those of copies that are well enter `landing` so. Returns at once.
    pub(super) fn seal(&self, sealer: &Arc<Sealer>, frames: &[Unsealed], landing: &Arc<Landing>) {
        let together = JOB_BYTES / sealer.payload_bytes.max(1);
        let together = usize::try_from(together.max(1)).unwrap_or(usize::MAX);
        for frames in frames.chunks(together) {
            let (sealer, landing) = (Arc::clone(sealer), Arc::clone(landing));
            self.0.push(Job { sealer, frames: frames.to_vec(), landing });
        }
    }
}

impl Job {
    fn run(self) {
        let Self { sealer, frames, landing } = self;
        for frame in frames {
            landing.enter(frame.at, sealer.seal(frame));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
    use std::time::Duration;

    use super::*;
    use crate::domain::namespace::example;
    use crate::tiers::frame::{FrameHeader, HEADER_BYTES};
    use crate::tiers::sample::{self, Sample};

    const PATIENCE: Duration = Duration::from_mins(1);
    const PAYLOAD_BYTES: u32 = 64 << 10;

    fn sealer() -> Arc<Sealer> {
        Arc::new(Sealer {
            arena: sample::arena(),
            namespace: example().digest(),
            payload_bytes: PAYLOAD_BYTES.into(),
            node_id: [3; 16],
        })
    }

    fn sample(lane: u32) -> Sample {
        Sample { number: 70 + lane, payload_bytes: PAYLOAD_BYTES }
    }

    /// A sample's payload behind no header.
    fn unsealed(sealer: &Sealer, lane: u32) -> Unsealed {
        let span = sample(lane).fill(&sealer.arena, lane);
        // SAFETY: the lane is this frame's, and nobody seals yet.
        let bytes = unsafe { sealer.arena.bytes_mut(span) };
        let meta = FrameHeader::decode(bytes).unwrap().meta;
        bytes[..HEADER_BYTES].fill(0xa5);
        Unsealed { at: lane as usize, span, meta }
    }

    /// Threads that seal nothing until what is given beside them is dropped.
    pub(in super::super) fn held() -> (Sealers, SyncSender<()>) {
        let (held, holds) = sync_channel::<()>(1);
        let wait = move |_| assert!(holds.recv().is_err(), "nothing is sent");
        let landing = Landing::of(Vec::new(), Box::new(wait) as _);
        let sealers = Sealers::with_threads(1).unwrap();
        sealers.0.push(Job { sealer: sealer(), frames: Vec::new(), landing });
        (sealers, held)
    }

    /// For so many copies, of which none has ended.
    fn landing(copies: usize) -> (Arc<Landing>, Receiver<Outcomes>) {
        let (tell, told) = sync_channel(1);
        let then = Box::new(move |outcomes| tell.send(outcomes).unwrap());
        (Landing::of(vec![Err(FailureKind::NotDone); copies], then), told)
    }

    #[test]
    fn frames_are_sealed_and_a_defect_costs_its_own() {
        let (sealers, sealer) = (Sealers::with_threads(1).unwrap(), sealer());
        let mut frames: Vec<Unsealed> = (0..3).map(|lane| unsealed(&sealer, lane)).collect();
        // It does not hold its payload.
        frames[1].span.bytes = PAYLOAD_BYTES;
        let (landing, told) = landing(frames.len());
        sealers.seal(&sealer, &frames, &landing);
        drop(landing);
        let outcomes = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(outcomes, [Ok(()), Err(FailureKind::TargetFailed), Ok(())]);
        for lane in [0, 2] {
            // SAFETY: all has ended.
            let bytes = unsafe { sealer.arena.bytes(sample(lane).span(lane)) };
            assert!(bytes == sample(lane).bytes(), "the frame in lane {lane}");
        }
    }

    #[test]
    fn nobody_is_held_who_has_frames_sealed() {
        let ((sealers, held), sealer) = (held(), sealer());
        let (landing, told) = landing(1);
        sealers.seal(&sealer, &[unsealed(&sealer, 0)], &landing);
        drop(landing);
        assert!(told.try_recv().is_err(), "the only thread that seals is busy");
        drop(held);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), [Ok(())]);
    }
}
