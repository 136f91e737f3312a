//! The performer of transfers with no manager over it: what a link is measured with.
//!
//! The copies are the daemon's own, leg by leg. Decides nothing and queues nothing: whoever orders
//! a transfer owns its ends until that transfer's end was told.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use tokio::runtime;

use super::complaints::Complaints;
use super::perform::{Performer, Turns};
use super::sealing::SealThreads;
use super::staging::Staging;
use super::upkeep::Erasing;
use crate::manager::NamespaceEntry;
use crate::manager::api::{Event, ItemFailure, Transfer, TransferId};
use crate::tiers::dram::Arena;
use crate::tiers::hbm::Device;
use crate::tiers::store::TierStore;

/// Ends that may wait to be taken.
const ENDS_QUEUED_MAX: usize = 1024;

/// What a carrier moves bytes with.
pub struct CarrierParts {
    pub runtime: runtime::Handle,
    pub arena: Arc<Arena>,
    pub device: Arc<dyn Device>,
    pub nvme: Option<Arc<dyn TierStore>>,
    pub object: Option<Arc<dyn TierStore>>,
    /// Stands in the headers of frames that transfers seal.
    pub node_id: [u8; 16],
}

/// Performs transfers between tiers, one end of each in DRAM or both in HBM.
pub struct Carrier {
    performer: Arc<Performer>,
    ends: Receiver<Event>,
}

/// A transfer that ended; `failed` names the copies that did not land.
#[derive(Debug)]
pub struct Ended {
    pub transfer: TransferId,
    pub failed: Vec<ItemFailure>,
}

impl Carrier {
    /// # Errors
    /// The machine refused a thread.
    pub fn new(parts: CarrierParts) -> io::Result<Self> {
        Ok(Self::with_threads(parts, SealThreads::start()?))
    }

    fn with_threads(parts: CarrierParts, seal_threads: SealThreads) -> Self {
        let (events, ends) = crossbeam_channel::bounded(ENDS_QUEUED_MAX);
        let performer = Arc::new(Performer {
            // With one end in DRAM no copy passes through staging.
            staging: Staging::new(0..0),
            // None is ever given up.
            turns: Turns::of(|_| 1),
            arena: parts.arena,
            device: parts.device,
            erasing: Erasing::of(parts.nvme.as_ref(), parts.object.as_ref()),
            nvme: parts.nvme,
            object: parts.object,
            node_id: parts.node_id,
            events,
            complaints: Arc::new(Complaints::start()),
            seal_threads: Arc::new(seal_threads),
            runtime: parts.runtime,
        });
        Self { performer, ends }
    }

    /// Starts the transfer and returns at once.
    ///
    /// # Panics
    /// An end is an engine's pool: there are none without a manager.
    pub fn start(&self, transfer: Transfer, namespace: &NamespaceEntry) {
        let no_pool = |pool| unreachable!("{pool:?} without a manager");
        Performer::start(&self.performer, (transfer, None), namespace, no_pool);
    }

    /// The next transfer to end; nothing if none did within `patience`.
    #[must_use]
    pub fn ended(&self, patience: Duration) -> Option<Ended> {
        loop {
            match self.ends.recv_timeout(patience) {
                Ok(Event::TransferDone { transfer, failed }) => {
                    return Some(Ended { transfer, failed });
                }
                // The headers of objects are news to a manager only.
                Ok(Event::Found { .. }) => {}
                Ok(other) => unreachable!("{other:?} of a transfer"),
                Err(_) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Engines, arena};
    use super::*;
    use crate::domain::block::HashTail;
    use crate::domain::namespace::{KvShape, Namespace, example};
    use crate::domain::retention::RetentionRecord;
    use crate::domain::tier::Tier;
    use crate::domain::units::Time;
    use crate::manager::api::{End, FailureKind, NamespaceId, TransferItem};
    use crate::movement::{Class, Link};
    use crate::tiers::frame::{FrameHeader, checksum};
    use crate::tiers::hbm::{CopiesEnd, FailedCopy, HostDevice, HostDeviceConfig};
    use crate::tiers::store::{FrameMeta, FrameSpan, Place, StoreError};

    fn carrier_with(
        runtime: &runtime::Runtime,
        arena: Arc<Arena>,
        device: Arc<dyn Device>,
        seal_threads: SealThreads,
    ) -> Carrier {
        let (runtime, node_id) = (runtime.handle().clone(), [0; 16]);
        let parts = CarrierParts { runtime, arena, device, nvme: None, object: None, node_id };
        Carrier::with_threads(parts, seal_threads)
    }

    fn carrier(runtime: &runtime::Runtime, seal_threads: SealThreads) -> Carrier {
        let arena = arena();
        let device = HostDeviceConfig { tier_bytes: 0, pretouch_threads: 0 };
        let device = Arc::new(HostDevice::new(Arc::clone(&arena), device).unwrap());
        carrier_with(runtime, arena, device, seal_threads)
    }

    fn namespace() -> NamespaceEntry {
        let namespace = example();
        NamespaceEntry {
            digest: namespace.digest(),
            payload_bytes: namespace.payload_bytes(),
            namespace: Some(namespace),
        }
    }

    fn meta(namespace: &NamespaceEntry, name: &[u8]) -> FrameMeta {
        FrameMeta {
            key: namespace.digest.key(name),
            tail: HashTail::default(),
            parent: None,
            position: 0,
            created_at: Time::ZERO,
            record: RetentionRecord::default(),
        }
    }

    #[test]
    fn a_device_has_all_of_a_store_before_any_of_it_is_sealed() {
        const BLOCKS: usize = 13;
        const BLOCK_BYTES: u32 = 4 << 20;
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let shape = KvShape { layers: 1, planes: 1, page_bytes: BLOCK_BYTES };
        let namespace = NamespaceEntry {
            digest: example().digest(),
            payload_bytes: BLOCK_BYTES.into(),
            namespace: Some(Namespace { shape, ..example() }),
        };
        let (engines, (threads, held)) = (Arc::new(Engines::default()), SealThreads::held());
        let carrier = carrier_with(&runtime, arena(), Arc::clone(&engines) as _, threads);
        // Dropped before who has the thread.
        let held = held;
        let frame = |block: u64| {
            let slot_bytes = namespace.slot_bytes(Tier::Dram);
            Place { offset: block * u64::from(slot_bytes), slot_bytes }
        };
        let items = (0..BLOCKS as u64).map(|block| {
            let to = End::Dram(frame(block));
            let slot = Place { offset: block * u64::from(BLOCK_BYTES), slot_bytes: BLOCK_BYTES };
            // One is only sealed: what the device hears of has other numbers than the transfer.
            let from = if block == 4 { to } else { End::Hbm(slot) };
            let meta = meta(&namespace, &block.to_le_bytes());
            TransferItem { from, to, meta, seal: true, restamp: false, durable: false }
        });
        let (link, class, items) = (Link::DeviceDown, Class::Demand, items.collect());
        let transfer =
            Transfer { id: TransferId(1), namespace: NamespaceId(0), link, class, items };
        carrier.start(transfer, &namespace);
        let given = std::mem::take(&mut *engines.given.lock().unwrap());
        let copies: Vec<usize> = given.iter().map(|(copies, _)| copies.len()).collect();
        assert_eq!(copies, [2, 2, 1, 2, 2, 2, 1], "some are sealed while others are copied");
        for (group, (copies, done)) in given.into_iter().enumerate() {
            // Two groups come summed.
            let sums = (0..copies.len()).filter(|_| [2, 5].contains(&group));
            let sums = sums.map(|copy| (copy, 100 * group as u64 + copy as u64)).collect();
            let failed = FailedCopy { copy: 1, error: StoreError::Missing("the test".into()) };
            let failed = if group == 1 { vec![failed] } else { Vec::new() };
            done(CopiesEnd { failed, sums });
        }
        assert!(carrier.ended(Duration::ZERO).is_none(), "nothing is sealed yet");
        drop(held);
        let failed = carrier.ended(Duration::from_mins(1)).unwrap().failed;
        assert_eq!(failed, [ItemFailure { item: 3, kind: FailureKind::SourceMissing }]);
        let summed = |block: u64| {
            let Place { offset, slot_bytes } = frame(block);
            // SAFETY: the transfer is over.
            let bytes =
                unsafe { carrier.performer.arena.bytes(FrameSpan { offset, bytes: slot_bytes }) };
            FrameHeader::decode(bytes).unwrap().payload_checksum
        };
        let nothing = checksum(&vec![0; BLOCK_BYTES as usize]);
        // The second of the third group is the first that its device hears of.
        let wanted = [(2, nothing), (4, nothing), (5, 200), (9, nothing), (10, 500), (11, 501)];
        assert_eq!(wanted.map(|(block, _)| (block, summed(block))), wanted);
    }

    #[test]
    fn a_frame_that_is_only_sealed_is_not_by_whoever_starts_it() {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let (threads, held) = SealThreads::held();
        let (carrier, namespace) = (carrier(&runtime, threads), namespace());
        // Dropped before who has the thread.
        let held = held;
        let frame = End::Dram(Place { offset: 0, slot_bytes: namespace.slot_bytes(Tier::Dram) });
        let meta = meta(&namespace, b"one");
        let (seal, restamp, durable) = (true, false, false);
        let item = TransferItem { from: frame, to: frame, meta, seal, restamp, durable };
        let (link, class, items) = (Link::DeviceDown, Class::Demand, vec![item]);
        let transfer =
            Transfer { id: TransferId(1), namespace: NamespaceId(0), link, class, items };
        carrier.start(transfer, &namespace);
        assert!(carrier.ended(Duration::ZERO).is_none(), "who seals is busy");
        drop(held);
        assert!(carrier.ended(Duration::from_mins(1)).unwrap().failed.is_empty());
    }

    #[test]
    fn whoever_starts_transfers_may_leave_any_number_of_ends_untaken() {
        let mut runtime = runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_time().build().unwrap();
        let (carrier, namespace) = (carrier(&runtime, SealThreads::start().unwrap()), namespace());
        // Nothing to copy: it ends before it returns, on this thread.
        let started = 0..2 * ENDS_QUEUED_MAX as u64;
        for id in started.clone().map(TransferId) {
            let (namespace_id, link, class) = (NamespaceId(0), Link::DeviceUp, Class::Demand);
            let transfer = Transfer { id, namespace: namespace_id, link, class, items: Vec::new() };
            carrier.start(transfer, &namespace);
        }
        let ended = std::iter::from_fn(|| carrier.ended(Duration::from_secs(5)));
        let mut ended: Vec<u64> =
            ended.take(2 * ENDS_QUEUED_MAX).map(|end| end.transfer.0).collect();
        ended.sort_unstable();
        assert!(ended.into_iter().eq(started));
    }
}
