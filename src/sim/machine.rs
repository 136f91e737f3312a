//! The machine under the manager: what every place, object and pool slot holds, and who touches it.
//!
//! Bytes are stood for by one number a shard, which depends on the key: so wrong bytes show as
//! soon as a copy of them lands. Decides nothing, and lets nothing pass: a copy that reads what is
//! being written, or writes what somebody reads, is a violation whatever comes of it.

mod crash;
mod ends;
mod frames;
mod locks;
mod objects;
mod pools;
mod stamps;

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::block::Key;
use crate::domain::namespace::{Namespace, NamespaceDigest};
use crate::domain::retention::RetentionRecord;
use crate::domain::tier::Tier;
use crate::manager::api::{End, FailureKind, NamespaceId, PoolId, Transfer, TransferItem};
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{Erasure, FrameMeta, Place};
use crate::workload::content::mix;

use ends::{address, erased_address, length, tier_of};
use locks::{Address, Locks, WHOLE};
use pools::PoolMemory;

pub(super) use objects::THIS_NODE;

/// Stands for one shard's bytes.
pub(super) type Value = u64;

/// Bytes that nobody may be served.
const GARBAGE: Value = 0;

/// What the shard of the block `key` holds, wherever it is.
pub(super) fn value_of(key: Key, shard: u32) -> Value {
    mix(key.low_bits() ^ mix(u64::from(shard) + 1)).max(1)
}

/// What a copy needs to know of its namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamespaceFacts {
    pub(super) digest: NamespaceDigest,
    pub(super) payload_bytes: u64,
    pub(super) shard_count: u32,
}

impl NamespaceFacts {
    pub(super) fn of(namespace: &Namespace) -> Self {
        Self {
            digest: namespace.digest(),
            payload_bytes: namespace.payload_bytes(),
            shard_count: namespace.shard_count,
        }
    }

    /// The header of a block's frame, as this node writes it.
    fn header(&self, meta: FrameMeta) -> FrameHeader {
        FrameHeader {
            namespace: self.digest,
            meta,
            payload_bytes: self.payload_bytes,
            payload_checksum: 0,
            node_id: THIS_NODE,
        }
    }
}

/// How one item of a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Lands,
    Fails(FailureKind),
}

/// What was read: each shard, and the header where there is one.
type Contents = (Vec<Value>, Option<FrameHeader>);

/// What a slot of a tier holds.
#[derive(Clone, Debug)]
struct Frame {
    slot_bytes: u32,
    /// What it is being filled with, or was.
    key: Key,
    header: Option<FrameHeader>,
    parts: Vec<Value>,
    /// Its header may still read well, but the tier has lost it or was told to.
    damaged: bool,
    /// Another frame was written over a part of it: nobody may count on it.
    torn: bool,
    /// It outlives a loss of power.
    kept: bool,
}

impl Frame {
    fn new(slot_bytes: u32, key: Key, header: Option<FrameHeader>, parts: Vec<Value>) -> Self {
        Self { slot_bytes, key, header, parts, damaged: false, torn: false, kept: false }
    }

    fn is_whole(&self) -> bool {
        (0_u32..).zip(&self.parts).all(|(shard, part)| *part == value_of(self.key, shard))
    }
}

/// The whole machine.
#[derive(Default)]
pub(super) struct Machine {
    places: BTreeMap<(Tier, u64), Frame>,
    objects: BTreeMap<Key, Frame>,
    /// Objects that the store lost: not finding them is no violation.
    lost_objects: BTreeSet<Key>,
    pools: BTreeMap<PoolId, PoolMemory>,
    namespaces: BTreeMap<NamespaceId, NamespaceFacts>,
    locks: Locks,
    /// Records that are being written.
    restamps: BTreeMap<Address, RetentionRecord>,
}

/// Whether nothing is copied: the tier is only asked to keep what it has.
fn is_sync(item: &TransferItem) -> bool {
    item.durable && item.from == item.to
}

/// A violation, in a sentence.
pub(super) type Checked<T = ()> = Result<T, String>;

impl Machine {
    pub(super) fn know_namespace(&mut self, id: NamespaceId, facts: NamespaceFacts) {
        self.namespaces.insert(id, facts);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.locks.is_empty()
    }

    /// A client begins to read a block of HBM where it lies.
    pub(super) fn lend(&mut self, place: Place, key: Key) -> Checked {
        let end = End::Hbm(place);
        if !self.may_be_read(&end, key) {
            return Err(format!("{key} is lent at {place:?}, where it is not"));
        }
        self.locks.read(address(&end, key), length(&end))
    }

    /// It has read it: what it saw until now was the block.
    pub(super) fn end_lend(&mut self, place: Place, key: Key) -> Checked {
        let end = End::Hbm(place);
        self.locks.end_read(address(&end, key));
        let right = self.may_be_read(&end, key);
        right.then_some(()).ok_or_else(|| format!("{key} changed at {place:?} under its reader"))
    }

    /// Whether the block is there, or the tier has lost it.
    fn may_be_read(&self, end: &End, key: Key) -> bool {
        self.frame(end, key).is_some_and(|frame| {
            !frame.torn && (frame.damaged || frame.key == key && frame.is_whole())
        })
    }

    /// A transfer starts: its targets hold garbage now, but for those in `NVMe` that nothing is written to.
    pub(super) fn begin(&mut self, transfer: &Transfer, fates: &[Fate]) -> Checked {
        if transfer.items.is_empty() || transfer.items.len() > Transfer::items_max(transfer.link) {
            return Err(format!("{:?} has {} items", transfer.id, transfer.items.len()));
        }
        let kinds = |item: &TransferItem| (item.from.kind(), item.to.kind());
        if !transfer.items.iter().map(kinds).all(|ends| ends == kinds(&transfer.items[0])) {
            return Err(format!("{:?} goes several ways", transfer.id));
        }
        for (item, fate) in transfer.items.iter().zip(fates) {
            self.begin_item(transfer.namespace, item, *fate)
                .map_err(|said| format!("{:?}: {said}", transfer.id))?;
        }
        Ok(())
    }

    fn begin_item(&mut self, namespace: NamespaceId, item: &TransferItem, fate: Fate) -> Checked {
        let key = item.meta.key;
        self.check_engine(&item.from)?;
        self.check_engine(&item.to)?;
        if is_sync(item) {
            return self.locks.read(address(&item.from, key), length(&item.from));
        }
        if item.from == item.to {
            // Only the header is written, over what is there.
            return self.locks.write(address(&item.to, key), length(&item.to), WHOLE);
        }
        self.locks.read(address(&item.from, key), length(&item.from))?;
        let shards = match item.from {
            End::Pool { shard, .. } if self.shard_count(namespace) > 1 => 1 << shard,
            _ => WHOLE,
        };
        self.locks.write(address(&item.to, key), length(&item.to), shards)?;
        match item.to {
            End::Pool { pool, slot, .. } => self.slot_mut(pool, slot).map(|slot| *slot = GARBAGE),
            // Objects appear as a whole, by their rename.
            End::Object => Ok(()),
            End::Nvme(_) if fate == Fate::Fails(FailureKind::TargetFailed) => Ok(()),
            End::Hbm(place) | End::Dram(place) | End::Nvme(place) => {
                let shard_count = self.shard_count(namespace);
                self.clear(tier_of(&item.to), place, key, shard_count, shards == WHOLE);
                Ok(())
            }
        }
    }

    fn shard_count(&self, namespace: NamespaceId) -> u32 {
        self.namespaces.get(&namespace).map_or(1, |facts| facts.shard_count)
    }

    /// Makes room for a frame: what overlaps it is overwritten, or torn if its header lies outside.
    fn clear(&mut self, tier: Tier, place: Place, key: Key, shard_count: u32, whole: bool) {
        self.cut(tier, place);
        let end = place.offset + u64::from(place.slot_bytes);
        let chunk = place.offset.saturating_sub(crate::domain::units::CHUNK_BYTES);
        for (at, frame) in self.places.range_mut((tier, chunk)..(tier, place.offset)) {
            frame.torn |= at.1 + u64::from(frame.slot_bytes) > place.offset;
        }
        let same = self.places.get(&(tier, place.offset)).is_some_and(|frame| {
            frame.key == key && frame.header.is_none() && frame.slot_bytes == place.slot_bytes
        });
        if same && !whole {
            return;
        }
        let covered: Vec<_> =
            self.places.range((tier, place.offset)..(tier, end)).map(|(at, _)| *at).collect();
        for at in covered {
            self.places.remove(&at);
        }
        let parts = vec![GARBAGE; shard_count as usize];
        self.places.insert((tier, place.offset), Frame::new(place.slot_bytes, key, None, parts));
    }

    /// The copies happen; gives the items that failed, in rising order.
    pub(super) fn land(
        &mut self,
        transfer: &Transfer,
        fates: &[Fate],
    ) -> Checked<Vec<crate::manager::api::ItemFailure>> {
        let mut failed = Vec::new();
        for ((index, item), fate) in (0_u32..).zip(&transfer.items).zip(fates) {
            let outcome = self
                .land_item(transfer.namespace, item, *fate)
                .map_err(|said| format!("{:?}, item {index}: {said}", transfer.id))?;
            if let Fate::Fails(kind) = outcome {
                failed.push(crate::manager::api::ItemFailure { item: index, kind });
            }
        }
        Ok(failed)
    }

    fn land_item(
        &mut self,
        namespace: NamespaceId,
        item: &TransferItem,
        fate: Fate,
    ) -> Checked<Fate> {
        if let Fate::Fails(kind) = fate {
            if matches!(kind, FailureKind::SourceMissing | FailureKind::SourceCorrupt) {
                self.lose(&item.from, item.meta.key);
            }
            return Ok(fate);
        }
        if is_sync(item) {
            self.keep_all(tier_of(&item.from));
            return Ok(Fate::Lands);
        }
        let (parts, header) = match self.read(item)? {
            Ok(read) => read,
            Err(kind) => return Ok(Fate::Fails(kind)),
        };
        let mut header = if item.seal { Some(self.header(namespace, item.meta)?) } else { header };
        if let Some(header) = header.as_mut().filter(|_| item.restamp) {
            header.meta.record = item.meta.record;
        }
        self.write(item, &parts, header)?;
        Ok(Fate::Lands)
    }

    /// What the item's source holds, checked; or how the tier has lost it.
    fn read(&self, item: &TransferItem) -> Checked<Result<Contents, FailureKind>> {
        let key = item.meta.key;
        if let End::Pool { pool, slot, shard } = item.from {
            let memory = self.pool(pool)?;
            let value = memory.slots[slot as usize];
            if memory.shard != shard || value != value_of(key, shard) {
                return Err(format!("{:?} does not hold {key}", item.from));
            }
            return Ok(Ok((vec![value], None)));
        }
        let Some(frame) = self.frame(&item.from, key) else {
            let lost = item.from == End::Object && self.lost_objects.contains(&key);
            let missing = Ok(Err(FailureKind::SourceMissing));
            return if lost { missing } else { Err(format!("{:?} holds nothing", item.from)) };
        };
        if frame.torn {
            return Err(format!("{:?} was written over, and {key} is read there", item.from));
        }
        if frame.damaged {
            return Ok(Err(FailureKind::SourceCorrupt));
        }
        let framed = !matches!(item.from, End::Hbm(_)) && item.from != item.to;
        if frame.key != key || !frame.is_whole() || (framed && frame.header.is_none()) {
            return Err(format!("{:?} holds {} and not {key} whole", item.from, frame.key));
        }
        Ok(Ok((frame.parts.clone(), frame.header)))
    }

    fn write(
        &mut self,
        item: &TransferItem,
        parts: &[Value],
        header: Option<FrameHeader>,
    ) -> Checked {
        let key = item.meta.key;
        if let End::Pool { pool, slot, shard } = item.to {
            let whole = !matches!(item.from, End::Pool { .. });
            let part = if whole { parts.get(shard as usize) } else { parts.first() };
            let part = *part.ok_or_else(|| format!("{key} has no shard {shard}"))?;
            return self.slot_mut(pool, slot).map(|slot| *slot = part);
        }
        let tier = tier_of(&item.to);
        let header = header.filter(|_| tier != Tier::Hbm);
        if let End::Pool { shard, .. } = item.from
            && item.to != End::Object
        {
            let frame = self.place_mut(&item.to)?;
            frame.parts[shard as usize] = parts[0];
            frame.header = header;
            return if header.is_none() || frame.is_whole() {
                Ok(())
            } else {
                Err(format!("{key} was sealed in {tier} before all its shards had landed"))
            };
        }
        if header.is_none() && tier != Tier::Hbm {
            return Err(format!("{key} landed in {tier} without a header"));
        }
        let parts = parts.to_vec();
        if item.to == End::Object {
            self.write_object(key, Frame::new(0, key, header, parts));
        } else {
            let frame = self.place_mut(&item.to)?;
            (frame.parts, frame.header, frame.kept) = (parts, header, item.durable);
        }
        Ok(())
    }

    /// What is whole in the tier outlives a loss of power from now on.
    fn keep_all(&mut self, tier: Tier) {
        for (_, frame) in self.places.range_mut((tier, 0)..=(tier, u64::MAX)) {
            frame.kept |= frame.header.is_some();
        }
    }

    /// Whether a frame of the block in the tier says so.
    pub(super) fn is_said_of(
        &self,
        tier: Tier,
        key: Key,
        says: impl Fn(&RetentionRecord) -> bool,
    ) -> bool {
        let placed = self.places.range((tier, 0)..=(tier, u64::MAX)).map(|(_, frame)| frame);
        let objects = self.objects.get(&key).filter(|_| tier == Tier::Object);
        let frames = placed.chain(objects).filter(|frame| frame.key == key && !frame.damaged);
        frames.filter_map(|frame| frame.header).any(|header| says(&header.meta.record))
    }

    fn header(&self, namespace: NamespaceId, meta: FrameMeta) -> Checked<FrameHeader> {
        let facts = self.namespaces.get(&namespace);
        let facts = facts.ok_or_else(|| format!("{namespace:?} was never given out"))?;
        Ok(facts.header(meta))
    }

    /// The tier loses what is there.
    fn lose(&mut self, end: &End, key: Key) {
        match end {
            End::Object => {
                self.objects.remove(&key);
                self.lost_objects.insert(key);
            }
            _ => {
                if let Ok(frame) = self.place_mut(end) {
                    frame.damaged = true;
                }
            }
        }
    }

    /// The transfer is over, as the manager is now told.
    pub(super) fn end(&mut self, transfer: &Transfer) {
        for item in &transfer.items {
            if item.from != item.to || is_sync(item) {
                self.locks.end_read(address(&item.from, item.meta.key));
            }
            if is_sync(item) {
                continue;
            }
            let shards = match item.from {
                End::Pool { shard, .. } if self.shard_count(transfer.namespace) > 1 => 1 << shard,
                _ => WHOLE,
            };
            self.locks.end_write(address(&item.to, item.meta.key), shards);
        }
    }

    pub(super) fn begin_erase(&mut self, tier: Tier, place: Option<Place>, key: Key) -> Checked {
        let bytes = place.map_or(1, |place| u64::from(place.slot_bytes));
        self.locks.write(erased_address(tier, place, key), bytes, WHOLE)
    }

    /// The erase is over; a failed one leaves what was there.
    pub(super) fn end_erase(
        &mut self,
        (tier, place): (Tier, Option<Place>),
        key: Key,
        why: Erasure,
        done: bool,
    ) {
        self.locks.end_write(erased_address(tier, place, key), WHOLE);
        match place {
            _ if !done => {}
            None => self.erase_object(key, why),
            Some(place) => {
                self.cut(tier, place);
                self.places.remove(&(tier, place.offset));
            }
        }
    }

    fn frame(&self, end: &End, key: Key) -> Option<&Frame> {
        match end {
            End::Object => self.objects.get(&key),
            End::Hbm(place) | End::Dram(place) | End::Nvme(place) => {
                self.places.get(&(tier_of(end), place.offset))
            }
            End::Pool { .. } => None,
        }
    }

    fn place_mut(&mut self, end: &End) -> Checked<&mut Frame> {
        let (End::Hbm(place) | End::Dram(place) | End::Nvme(place)) = end else {
            return Err(format!("{end:?} is no place"));
        };
        let frame = self.places.get_mut(&(tier_of(end), place.offset));
        frame.ok_or_else(|| format!("{end:?} was overwritten while it was being filled"))
    }
}
