//! Accepts connections: of our own user or root, so many and no more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use crate::env::Seldom;

/// How long to let a machine out of descriptors recover before asking it again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Whether a process of user `peer_uid` may talk to a daemon of user `own_uid`.
#[must_use]
pub fn uid_allowed(peer_uid: u32, own_uid: u32) -> bool {
    peer_uid == own_uid || peer_uid == 0
}

/// A listener that lets in only who may come.
pub(super) struct Gate {
    listener: UnixListener,
    own_uid: u32,
    connections: Arc<Semaphore>,
    /// How long a connection may stand without a word.
    silence_max: Duration,
    refusals: Seldom,
    failures: Seldom,
}

impl Gate {
    /// Must be called on the runtime.
    pub(super) fn new(
        listener: std::os::unix::net::UnixListener,
        connections_max: usize,
        silence_max: Duration,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            own_uid: rustix::process::geteuid().as_raw(),
            connections: Arc::new(Semaphore::new(connections_max)),
            silence_max,
            refusals: Seldom::start(),
            failures: Seldom::start(),
        })
    }

    /// The next connection that may come in. Others are closed at once.
    pub(super) async fn accept(&self) -> Connection {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match self.admit(stream) {
                    Ok(connection) => return connection,
                    Err(why) => {
                        if let Some(others) = self.refusals.turn() {
                            tracing::warn!(others, "connection refused: {why}");
                        }
                    }
                },
                Err(error) => {
                    if let Some(others) = self.failures.turn() {
                        tracing::warn!(
                            %error,
                            others,
                            "can't accept connections, and tries again: is the limit of open files \
                             too low (`ulimit -Hn`, or LimitNOFILE in the service's unit)?"
                        );
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: UnixStream) -> Result<Connection, String> {
        let peer = stream.peer_cred().map_err(|error| format!("no peer credentials: {error}"))?;
        if !uid_allowed(peer.uid(), self.own_uid) {
            return Err(format!("user {} is neither {} nor root", peer.uid(), self.own_uid));
        }
        let permit = Arc::clone(&self.connections)
            .try_acquire_owned()
            .map_err(|_| "as many connections are open as may be".to_owned())?;
        let silence = Some(Box::pin(sleep(self.silence_max)));
        Ok(Connection { stream, silence, _permit: permit })
    }
}

/// A connection, counted while it lives. One that is read as bytes must say something soon: it takes the room
/// of others.
pub(super) struct Connection {
    pub stream: UnixStream,
    /// Its end, until something was read.
    silence: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.silence = None;
        } else if let Some(silence) = &mut self.silence
            && silence.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn our_own_user_and_root_may_come() {
        for (peer, own, allowed) in [
            (1000, 1000, true),
            (0, 1000, true),
            (1001, 1000, false),
            (1000, 0, false),
            (0, 0, true),
        ] {
            assert_eq!(uid_allowed(peer, own), allowed, "peer {peer}, own {own}");
        }
    }

    fn gate(folder: &Path, connections_max: usize, silence_max: Duration) -> Gate {
        let listener = std::os::unix::net::UnixListener::bind(folder.join("gate")).unwrap();
        listener.set_nonblocking(true).unwrap();
        Gate::new(listener, connections_max, silence_max).unwrap()
    }

    #[tokio::test]
    async fn whoever_says_nothing_ends_and_whoever_has_spoken_may_rest() {
        let folder = tempfile::tempdir().unwrap();
        let silence_max = Duration::from_millis(50);
        let gate = gate(folder.path(), 2, silence_max);
        let connect = || UnixStream::connect(folder.path().join("gate"));
        let _silent_peer = connect().await.unwrap();
        let mut silent = gate.accept().await;
        let ended = silent.read_u8().await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);

        let mut peer = connect().await.unwrap();
        let mut spoken = gate.accept().await;
        peer.write_u8(7).await.unwrap();
        assert_eq!(spoken.read_u8().await.unwrap(), 7);
        let rests = tokio::time::timeout(4 * silence_max, spoken.read_u8()).await;
        assert!(rests.is_err(), "it was ended though it had spoken");
    }

    #[tokio::test]
    async fn a_connection_beyond_the_limit_is_closed_and_room_returns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate");
        let gate = gate(folder.path(), 1, Duration::from_mins(1));

        let _first_peer = UnixStream::connect(&path).await.unwrap();
        let first = gate.accept().await;
        let second_peer = UnixStream::connect(&path).await.unwrap();
        let waiting = tokio::time::timeout(Duration::from_millis(100), gate.accept()).await;
        assert!(waiting.is_err(), "the second one was let in");
        second_peer.readable().await.unwrap();
        assert_eq!(second_peer.try_read(&mut [0]).unwrap(), 0, "the second one was not closed");

        drop(first);
        let _third_peer = UnixStream::connect(&path).await.unwrap();
        gate.accept().await;
    }
}
