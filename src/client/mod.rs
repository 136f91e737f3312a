//! The Rust client of a Terrace daemon: command line, demo, replay and tests all go through it.
//!
//! One [`Client`] is one session: it ends, with its leases, pools and unfinished stores, when the
//! last clone is dropped. Every call is bounded in time. Keeps no blocks and decides nothing: it
//! neither retries nor falls back, it says what to do next ([`ClientError`]).

mod answers;
mod arena;
mod attachment;
mod completions;
mod connect;
mod convert;
mod error;
mod events;
mod hbm;
mod movement;
mod pool;
mod retention;

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::domain::namespace::Namespace;
use crate::tiers::hbm::PagedLayout;

pub use answers::{
    Completion, DaemonStatus, LeaseId, Lookup, OpId, OpKind, PoolHandle, PoolId, RequestId, Run,
    Stored, TierStatus, Welcome, WelcomeLimits,
};
pub use arena::ArenaView;
pub use completions::Op;
pub use connect::{daemon_block, daemon_sessions, daemon_status};
pub use error::ClientError;
pub use events::{
    Events, EventsWanted, Overlap, Residency, ResidencyChanges, ResidencyEvent, daemon_events,
    daemon_overlap,
};
pub use hbm::{Borrowed, HbmMemory, LentBlock, Strides};
pub use movement::{LiftCounts, LiftState, Link, LinkStatus, LookupOptions, Operation, Prefill};
pub use pool::{HostPool, PoolOrder};
pub use retention::{
    Action, DaemonBlock, DaemonSession, DaemonSessions, EndedRequest, Outcome, OutcomeStatus,
    Request, Target, Usage,
};

use attachment::Attachment;
use completions::{Completions, Listener};
use convert::{Blocks, Remote};

/// Who connects, and how patient it is.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Unique among living clients; stable over restarts.
    pub client_id: String,
    /// For people reading logs: the engine and its version.
    pub client_name: String,
    pub namespace: Namespace,
    /// The engine that this client is a part of, where it has several: they speak of the same requests.
    /// Empty: it is all of it.
    pub engine: String,
    /// How many tokens' KV the engine computes in a second, where that is known. Not zero; see
    /// [`EndedRequest::prefill`] for what it measures later.
    pub prefill_tokens_per_s: Option<u32>,
    /// Bounds connecting, and each call; a lookup has the time beside it that it has the shared store asked.
    /// Registering a pool and taking it back may take a minute all the same: a GPU's driver pins it.
    pub call_timeout: Duration,
    /// Bounds [`Client::wait`].
    pub wait_timeout: Duration,
}

impl ClientConfig {
    /// With the default patience: ten seconds a call, two minutes for an operation.
    #[must_use]
    pub fn new(client_id: impl Into<String>, namespace: Namespace) -> Self {
        Self {
            client_id: client_id.into(),
            client_name: concat!("terrace-rust/", env!("CARGO_PKG_VERSION")).into(),
            namespace,
            engine: String::new(),
            prefill_tokens_per_s: None,
            call_timeout: Duration::from_secs(10),
            wait_timeout: Duration::from_mins(2),
        }
    }

    /// The same as a part of this engine.
    #[must_use]
    pub fn part_of(self, engine: impl Into<String>) -> Self {
        Self { engine: engine.into(), ..self }
    }

    /// The same of an engine that computes so many tokens' KV in a second.
    #[must_use]
    pub fn with_prefill_rate(self, tokens_per_s: u32) -> Self {
        Self { prefill_tokens_per_s: Some(tokens_per_s), ..self }
    }
}

/// A session with a daemon. Cheap to clone; all clones are the one session.
///
/// Block hashes travel as the engine makes them, `namespace.hash_bytes` each, one after the other
/// in one buffer; pass a `Vec<u8>` or `Bytes` and nothing is copied.
#[derive(Clone)]
pub struct Client {
    session: Arc<Session>,
}

struct Session {
    remote: Remote,
    welcome: Welcome,
    config: ClientConfig,
    attachment: Attachment,
    completions: Arc<Completions>,
    next_tag: AtomicU64,
    _listener: Listener,
}

impl Client {
    /// Says Hello at the daemon's socket, attaches, and listens for completions.
    ///
    /// # Errors
    /// [`ClientError::NotConnected`] when no daemon answers there, [`ClientError::VersionMismatch`],
    /// [`ClientError::NameTaken`], [`ClientError::Invalid`] for a namespace that does not hold.
    pub async fn connect(
        socket: impl AsRef<Path>,
        config: ClientConfig,
    ) -> Result<Self, ClientError> {
        let patience = config.call_timeout;
        let session = timeout(patience, connect::session(socket.as_ref(), config))
            .await
            .map_err(|_| ClientError::timed_out("connecting", patience))??;
        Ok(Self { session: Arc::new(session) })
    }

    /// What the daemon said at Hello.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.session.welcome
    }

    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.session.config.namespace
    }

    /// Registers a pool as rank `shard`'s memory. Dropping the handle keeps it registered.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the daemon does not believe the layout.
    pub async fn register_pool(
        &self,
        pool: &HostPool,
        shard: u32,
    ) -> Result<PoolHandle, ClientError> {
        self.register_memory(pool.memory(), pool.layout(), shard).await
    }

    /// As [`Client::register_pool`], for memory of the caller's own: sealed against shrinking, its
    /// pages where `layout` says.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] when the daemon does not believe the layout.
    pub async fn register_memory(
        &self,
        memory: BorrowedFd<'_>,
        layout: &PagedLayout,
        shard: u32,
    ) -> Result<PoolHandle, ClientError> {
        let session = &self.session;
        let tag = session.next_tag.fetch_add(1, Ordering::Relaxed);
        session.attachment.send_memory(tag, memory).await?;
        let id = session.remote.register_pool(tag, shard, layout).await?;
        Ok(PoolHandle { id, slots: layout.slots })
    }

    /// Takes a pool back; its memory may be freed then. Copies under way are waited for.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when it is not registered: taken back, where an earlier call got no answer.
    pub async fn unregister_pool(&self, pool: PoolHandle) -> Result<(), ClientError> {
        self.session.remote.unregister_pool(pool.id).await
    }

    /// The longest stored prefix of a chain (root first), and a lease on it.
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::Invalid`] for a list of the wrong length.
    pub async fn lookup(
        &self,
        request: impl Into<Request>,
        hashes: impl Into<Bytes>,
    ) -> Result<Lookup, ClientError> {
        self.lookup_with(request, hashes, LookupOptions::default()).await
    }

    /// As [`Client::lookup`]; where the prefix that the daemon has ends early, it asks the shared
    /// object store for what follows, for at most `ask_shared`.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn lookup_shared(
        &self,
        request: impl Into<Request>,
        hashes: impl Into<Bytes>,
        ask_shared: Duration,
    ) -> Result<Lookup, ClientError> {
        let options = LookupOptions { ask_shared, ..LookupOptions::default() };
        self.lookup_with(request, hashes, options).await
    }

    /// As [`Client::lookup`], with all that a lookup can ask for.
    ///
    /// # Errors
    /// As [`Client::lookup`].
    pub async fn lookup_with(
        &self,
        request: impl Into<Request>,
        hashes: impl Into<Bytes>,
        options: LookupOptions,
    ) -> Result<Lookup, ClientError> {
        self.session.remote.lookup(request.into(), hashes.into(), options).await
    }

    /// Offers the blocks in `slots`, a run of one chain; `parent` is the hash of the block before
    /// the first, none if that is the root. The slots of taken blocks must not change before the
    /// operation ends.
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::Invalid`], [`ClientError::NotFound`] for an unknown
    /// pool.
    pub async fn store(
        &self,
        request: impl Into<Request>,
        parent: Option<&[u8]>,
        hashes: impl Into<Bytes>,
        pool: PoolHandle,
        slots: &[u32],
    ) -> Result<Stored, ClientError> {
        let blocks = Blocks { hashes: hashes.into(), pool: pool.id, slots };
        let answer = self.session.remote.store(request.into(), parent, blocks).await?;
        Ok(Stored {
            op: self.session.completions.expect(answer.op),
            taken: answer.taken,
            present: answer.present,
            dropped: answer.dropped,
            clipped_blocks: answer.clipped_blocks,
            clipped_directives: answer.clipped_directives,
        })
    }

    /// Has blocks copied into `slots`, wherever they are; what has not started within `timeout`
    /// fails. The slots must not be touched before the operation ends.
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::Invalid`], [`ClientError::NotFound`] for an unknown
    /// pool, [`ClientError::TimedOut`] without an answer in a call's time: it may have begun all the same.
    /// Blocks that cannot be loaded are no error here: the completion names them.
    pub async fn load(
        &self,
        request: RequestId,
        hashes: impl Into<Bytes>,
        pool: PoolHandle,
        slots: &[u32],
        timeout: Duration,
    ) -> Result<Op, ClientError> {
        let blocks = Blocks { hashes: hashes.into(), pool: pool.id, slots };
        let op = self.session.remote.load(request, blocks, timeout).await?;
        Ok(self.session.completions.expect(op))
    }

    /// Waits for the end of an operation. An operation nobody waits for ends all the same.
    ///
    /// # Errors
    /// [`ClientError::SessionLost`] when the daemon went, [`ClientError::TimedOut`].
    pub async fn wait(&self, op: Op) -> Result<Completion, ClientError> {
        let patience = self.session.config.wait_timeout;
        match timeout(patience, op.ended).await {
            Ok(Ok(completion)) => Ok(completion),
            Ok(Err(_)) => Err(ClientError::SessionLost(
                "the daemon closed the session while an operation was under way: connect again"
                    .into(),
            )),
            Err(_) => Err(ClientError::timed_out("waiting for an operation", patience)),
        }
    }

    /// Gives a lease back before its time.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when it has ended.
    pub async fn release(&self, lease: LeaseId) -> Result<(), ClientError> {
        self.session.remote.release(lease).await
    }

    /// Ends a request: all leases taken under it. Gives what it used.
    ///
    /// # Errors
    /// [`ClientError::Busy`].
    pub async fn end_request(
        &self,
        request: impl Into<EndedRequest>,
    ) -> Result<Usage, ClientError> {
        self.session.remote.end_request(request.into()).await
    }

    /// Says something beside requests. Each action is carried out by itself and has an outcome of
    /// its own, in their order.
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::Invalid`] for too many actions. What is wrong with an
    /// action is no error here: its outcome says it.
    pub async fn hint(&self, actions: Vec<Action>) -> Result<Vec<Outcome>, ClientError> {
        self.session.remote.hint(actions).await
    }

    /// As [`Client::hint`], in the engines' JSON envelope.
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::Invalid`] when it is no such envelope.
    pub async fn hint_envelope(&self, json: impl Into<Bytes>) -> Result<Vec<Outcome>, ClientError> {
        self.session.remote.hint_envelope(json.into()).await
    }

    /// How a lift of this client stands; its outcome named `operation`.
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::NotFound`] when the daemon knows of no such lift, or it
    /// is another client's.
    pub async fn operation(&self, operation: OpId) -> Result<Operation, ClientError> {
        self.session.remote.operation(operation).await
    }

    /// The lift that an outcome named, to [`Client::wait`] for: it ends when nothing of it moves any
    /// more. Its end is told once, to the last who asked for it, and of ends that nobody asks for
    /// the oldest are forgotten; [`Client::operation`] tells more, and at any time.
    #[must_use]
    pub fn lift(&self, operation: OpId) -> Op {
        self.session.completions.expect(operation)
    }

    /// The daemon's sessions, of all namespaces: so many of those heard of last (0: 100).
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::Invalid`] for more than 1000.
    pub async fn sessions(&self, sessions_max: u32) -> Result<DaemonSessions, ClientError> {
        self.session.remote.sessions(sessions_max).await
    }

    /// What the daemon knows of the block that this client's engine calls `hash`.
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::NotFound`] when it is not there.
    pub async fn inspect(&self, hash: &[u8]) -> Result<DaemonBlock, ClientError> {
        self.session.remote.inspect(self.namespace().digest().key(hash)).await
    }

    /// How much of a chain (root first) is in which tier. Holds nothing and leaves no trace.
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::Invalid`] for a list of the wrong length.
    pub async fn overlap(&self, hashes: impl Into<Bytes>) -> Result<Overlap, ClientError> {
        self.session.remote.overlap(None, hashes.into()).await
    }

    /// What the daemon holds and does.
    ///
    /// # Errors
    /// [`ClientError::Busy`], [`ClientError::NotConnected`].
    pub async fn status(&self) -> Result<DaemonStatus, ClientError> {
        self.session.remote.status().await
    }

    /// Maps the daemon's DRAM arena, read-only.
    ///
    /// # Errors
    /// [`ClientError::Daemon`] when the daemon cannot give it away, [`ClientError::Io`] when it
    /// cannot be mapped.
    pub async fn arena(&self) -> Result<ArenaView, ClientError> {
        let (memory, len_bytes) = self.session.attachment.ask_arena().await?;
        ArenaView::map(&memory, len_bytes)
    }
}
