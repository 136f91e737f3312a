//! From a socket path to a session: connect, Hello, attach, listen.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::attachment::Attachment;
use super::completions::{Completions, Listener};
use super::convert::Remote;
use super::{ClientConfig, ClientError, DaemonBlock, DaemonSessions, DaemonStatus, Session};
use crate::domain::block::Key;

/// Flow control windows, as the service has them.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Asks a daemon for its status without becoming its client.
///
/// # Errors
/// [`ClientError::NotConnected`] when no daemon answers at the socket, [`ClientError::TimedOut`].
pub async fn daemon_status(
    socket: impl AsRef<Path>,
    patience: Duration,
) -> Result<DaemonStatus, ClientError> {
    let socket = socket.as_ref();
    let asking = async { remote(socket, patience).await?.status().await };
    bounded("asking for the status", (socket, patience), asking).await
}

/// Asks a daemon for so many of its sessions, those heard of last, without becoming its client.
///
/// # Errors
/// As [`daemon_status`]; [`ClientError::Invalid`] for more than 1000.
pub async fn daemon_sessions(
    socket: impl AsRef<Path>,
    patience: Duration,
    sessions_max: u32,
) -> Result<DaemonSessions, ClientError> {
    let socket = socket.as_ref();
    let asking = async { remote(socket, patience).await?.sessions(sessions_max).await };
    bounded("asking for the sessions", (socket, patience), asking).await
}

/// Asks a daemon what it knows of a block, without becoming its client.
///
/// # Errors
/// As [`daemon_status`]; [`ClientError::NotFound`] when the block is not there.
pub async fn daemon_block(
    socket: impl AsRef<Path>,
    patience: Duration,
    key: Key,
) -> Result<DaemonBlock, ClientError> {
    let socket = socket.as_ref();
    let asking = async { remote(socket, patience).await?.inspect(key).await };
    bounded("asking for a block", (socket, patience), asking).await
}

pub(super) async fn remote(socket: &Path, patience: Duration) -> Result<Remote, ClientError> {
    Ok(Remote::new(channel(socket).await?, socket, patience))
}

pub(super) async fn bounded<T>(
    what: &str,
    (socket, patience): (&Path, Duration),
    asking: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let asked = timeout(patience, asking).await;
    asked.unwrap_or_else(|_| {
        let what = format!("{what} of the daemon at {}", socket.display());
        Err(ClientError::timed_out(&what, patience))
    })
}

pub(super) async fn session(socket: &Path, config: ClientConfig) -> Result<Session, ClientError> {
    let mut remote = remote(socket, config.call_timeout).await?;
    let welcome = remote.hello(&config).await?;
    let attachment = Attachment::open(socket, remote.token()).await?;
    let completions = Arc::new(Completions::default());
    let listener = Listener::start(Arc::clone(&completions), remote.completions().await?);
    Ok(Session {
        remote,
        welcome,
        config,
        attachment,
        completions,
        next_tag: AtomicU64::new(1),
        _listener: listener,
    })
}

async fn channel(socket: &Path) -> Result<Channel, ClientError> {
    let unreachable = |error| ClientError::unreachable(socket, &error);
    // The transport hides why it could not connect; a first connection of our own says it.
    drop(UnixStream::connect(socket).await.map_err(unreachable)?);
    let path = PathBuf::from(socket);
    let connector = service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is never resolved: the connector knows where to go.
    Endpoint::from_static("http://terrace.invalid")
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector(connector)
        .await
        .map_err(|error| unreachable(std::io::Error::other(error)))
}
