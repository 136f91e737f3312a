//! What reads objects: whole frames, in parallel ranges where they are long, and headers alone.
//!
//! A frame goes from the socket into the arena; nothing keeps it in between. Never says that the
//! bytes are right: whoever asked verifies them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use futures_util::future::try_join_all;
use tokio::time::timeout;

use super::super::guard::{Guard, Way};
use super::attempts::{LOOK, READ};
use super::errors::{self, failed};
use super::{Requests, something_else};
use crate::domain::block::Key;
use crate::tiers::frame::{FrameHeader, HEADER_BYTES, HEADER_SPAN_BYTES};
use crate::tiers::store::{FrameSpan, StoreError};

/// A part of an object, and where it goes.
#[derive(Clone, Copy)]
struct Part {
    into: FrameSpan,
    /// The part's start in the object, and the object's length.
    at: u32,
    of: u32,
}

impl Part {
    const fn all(frame: FrameSpan) -> Self {
        Self { into: frame, at: 0, of: frame.bytes }
    }

    /// All of it is asked for without a range.
    const fn is_all(self) -> bool {
        self.into.bytes == self.of
    }

    /// What is still to come, as HTTP says it.
    fn range_from(self, got: u32) -> String {
        format!("bytes={}-{}", self.at + got, self.at + self.into.bytes - 1)
    }
}

fn parts(frame: FrameSpan, part_bytes: u32) -> impl Iterator<Item = Part> {
    (0..frame.bytes.div_ceil(part_bytes)).map(move |index| {
        let at = index * part_bytes;
        let bytes = part_bytes.min(frame.bytes - at);
        let into = FrameSpan { offset: frame.offset + u64::from(at), bytes };
        Part { into, at, of: frame.bytes }
    })
}

/// What an object begins with.
pub(super) struct Look {
    page: Vec<u8>,
    /// The object's length, where the server says it.
    pub(super) bytes: Option<u64>,
    /// Tells this state of it from any other.
    pub(super) tag: Option<String>,
}

impl Look {
    pub(super) fn header(&self, key: Key) -> Result<FrameHeader, StoreError> {
        let header = FrameHeader::decode(&self.page).map_err(something_else)?;
        header.verify_key(key).map(|()| header)
    }
}

impl Requests {
    /// What the object's header says.
    pub(super) async fn peek(&self, key: Key) -> Result<FrameHeader, StoreError> {
        let name = self.name(key);
        self.attempts(LOOK, || self.peek_once(key, &name)).await
    }

    pub(super) async fn peek_once(&self, key: Key, name: &str) -> Result<FrameHeader, StoreError> {
        self.look_once(name).await?.header(key)
    }

    pub(super) async fn look_once(&self, name: &str) -> Result<Look, StoreError> {
        let range = format!("bytes=0-{}", HEADER_BYTES - 1);
        let get = self.clients().others.get_object().bucket(&self.bucket).key(name).range(range);
        let mut answer = get.send().await.map_err(|error| failed("look at", name, &error))?;
        let all = answer.content_length.and_then(|bytes| u64::try_from(bytes).ok());
        let bytes = if is_partial(&answer) { total_bytes(&answer) } else { all };
        let tag = answer.e_tag.take();
        let mut incoming = self.incoming(Way::Read, name, answer.body);
        let mut page = Vec::with_capacity(HEADER_BYTES);
        // A server that knows no ranges sends all of it: the rest is not waited for.
        while page.len() < HEADER_BYTES
            && let Some(piece) = incoming.next().await?
        {
            page.extend_from_slice(&piece[..piece.len().min(HEADER_BYTES - page.len())]);
        }
        Ok(Look { page, bytes, tag })
    }

    /// Fetches the object into the frame's span; gives the part that it fills.
    pub(super) async fn read(&self, key: Key, frame: FrameSpan) -> Result<FrameSpan, StoreError> {
        self.check(frame)?;
        let name = self.name(key);
        if frame.bytes > self.range_bytes && self.ranges.load(Ordering::Relaxed) {
            let parts = parts(frame, self.range_bytes).map(|part| self.fetch(&name, part));
            let fetched = try_join_all(parts).await;
            // A server that turns out to know no ranges is asked for all of it.
            if self.ranges.load(Ordering::Relaxed) {
                return fetched.map(|_| frame);
            }
        }
        let bytes = self.fetch(&name, Part::all(frame)).await?;
        Ok(FrameSpan { bytes, ..frame })
    }

    async fn fetch(&self, name: &str, part: Part) -> Result<u32, StoreError> {
        let got_bytes = AtomicU32::new(0);
        self.attempts(READ, || self.fetch_once(name, part, &got_bytes)).await
    }

    /// Fetches what an attempt before has not got.
    async fn fetch_once(
        &self,
        name: &str,
        part: Part,
        got_bytes: &AtomicU32,
    ) -> Result<u32, StoreError> {
        // The header may have changed since: it comes from one answer.
        let resumes = got_bytes.load(Ordering::Relaxed) >= HEADER_SPAN_BYTES;
        let mut got = if resumes { got_bytes.load(Ordering::Relaxed) } else { 0 };
        if got == part.into.bytes {
            return Ok(got);
        }
        let range = (resumes || !part.is_all()).then(|| part.range_from(got));
        let get = self.clients().others.get_object().bucket(&self.bucket).key(name);
        let get = get.set_range(range.clone()).send().await;
        let answer = get.map_err(|error| failed("read", name, &error))?;
        if range.is_some() && !is_partial(&answer) {
            self.ranges.store(false, Ordering::Relaxed);
            got = 0;
            if !part.is_all() {
                return Err(StoreError::Corrupt(format!("{name} comes whole or not at all")));
            }
        }
        if !part.is_all() && total_bytes(&answer).is_some_and(|all| all != u64::from(part.of)) {
            return Err(StoreError::Corrupt(format!("{name} is not as long as its frame")));
        }
        let mut incoming = self.incoming(Way::Read, name, answer.body);
        while let Some(piece) = incoming.next().await? {
            got = self.keep(name, part.into, got, &piece)?;
            got_bytes.store(got, Ordering::Relaxed);
        }
        Ok(got)
    }

    /// Puts a piece where it belongs; gives how many bytes are there then.
    fn keep(&self, name: &str, into: FrameSpan, got: u32, piece: &[u8]) -> Result<u32, StoreError> {
        let bytes = u32::try_from(piece.len())
            .ok()
            .filter(|bytes| *bytes <= into.bytes - got)
            .ok_or_else(|| StoreError::Corrupt(format!("{name} is longer than its frame")))?;
        let offset = into.offset + u64::from(got);
        // SAFETY: the operation owns the span until it is done, and each part its own bytes.
        let place = unsafe { self.arena.bytes_mut(FrameSpan { offset, bytes }) };
        place.copy_from_slice(piece);
        Ok(got + bytes)
    }
}

/// The pieces of an object on their way here.
pub(super) struct Incoming<'a> {
    body: ByteStream,
    name: &'a str,
    /// How long the next one may take: a connection may be dead at one end.
    patience: Duration,
    guard: &'a Guard,
    way: Way,
}

impl Requests {
    /// What comes of a body is a word from the store, for who reads or for who means to write.
    pub(super) fn incoming<'a>(
        &'a self,
        way: Way,
        name: &'a str,
        body: ByteStream,
    ) -> Incoming<'a> {
        Incoming { body, name, patience: self.attempt_timeout, guard: &self.guard, way }
    }
}

impl Incoming<'_> {
    pub async fn next(&mut self) -> Result<Option<bytes::Bytes>, StoreError> {
        self.guard.answered(self.way);
        match timeout(self.patience, self.body.next()).await {
            Ok(piece) => piece.transpose().map_err(|error| errors::cut_short(self.name, error)),
            Err(_) => Err(errors::too_late("go on reading", self.patience)),
        }
    }
}

pub(super) fn is_partial(answer: &GetObjectOutput) -> bool {
    answer.content_range.is_some()
}

/// The whole object's length, from `bytes 0-8388607/67108864`.
fn total_bytes(answer: &GetObjectOutput) -> Option<u64> {
    answer.content_range.as_ref()?.rsplit_once('/')?.1.parse().ok()
}
