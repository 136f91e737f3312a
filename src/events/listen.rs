//! Listens at an endpoint, and serves a bounded number of connections, each in a task of its own.
//!
//! A UNIX socket is made and taken away by the rules of [`crate::sockets`].

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};

use crate::env::{self, Seldom};
use crate::sockets::{Directory, PlaceError, SocketFile};

use super::endpoint::Endpoint;

/// Connections of one socket; those beyond are closed at once.
const CONNECTIONS_MAX: usize = 64;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 32;

/// Before the next try to accept, when one failed: the process may be out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Both halves of a connection.
pub(super) type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// A socket that listens until this goes.
pub(super) struct Listener {
    /// Its end ends all that was begun.
    _running: watch::Sender<()>,
    _file: Option<SocketFile>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens, and has `serve` serve each connection. To be called inside the runtime.
    ///
    /// # Errors
    /// The endpoint is taken, or can't be had.
    pub(super) fn start<F>(
        endpoint: &Endpoint,
        serve: impl Fn(Halves) -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let (socket, file) = match endpoint {
            Endpoint::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                (Socket::Tcp(TcpListener::from_std(listener)?), None)
            }
            Endpoint::Ipc(path) => {
                let (listener, file) = listen_unix(path).map_err(io::Error::other)?;
                (Socket::Unix(listener), Some(file))
            }
        };
        let running = watch::Sender::new(());
        env::spawn_task(accept_all(socket, serve, running.subscribe()));
        Ok(Self { _running: running, _file: file })
    }
}

/// The directory must be there: unlike the service's it may be anybody's.
fn listen_unix(path: &Path) -> Result<(UnixListener, SocketFile), PlaceError> {
    let directory = Directory::lock(path.parent().unwrap_or(path))?;
    let (listener, file) = directory.listen(path, BACKLOG)?;
    let listener = UnixListener::from_std(listener).map_err(PlaceError::io("listen at", path))?;
    Ok((listener, file))
}

async fn accept_all<F>(
    socket: Socket,
    serve: impl Fn(Halves) -> F + Send + 'static,
    running: watch::Receiver<()>,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let refusals = Seldom::start();
    let mut ended = running.clone();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = ended.changed() => return,
        };
        let Ok(halves) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            // Subscribers come again by themselves, many times a second.
            if let Some(others) = refusals.turn() {
                tracing::warn!(others, "too many connections for events: one is turned away");
            }
            continue;
        };
        let (serving, mut ended) = (serve(halves), running.clone());
        env::spawn_task(async move {
            let _place = place;
            tokio::select! {
                // Peers come and go; how is theirs to know.
                end = serving => if let Err(error) = end {
                    tracing::debug!(%error, "a connection for events ended");
                },
                _ = ended.changed() => (),
            }
        });
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Halves> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let (read, write) = stream.into_split();
                Ok((Box::new(read), Box::new(write)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let (read, write) = stream.into_split();
                Ok((Box::new(read), Box::new(write)))
            }
        }
    }
}
