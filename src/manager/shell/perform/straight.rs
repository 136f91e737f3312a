//! Transfers of one leg, without a task of the runtime: the manager's own thread hands them to who
//! copies, and the thread that ends them tells the manager. A request may wait for them, each thread on
//! the way takes time to wake, and there are thousands of them a second.

use super::{Outcomes, Performer, Work, read_failure, write_failure};
use crate::manager::api::FailureKind;
use crate::movement::Link;
use crate::tiers::hbm::Stream;
use crate::tiers::store::StoreError;

impl Performer {
    /// Starts the transfer, if it has one leg. False: it takes a task.
    pub(super) fn straight(&self, work: &Work) -> bool {
        match work.link {
            Link::DeviceUp => self.by_device(Stream::Up, work),
            Link::DeviceLocal => self.by_device(Stream::Local, work),
            Link::DeviceDown => return self.by_landing(work),
            Link::NvmeRead => return self.by_stores(work, read_failure),
            // A flush is a leg of its own.
            Link::NvmeWrite if !work.durable() => return self.by_stores(work, write_failure),
            _ => return false,
        }
        true
    }

    /// Copies between pools and HBM, and from DRAM's frames to both.
    fn by_device(&self, stream: Stream, work: &Work) {
        let copies = work.items.iter().map(|piece| work.device_copy(piece, None)).collect();
        let teller = self.teller(work.id);
        self.submit(stream, copies, |outcomes, _| teller.tell(outcomes));
    }

    /// Copies from pools and HBM onto DRAM's frames. False: some have no frame of their own.
    fn by_landing(&self, work: &Work) -> bool {
        let Some(frames) = work.frames() else { return false };
        let teller = self.teller(work.id);
        self.land(work, &work.items, &frames, |outcomes| teller.tell(outcomes));
        true
    }

    /// Copies between DRAM's frames and a store. False: some have no frame of their own.
    fn by_stores(&self, work: &Work, kind: fn(&StoreError) -> FailureKind) -> bool {
        let Some(frames) = work.frames() else { return false };
        let outcomes: Outcomes = work
            .items
            .iter()
            .zip(&frames)
            .map(|(piece, frame)| self.restamped(piece, *frame))
            .collect();
        let ready = work.items.iter().zip(frames).zip(&outcomes);
        let ops = ready.map(|((piece, frame), ready)| {
            piece.read_op(frame).or_else(|| piece.write_op(frame)).filter(|_| ready.is_ok())
        });
        let teller = self.teller(work.id);
        self.submit_ops(ops.collect(), outcomes, kind, |outcomes| teller.tell(outcomes));
        true
    }
}
