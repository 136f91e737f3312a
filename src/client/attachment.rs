//! The connection to the descriptor socket: the session lives as long as it does.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::wire::fd_message::{FdKind, FdReply, FdRequest, FdStatus};
use crate::wire::{Token, fd_socket, fd_socket_path};

use super::ClientError;

/// How long the daemon may take for an answer here; it does nothing slow on this socket.
const PATIENCE: Duration = Duration::from_secs(5);

/// An attached connection. Dropping it ends the session.
pub(super) struct Attachment {
    token: Token,
    line: Mutex<Line>,
}

struct Line {
    stream: UnixStream,
    /// No answer is outstanding: an exchange given up half-way leaves the line unusable.
    clean: bool,
}

impl Attachment {
    pub(super) async fn open(socket: &Path, token: &[u8]) -> Result<Self, ClientError> {
        let token = Token::try_from(token)
            .map_err(|_| ClientError::Daemon(format!("its token has {} bytes", token.len())))?;
        let path = fd_socket_path(socket);
        let stream = UnixStream::connect(&path)
            .await
            .map_err(|error| ClientError::unreachable(&path, &error))?;
        let attachment = Self { token, line: Mutex::new(Line { stream, clean: true }) };
        attachment.exchange(FdKind::Attach, 0, None).await?;
        Ok(attachment)
    }

    /// Sends memory, to be registered under `tag`.
    pub(super) async fn send_memory(
        &self,
        tag: u64,
        memory: BorrowedFd<'_>,
    ) -> Result<(), ClientError> {
        self.exchange(FdKind::Pool, tag, Some(memory)).await.map(|_| ())
    }

    /// Asks for the arena: its descriptor and its length in bytes.
    pub(super) async fn ask_arena(&self) -> Result<(OwnedFd, u64), ClientError> {
        self.ask_memory(FdKind::Arena).await
    }

    /// Asks for the HBM tier's memory: its descriptor and its length in bytes.
    pub(super) async fn ask_hbm(&self) -> Result<(OwnedFd, u64), ClientError> {
        self.ask_memory(FdKind::Hbm).await
    }

    async fn ask_memory(&self, kind: FdKind) -> Result<(OwnedFd, u64), ClientError> {
        let (reply, memory) = self.exchange(kind, 0, None).await?;
        let none = || ClientError::Daemon(format!("it sent no descriptor for {kind:?}"));
        Ok((memory.ok_or_else(none)?, reply.value))
    }

    async fn exchange(
        &self,
        kind: FdKind,
        tag: u64,
        memory: Option<BorrowedFd<'_>>,
    ) -> Result<(FdReply, Option<OwnedFd>), ClientError> {
        let mut line = self.line.lock().await;
        if !std::mem::replace(&mut line.clean, false) {
            return Err(lost("an earlier exchange was given up half-way"));
        }
        let message = FdRequest { kind, token: self.token, tag }.encode();
        let exchange = async {
            fd_socket::send(&line.stream, &message, memory).await?;
            fd_socket::receive(&line.stream).await
        };
        let received = timeout(PATIENCE, exchange)
            .await
            .map_err(|_| ClientError::timed_out("an exchange of descriptors", PATIENCE))?
            .map_err(|error| lost(&error.to_string()))?
            .ok_or_else(|| lost("the daemon closed it"))?;
        line.clean = true;
        let reply = FdReply::decode(&received.message)
            .ok_or_else(|| ClientError::Daemon("it speaks otherwise on `.fd`".into()))?;
        match reply.status {
            FdStatus::Ok => Ok((reply, received.descriptors.into_iter().next())),
            status => Err(refused(status)),
        }
    }
}

fn lost(why: &str) -> ClientError {
    ClientError::SessionLost(format!("the `.fd` connection is lost ({why}): connect again"))
}

fn refused(status: FdStatus) -> ClientError {
    let text = status.text().to_owned();
    match status {
        FdStatus::TooManyPending => {
            ClientError::Busy { what: text, retry_after: Duration::from_millis(100) }
        }
        FdStatus::NoDescriptors => {
            ClientError::Busy { what: text, retry_after: Duration::from_secs(1) }
        }
        FdStatus::TagInUse => ClientError::Invalid(text),
        FdStatus::UnknownToken | FdStatus::AlreadyAttached | FdStatus::NotAttached => {
            ClientError::SessionLost(text)
        }
        FdStatus::NoHbm => ClientError::Precondition(text),
        FdStatus::Ok | FdStatus::Malformed | FdStatus::NoArena => ClientError::Daemon(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do_next() {
        let check = |status, wanted: &str| {
            let said = format!("{:?}", refused(status));
            assert!(said.starts_with(wanted), "{status:?}: {said}");
        };
        check(FdStatus::TooManyPending, "Busy");
        check(FdStatus::NoDescriptors, "Busy");
        check(FdStatus::TagInUse, "Invalid");
        check(FdStatus::NotAttached, "SessionLost");
        check(FdStatus::NoHbm, "Precondition");
        check(FdStatus::NoArena, "Daemon");
    }
}
