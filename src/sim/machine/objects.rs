//! The shared store: objects that this node and others wrote, and what the others do there.

use crate::domain::block::Key;
use crate::domain::retention::NewRecord;
use crate::manager::api::End;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{Erasure, FrameMeta};

use super::{Checked, Frame, GARBAGE, Machine, NamespaceFacts, value_of};

/// What this node signs its frames with.
pub(in crate::sim) const THIS_NODE: [u8; 16] = [1; 16];

const OTHER_NODE: [u8; 16] = [2; 16];

impl Machine {
    /// Another node has stored the block; an object that is there already stays.
    pub(in crate::sim) fn other_writes(&mut self, facts: &NamespaceFacts, meta: FrameMeta) {
        let parts = (0..facts.shard_count).map(|shard| value_of(meta.key, shard)).collect();
        let header = FrameHeader { node_id: OTHER_NODE, ..facts.header(meta) };
        let fresh = Frame::new(0, meta.key, Some(header), parts);
        self.objects.entry(meta.key).or_insert(fresh);
    }

    /// Another node makes room, with what it wrote itself.
    pub(in crate::sim) fn other_erases(&mut self, key: Key) {
        if self.is_others(key) {
            self.objects.remove(&key);
            self.lost_objects.insert(key);
        }
    }

    /// What the header of the block's object says.
    pub(in crate::sim) fn peek(&self, key: Key) -> Option<FrameHeader> {
        self.objects.get(&key).and_then(|object| object.header)
    }

    pub(in crate::sim) fn object_headers(&self) -> impl Iterator<Item = FrameHeader> {
        self.objects.values().filter_map(|object| object.header)
    }

    /// The manager is told that the object is there. Where it has gone since, who reads it finds out.
    pub(in crate::sim) fn note_told(&mut self, key: Key) {
        if !self.objects.contains_key(&key) {
            self.lost_objects.insert(key);
        }
    }

    fn is_others(&self, key: Key) -> bool {
        self.peek(key).is_some_and(|header| header.node_id != THIS_NODE)
    }

    /// This node writes an object. Of one that is there only the record changes, but for a promise.
    pub(super) fn write_object(&mut self, key: Key, fresh: Frame) {
        self.lost_objects.remove(&key);
        let new = fresh
            .header
            .map(|FrameHeader { meta, .. }| NewRecord::of_frame(meta.record, meta.created_at));
        let object = self.objects.entry(key).or_insert(fresh);
        if let (Some(header), Some(new)) = (object.header.as_mut(), new) {
            header.meta.record = new.over(&header.meta.record);
        }
    }

    /// This node has an object erased. For its room alone another node's stays.
    pub(super) fn erase_object(&mut self, key: Key, why: Erasure) {
        if why != Erasure::ForRoom || !self.is_others(key) {
            self.objects.remove(&key);
        }
    }

    /// Whoever reads the slot has read what is served no more.
    pub(in crate::sim) fn spoil(&mut self, end: &End) -> Checked {
        match *end {
            End::Pool { pool, slot, .. } => self.slot_mut(pool, slot).map(|slot| *slot = GARBAGE),
            _ => Ok(()),
        }
    }
}
