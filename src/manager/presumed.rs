//! Blocks that the shared store has as far as their neighbours tell: nobody here has read their
//! headers.
//!
//! They are found by lookups like others. Whoever reads one learns its record before it is served,
//! so a promise to forget is kept; and one that is not there costs the load of it, as any copy that
//! turns out lost. Nothing is written into a header that was not read.

use bytes::Bytes;

use crate::domain::block::{HashTail, Key};
use crate::domain::directory::{BlockIndex, Writer};
use crate::domain::retention::RetentionRecord;
use crate::domain::tier::Tier;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{FoundFrame, FrameMeta};

use super::Manager;
use super::api::ClientId;

/// Nobody's: what nobody has read was written by somebody else.
const NOBODY: [u8; 16] = [0; 16];

impl Manager {
    /// Enters a block of the client's namespace behind a parent that is here.
    pub(super) fn presume(
        &mut self,
        client: ClientId,
        (key, parent, position): (Key, Option<Key>, u32),
    ) {
        if let Some(header) = self.stray_of(key) {
            // Its header was read.
            self.adopt(Tier::Object, &FoundFrame::object(header));
            return;
        }
        let Some(client) = self.clients.get(&client) else { return };
        let entry = self.namespace(client.namespace);
        let parent_is_here = parent.is_none_or(|parent| self.directory.find(parent).is_some());
        let goes = self.erasing.contains_key(&key) || self.went.has(key);
        if !parent_is_here || self.directory.find(key).is_some() || goes {
            return;
        }
        let record = RetentionRecord::default();
        let tail = HashTail::UNKNOWN;
        let meta = FrameMeta { key, tail, parent, position, created_at: self.now, record };
        let header = FrameHeader {
            namespace: entry.digest,
            meta,
            payload_bytes: entry.payload_bytes,
            payload_checksum: 0,
            node_id: NOBODY,
        };
        if self.adopt(Tier::Object, &FoundFrame::object(header)) {
            let row = self.directory.find(key).expect("it was just entered");
            self.directory.get_mut(row).copy_mut(Tier::Object).writer = Writer::Unknown;
        }
    }

    /// The header of an object whose block is here was read. What is known already counts more than
    /// what the header says, but for promises; of what was presumed, the header is what all that was asked
    /// meanwhile is asked of.
    pub(super) fn header_read(&mut self, row: BlockIndex, header: &FrameHeader) {
        let node_id = self.config.node_id;
        let block = self.directory.get_mut(row);
        let doomed = block.doomed;
        let copy = block.copy_mut(Tier::Object);
        if copy.writer != Writer::Unknown {
            return self.promise_read(row, &header.meta.record);
        }
        let is_own = header.node_id == node_id && !doomed;
        copy.writer = if is_own { Writer::ThisNode } else { Writer::Another };
        if doomed {
            return;
        }
        let there = header.meta.record;
        if there.is_due(self.now) {
            return self.forget(row);
        }
        self.directory.label(row, header.meta.tail, Bytes::new());
        let block = self.directory.get_mut(row);
        block.created_at = header.meta.created_at;
        let here = block.record;
        if here != RetentionRecord::default() && !self.unread.is_asked(row) {
            // The record of this node's own frame came first; the promise of the other counts beside it.
            self.take_promise(row, &there);
            self.header_heard((row, Tier::Object), &there, &here);
            return;
        }
        let mut record = self.unread.heard(row, there.believed(self.now)).standing(self.now);
        // Hits have renewed it.
        record.shield_until = record.shield_until.max(here.shield_until);
        // A promise stands, however much was asked since.
        let record = record.keeping_promise(&here);
        self.take_record((row, Tier::Object), &there, record);
    }

    /// The object's header says more than this node knew, if it promises to forget the block sooner: another
    /// node may have written that since, or before this one stored the block anew.
    pub(super) fn promise_read(&mut self, row: BlockIndex, there: &RetentionRecord) {
        let block = self.directory.get(row);
        let before = block.record;
        // The promise before the one that this node made of it; and one that was kept before the block was
        // stored anew.
        let is_over = self.known.is_own(row, there.delete_after) || there.is_due(block.created_at);
        if block.doomed || is_over || before.keeping_promise(there) == before {
            return;
        }
        if there.is_due(self.now) {
            return self.forget(row);
        }
        self.take_promise(row, there);
        self.known.heard(row, there.delete_after);
        self.header_heard((row, Tier::Object), there, &before);
    }
}
