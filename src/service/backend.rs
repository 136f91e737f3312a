//! What the service needs of whoever answers: the manager's handle in the daemon, a stand-in in
//! tests.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::manager::api::{ClientId, Command, Completion, PoolId, Refusal, Reply};
use crate::manager::shell::{Handle, Journal, Page};
use crate::tiers::hbm::{ClaimedPool, Exported, LentMemory};

/// The manager, as the service sees it.
pub trait Backend: Clone + Send + Sync + 'static {
    /// A new client's number and the stream of its completions.
    ///
    /// # Errors
    /// Whatever the manager refused: it has too much to do, or has stopped.
    fn join(&self) -> Result<(ClientId, mpsc::Receiver<Completion>), Refusal>;

    /// A number for somebody who only looks.
    fn observe(&self) -> ClientId;

    /// Carries out a command.
    ///
    /// # Errors
    /// Whatever the manager refused.
    fn call(
        &self,
        client: ClientId,
        command: Command,
    ) -> impl Future<Output = Result<Reply, Refusal>> + Send;

    /// Checks the claim against the memory that is lent, opens it and registers it.
    ///
    /// # Errors
    /// `Invalid` for a claim the memory does not bear out; whatever else the manager refused.
    fn register_pool(
        &self,
        client: ClientId,
        memory: LentMemory,
        claim: ClaimedPool,
    ) -> impl Future<Output = Result<PoolId, Refusal>> + Send;

    /// The client went. Never lost; may wait for room in the queue, no longer. Telling it twice is
    /// telling it once; commands under way for it may still be answered.
    fn client_gone(&self, client: ClientId);

    /// A read-only descriptor of the DRAM arena, and its length in bytes.
    ///
    /// # Errors
    /// There is no arena, or the kernel refused.
    fn arena(&self) -> io::Result<(OwnedFd, u64)>;

    /// The HBM tier's own memory, for clients to read; nothing when there is none.
    ///
    /// # Errors
    /// Why it can't be shared.
    fn hbm(&self) -> Result<Option<Exported>, String>;

    /// The journal of residency, where one is kept.
    fn journal(&self) -> Option<Arc<Journal>>;

    /// A stretch of the directory as it stands.
    ///
    /// # Errors
    /// Whatever the manager refused.
    fn residents(&self, first_row: u32) -> impl Future<Output = Result<Page, Refusal>> + Send;
}

impl Backend for Handle {
    fn join(&self) -> Result<(ClientId, mpsc::Receiver<Completion>), Refusal> {
        Handle::join(self)
    }

    fn observe(&self) -> ClientId {
        Handle::observe(self)
    }

    async fn call(&self, client: ClientId, command: Command) -> Result<Reply, Refusal> {
        Handle::call(self, client, command).await
    }

    async fn register_pool(
        &self,
        client: ClientId,
        memory: LentMemory,
        claim: ClaimedPool,
    ) -> Result<PoolId, Refusal> {
        Handle::register_pool(self, client, memory, claim).await
    }

    fn client_gone(&self, client: ClientId) {
        Handle::client_gone(self, client);
    }

    fn arena(&self) -> io::Result<(OwnedFd, u64)> {
        let arena = Handle::arena(self);
        Ok((arena.read_only_fd()?, arena.len_bytes()))
    }

    fn hbm(&self) -> Result<Option<Exported>, String> {
        Handle::hbm(self)
    }

    fn journal(&self) -> Option<Arc<Journal>> {
        Handle::journal(self)
    }

    async fn residents(&self, first_row: u32) -> Result<Page, Refusal> {
        Handle::residents(self, first_row).await
    }
}
