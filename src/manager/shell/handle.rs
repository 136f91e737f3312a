//! How the service and everybody else talks to the manager's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::{Sender, TrySendError};
use tokio::sync::{mpsc, oneshot};

use super::actor::Message;
use crate::manager::api::{ClientId, Command, Completion, PoolId, Refusal, Reply};
use crate::manager::clients::RETRY_AFTER;
use crate::tiers::dram::Arena;
use crate::tiers::hbm::EnginePool;

/// Completions a client may leave unread before it counts as gone.
pub const COMPLETIONS_UNREAD_MAX: usize = 1024;

/// A cheap, cloneable way to the manager.
#[derive(Clone)]
pub struct Handle {
    commands: Sender<Message>,
    arena: Arc<Arena>,
    clients: Arc<AtomicU64>,
}

impl Handle {
    pub(super) fn new(commands: Sender<Message>, arena: Arc<Arena>) -> Self {
        Self { commands, arena, clients: Arc::new(AtomicU64::new(0)) }
    }

    /// A new client's number, and the stream on which its completions come. A client that leaves
    /// [`COMPLETIONS_UNREAD_MAX`] of them unread counts as gone: its stream ends.
    #[must_use]
    pub fn join(&self) -> (ClientId, mpsc::Receiver<Completion>) {
        let client = ClientId(self.clients.fetch_add(1, Ordering::Relaxed) + 1);
        let (completions, stream) = mpsc::channel(COMPLETIONS_UNREAD_MAX);
        self.send(Message::Joined { client, completions });
        (client, stream)
    }

    /// Asks the manager. A full queue is `Refusal::Busy`, a manager that has stopped is
    /// `Refusal::Precondition`.
    ///
    /// # Errors
    /// Whatever the manager refused.
    pub async fn call(&self, client: ClientId, command: Command) -> Result<Reply, Refusal> {
        self.ask(|reply| Message::Command { client, command, reply }).await
    }

    /// Registers `pool` (already checked and mapped) for the client.
    ///
    /// # Errors
    /// Whatever the manager refused.
    pub async fn register_pool(
        &self,
        client: ClientId,
        pool: EnginePool,
    ) -> Result<PoolId, Refusal> {
        let pool = Arc::new(pool);
        match self.ask(|reply| Message::RegisterPool { client, pool, reply }).await? {
            Reply::Pool { pool } => Ok(pool),
            other => Err(Refusal::Precondition(format!("unexpected answer {other:?}"))),
        }
    }

    async fn ask(
        &self,
        message: impl FnOnce(oneshot::Sender<Reply>) -> Message,
    ) -> Result<Reply, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(message(reply)).map_err(|error| match error {
            TrySendError::Full(_) => Refusal::Busy {
                what: "the daemon's command queue is full",
                retry_after: RETRY_AFTER,
            },
            TrySendError::Disconnected(_) => stopping(),
        })?;
        match answer.await.map_err(|_| stopping())? {
            Reply::Refused(refusal) => Err(refusal),
            reply => Ok(reply),
        }
    }

    /// The client went. Never lost; waits only while the command queue is full.
    pub fn client_gone(&self, client: ClientId) {
        self.send(Message::ClientGone { client });
    }

    pub(super) fn send(&self, message: Message) {
        // A manager that has stopped has no clients to be told of.
        let _ = self.commands.send(message);
    }

    /// The DRAM arena, for giving its read-only descriptor to clients.
    #[must_use]
    pub fn arena(&self) -> &Arena {
        &self.arena
    }
}

fn stopping() -> Refusal {
    Refusal::Precondition("the daemon is stopping: connect again when it is back".into())
}
