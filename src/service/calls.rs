//! What every call goes through: sessions, bounds and the backend. In the domain's words only.
//!
//! Knows no protobuf (that is `convert`) and no sockets.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use crate::domain::block::Key;
use crate::domain::hint::Outcome;
use crate::domain::namespace::Namespace;
use crate::env::{self, Stopwatch};
use crate::hints::Batch;
use crate::manager::api::{
    BlockStatus, ClientId, Command, Overlap, PoolId, Reply, SessionStatus, Status,
};
use crate::tiers::hbm::{ClaimedPool, CudaClaim, LentMemory};
use crate::wire::{PROTOCOL_VERSION, Token};

use super::ServiceConfig;
use super::backend::Backend;
use super::error::CallError;
use super::session::Session;
use super::sessions::Sessions;

/// A client's name, in bytes.
const CLIENT_ID_BYTES_MAX: usize = 256;

/// The service's state, shared by both sockets.
pub struct Calls<B: Backend> {
    pub(super) backend: B,
    pub(super) config: ServiceConfig,
    pub(super) sessions: Sessions,
    in_flight: Semaphore,
    event_streams: Arc<Semaphore>,
    stopping: watch::Sender<bool>,
    /// The service's own place at the manager, for questions that belong to no client.
    own: ClientId,
    uptime: Stopwatch,
}

/// A Hello, taken apart.
pub struct Hello {
    pub protocol_version: u32,
    pub client_id: String,
    pub client_name: String,
    pub namespace: Namespace,
    /// The engine that it is a part of; empty where it is all of it.
    pub engine: String,
    /// How fast the engine computes KV, as far as it knows.
    pub prefill_tokens_per_s: Option<u32>,
}

/// The answer to a Hello that went well.
pub struct Welcome {
    pub session: Arc<Session>,
    pub frame_bytes: u64,
}

impl<B: Backend> Calls<B> {
    pub(super) fn new(config: ServiceConfig, backend: B) -> Self {
        let own = backend.observe();
        Self {
            sessions: Sessions::new(config.limits.clients_max),
            in_flight: Semaphore::new(config.limits.calls_in_flight_max),
            event_streams: Arc::new(Semaphore::new(config.limits.event_streams_max)),
            stopping: watch::Sender::new(false),
            own,
            uptime: Stopwatch::start(),
            backend,
            config,
        }
    }

    /// Runs a call inside the service's bounds: so many at once, and so long.
    pub(super) async fn bounded<T>(
        &self,
        bound: Duration,
        call: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let _permit = self
            .in_flight
            .try_acquire()
            .map_err(|_| CallError::busy("the daemon is answering as many calls as it may"))?;
        timeout(bound, call).await.unwrap_or(Err(CallError::TimedOut(bound)))
    }

    /// The attached session of this token.
    pub(super) fn attached(&self, token: &[u8]) -> Result<Arc<Session>, CallError> {
        let session = self.sessions.get(token)?;
        if session.is_attached() { Ok(session) } else { Err(CallError::NotAttached) }
    }

    /// Has the manager carry out a client's command.
    pub(super) async fn ask(&self, client: ClientId, command: Command) -> Result<Reply, CallError> {
        match self.backend.call(client, command).await? {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok(reply),
        }
    }

    pub(super) async fn hello(&self, hello: Hello) -> Result<Welcome, CallError> {
        check_hello(&hello)?;
        self.sessions.reserve_name(&hello.client_id)?;
        let joined = self.backend.join();
        let (client, completions) =
            joined.inspect_err(|_| self.sessions.release_name(&hello.client_id))?;
        // From here on a call given up half-way must give back the name and the manager's client.
        let mut joining = Joining { calls: self, client, name: &hello.client_id, joined: false };
        let command = Command::Hello {
            namespace: hello.namespace.clone(),
            engine: (!hello.engine.is_empty()).then(|| hello.engine.clone()),
            prefill_tokens_per_s: hello.prefill_tokens_per_s,
        };
        let frame_bytes = match self.ask(client, command).await? {
            Reply::Hello { frame_bytes, .. } => frame_bytes,
            other => return Err(unexpected("Hello", &other)),
        };
        let session = Arc::new(Session::new(
            env::random_bytes(),
            hello.client_id.clone(),
            hello.namespace.clone(),
            (client, completions),
        ));
        self.sessions.insert(Arc::clone(&session));
        joining.joined = true;
        tracing::info!(
            client = session.name,
            name = hello.client_name,
            model = session.namespace.model,
            namespace = %session.digest,
            "a client said Hello"
        );
        Ok(Welcome { session, frame_bytes })
    }

    /// Registers memory on a GPU, or else the memory that waits under `tag`. Goes on to its end even
    /// when the call is given up, so that the session always knows its pools.
    pub(super) async fn register_pool(
        &self,
        session: Arc<Session>,
        tag: u64,
        cuda: Option<CudaClaim>,
        claim: ClaimedPool,
    ) -> Result<PoolId, CallError> {
        let memory = match cuda {
            Some(cuda) => {
                session.begin_lent_pool(&self.config.limits)?;
                LentMemory::Cuda(cuda)
            }
            None => LentMemory::Shared(session.begin_pool(tag, &self.config.limits)?),
        };
        let backend = self.backend.clone();
        let registering = env::spawn_task(async move {
            let registered = backend.register_pool(session.client, memory, claim).await;
            session.finish_pool(registered.as_ref().ok().map(|pool| (*pool, claim.layout.slots)));
            registered
        });
        let registered = registering.await.map_err(|error| {
            CallError::Internal(format!("registering the pool failed: {error}"))
        })?;
        Ok(registered?)
    }

    pub(super) async fn status(&self) -> Result<Box<Status>, CallError> {
        match self.ask(self.own, Command::Status).await? {
            Reply::Status(status) => Ok(status),
            other => Err(unexpected("Status", &other)),
        }
    }

    /// Has the actions that were understood carried out; each of the batch gets its outcome.
    pub(super) async fn hint(
        &self,
        session: &Session,
        batch: Batch,
    ) -> Result<Vec<(String, Outcome)>, CallError> {
        let (actions, unanswered) = batch.split();
        let outcomes = if actions.is_empty() {
            Vec::new()
        } else {
            match self.ask(session.client, Command::Hint { actions }).await? {
                Reply::Hint { outcomes } => outcomes,
                other => return Err(unexpected("Hint", &other)),
            }
        };
        let unmatched = || CallError::Internal("the manager did not answer every action".into());
        unanswered.answered(outcomes).ok_or_else(unmatched)
    }

    /// The sessions heard of last, and how many there are in all.
    pub(super) async fn session_list(
        &self,
        sessions_max: usize,
    ) -> Result<(Vec<SessionStatus>, usize), CallError> {
        match self.ask(self.own, Command::Sessions { sessions_max }).await? {
            Reply::Sessions { sessions, sessions_total } => Ok((sessions, sessions_total)),
            other => Err(unexpected("Sessions", &other)),
        }
    }

    pub(super) async fn inspect(&self, key: Key) -> Result<Box<BlockStatus>, CallError> {
        match self.ask(self.own, Command::Inspect { key }).await? {
            Reply::Inspect(block) => Ok(block),
            other => Err(unexpected("Inspect", &other)),
        }
    }

    /// How much of a chain is in which tier.
    pub(super) async fn overlap(&self, keys: Vec<Key>) -> Result<Overlap, CallError> {
        match self.ask(self.own, Command::Overlap { keys }).await? {
            Reply::Overlap(overlap) => Ok(overlap),
            other => Err(unexpected("Overlap", &other)),
        }
    }

    /// A reader's place among the followers of the journal.
    pub(super) fn event_stream(&self) -> Result<OwnedSemaphorePermit, CallError> {
        let streams = Arc::clone(&self.event_streams);
        let full = "as many Events streams are open as may be";
        streams.try_acquire_owned().map_err(|_| CallError::busy(full))
    }

    /// Waits until the daemon stops.
    pub(super) fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopping = self.stopping.subscribe();
        async move {
            // The sender going without a word is a stop as well.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    }

    pub(super) fn uptime(&self) -> Duration {
        self.uptime.elapsed()
    }

    /// Ends a session, once: its name is free again and the manager hears of it at once.
    pub(super) fn end_session(&self, token: &Token, why: &str) {
        if let Some(session) = self.sessions.remove(token) {
            session.end();
            self.backend.client_gone(session.client);
            tracing::info!(client = session.name, "a client is gone: {why}");
        }
    }

    /// Drops the clients that said Hello and never attached, and those that the manager gave up.
    pub(super) fn sweep(&self) {
        let timeout = self.config.times.attach_timeout;
        for token in self.sessions.pick(|one| !one.is_attached() && one.age() > timeout) {
            self.end_session(&token, "it did not attach in time");
        }
        for token in self.sessions.pick(Session::is_given_up) {
            self.end_session(&token, "it left too many completions unread");
        }
    }

    /// Ends every session and stream: the daemon stops.
    pub(super) fn end_all(&self) {
        self.stopping.send_replace(true);
        for token in self.sessions.pick(|_| true) {
            self.end_session(&token, "the daemon stops");
        }
    }
}

impl<B: Backend> Drop for Calls<B> {
    fn drop(&mut self) {
        self.end_all();
        self.backend.client_gone(self.own);
    }
}

/// A Hello being answered.
struct Joining<'a, B: Backend> {
    calls: &'a Calls<B>,
    client: ClientId,
    name: &'a str,
    joined: bool,
}

impl<B: Backend> Drop for Joining<'_, B> {
    fn drop(&mut self) {
        if !self.joined {
            self.calls.sessions.release_name(self.name);
            self.calls.backend.client_gone(self.client);
        }
    }
}

fn check_hello(hello: &Hello) -> Result<(), CallError> {
    if hello.protocol_version != PROTOCOL_VERSION {
        return Err(CallError::VersionMismatch { client: hello.protocol_version });
    }
    let texts = [
        ("client_id", &hello.client_id, 1),
        ("client_name", &hello.client_name, 0),
        ("engine", &hello.engine, 0),
    ];
    for (field, text, min) in texts {
        if !(min..=CLIENT_ID_BYTES_MAX).contains(&text.len()) {
            return Err(CallError::invalid(format!(
                "{field} is {} bytes long: it must be {min} to {CLIENT_ID_BYTES_MAX} bytes",
                text.len()
            )));
        }
    }
    if hello.prefill_tokens_per_s == Some(0) {
        return Err(CallError::invalid(
            "prefill_tokens_per_s is 0: give the tokens that the engine prefills in a second, or \
             leave it out if nobody knows it",
        ));
    }
    hello.namespace.check().map_err(CallError::invalid)
}

/// The backend answered something that does not answer the call.
pub(super) fn unexpected(call: &str, reply: &Reply) -> CallError {
    CallError::Internal(format!("the manager answered {call} with {reply:?}"))
}
