//! One client's session: what the service itself remembers of it.
//!
//! Knows no blocks, leases or operations: those are the manager's.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{mpsc, watch};

use crate::domain::namespace::{Namespace, NamespaceDigest};
use crate::env::Stopwatch;
use crate::manager::api::{ClientId, Completion, PoolId, Refusal};
use crate::tiers::hbm::Lender;
use crate::wire::Token;
use crate::wire::fd_message::FdStatus;

use super::error::CallError;
use super::limits::Limits;

/// From a client's Hello to its end.
pub struct Session {
    pub token: Token,
    pub client: ClientId,
    /// The `client_id` it chose.
    pub name: String,
    pub namespace: Namespace,
    pub digest: NamespaceDigest,
    since: Stopwatch,
    completions: Mutex<mpsc::Receiver<Completion>>,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    attached: bool,
    /// Whether a stream reads the completions.
    is_read: bool,
    /// The process at the other end, where it can be seen from here.
    lender: Option<Lender>,
    /// Slots of each registered pool.
    pools: BTreeMap<PoolId, u32>,
    /// Registrations on their way; counted against the limit with the pools.
    registering: usize,
    /// Descriptors sent as POOL, by tag.
    pending: BTreeMap<u64, OwnedFd>,
}

impl State {
    /// Holds a place among the pools.
    fn begin_pool(&mut self, limits: &Limits) -> Result<(), Refusal> {
        if self.pools.len() + self.registering >= limits.pools_max {
            return Err(Refusal::Invalid(format!(
                "this client has {} pools, the most it may: unregister one first",
                limits.pools_max
            )));
        }
        self.registering += 1;
        Ok(())
    }
}

impl Session {
    pub(super) fn new(
        token: Token,
        name: String,
        namespace: Namespace,
        (client, completions): (ClientId, mpsc::Receiver<Completion>),
    ) -> Self {
        Self {
            token,
            client,
            name,
            digest: namespace.digest(),
            namespace,
            since: Stopwatch::start(),
            completions: Mutex::new(completions),
            state: Mutex::default(),
            ended: watch::Sender::new(false),
        }
    }

    /// Binds the session to that process's connection; false if it is bound to one already.
    pub(super) fn attach(&self, lender: Option<Lender>) -> bool {
        let mut state = self.state();
        if std::mem::replace(&mut state.attached, true) {
            return false;
        }
        state.lender = lender;
        true
    }

    /// The process that the session is bound to.
    pub(super) fn lender(&self) -> Option<Lender> {
        self.state().lender
    }

    pub(super) fn is_attached(&self) -> bool {
        self.state().attached
    }

    pub(super) fn age(&self) -> std::time::Duration {
        self.since.elapsed()
    }

    /// Says that the session is over to whoever waits in [`Session::ended`].
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
        // A descriptor nobody will register is closed now, not when the last call lets go.
        self.state().pending.clear();
    }

    /// Waits until the session is over.
    pub(super) async fn ended(&self) {
        self.wait_ended().await;
    }

    /// As [`Session::ended`], for a future that outlives the borrow.
    pub(super) fn wait_ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.ended.subscribe();
        async move {
            // The sender going without a word is an end as well.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Begins the one stream that may read the completions, until [`Session::end_reading`].
    pub(super) fn begin_reading(&self) -> Result<(), CallError> {
        if std::mem::replace(&mut self.state().is_read, true) {
            return Err(CallError::Refused(Refusal::Precondition(
                "this client has an open Completions stream: read that one, or close it first"
                    .into(),
            )));
        }
        Ok(())
    }

    pub(super) fn end_reading(&self) {
        self.state().is_read = false;
    }

    /// The next completion, for who reads them.
    pub(super) fn poll_completion(&self, context: &mut Context<'_>) -> Poll<Option<Completion>> {
        self.completions().poll_recv(context)
    }

    /// The manager has given the client up: nothing will complete any more. While a stream is open
    /// it is the stream that sees this.
    pub(super) fn is_given_up(&self) -> bool {
        !self.state().is_read && self.completions().is_closed()
    }

    /// Keeps a descriptor until the `RegisterPool` call that names its tag.
    pub(super) fn keep_descriptor(&self, tag: u64, memory: OwnedFd, limits: &Limits) -> FdStatus {
        let mut state = self.state();
        if state.pending.contains_key(&tag) {
            return FdStatus::TagInUse;
        }
        if state.pending.len() >= limits.pending_fds_max {
            return FdStatus::TooManyPending;
        }
        state.pending.insert(tag, memory);
        FdStatus::Ok
    }

    /// Starts a registration: hands out the descriptor and holds a place among the pools until
    /// [`Session::finish_pool`].
    pub(super) fn begin_pool(&self, tag: u64, limits: &Limits) -> Result<OwnedFd, Refusal> {
        let mut state = self.state();
        let memory = state.pending.remove(&tag).ok_or_else(|| {
            Refusal::NotFound(format!(
                "no descriptor waits under tag {tag}: send it as POOL over the socket's `.fd` twin \
                 first; each tag serves one RegisterPool"
            ))
        })?;
        state.begin_pool(limits)?;
        Ok(memory)
    }

    /// [`Session::begin_pool`] for memory that comes without a descriptor.
    pub(super) fn begin_lent_pool(&self, limits: &Limits) -> Result<(), Refusal> {
        self.state().begin_pool(limits)
    }

    /// Closes a descriptor whose registration was refused: a tag serves one call, well or not.
    pub(super) fn discard_descriptor(&self, tag: u64) {
        self.state().pending.remove(&tag);
    }

    /// Ends what [`Session::begin_pool`] started, with the pool and its slots if it went well.
    pub(super) fn finish_pool(&self, pool: Option<(PoolId, u32)>) {
        let mut state = self.state();
        state.registering -= 1;
        state.pools.extend(pool);
    }

    pub(super) fn forget_pool(&self, pool: PoolId) {
        self.state().pools.remove(&pool);
    }

    /// Slots of one of this client's pools.
    pub(super) fn pool_slots(&self, pool: PoolId) -> Result<u32, Refusal> {
        self.state().pools.get(&pool).copied().ok_or_else(|| {
            Refusal::NotFound(format!(
                "pool {} is not registered by this client: call RegisterPool first",
                pool.0
            ))
        })
    }

    fn completions(&self) -> MutexGuard<'_, mpsc::Receiver<Completion>> {
        // As for the state below.
        self.completions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under this lock is one step, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::domain::namespace::KvShape;
    use crate::env::spawn_thread;

    fn session() -> (Session, mpsc::Sender<Completion>) {
        let namespace = Namespace {
            model: "m".into(),
            revision: String::new(),
            dtype: "bf16".into(),
            layout: "NHD".into(),
            shape: KvShape { layers: 1, planes: 1, page_bytes: 4096 },
            block_tokens: 16,
            shard_count: 1,
            hash_scheme: "test".into(),
            hash_bytes: 8,
            tenant_salt: Vec::new(),
        };
        let (send, receive) = mpsc::channel(1);
        (Session::new([0; 16], "a".into(), namespace, (ClientId(1), receive)), send)
    }

    #[test]
    fn who_looks_whether_a_session_is_given_up_keeps_no_reader_out() {
        let (session, _send) = session();
        let (session, ends) = (Arc::new(session), Arc::new(AtomicBool::new(false)));
        let sweep = {
            let (session, ends) = (Arc::clone(&session), Arc::clone(&ends));
            move || {
                while !ends.load(Ordering::Relaxed) {
                    assert!(!session.is_given_up());
                }
            }
        };
        let sweeps = spawn_thread("sweep", sweep).unwrap();
        for _ in 0..300_000 {
            session.begin_reading().unwrap();
            session.end_reading();
        }
        ends.store(true, Ordering::Relaxed);
        sweeps.join().unwrap();
    }

    #[test]
    fn one_reads_at_a_time_and_only_what_nobody_reads_is_found_given_up() {
        let (session, send) = session();
        session.begin_reading().unwrap();
        assert!(session.begin_reading().is_err());
        drop(send);
        assert!(!session.is_given_up(), "its reader sees that");
        session.end_reading();
        assert!(session.is_given_up());
        session.begin_reading().unwrap();
    }
}
