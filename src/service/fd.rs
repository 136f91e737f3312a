//! The descriptor socket: one connection is one client's life, and carries its shared memory.
//!
//! ```text
//!   open --ATTACH ok--> attached --POOL, ARENA--> attached --closed by either end--> session over
//!     \--anything else, or nothing in time--> closed
//! ```
//! Decides nothing about pools: a descriptor waits here, unread, for the `RegisterPool` that names it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::tiers::hbm::{Exported, Lender};
use crate::wire::Token;
use crate::wire::fd_message::{FdKind, FdReply, FdRequest, FdStatus};
use crate::wire::fd_socket::{self, Received};

use super::backend::Backend;
use super::calls::Calls;
use super::session::Session;

/// Serves one connection until either end closes it or the session is over.
pub(super) async fn serve<B: Backend>(calls: Arc<Calls<B>>, stream: &UnixStream) {
    let Some(session) = attach(&calls, stream).await else { return };
    let attached = Attached { calls, token: session.token };
    loop {
        let received = tokio::select! {
            received = fd_socket::receive(stream) => received,
            () = session.ended() => return,
        };
        let Ok(Some(received)) = received else { return };
        if answer(&attached.calls, &session, stream, received).await.is_none() {
            return;
        }
    }
}

/// Ends the session with the connection, whatever way that goes.
struct Attached<B: Backend> {
    calls: Arc<Calls<B>>,
    token: Token,
}

impl<B: Backend> Drop for Attached<B> {
    fn drop(&mut self) {
        self.calls.end_session(&self.token, "its connection closed");
    }
}

/// Waits for ATTACH and binds the session to this connection.
async fn attach<B: Backend>(calls: &Calls<B>, stream: &UnixStream) -> Option<Arc<Session>> {
    let first = timeout(calls.config.times.attach_timeout, fd_socket::receive(stream));
    let received = first.await.ok()?.ok()??;
    let (request, attached) = match understand(received) {
        Ok((request, _)) if request.kind == FdKind::Attach => {
            let attached = match calls.sessions.get(&request.token) {
                Ok(session) if session.attach(lender(stream)) => Ok(session),
                Ok(_) => Err(FdStatus::AlreadyAttached),
                Err(_) => Err(FdStatus::UnknownToken),
            };
            (Some(request), attached)
        }
        Ok((request, _)) => (Some(request), Err(FdStatus::NotAttached)),
        Err(status) => (None, Err(status)),
    };
    let status = attached.as_ref().err().copied().unwrap_or(FdStatus::Ok);
    let sent = reply(stream, request, status, None).await;
    let session = attached.ok()?;
    if sent.is_none() {
        calls.end_session(&session.token, "it closed its connection while attaching");
        return None;
    }
    Some(session)
}

/// The process at the other end; none where it lives in another namespace of processes.
fn lender(stream: &UnixStream) -> Option<Lender> {
    let process = stream.peer_cred().ok()?.pid()?;
    u32::try_from(process).ok().filter(|process| *process > 0).map(Lender)
}

/// Carries out one message of an attached client; nothing when the connection is to be closed.
async fn answer<B: Backend>(
    calls: &Calls<B>,
    session: &Session,
    stream: &UnixStream,
    received: Received,
) -> Option<()> {
    if received.is_cut && received.descriptors.is_empty() {
        let (request, status) = (FdRequest::decode(&received.message), FdStatus::NoDescriptors);
        tracing::warn!(client = session.name, "a pool was refused: {}", status.text());
        return reply(stream, request, status, None).await;
    }
    let (request, memory) = match understand(received) {
        Ok(understood) => understood,
        Err(status) => {
            reply(stream, None, status, None).await?;
            return None;
        }
    };
    let wrong = match request.kind {
        _ if request.token != session.token => Some(FdStatus::NotAttached),
        FdKind::Attach => Some(FdStatus::AlreadyAttached),
        FdKind::Pool | FdKind::Arena | FdKind::Hbm => None,
    };
    if let Some(status) = wrong {
        reply(stream, Some(request), status, None).await?;
        return None;
    }
    if let Some(memory) = memory {
        let status = session.keep_descriptor(request.tag, memory, &calls.config.limits);
        return reply(stream, Some(request), status, None).await;
    }
    let (memory, status) = match request.kind {
        FdKind::Hbm => (shared_hbm(&calls.backend), FdStatus::NoHbm),
        _ => (calls.backend.arena().map_err(|error| error.to_string()), FdStatus::NoArena),
    };
    match memory {
        Ok(memory) => reply(stream, Some(request), FdStatus::Ok, Some(memory)).await,
        Err(why) => {
            tracing::warn!(client = session.name, kind = ?request.kind, why, "not given away");
            reply(stream, Some(request), status, None).await
        }
    }
}

/// The HBM tier's memory, where it is this machine's.
fn shared_hbm<B: Backend>(backend: &B) -> Result<(OwnedFd, u64), String> {
    match backend.hbm()? {
        Some(Exported::Shared { memory, bytes }) => Ok((memory, bytes)),
        Some(Exported::Cuda { .. }) => Err("it is on a GPU: HbmMemory has its handle".into()),
        None => Err("there is none".into()),
    }
}

/// The request, with its descriptor if and only if it is a POOL. Descriptors that should not have
/// come are closed here.
fn understand(received: Received) -> Result<(FdRequest, Option<OwnedFd>), FdStatus> {
    let request = FdRequest::decode(&received.message).ok_or(FdStatus::Malformed)?;
    let expected = usize::from(request.kind == FdKind::Pool);
    if received.descriptors.len() != expected {
        return Err(FdStatus::Malformed);
    }
    Ok((request, received.descriptors.into_iter().next()))
}

/// Answers; nothing if the client does not take the answer in time.
async fn reply(
    stream: &UnixStream,
    request: Option<FdRequest>,
    status: FdStatus,
    lent: Option<(OwnedFd, u64)>,
) -> Option<()> {
    let (memory, value) = lent.unzip();
    let kind = request.map_or(FdKind::Attach, |request| request.kind);
    let tag = request.map_or(0, |request| request.tag);
    let message = FdReply { kind, status, value: value.unwrap_or(0), tag }.encode();
    let sending = fd_socket::send(stream, &message, memory.as_ref().map(AsFd::as_fd));
    timeout(super::limits::REPLY_TIMEOUT, sending).await.ok()?.ok()
}
