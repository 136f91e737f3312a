//! How the service and everybody else talks to the manager's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot};

use super::actor::Message;
use super::fate::Fate;
use super::journal::{Journal, Page};
use super::shared::{Shared, Stretch};
use crate::domain::block::Key;
use crate::env;
use crate::manager::api::{ClientId, Command, Completion, PoolId, Refusal, Reply};
use crate::manager::clients::RETRY_AFTER;
use crate::tiers::dram::Arena;
use crate::tiers::hbm::{ClaimedPool, Device, EnginePool, Exported, LentMemory};

/// Completions a client may leave unread before it counts as gone.
pub const COMPLETIONS_UNREAD_MAX: usize = 1024;

/// A cheap, cloneable way to the manager.
#[derive(Clone)]
pub struct Handle {
    commands: Sender<Message>,
    fate: Fate,
    arena: Arc<Arena>,
    device: Arc<dyn Device>,
    clients: Arc<AtomicU64>,
    /// What other nodes may have left.
    shared: Option<Arc<Shared>>,
    journal: Option<Arc<Journal>>,
}

impl Handle {
    pub(super) fn new(
        commands: Sender<Message>,
        fate: Fate,
        arena: Arc<Arena>,
        device: Arc<dyn Device>,
        shared: Option<Shared>,
        journal: Option<Arc<Journal>>,
    ) -> Self {
        let (clients, shared) = (Arc::new(AtomicU64::new(0)), shared.map(Arc::new));
        Self { commands, fate, arena, device, clients, shared, journal }
    }

    /// A new client's number, and the stream on which its completions come. A client that leaves
    /// [`COMPLETIONS_UNREAD_MAX`] of them unread counts as gone: its stream ends.
    ///
    /// # Errors
    /// `Refusal::Busy` while the queue is full, `Refusal::Precondition` when the manager stopped.
    pub fn join(&self) -> Result<(ClientId, mpsc::Receiver<Completion>), Refusal> {
        let client = self.observe();
        let (completions, stream) = mpsc::channel(COMPLETIONS_UNREAD_MAX);
        self.try_send(Message::Joined { client, completions })?;
        Ok((client, stream))
    }

    /// A number for somebody who only looks: nothing of theirs completes.
    #[must_use]
    pub fn observe(&self) -> ClientId {
        ClientId(self.clients.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Asks the manager. A full queue is `Refusal::Busy`, a manager that has stopped, or
    /// ended by a defect, is `Refusal::Precondition`. A lookup that asks for it first looks into the shared store.
    ///
    /// # Errors
    /// Whatever the manager refused.
    pub async fn call(&self, client: ClientId, command: Command) -> Result<Reply, Refusal> {
        if let Command::Lookup { keys, ask_shared, .. } = &command
            && !ask_shared.is_zero()
        {
            self.look_further(client, keys, *ask_shared).await;
        }
        self.ask(|reply| Message::Command { client, command, reply }).await
    }

    /// Tells the manager of blocks of this chain that the shared store has and that are not here.
    /// Comes to nothing when there is no such store, or too much else to do.
    async fn look_further(&self, client: ClientId, keys: &[Key], within: Duration) {
        let Some(shared) = &self.shared else { return };
        let Ok(_turn) = shared.lookups.try_acquire() else { return };
        let (known, answer) = oneshot::channel();
        let question = Message::Known { keys: keys.to_vec(), known };
        if self.commands.try_send(question).is_err() {
            return;
        }
        let Ok(Some(known)) = answer.await else { return };
        let Stretch { end, headers } = shared.follow(keys, known, within).await;
        if end == known {
            return;
        }
        let presumed = (known..end).filter(|at| !headers.contains_key(at)).collect();
        let keys = keys[..end].to_vec();
        let found = Message::Shared { client, keys: keys.clone(), known, headers };
        // Before the lookup in the same queue. A full one: the lookup finds less.
        if self.commands.try_send(found).is_ok() {
            self.look_afterwards(keys, presumed);
        }
    }

    /// Reads the headers of what was presumed, while nobody waits for them.
    fn look_afterwards(&self, keys: Vec<Key>, presumed: Vec<usize>) {
        let Some(shared) = self.shared.clone().filter(|_| !presumed.is_empty()) else { return };
        let commands = self.commands.clone();
        env::spawn_task(async move {
            let Ok(_turn) = shared.follow_ups.try_acquire() else { return };
            let tell = |frames| {
                // A full queue: they are read when the blocks are.
                drop(commands.try_send(Message::Headers { frames }));
            };
            shared.follow_up(&keys, &presumed, tell).await;
        });
    }

    /// Checks the claim against the memory that an engine lends, opens it to the device, and registers it
    /// for the client.
    ///
    /// # Errors
    /// `Invalid`, with what is wrong and what to send instead; whatever else the manager refused.
    pub async fn register_pool(
        &self,
        client: ClientId,
        memory: LentMemory,
        claim: ClaimedPool,
    ) -> Result<PoolId, Refusal> {
        let opened = Arc::new(self.admit(memory, claim).await?);
        let pool = Arc::clone(&opened);
        let answer = self.ask(|reply| Message::RegisterPool { client, pool, reply }).await;
        if answer.is_err() {
            // Closing it takes time as well.
            let close = move || drop(opened);
            let _ = env::spawn_blocking_on(&runtime::Handle::current(), close).await;
        }
        match answer? {
            Reply::Pool { pool } => Ok(pool),
            other => Err(Refusal::Precondition(format!("unexpected answer {other:?}"))),
        }
    }

    /// By a thread that may wait: a driver takes its time, above all for the first pool on a GPU.
    async fn admit(&self, memory: LentMemory, claim: ClaimedPool) -> Result<EnginePool, Refusal> {
        let device = Arc::clone(&self.device);
        let admit = move || device.admit(memory, claim);
        let admitted = env::spawn_blocking_on(&runtime::Handle::current(), admit).await;
        admitted.ok_or_else(|| self.fate.refusal())?.map_err(Refusal::Invalid)
    }

    /// The journal of residency, where one is kept.
    #[must_use]
    pub fn journal(&self) -> Option<Arc<Journal>> {
        self.journal.clone()
    }

    /// A stretch of the directory as it stands: its blocks and where they are served from.
    ///
    /// # Errors
    /// `Refusal::Busy` while the queue is full, `Refusal::Precondition` when the manager stopped.
    pub async fn residents(&self, first_row: u32) -> Result<Page, Refusal> {
        let (page, answer) = oneshot::channel();
        self.try_send(Message::Residents { first_row, page })?;
        answer.await.map_err(|_| self.fate.refusal())
    }

    async fn ask(
        &self,
        message: impl FnOnce(oneshot::Sender<Reply>) -> Message,
    ) -> Result<Reply, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.try_send(message(reply))?;
        match answer.await.map_err(|_| self.fate.refusal())? {
            Reply::Refused(refusal) => Err(refusal),
            reply => Ok(reply),
        }
    }

    fn try_send(&self, message: Message) -> Result<(), Refusal> {
        self.commands.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::Busy {
                what: "the daemon's command queue is full",
                retry_after: RETRY_AFTER,
            },
            TrySendError::Disconnected(_) => self.fate.refusal(),
        })
    }

    /// The client went. Never lost, and never waited for: while the command queue is full, a
    /// thread of its own waits for room.
    pub fn client_gone(&self, client: ClientId) {
        let gone = Message::ClientGone { client };
        if let Err(TrySendError::Full(gone)) = self.commands.try_send(gone) {
            let handle = self.clone();
            let waits = env::spawn_thread("client-gone", move || handle.send(gone));
            if let Err(error) = waits {
                tracing::error!(client = client.0, %error, "could not be told as gone");
            }
        }
    }

    pub(super) fn send(&self, message: Message) {
        // A manager that has stopped has no clients to be told of.
        let _ = self.commands.send(message);
    }

    /// The HBM tier's own memory, for clients to read.
    ///
    /// # Errors
    /// Why it can't be shared.
    pub fn hbm(&self) -> Result<Option<Exported>, String> {
        self.device.export()
    }

    /// The DRAM arena, for giving its read-only descriptor to clients.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }
}
