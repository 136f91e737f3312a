//! The headers and checksums of frames that are new. What a GPU's engines have copied is summed and sealed by
//! threads of their own, which all transfers share: it takes several processors to keep up with one
//! engine, and the last frames of a transfer are waited for.
//!
//! Copies nothing.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
#[cfg(test)]
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::ends::Gathering;
use super::perform::Outcomes;
use crate::domain::namespace::NamespaceDigest;
use crate::manager::api::{FailureKind, Transfer};
use crate::movement::Link;
use crate::tiers::dram::Arena;
use crate::tiers::frame::{self, HeaderDraft};
use crate::tiers::store::{FrameMeta, FrameSpan};
use crate::tiers::workers::Pool;

/// One engine brings up to 55 GB a second over PCIe 5 (docs/gpu.md). A processor sums 23 alone and 14 beside
/// one other (an EPYC of two), less where copies take the memory's bandwidth; more threads than this would take
/// the inference engine's processors for nothing.
const SEALERS_MAX: usize = 16;
/// Jobs that may wait: more than all transfers that links work on at once have blocks.
const QUEUED_MAX: usize = 64 * Transfer::items_max(Link::DeviceDown);
/// What a thread seals in one go: whole frames, of this much together where they are small.
const JOB_BYTES: u64 = 1 << 20;

/// What stands in the headers of one transfer's frames.
pub(super) struct Seal {
    pub(super) arena: Arc<Arena>,
    pub(super) namespace: NamespaceDigest,
    pub(super) payload_bytes: u64,
    pub(super) node_id: [u8; 16],
}

/// A frame to be sealed.
#[derive(Clone, Copy)]
pub(super) struct Unsealed {
    /// Which one it is of those whose ends are gathered together.
    pub(super) at: usize,
    pub(super) span: FrameSpan,
    pub(super) meta: FrameMeta,
    /// Its payload's checksum, where whoever copied it has summed it.
    pub(super) sum: Option<u64>,
}

impl Seal {
    /// Sums the frame's payload, unless that was done, and writes its header. A defect costs that frame,
    /// never the thread.
    pub(super) fn put(
        &self,
        Unsealed { span, meta, sum, .. }: Unsealed,
    ) -> Result<(), FailureKind> {
        let Self { namespace, payload_bytes, node_id, .. } = *self;
        let draft = HeaderDraft { namespace, meta, payload_bytes, node_id };
        let sealed = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: whoever has frames sealed owns them until it has heard of their end.
            let frame = unsafe { self.arena.bytes_mut(span) };
            match sum {
                Some(sum) => frame::seal_summed(frame, draft, sum),
                None => frame::seal(frame, draft),
            }
        }));
        sealed.map(drop).map_err(|_| {
            tracing::error!(?span, "sealing a frame panicked: its block is not stored");
            FailureKind::TargetFailed
        })
    }
}

/// Where the ends of frames that land together are gathered.
pub(super) type Ends = Gathering<Result<(), FailureKind>, Box<dyn FnOnce(Outcomes) + Send>>;

/// The threads.
pub(super) struct SealThreads(Pool<Job>);

struct Job {
    seal: Arc<Seal>,
    frames: Vec<Unsealed>,
    ends: Arc<Ends>,
}

impl SealThreads {
    /// # Errors
    /// The machine refused a thread.
    pub(super) fn start() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::with_threads(processors.min(SEALERS_MAX))
    }

    fn with_threads(threads: usize) -> io::Result<Self> {
        Ok(Self(Pool::start("seal", threads, QUEUED_MAX, Job::run)?))
    }

    /// Has the frames sealed, and each entered as it ended. Returns at once; those that find no room in the
    /// queue keep the end that `ends` has for them.
    pub(super) fn seal(&self, seal: &Arc<Seal>, frames: &[Unsealed], ends: &Arc<Ends>) {
        let together = JOB_BYTES / seal.payload_bytes.max(1);
        let together = usize::try_from(together.max(1)).unwrap_or(usize::MAX);
        for frames in frames.chunks(together) {
            let (seal, ends) = (Arc::clone(seal), Arc::clone(ends));
            self.0.push(Job { seal, frames: frames.to_vec(), ends });
        }
    }
}

impl Job {
    fn run(self) {
        // The last to let go of `ends` tells; it is to hold nothing else by then.
        let Self { ends, seal, frames } = self;
        for frame in frames {
            ends.enter(frame.at, seal.put(frame));
        }
    }
}

/// Threads that seal nothing until this is dropped.
#[cfg(test)]
pub(super) struct Held(#[expect(dead_code, reason = "its end is what counts")] SyncSender<()>);

#[cfg(test)]
impl SealThreads {
    /// One thread, and what holds it. Bind that one again after all that has the thread: it is to be dropped
    /// first, for the thread is waited for.
    pub(super) fn held() -> (Self, Held) {
        let (held, holds) = sync_channel::<()>(1);
        let wait = move |_| assert!(holds.recv().is_err(), "nothing is sent");
        let (ends, threads) = (Ends::of(Vec::new(), Box::new(wait) as _), Self::with_threads(1));
        let seal = Seal {
            arena: crate::tiers::sample::arena(),
            namespace: NamespaceDigest([0; 32]),
            payload_bytes: 0,
            node_id: [0; 16],
        };
        let threads = threads.unwrap();
        threads.0.push(Job { seal: Arc::new(seal), frames: Vec::new(), ends });
        (threads, Held(held))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;
    use std::time::Duration;

    use super::*;
    use crate::domain::namespace::example;
    use crate::tiers::frame::{FrameHeader, HEADER_BYTES};
    use crate::tiers::sample::{self, Sample};

    const PATIENCE: Duration = Duration::from_mins(1);
    /// Two to a job.
    const PAYLOAD_BYTES: u32 = 512 << 10;

    fn seal() -> Arc<Seal> {
        Arc::new(Seal {
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
    fn unsealed(seal: &Seal, lane: u32) -> Unsealed {
        let span = sample(lane).fill(&seal.arena, lane);
        // SAFETY: the lane is this frame's, and nobody seals yet.
        let bytes = unsafe { seal.arena.bytes_mut(span) };
        let meta = FrameHeader::decode(bytes).unwrap().meta;
        bytes[..HEADER_BYTES].fill(0xa5);
        Unsealed { at: lane as usize, span, meta, sum: None }
    }

    /// For so many frames, of which none has ended.
    fn ends(frames: usize) -> (Arc<Ends>, Receiver<Outcomes>) {
        let (tell, told) = sync_channel(1);
        let then = Box::new(move |outcomes| tell.send(outcomes).unwrap());
        (Ends::of(vec![Err(FailureKind::NotDone); frames], then), told)
    }

    #[test]
    fn frames_are_sealed_and_a_defect_costs_its_own() {
        let (threads, seal) = (SealThreads::with_threads(1).unwrap(), seal());
        let mut frames: Vec<Unsealed> = (0..5).map(|lane| unsealed(&seal, lane)).collect();
        // One that does not hold its payload, and one that is none.
        frames[1].span.bytes = PAYLOAD_BYTES;
        frames[3].span.offset = u64::MAX / 2;
        let (ends, told) = ends(frames.len());
        threads.seal(&seal, &frames, &ends);
        drop(ends);
        let outcomes = told.recv_timeout(PATIENCE).unwrap();
        let failed = Err(FailureKind::TargetFailed);
        assert_eq!(outcomes, [Ok(()), failed, Ok(()), failed, Ok(())]);
        for lane in [0, 2, 4] {
            // SAFETY: all has ended.
            let bytes = unsafe { seal.arena.bytes(sample(lane).span(lane)) };
            assert!(bytes == sample(lane).bytes(), "the frame in lane {lane}");
        }
    }

    #[test]
    fn nobody_is_held_who_has_frames_sealed() {
        let ((threads, held), seal) = (SealThreads::held(), seal());
        let held = held;
        let (ends, told) = ends(1);
        threads.seal(&seal, &[unsealed(&seal, 0)], &ends);
        drop(ends);
        assert!(told.try_recv().is_err(), "the only thread that seals is busy");
        drop(held);
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), [Ok(())]);
    }

    #[test]
    fn frames_that_find_no_room_have_not_ended() {
        let ((threads, held), seal) = (SealThreads::held(), seal());
        let held = held;
        let frame = unsealed(&seal, 0);
        let (ends, told) = ends(2 * QUEUED_MAX + 4);
        for at in 0..QUEUED_MAX + 2 {
            let [first, second] = [2 * at, 2 * at + 1].map(|at| Unsealed { at, ..frame });
            threads.seal(&seal, &[first, second], &ends);
        }
        drop((ends, held));
        let outcomes = told.recv_timeout(PATIENCE).unwrap();
        assert!(outcomes[..2 * QUEUED_MAX - 2].iter().all(Result::is_ok));
        assert_eq!(outcomes.last(), Some(&Err(FailureKind::NotDone)));
    }
}
