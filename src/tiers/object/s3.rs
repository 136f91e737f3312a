//! Objects in an S3 bucket, or in anything that speaks S3.
//!
//! A frame goes from the arena to the socket and from the socket to the arena; nothing keeps it in
//! between. Never answers a write while a connection may still read the frame, and never lets more
//! requests run than the options say.

mod connect;
mod errors;
mod lent;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::question::Question;
use super::target::Bucket;
use super::{ObjectOptions, object_name};
use crate::domain::block::Key;
use crate::domain::retention::RetentionRecord;
use crate::domain::tier::Tier;
use crate::domain::units::CHUNK_BYTES;
use crate::env;
use crate::tiers::dram::Arena;
use crate::tiers::frame::{self, FrameHeader, HEADER_BYTES};
use crate::tiers::open::OpenError;
use crate::tiers::store::{Done, FrameSpan, Peeked, StoreError, StoreOp, TierStore};
use crate::tiers::ticket::{Gate, Ticket};
use errors::{failed, is_conflict, is_there_already, is_unanswered, knows_no_condition};
use lent::LentFrame;

/// Objects whose records are written at once: each is in memory meanwhile.
const RESTAMPS_MAX: usize = 2;

/// The longest frame.
const FRAME_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(FRAME_BYTES_MAX as u64 == CHUNK_BYTES);

/// The object tier as a bucket.
pub struct S3Store {
    gate: Arc<Gate>,
    runtime: Handle,
    requests: Arc<Requests>,
}

impl S3Store {
    /// Finds credentials and region the way every AWS tool does. Waits for the runtime.
    ///
    /// # Errors
    /// There are no credentials or no region, with what to set.
    pub fn open(
        bucket: &Bucket,
        options: ObjectOptions,
        arena: &Arc<Arena>,
        runtime: &Handle,
    ) -> Result<Self, OpenError> {
        let client = connect::standard(bucket, options, runtime)?;
        Ok(Self::with_client(client, bucket, options, arena, runtime))
    }

    fn with_client(
        client: Client,
        bucket: &Bucket,
        options: ObjectOptions,
        arena: &Arc<Arena>,
        runtime: &Handle,
    ) -> Self {
        let requests = Arc::new(Requests {
            client,
            bucket: bucket.name.clone(),
            prefix: bucket.prefix.clone(),
            arena: Arc::clone(arena),
            at_once: Semaphore::new(options.concurrency),
            restamps: Semaphore::new(RESTAMPS_MAX),
            op_timeout: options.op_timeout,
            conditional: AtomicBool::new(true),
        });
        Self { gate: Gate::new(options.ops_max), runtime: runtime.clone(), requests }
    }

    /// Whether an object of this name is there; says nothing of its bytes.
    ///
    /// # Errors
    /// The bucket can't be asked now.
    pub async fn contains(&self, key: Key) -> Result<bool, StoreError> {
        let name = self.requests.name(key);
        let head = self.requests.client.head_object().bucket(&self.requests.bucket).key(&name);
        match head.send().await {
            Ok(_) => Ok(true),
            Err(error) => match failed("look for", &name, &error) {
                StoreError::Missing(_) => Ok(false),
                error => Err(error),
            },
        }
    }
}

impl TierStore for S3Store {
    fn tier(&self) -> Tier {
        Tier::Object
    }

    fn submit(&self, op: StoreOp, done: Done) {
        let Some(ticket) = self.gate.admit(op, done) else { return };
        let (requests, runtime) = (Arc::clone(&self.requests), self.runtime.clone());
        env::spawn_task_on(&self.runtime, async move { requests.serve(ticket, &runtime).await });
    }

    fn peek(&self, key: Key, told: Peeked) {
        let (requests, question) = (Arc::clone(&self.requests), Question::new(key, told));
        env::spawn_task_on(&self.runtime, async move {
            let Ok(_turn) = requests.at_once.acquire().await else { return };
            let found = requests.in_time("look at", requests.peek(key)).await;
            question.answer(found);
        });
    }
}

struct Requests {
    client: Client,
    bucket: String,
    prefix: String,
    arena: Arc<Arena>,
    at_once: Semaphore,
    restamps: Semaphore,
    op_timeout: Duration,
    /// Whether the store knows `If-None-Match`; some S3 look-alikes don't.
    conditional: AtomicBool,
}

impl Requests {
    fn name(&self, key: Key) -> String {
        let name = object_name(key);
        if self.prefix.is_empty() { name } else { format!("{}/{name}", self.prefix) }
    }

    async fn serve(&self, ticket: Ticket, runtime: &Handle) {
        // Never closed; a ticket that is dropped answers itself.
        let Ok(_turn) = self.at_once.acquire().await else { return };
        let result = match ticket.op {
            StoreOp::Write { key, frame, .. } => self.write(key, frame).await,
            StoreOp::Erase { key, .. } => self.in_time("erase", self.erase(key)).await,
            StoreOp::Restamp { key, record, .. } => {
                self.in_time("write a record to", Box::pin(self.restamp(key, &record))).await
            }
            StoreOp::Read { key, frame, .. } => {
                match self.in_time("read", self.read(key, frame)).await {
                    Err(error) => Err(error),
                    Ok(found) => return self.verify(ticket, key, found, runtime).await,
                }
            }
        };
        ticket.finish(result);
    }

    /// The whole operation's time limit; one attempt's is the SDK's to keep.
    async fn in_time<T>(
        &self,
        verb: &str,
        operation: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        tokio::time::timeout(self.op_timeout, operation)
            .await
            .unwrap_or_else(|_| Err(errors::too_late(verb, self.op_timeout)))
    }

    async fn write(&self, key: Key, frame: FrameSpan) -> Result<(), StoreError> {
        self.check(frame)?;
        let record = {
            // SAFETY: the operation shares the span until it is done: nobody writes to it.
            let bytes = unsafe { self.arena.bytes(frame) };
            let header = FrameHeader::decode(bytes)?;
            header.verify_key(key)?;
            header.meta.record
        };
        let (lent, returned) = LentFrame::new(&self.arena, frame);
        let result = self.in_time("write", self.put(key, lent)).await;
        // A connection may hold the frame beyond its request's end.
        returned.wait().await;
        match result? {
            Put::Written => Ok(()),
            // What was there may be of another node, which was asked for something else.
            Put::ThereAlready => {
                self.in_time("write a record to", self.keep_record(key, &record)).await
            }
        }
    }

    async fn put(&self, key: Key, lent: LentFrame) -> Result<Put, StoreError> {
        let name = self.name(key);
        let body = bytes::Bytes::from_owner(lent);
        loop {
            let conditional = self.conditional.load(Ordering::Relaxed);
            let put = self
                .client
                .put_object()
                .bucket(&self.bucket)
                .key(&name)
                .set_if_none_match(conditional.then(|| "*".into()))
                .body(ByteStream::from(body.clone()))
                .customize()
                // The frame has a checksum of its own.
                .disable_payload_signing();
            match put.send().await {
                Ok(_) => return Ok(Put::Written),
                Err(error) if conditional && is_there_already(&error) => {
                    return Ok(Put::ThereAlready);
                }
                Err(error) if conditional && knows_no_condition(&error) => {
                    tracing::warn!("the store knows no If-None-Match: objects are overwritten");
                    self.conditional.store(false, Ordering::Relaxed);
                }
                // Another node writes the same block right now.
                Err(error) if is_conflict(&error) => return Err(StoreError::Busy),
                // A server may refuse before it has read the body, and close on what is still
                // coming: then the answer is lost and the connection is all that is seen to fail.
                Err(error) if conditional && is_unanswered(&error) => {
                    let there = self.bytes_there(&name).await;
                    let whole = there == Some(body.len());
                    let failed = failed("write", &name, &error);
                    return if whole { Ok(Put::Written) } else { Err(failed) };
                }
                Err(error) => return Err(failed("write", &name, &error)),
            }
        }
    }

    /// How long the object is, if it is there and the bucket says so.
    async fn bytes_there(&self, name: &str) -> Option<usize> {
        let head = self.client.head_object().bucket(&self.bucket).key(name).send().await.ok()?;
        head.content_length().and_then(|bytes| usize::try_from(bytes).ok())
    }

    /// What the object's header says.
    async fn peek(&self, key: Key) -> Result<FrameHeader, StoreError> {
        let name = self.name(key);
        let range = format!("bytes=0-{}", HEADER_BYTES - 1);
        let get = self.client.get_object().bucket(&self.bucket).key(&name).range(range);
        let answer = get.send().await.map_err(|error| failed("look at", &name, &error))?;
        let mut body = answer.body;
        let mut page = Vec::with_capacity(HEADER_BYTES);
        // A server that knows no ranges sends all of it: the rest is not waited for.
        while page.len() < HEADER_BYTES
            && let Some(piece) = body.next().await
        {
            let piece = piece.map_err(|error| errors::cut_short(&name, error))?;
            page.extend_from_slice(&piece[..piece.len().min(HEADER_BYTES - page.len())]);
        }
        let header = FrameHeader::decode(&page).map_err(something_else)?;
        header.verify_key(key).map(|()| header)
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
    async fn restamp(&self, key: Key, record: &RetentionRecord) -> Result<(), StoreError> {
        // Never closed.
        let _turn = self.restamps.acquire().await.map_err(|_| StoreError::Busy)?;
        let name = self.name(key);
        let get = self.client.get_object().bucket(&self.bucket).key(&name);
        let answer = get.send().await.map_err(|error| failed("read", &name, &error))?;
        let (mut body, tag) = (answer.body, answer.e_tag);
        let mut frame = Vec::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| errors::cut_short(&name, error))?;
            frame.extend_from_slice(&piece);
            if frame.len() > FRAME_BYTES_MAX {
                return Err(StoreError::Corrupt(format!("{name} is longer than any frame")));
            }
        }
        frame::restamp(&mut frame, key, record).map_err(something_else)?;
        let conditional = self.conditional.load(Ordering::Relaxed);
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(&name)
            .set_if_match(tag.filter(|_| conditional))
            .body(ByteStream::from(frame))
            .customize()
            // The frame has checksums of its own.
            .disable_payload_signing();
        match put.send().await {
            Ok(_) => Ok(()),
            // Another node wrote it, or erased it, since it was read.
            Err(error) if is_there_already(&error) || is_conflict(&error) => Err(StoreError::Busy),
            Err(error) => Err(failed("write a record to", &name, &error)),
        }
    }

    /// Fetches the object into the frame's span; gives the part that it fills.
    async fn read(&self, key: Key, frame: FrameSpan) -> Result<FrameSpan, StoreError> {
        self.check(frame)?;
        let name = self.name(key);
        let get = self.client.get_object().bucket(&self.bucket).key(&name);
        let answer = get.send().await.map_err(|error| failed("read", &name, &error))?;
        let mut body = answer.body;
        let mut found = FrameSpan { bytes: 0, ..frame };
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| errors::cut_short(&name, error))?;
            let part = u32::try_from(piece.len())
                .ok()
                .filter(|bytes| *bytes <= frame.bytes - found.bytes)
                .ok_or_else(|| StoreError::Corrupt(format!("{name} is longer than its frame")))?;
            let offset = found.offset + u64::from(found.bytes);
            // SAFETY: the operation owns the span until it is done.
            let into = unsafe { self.arena.bytes_mut(FrameSpan { offset, bytes: part }) };
            into.copy_from_slice(&piece);
            found.bytes += part;
        }
        Ok(found)
    }

    /// Checks what was read, away from the threads that serve the sockets.
    async fn verify(&self, ticket: Ticket, key: Key, found: FrameSpan, runtime: &Handle) {
        let arena = Arc::clone(&self.arena);
        let check = move || {
            // SAFETY: the operation owns the span until it is done, and all of it was read.
            let bytes = unsafe { arena.bytes(found) };
            ticket.finish(frame::verify(bytes, key).map(drop).map_err(something_else));
        };
        // A check that did not end has dropped its ticket, which answers.
        let _ = env::spawn_blocking_on(runtime, check).await;
    }

    async fn erase(&self, key: Key) -> Result<(), StoreError> {
        let name = self.name(key);
        match self.client.delete_object().bucket(&self.bucket).key(&name).send().await {
            Ok(_) => Ok(()),
            Err(error) => match failed("erase", &name, &error) {
                StoreError::Missing(_) => Ok(()),
                error => Err(error),
            },
        }
    }

    fn check(&self, frame: FrameSpan) -> Result<(), StoreError> {
        if self.arena.contains(frame) && frame.bytes as usize > HEADER_BYTES {
            return Ok(());
        }
        let what = format!("{frame:?} is no frame of the arena");
        Err(StoreError::Io { what, source: std::io::ErrorKind::InvalidInput.into() })
    }
}

/// How a conditional write ended.
enum Put {
    Written,
    ThereAlready,
}

/// Something is there, so it is not a block's object that is missing.
fn something_else(error: StoreError) -> StoreError {
    match error {
        StoreError::Missing(why) => StoreError::Corrupt(why),
        error => error,
    }
}

/// An error of the SDK whose service part has a code.
trait Coded: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static {}

impl<E> Coded for E where E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static {}

type Failure<E> = SdkError<E>;
