//! What changes objects: writing frames, their records, and erasing them.
//!
//! Every write has a condition, so that one that is late, or was sent twice, changes nothing: a
//! frame is written only where there is none, a record only into the object that was read.

use std::sync::atomic::Ordering;

use aws_sdk_s3::primitives::ByteStream;

use super::super::lent::LentFrame;
use super::attempts::{ERASE, RESTAMP, WRITE};
use super::body::Pieces;
use super::errors::{failed, is_conflict, is_there_already, is_unanswered, knows_no_condition};
use super::{Requests, Way, something_else};
use crate::domain::block::Key;
use crate::domain::retention::RetentionRecord;
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::frame::{self, FrameHeader};
use crate::tiers::store::{FrameSpan, StoreError};

/// The longest frame.
const FRAME_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(FRAME_BYTES_MAX as u64 == CHUNK_BYTES);

/// An object to write.
struct NewObject<'a> {
    name: &'a str,
    body: Pieces,
    /// For the bucket's lifecycle rules.
    tag: Option<String>,
}

/// How a conditional write ended.
pub(super) enum Put {
    Written,
    ThereAlready,
}

impl Requests {
    pub(super) async fn write(&self, key: Key, frame: FrameSpan) -> Result<(), StoreError> {
        self.check(frame)?;
        let record = {
            // SAFETY: the operation shares the span until it is done: nobody writes to it.
            let bytes = unsafe { self.arena.bytes(frame) };
            let header = FrameHeader::decode(bytes)?;
            header.verify_key(key)?;
            header.meta.record
        };
        let (lent, returned) = LentFrame::new(&self.arena, frame);
        let body = bytes::Bytes::from_owner(lent).into();
        let result = self.put(&self.name(key), body, self.tag(&record)).await;
        // A connection may hold the frame beyond its request's end.
        returned.wait().await;
        match result? {
            Put::Written => Ok(()),
            // What was there may be of another node, which was asked for something else; or of an
            // attempt before, whose answer was lost.
            Put::ThereAlready => self.keep_record(key, &record).await,
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
        self.attempt(WRITE, || self.put_over(new(body.clone()))).await
    }

    /// Writes the object if there is none; nothing if the store knows no conditions.
    async fn put_new(&self, new: NewObject<'_>) -> Result<Option<Put>, StoreError> {
        let NewObject { name, body, tag } = new;
        let bytes = body.len_bytes();
        let put =
            self.clients().bodies.put_object().bucket(&self.bucket).key(name).if_none_match("*");
        let put = put.set_tagging(tag);
        // The frame has a checksum of its own.
        let put = put.body(body.into_stream()).customize().disable_payload_signing();
        match put.send().await {
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

    async fn put_over(&self, new: NewObject<'_>) -> Result<Put, StoreError> {
        let NewObject { name, body, tag } = new;
        let put =
            self.clients().bodies.put_object().bucket(&self.bucket).key(name).set_tagging(tag);
        let put = put.body(body.into_stream()).customize().disable_payload_signing();
        let sent = put.send().await.map_err(|error| failed("write", name, &error));
        sent.map(|_| Put::Written)
    }

    /// Whether an object of so many bytes is there, as far as the bucket says so.
    async fn is_there(&self, name: &str, bytes: u64) -> bool {
        let head = self.clients().others.head_object().bucket(&self.bucket).key(name).send().await;
        let found = head.ok().and_then(|head| head.content_length());
        found.is_some_and(|found| u64::try_from(found) == Ok(bytes))
    }

    /// Makes the record of an object that was there before the one that was to be written.
    async fn keep_record(&self, key: Key, record: &RetentionRecord) -> Result<(), StoreError> {
        match self.peek(key).await {
            Ok(there) if there.meta.record == *record => Ok(()),
            Ok(_) => Box::pin(self.restamp(key, record)).await,
            // What is no frame is found out by whoever reads it.
            Err(StoreError::Corrupt(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Fetches the object, changes its record and puts it back, if nobody else did meanwhile:
    /// objects can't be written in part.
    pub(super) async fn restamp(
        &self,
        key: Key,
        record: &RetentionRecord,
    ) -> Result<(), StoreError> {
        // Never closed.
        let _one = self.restamps.acquire().await.map_err(|_| StoreError::Busy)?;
        let name = self.name(key);
        let once = || self.restamp_once(key, &name, record);
        if self.conditional.load(Ordering::Relaxed) {
            self.attempts(RESTAMP, once).await
        } else {
            self.attempt(RESTAMP, once).await
        }
    }

    async fn restamp_once(
        &self,
        key: Key,
        name: &str,
        record: &RetentionRecord,
    ) -> Result<(), StoreError> {
        let (mut frame, tag) = self.whole_object(name).await?;
        let header = FrameHeader::decode(&frame).map_err(something_else)?;
        if header.verify_key(key).is_ok() && header.meta.record == *record {
            return Ok(());
        }
        frame::restamp(&mut frame, key, record).map_err(something_else)?;
        let conditional = self.conditional.load(Ordering::Relaxed);
        let put = self.clients().bodies.put_object().bucket(&self.bucket).key(name);
        let put = put.set_if_match(tag.filter(|_| conditional)).body(ByteStream::from(frame));
        let put = put.set_tagging(self.tag(record));
        match put.customize().disable_payload_signing().send().await {
            Ok(_) => Ok(()),
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
