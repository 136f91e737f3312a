//! The service: gRPC over a UNIX socket for control, and a second socket for shared memory.
//!
//! Talks to the manager only through [`Backend`]. Moves no KV bytes, decides nothing about blocks,
//! and keeps nothing of a client longer than the client's connection lives. `docs/protocol.md` says
//! what goes over both sockets; `convert` alone knows protobuf.

mod accept;
mod backend;
mod calls;
mod convert;
mod error;
mod events;
mod fd;
mod limits;
mod session;
mod sessions;
mod socket;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;

use crate::domain::tier::Tier;
use crate::env;
use crate::tiers::store::TierStore;

pub use accept::uid_allowed;
pub use backend::Backend;
pub use limits::{Limits, Times};
pub use socket::{BindError, look_at_socket};

use accept::{Connection, Gate};
use calls::Calls;
use socket::Sockets;

/// How often clients that never attached, or were given up, are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

/// How the service is set up; everything was validated before.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Where the gRPC socket lies; the descriptor socket lies beside it, with `.fd` added.
    pub socket_path: PathBuf,
    /// The node's name, told to clients.
    pub node_id: String,
    pub limits: Limits,
    pub times: Times,
    /// What Status tells beyond the figures: how each tier is made, what the machine lacks.
    pub facts: BTreeMap<String, String>,
    /// Asked how they are whenever Status is.
    pub stores: Stores,
}

/// The cold tiers' stores, as far as Status tells of them.
#[derive(Clone, Default)]
pub struct Stores(pub Vec<Arc<dyn TierStore>>);

impl Stores {
    /// What the tier's store refuses for now, in words, if it is out.
    fn outage(&self, tier: Tier) -> Option<String> {
        let store = self.0.iter().find(|store| store.tier() == tier)?;
        let health = store.health();
        health.is_out().then(|| health.to_string())
    }
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} stores", self.0.len())
    }
}

impl ServiceConfig {
    /// The default limits and times, no facts.
    #[must_use]
    pub fn new(socket_path: impl Into<PathBuf>) -> Self {
        Self {
            socket_path: socket_path.into(),
            node_id: String::new(),
            limits: Limits::default(),
            times: Times::default(),
            facts: BTreeMap::new(),
            stores: Stores::default(),
        }
    }
}

/// The sockets of a service that has ended: whoever connects waits in vain, until this is dropped.
///
/// Engines take a socket at which nobody listens as proof that nothing touches their memory any more, so it
/// is kept until that is so.
#[must_use = "engines use their memory for other things once it is dropped"]
pub struct ClosedDoor {
    _sockets: Sockets,
}

/// A service whose sockets listen. Clients that connect now wait until [`Server::run`].
pub struct Server<B: Backend> {
    calls: Arc<Calls<B>>,
    sockets: Sockets,
}

impl<B: Backend> Server<B> {
    /// Makes both sockets, mode 0600, taking the place of those a dead daemon left.
    ///
    /// # Errors
    /// A living daemon has the path, or it cannot be made; each says what to do.
    pub fn bind(config: ServiceConfig, backend: B) -> Result<Self, BindError> {
        let sockets = Sockets::bind(&config.socket_path)?;
        Ok(Self { calls: Arc::new(Calls::new(config, backend)), sockets })
    }

    #[must_use]
    pub fn socket_path(&self) -> &Path {
        &self.calls.config.socket_path
    }

    /// Serves until `shutdown`, then ends all sessions and waits at most the drain timeout for calls
    /// being answered. The socket files go with what it gives back.
    ///
    /// # Errors
    /// The sockets could not be used; nothing that a client does ends the service.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<ClosedDoor> {
        let Self { calls, sockets } = self;
        let connections_max = calls.config.limits.connections_max;
        // Whoever connects says who it is at once, or attaches in that time.
        let silence_max = calls.config.times.attach_timeout;
        let gate = |listener: &UnixListener| {
            Gate::new(listener.try_clone()?, connections_max, silence_max)
        };
        let (grpc, descriptors) = (gate(&sockets.grpc)?, gate(&sockets.descriptors)?);
        let stop = watch::Sender::new(false);

        env::spawn_task(serve_descriptors(Arc::clone(&calls), descriptors, stop.clone()));
        let (health, router) = convert::router(&calls).await;
        let mut grpc = pin!(router.serve_with_incoming_shutdown(incoming(grpc), stopped(&stop)));
        let ended = tokio::select! {
            ended = &mut grpc => Some(ended),
            () = shutdown => None,
        };

        health.stopping().await;
        stop.send_replace(true);
        calls.end_all();
        let ended = match ended {
            Some(ended) => ended,
            None => timeout(calls.config.times.drain_timeout, grpc).await.unwrap_or(Ok(())),
        };
        ended.map_err(io::Error::other)?;
        Ok(ClosedDoor { _sockets: sockets })
    }
}

/// The connections of the gRPC socket, as the stream that tonic wants; ends when it is dropped.
fn incoming(gate: Gate) -> ReceiverStream<io::Result<Connection>> {
    let (send, receive) = mpsc::channel(1);
    env::spawn_task(async move {
        loop {
            let connection = tokio::select! {
                connection = gate.accept() => connection,
                () = send.closed() => return,
            };
            if send.send(Ok(connection)).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receive)
}

/// Serves the descriptor socket and looks after clients that never attach.
async fn serve_descriptors<B: Backend>(
    calls: Arc<Calls<B>>,
    gate: Gate,
    stop: watch::Sender<bool>,
) {
    let mut sweep = interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = pin!(stopped(&stop));
    loop {
        tokio::select! {
            connection = gate.accept() => {
                let (calls, stopping) = (Arc::clone(&calls), stopped(&stop));
                env::spawn_task(async move {
                    tokio::select! {
                        () = fd::serve(calls, &connection.stream) => (),
                        () = stopping => (),
                    }
                });
            }
            _ = sweep.tick() => calls.sweep(),
            () = &mut stopping => return,
        }
    }
}

fn stopped(stop: &watch::Sender<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stop = stop.subscribe();
    async move {
        // The sender going without a word is a stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
    }
}
