//! Collects frames into packs and writes them.
//!
//! Copies no frame: the pack's body is the head and the frames where they lie. A write ends when its pack
//! is stored and nothing reads its frame any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout_at};

use super::format::{self, FrameId, Head, PackedFrame, Version};
use super::name::{Holds, Name};
use super::{Packs, same_for_all};
use crate::domain::block::Key;
use crate::domain::retention::NewRecord;
use crate::domain::units::Time;
use crate::env;
use crate::tiers::frame::{FrameHeader, HEADER_BYTES};
use crate::tiers::object::lent::{LentFrame, Returned};
use crate::tiers::store::{FrameSpan, StoreError, StoreOp};
use crate::tiers::ticket::Ticket;

/// A frame on its way into a pack.
pub(super) struct Joining {
    pub ticket: Ticket,
    frame: FrameSpan,
    pub header: FrameHeader,
}

/// Fills one pack after the other until nobody writes any more.
pub(super) async fn serve(packs: Arc<Packs>, mut queue: Receiver<Ticket>) {
    while let Some(first) = queue.recv().await {
        let deadline = Instant::now() + packs.options.linger;
        let mut bytes = span_of(&first).map_or(0, |span| u64::from(span.bytes));
        let mut batch = vec![first];
        while bytes < packs.options.pack_bytes
            && let Ok(Some(next)) = timeout_at(deadline, queue.recv()).await
        {
            bytes += span_of(&next).map_or(0, |span| u64::from(span.bytes));
            batch.push(next);
        }
        let writing = Arc::clone(&packs);
        env::spawn_task_on(&packs.runtime, async move { writing.write_all(batch).await });
    }
}

fn span_of(ticket: &Ticket) -> Option<FrameSpan> {
    match ticket.op {
        StoreOp::Write { frame, .. } => Some(frame),
        _ => None,
    }
}

impl Packs {
    async fn write_all(self: Arc<Self>, batch: Vec<Ticket>) {
        // What is known has to do while the store can't be asked.
        let _ = self.catch_up().await;
        let mut whole = Vec::with_capacity(batch.len());
        for ticket in batch {
            match self.header_of(&ticket) {
                Err(error) => ticket.finish(Err(error)),
                Ok((frame, header)) => whole.push(Joining { ticket, frame, header }),
            }
        }
        let keys = whole.iter().map(|one| one.header.meta.key).collect();
        let unsure = self.forget_gone(keys).await;
        let mut joining = Vec::with_capacity(whole.len());
        for one in whole {
            match self.find(one.header.meta.key).map(|found| found.pack) {
                Some(pack) if unsure.contains(&pack) => one.ticket.finish(Err(unknown(&pack))),
                _ => self.sort(one, &mut joining),
            }
        }
        let joining = self.without_singles(joining).await;
        let packs = joining.len() >= self.options.frames_min && self.log.is_ready();
        if !packs || !self.reserve(joining.len()) {
            return joining.into_iter().for_each(|one| self.hand_on(one.ticket));
        }
        self.write_pack(joining).await;
    }

    /// Whether there is room to know so many more frames; if not, that is told once.
    fn reserve(&self, frames: usize) -> bool {
        let has_room = self.with(|index| index.reserve(frames));
        if !has_room && !self.is_told_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                blocks_known_max = self.options.frames_max,
                "this node may know no more packed blocks: what it writes further are objects of \
                 their own; raise object.pack_blocks_known"
            );
        }
        has_room
    }

    /// Forgets packs of these blocks that are gone: who only wrote a record would store nothing. Gives
    /// those of which nobody can tell.
    async fn forget_gone(&self, keys: Vec<Key>) -> BTreeSet<Name> {
        loop {
            let now = self.now();
            let packs = self.with(|index| index.unseen(&keys, now, self.options.trusted_for));
            let looks = packs.iter().map(|pack| self.are_there(std::slice::from_ref(pack)));
            let there = join_all(looks).await;
            if there.iter().all(|there| !matches!(there, Ok(false))) {
                let unsure = packs.iter().zip(&there).filter(|(_, there)| there.is_err());
                return unsure.map(|(pack, _)| *pack).collect();
            }
        }
    }

    fn header_of(&self, ticket: &Ticket) -> Result<(FrameSpan, FrameHeader), StoreError> {
        let StoreOp::Write { key, frame, .. } = ticket.op else { return Err(StoreError::Busy) };
        if !(self.arena.contains(frame) && frame.bytes as usize > HEADER_BYTES) {
            let what = format!("{frame:?} is no frame of the arena");
            return Err(StoreError::Io { what, source: std::io::ErrorKind::InvalidInput.into() });
        }
        // SAFETY: the operation shares the span until it is done: nobody writes to it.
        let bytes = unsafe { self.arena.bytes(frame) };
        let header = FrameHeader::decode(bytes)?;
        header.verify_key(key)?;
        Ok((frame, header))
    }

    /// Where a frame goes: a block that a pack has gets the record; what is to be forgotten lies by
    /// itself, so that its bytes go with it.
    fn sort(self: &Arc<Self>, one: Joining, joining: &mut Vec<Joining>) {
        let meta = one.header.meta;
        if self.find(meta.key).is_some() {
            let this = Arc::clone(self);
            env::spawn_task_on(&self.runtime, async move {
                let new = NewRecord::of_frame(meta.record, meta.created_at);
                this.restamp(meta.key, new, one.ticket).await;
            });
        } else if meta.record.delete_after != Time::ZERO {
            let this = Arc::clone(self);
            env::spawn_task_on(&self.runtime, async move {
                this.hand_on_promised(one.ticket).await;
            });
        } else {
            joining.push(one);
        }
    }

    async fn write_pack(&self, joining: Vec<Joining>) {
        let head_pages = format::head_pages(Holds::Frames, joining.len());
        let frames = table(&joining, u64::from(head_pages) * HEADER_BYTES as u64);
        let (lent, returned): (Vec<LentFrame>, Vec<Returned>) =
            joining.iter().map(|one| LentFrame::new(&self.arena, one.frame)).unzip();
        let head = Head::Frames(frames.clone());
        let body = move |name: &Name| -> Vec<Bytes> {
            let head = Bytes::from(format::encode(name, &head));
            std::iter::once(head).chain(lent.into_iter().map(Bytes::from_owner)).collect()
        };
        let (written, count) =
            (self.log.write((Holds::Frames, head_pages), body).await, frames.len());
        // An attempt that was given up may be reading them still, for a moment.
        join_all(returned.into_iter().map(Returned::wait)).await;
        let now = self.now();
        let ended = self.with(|index| {
            index.unreserve(count);
            written.map(|name| index.add(name, frames, now))
        });
        self.publish();
        for one in joining {
            one.ticket.finish(ended.as_ref().copied().map_err(same_for_all));
        }
    }
}

/// A write that counts on this pack might store nothing.
fn unknown(pack: &Name) -> StoreError {
    let what = format!("nobody can tell now whether the pack {pack} is still there");
    StoreError::Io { what, source: std::io::ErrorKind::Other.into() }
}

/// The frames one behind the other from `at` on.
fn table(joining: &[Joining], mut at: u64) -> Vec<PackedFrame> {
    let mut frames = Vec::with_capacity(joining.len());
    for one in joining {
        let (id, version) = (FrameId(env::random_bytes()), Version::default());
        frames.push(PackedFrame { id, version, at, bytes: one.frame.bytes, header: one.header });
        at += u64::from(one.frame.bytes);
    }
    frames
}
