//! Listens at an endpoint, and serves a bounded number of connections, each in a task of its own.
//!
//! A UNIX socket is made and taken away by the rules of [`crate::sockets`].

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, watch};

use crate::env::{self, Seldom};
use crate::sockets::{self, Directory, PlaceError, SocketFile};

use super::endpoint::Endpoint;

/// Connections of one socket; those beyond are closed at once.
pub const CONNECTIONS_MAX: usize = 64;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 32;

/// A peer over TCP that was silent for so long is asked whether it is there, this often and this many times:
/// a machine without power, or a network that forgot the connection, never says that it is gone.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

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
        env::spawn_task(accept_all(socket, endpoint.clone(), serve, running.subscribe()));
        Ok(Self { _running: running, _file: file })
    }
}

/// Whether [`Listener::start`] would find room at the endpoint, once the folders of `made` are there. Changes
/// nothing.
///
/// # Errors
/// What it would say, as far as that is known without making anything.
pub(super) fn look(endpoint: &Endpoint, made: &[&Path]) -> io::Result<()> {
    match endpoint {
        Endpoint::Tcp(address) => std::net::TcpListener::bind(address).map(drop),
        Endpoint::Ipc(path) => {
            let folder = path.parent().unwrap_or(path);
            let comes = !folder.exists() && made.iter().any(|made| made.starts_with(folder));
            if comes { Ok(()) } else { sockets::look(path).map_err(io::Error::other) }
        }
    }
}

/// The directory must be there: unlike the service's it may be anybody's.
fn listen_unix(path: &Path) -> Result<(UnixListener, SocketFile), PlaceError> {
    let directory = Directory::lock(path.parent().unwrap_or(path))?;
    let (listener, file) = directory.listen(path, BACKLOG)?;
    let listener = UnixListener::from_std(listener).map_err(PlaceError::io("listen at", path))?;
    Ok((listener, file))
}

/// Has the kernel end the connection when its peer is no more.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_TRIES)?;
    Ok(())
}

async fn accept_all<F>(
    socket: Socket,
    endpoint: Endpoint,
    serve: impl Fn(Halves) -> F + Send + 'static,
    running: watch::Receiver<()>,
) where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let refusals = Seldom::start();
    let complaints = Arc::new(Seldom::start());
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
                tracing::warn!(
                    endpoint = %endpoint,
                    others,
                    "{CONNECTIONS_MAX} connections for events are open, one is turned away: close some"
                );
            }
            continue;
        };
        let (serving, mut ended) = (serve(halves), running.clone());
        let (endpoint, complaints) = (endpoint.clone(), Arc::clone(&complaints));
        env::spawn_task(async move {
            let _place = place;
            tokio::select! {
                end = serving => if let Err(error) = end {
                    tell_end(&endpoint, &error, &complaints);
                },
                _ = ended.changed() => (),
            }
        });
    }
}

/// Peers come and go, and how is theirs to know; but one that asks for what is not given comes again many
/// times a second, and sees nothing but that its connection ends.
fn tell_end(endpoint: &Endpoint, error: &io::Error, complaints: &Seldom) {
    if error.kind() != io::ErrorKind::InvalidData {
        tracing::debug!(%endpoint, %error, "a connection for events ended");
    } else if let Some(others) = complaints.turn() {
        tracing::warn!(%endpoint, %error, others, "a peer of the events' socket is let go");
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Halves> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                keep_alive(&stream)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_vanishes_is_noticed_by_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = Socket::Tcp(listener);
        let _peer = TcpStream::connect(address).await.unwrap();
        let _halves = socket.accept().await.unwrap();
        // The kernel shows a running keepalive timer, type 2, of the accepted end.
        let connections = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let own = format!(":{:04X}", address.port());
        let alive = connections.lines().any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[1].ends_with(&own) && fields[5].starts_with("02:")
        });
        assert!(alive, "no keepalive timer runs");
    }
}
