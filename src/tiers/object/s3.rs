//! Objects in an S3 bucket, or in anything that speaks S3.
//!
//! A frame goes from the arena to the socket and from the socket to the arena; nothing keeps it in
//! between. Never answers a write while a connection may still read the frame, and never lets more
//! requests for frames run than the options say; those for headers and lists have turns of their own.

mod attempts;
mod blobs;
mod body;
mod connect;
mod denial;
mod errors;
mod get;
mod limiter;
mod presign;
mod put;
mod tag;
#[cfg(test)]
pub(super) mod tests;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::blobs::Blobs;
use super::guard::{Guard, Way};
use super::question::Question;
use super::target::Bucket;
use super::{NO_STORE, ObjectOptions, object_name};
use crate::domain::block::Key;
use crate::domain::retention::{NewRecord, RetentionRecord};
use crate::domain::tier::Tier;
use crate::env::{self, Clock, SystemClock};
use crate::tiers::dram::Arena;
use crate::tiers::frame::{self, HEADER_BYTES};
use crate::tiers::health::Health;
use crate::tiers::open::OpenError;
use crate::tiers::store::{Done, FrameSpan, Peeked, StoreError, StoreOp, TierStore};
use crate::tiers::ticket::{Gate, Ticket};
use connect::{Clients, Source};
use errors::failed;
use limiter::Limiter;
pub use presign::{Signed, SignedObject, sign};

/// Objects whose records are written at once: each is in memory meanwhile.
const RESTAMPS_MAX: usize = 2;

/// Headers looked at at once: the widest round of a lookup, and what comes along with it.
const LOOKS_MAX: usize = 256;

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
        let source = Source::Standard(Box::new(bucket.clone()), options);
        let clients = source.find_from_outside(runtime)?;
        let store = Self::with_clients(source, clients, bucket, options, arena, runtime);
        if options.asked_at_start {
            let requests = Arc::clone(&store.requests);
            env::spawn_task_on(runtime, async move {
                let mut answer = requests.look_for_nobodys().await;
                if matches!(answer, Err(StoreError::Io { .. })) {
                    // A single connection may be cut.
                    answer = requests.look_for_nobodys().await;
                }
                requests.guard.introduced(&answer);
            });
        }
        Ok(store)
    }

    fn with_clients(
        source: Source,
        clients: Clients,
        bucket: &Bucket,
        options: ObjectOptions,
        arena: &Arc<Arena>,
        runtime: &Handle,
    ) -> Self {
        let requests = Arc::new(Requests {
            source,
            clients: RwLock::new(clients),
            bucket: bucket.name.clone(),
            prefix: bucket.prefix.clone(),
            arena: Arc::clone(arena),
            limiter: Limiter::new(options.concurrency),
            looks: Limiter::new(LOOKS_MAX),
            restamps: Semaphore::new(RESTAMPS_MAX),
            attempt_timeout: options.attempt_timeout,
            op_timeout: options.op_timeout,
            range_bytes: options.range_bytes,
            lifecycle_tags: options.lifecycle_tags,
            clock: SystemClock::start(),
            conditional: AtomicBool::new(true),
            ranges: AtomicBool::new(true),
            rights: denial::Rights::default(),
            guard: Guard::new(),
        });
        let asked = Arc::downgrade(&requests);
        requests.guard.keep_probing(runtime, move || asked.upgrade().map(Requests::probe));
        Self { gate: Gate::new(options.ops_max), runtime: runtime.clone(), requests }
    }

    /// The same place, as packs need it.
    pub(super) fn blobs(&self) -> Arc<dyn Blobs> {
        Arc::new(blobs::S3Blobs(Arc::clone(&self.requests)))
    }

    /// Whether an object of this name is there; says nothing of its bytes.
    ///
    /// # Errors
    /// The bucket can't be asked now.
    pub async fn contains(&self, key: Key) -> Result<bool, StoreError> {
        let name = self.requests.name(key);
        let head = self.requests.clients().others.head_object();
        let head = head.bucket(&self.requests.bucket).key(&name);
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
        let way = Way::of(&op);
        if let Some(out) = self.requests.guard.shut(way) {
            return ticket.finish(Err(out));
        }
        let (requests, runtime) = (Arc::clone(&self.requests), self.runtime.clone());
        env::spawn_task_on(&self.runtime, async move {
            match requests.guard.admit_in_turn(way).await {
                Ok(()) => requests.serve(ticket, &runtime).await,
                Err(out) => ticket.finish(Err(out)),
            }
        });
    }

    fn peek(&self, key: Key, told: Peeked) {
        let (requests, question) = (Arc::clone(&self.requests), Question::new(key, told));
        if let Err(out) = requests.guard.admit(Way::Read) {
            return question.answer(Err(out));
        }
        env::spawn_task_on(&self.runtime, async move {
            let found = requests.peek(key).await;
            question.answer(found);
        });
    }

    fn health(&self) -> Health {
        self.requests.guard.health()
    }
}

struct Requests {
    source: Source,
    clients: RwLock<Clients>,
    bucket: String,
    prefix: String,
    arena: Arc<Arena>,
    limiter: Limiter,
    looks: Limiter,
    restamps: Semaphore,
    attempt_timeout: Duration,
    op_timeout: Duration,
    range_bytes: u32,
    lifecycle_tags: bool,
    clock: SystemClock,
    /// Whether the store knows `If-None-Match`, and ranges; some S3 look-alikes don't.
    conditional: AtomicBool,
    ranges: AtomicBool,
    rights: denial::Rights,
    guard: Arc<Guard>,
}

impl Requests {
    fn name(&self, key: Key) -> String {
        self.full_name(&object_name(key))
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    /// The tag that the bucket's lifecycle rules go by, where the operator made such rules.
    fn tag(&self, record: &RetentionRecord) -> Option<String> {
        self.lifecycle_tags.then(|| tag::of(record, self.clock.now())).flatten()
    }

    fn clients(&self) -> Clients {
        self.clients.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn serve(&self, ticket: Ticket, runtime: &Handle) {
        let result = match ticket.op {
            StoreOp::Write { key, frame, .. } => self.write(key, frame).await,
            StoreOp::Erase { key, .. } => self.erase(key).await,
            StoreOp::Restamp { key, record, known, .. } => {
                Box::pin(self.restamp(key, NewRecord::of_change(record, known))).await
            }
            StoreOp::Read { key, frame, .. } => match self.read(key, frame).await {
                Err(error) => Err(error),
                Ok(found) => return self.verify(ticket, key, found, runtime).await,
            },
        };
        ticket.finish(result);
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

    /// Whether the store is there, while it counts as out: asked with credentials that are found
    /// anew, on a fresh connection.
    async fn probe(self: Arc<Self>) -> Result<(), StoreError> {
        if let Some(clients) = self.source.find_again().await {
            *self.clients.write().unwrap_or_else(PoisonError::into_inner) = clients;
        }
        self.look_for_nobodys().await
    }

    /// Asks for an object that nobody has stored.
    async fn look_for_nobodys(&self) -> Result<(), StoreError> {
        let nobodys = Key(env::random_bytes());
        let name = self.name(nobodys);
        match tokio::time::timeout(self.attempt_timeout, self.peek_once(nobodys, &name)).await {
            Ok(Err(StoreError::Missing(_))) => Ok(()),
            Ok(Ok(_) | Err(StoreError::Corrupt(_))) => Err(StoreError::TierLost(NO_STORE.into())),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(errors::too_late("look at", self.attempt_timeout)),
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
