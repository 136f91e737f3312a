//! What changes objects: writing frames, their records, and erasing them.
//!
//! Every write has a condition, so that one that is late, or was sent twice, changes nothing: a
//! frame is written only where there is none, or over what was seen to be something else, a record only
//! into the object that was read.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::super::lent::LentFrame;
use super::attempts::{ERASE, LOOK, RESTAMP, WRITE};
use super::body::Pieces;
use super::errors::{
    failed, is_conflict, is_missing, is_there_already, is_unanswered, knows_no_condition,
};
use super::{Requests, Way, something_else};
use crate::domain::block::Key;
use crate::domain::retention::NewRecord;
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::frame::{self, FrameHeader};
use crate::tiers::store::{FrameSpan, StoreError};

/// The longest frame.
const FRAME_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(FRAME_BYTES_MAX as u64 == CHUNK_BYTES);

/// How often a write begins anew, where other nodes write and erase the same object.
const ROUNDS_MAX: usize = 3;

/// An object to write.
struct NewObject<'a> {
    name: &'a str,
    body: Pieces,
    /// For the bucket's lifecycle rules.
    tag: Option<String>,
}

/// What lies where a frame was to be written.
enum There {
    /// The block's frame.
    Frame(FrameHeader),
    /// `state` tells it from what may be there later, where the server says one.
    SomethingElse { state: Option<String>, why: String },
}

/// How a conditional write ended.
pub(super) enum Put {
    Written,
    ThereAlready,
}

impl Requests {
    pub(super) async fn write(&self, key: Key, frame: FrameSpan) -> Result<(), StoreError> {
        self.check(frame)?;
        let new = {
            // SAFETY: the operation shares the span until it is done: nobody writes to it.
            let bytes = unsafe { self.arena.bytes(frame) };
            let header = FrameHeader::decode(bytes)?;
            header.verify_key(key)?;
            NewRecord::of_frame(header.meta.record, header.meta.created_at)
        };
        let (lent, returned) = LentFrame::new(&self.arena, frame);
        let body = Bytes::from_owner(lent).into();
        let result = self.write_where_none_is(key, body, new).await;
        // An attempt that was given up may be reading it still, for a moment.
        returned.wait().await;
        result
    }

    /// Writes the frame unless it is there; then its record is made the new one. What is there may be of another
    /// node, which was asked for something else, or of an attempt before, whose answer was lost. What is not
    /// the block's frame would keep it from ever being written: it gives way.
    async fn write_where_none_is(
        &self,
        key: Key,
        body: Pieces,
        record: NewRecord,
    ) -> Result<(), StoreError> {
        let (name, tag) = (self.name(key), self.tag(&record.record));
        let new = || NewObject { name: &name, body: body.clone(), tag: tag.clone() };
        for _ in 0..ROUNDS_MAX {
            if let Put::Written = self.put(&name, body.clone(), tag.clone()).await? {
                return Ok(());
            }
            let look = || self.what_is_there(key, &name, body.len_bytes());
            let state = match self.attempts(LOOK, look).await {
                Ok(There::Frame(there)) if there.meta.record == record.over(&there.meta.record) => {
                    return there.has_taken(&record, there.meta.record);
                }
                Ok(There::Frame(_)) => return Box::pin(self.restamp(key, record)).await,
                Ok(There::SomethingElse { state, why }) => {
                    tracing::warn!(
                        name,
                        why,
                        "what is there is not the block's frame: it is written anew"
                    );
                    state
                }
                // It went meanwhile.
                Err(StoreError::Missing(_)) => continue,
                Err(error) => return Err(error),
            };
            // Once: the state that it names is over by then, or was never there.
            match self.attempt(WRITE, || self.put_over(new(), state.clone())).await {
                Err(StoreError::Busy) => {}
                ended => return ended.map(drop),
            }
        }
        Err(StoreError::Busy)
    }

    /// Whether the object is the block's frame, of so many bytes, by its header and its length.
    async fn what_is_there(
        &self,
        key: Key,
        name: &str,
        frame_bytes: u64,
    ) -> Result<There, StoreError> {
        let look = match self.look_once(name).await {
            Ok(look) => look,
            // Too short to be looked at.
            Err(StoreError::Corrupt(why)) => {
                let head =
                    self.clients().others.head_object().bucket(&self.bucket).key(name).send();
                let head = head.await.map_err(|error| failed("look at", name, &error))?;
                return Ok(There::SomethingElse { state: head.e_tag, why });
            }
            Err(error) => return Err(error),
        };
        if let Some(bytes) = look.bytes.filter(|bytes| *bytes != frame_bytes) {
            let why = format!("it has {bytes} bytes, the frame {frame_bytes}");
            return Ok(There::SomethingElse { state: look.tag, why });
        }
        match look.header(key) {
            Ok(header) => Ok(There::Frame(header)),
            Err(error) => Ok(There::SomethingElse { state: look.tag, why: error.to_string() }),
        }
    }

    /// Writes the object, unless there is one.
    pub(super) async fn put(
        &self,
        name: &str,
        body: Pieces,
        tag: Option<String>,
    ) -> Result<Put, StoreError> {
        let new = |body| NewObject { name, body, tag: tag.clone() };
        if self.conditional.load(Ordering::Relaxed) {
            let once = || self.put_new(new(body.clone()));
            if let Some(put) = self.attempts(WRITE, once).await? {
                return Ok(put);
            }
        }
        // Without a condition a second attempt could land after what comes next: there is none.
        self.attempt(WRITE, || self.put_over(new(body.clone()), None)).await
    }

    /// Writes the object if there is none; nothing if the store knows no conditions.
    async fn put_new(&self, new: NewObject<'_>) -> Result<Option<Put>, StoreError> {
        let NewObject { name, body, tag } = new;
        let bytes = body.len_bytes();
        let put =
            self.clients().bodies.put_object().bucket(&self.bucket).key(name).if_none_match("*");
        let put = put.set_tagging(tag);
        let (body, loan) = body.lend();
        // The frame has a checksum of its own.
        let sent = put.body(body).customize().disable_payload_signing().send().await;
        drop(loan);
        match sent {
            Ok(_) => Ok(Some(Put::Written)),
            Err(error) if is_there_already(&error) => Ok(Some(Put::ThereAlready)),
            Err(error) if knows_no_condition(&error) => {
                tracing::warn!("the store knows no If-None-Match: objects are overwritten");
                self.conditional.store(false, Ordering::Relaxed);
                Ok(None)
            }
            // Another node writes the same block right now.
            Err(error) if is_conflict(&error) => Err(StoreError::Busy),
            // A server may refuse before it has read the body, and close on what is still
            // coming: then the answer is lost and the connection is all that is seen to fail.
            Err(error) if is_unanswered(&error) && self.is_there(name, bytes).await => {
                Ok(Some(Put::ThereAlready))
            }
            Err(error) => Err(failed("write", name, &error)),
        }
    }

    /// Writes the object, whatever is there; if a state is named, only while it is in that one.
    async fn put_over(&self, new: NewObject<'_>, state: Option<String>) -> Result<Put, StoreError> {
        let NewObject { name, body, tag } = new;
        let put = self.clients().bodies.put_object().bucket(&self.bucket).key(name);
        let had_state = state.is_some();
        let (body, loan) = body.lend();
        let put = put.set_tagging(tag).set_if_match(state).body(body);
        let sent = put.customize().disable_payload_signing().send().await;
        drop(loan);
        match sent {
            Ok(_) => Ok(Put::Written),
            // Another node wrote it, or erased it, since it was looked at.
            Err(error) if is_there_already(&error) || is_conflict(&error) => Err(StoreError::Busy),
            Err(error) if had_state && is_missing(&error) => Err(StoreError::Busy),
            Err(error) => Err(failed("write", name, &error)),
        }
    }

    /// Whether an object of so many bytes is there, as far as the bucket says so.
    async fn is_there(&self, name: &str, bytes: u64) -> bool {
        let head = self.clients().others.head_object().bucket(&self.bucket).key(name).send().await;
        let found = head.ok().and_then(|head| head.content_length());
        found.is_some_and(|found| u64::try_from(found) == Ok(bytes))
    }

    /// Fetches the object, changes its record and puts it back, if nobody else did meanwhile:
    /// objects can't be written in part.
    pub(super) async fn restamp(&self, key: Key, new: NewRecord) -> Result<(), StoreError> {
        // Never closed.
        let _one = self.restamps.acquire().await.map_err(|_| StoreError::Busy)?;
        let name = self.name(key);
        let once = || self.restamp_once(key, &name, new);
        if self.conditional.load(Ordering::Relaxed) {
            self.attempts(RESTAMP, once).await
        } else {
            self.attempt(RESTAMP, once).await
        }
    }

    async fn restamp_once(&self, key: Key, name: &str, new: NewRecord) -> Result<(), StoreError> {
        let (mut frame, tag) = self.whole_object(name).await?;
        let header = FrameHeader::decode(&frame).map_err(something_else)?;
        let record = new.over(&header.meta.record);
        if header.verify_key(key).is_ok() && header.meta.record == record {
            return header.has_taken(&new, record);
        }
        frame::restamp(&mut frame, key, &record).map_err(something_else)?;
        let conditional = self.conditional.load(Ordering::Relaxed);
        let put = self.clients().bodies.put_object().bucket(&self.bucket).key(name);
        let (body, loan) = Pieces::from(Bytes::from(frame)).lend();
        let put = put.set_if_match(tag.filter(|_| conditional)).body(body);
        let put = put.set_tagging(self.tag(&record));
        let sent = put.customize().disable_payload_signing().send().await;
        drop(loan);
        match sent {
            Ok(_) => header.has_taken(&new, record),
            // Another node wrote it, or erased it, since it was read.
            Err(error) if is_there_already(&error) || is_conflict(&error) => Err(StoreError::Busy),
            Err(error) => Err(failed("write a record to", name, &error)),
        }
    }

    /// The object's bytes, and the tag that tells this state of it from any other.
    async fn whole_object(&self, name: &str) -> Result<(Vec<u8>, Option<String>), StoreError> {
        let get = self.clients().others.get_object().bucket(&self.bucket).key(name);
        let answer = get.send().await.map_err(|error| failed("read", name, &error))?;
        let tag = answer.e_tag;
        let mut incoming = self.incoming(Way::Write, name, answer.body);
        let mut frame = Vec::new();
        while let Some(piece) = incoming.next().await? {
            frame.extend_from_slice(&piece);
            if frame.len() > FRAME_BYTES_MAX {
                return Err(StoreError::Corrupt(format!("{name} is longer than any frame")));
            }
        }
        Ok((frame, tag))
    }

    pub(super) async fn erase(&self, key: Key) -> Result<(), StoreError> {
        let name = self.name(key);
        self.attempts(ERASE, || self.erase_once(&name)).await
    }

    pub(super) async fn erase_once(&self, name: &str) -> Result<(), StoreError> {
        let delete = self.clients().others.delete_object().bucket(&self.bucket).key(name);
        match delete.send().await.map_err(|error| failed("erase", name, &error)) {
            Ok(_) | Err(StoreError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
