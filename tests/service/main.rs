//! The service and the client over real sockets, with a stand-in for the manager.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests fail where they stand")]

mod bad_input;
mod bounds;
mod calls;
mod cancel;
mod descriptors;
mod events;
mod fake;
mod hbm;
mod hints;
mod life;
mod lifts;
mod live;
mod node;
mod retention;

use std::path::{Path, PathBuf};
use std::time::Duration;

use terrace::client::{Client, ClientConfig, ClientError, HostPool, PoolHandle, PoolOrder};
use terrace::domain::namespace::{KvShape, Namespace};
use terrace::service::{ClosedDoor, Server, ServiceConfig};
use terrace::wire::pb::terrace_client::TerraceClient;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use fake::Fake;

pub const SHAPE: KvShape = KvShape { layers: 2, planes: 2, page_bytes: 4096 };
pub const HASH_BYTES: usize = 8;

/// A daemon's service in a folder of its own, and the fake behind it.
struct World {
    fake: Fake,
    socket: PathBuf,
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<std::io::Result<ClosedDoor>>>,
}

impl World {
    fn start() -> Self {
        Self::with(|_| ())
    }

    fn with(adjust: impl FnOnce(&mut ServiceConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("terrace.sock");
        let mut config = ServiceConfig::new(&socket);
        config.node_id = "node-7".into();
        config.facts.insert("nvme".into(), "blocking".into());
        adjust(&mut config);
        let fake = Fake::default();
        let server = Server::bind(config, fake.clone()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            server
                .run(async {
                    let _ = stopped.await;
                })
                .await
        });
        Self { fake, socket, folder, stop: Some(stop), running: Some(running) }
    }

    /// Stops the service and waits until nobody listens any more.
    async fn stop(&mut self) {
        drop(self.end().await);
    }

    /// Stops the service and waits for its end.
    async fn end(&mut self) -> ClosedDoor {
        self.stop.take().unwrap().send(()).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), self.running.take().unwrap());
        ended.await.expect("the drain is bounded").unwrap().unwrap()
    }

    async fn client(&self, name: &str) -> Client {
        Client::connect(&self.socket, ClientConfig::new(name, namespace())).await.unwrap()
    }

    async fn client_with_pool(&self, name: &str, slots: u32) -> (Client, HostPool, PoolHandle) {
        self.join_with_pool(ClientConfig::new(name, namespace()), slots).await
    }

    async fn join_with_pool(
        &self,
        config: ClientConfig,
        slots: u32,
    ) -> (Client, HostPool, PoolHandle) {
        let client = Client::connect(&self.socket, config).await.unwrap();
        let pool = HostPool::create(PoolOrder::LayerMajor.layout(SHAPE, slots)).unwrap();
        let handle = client.register_pool(&pool, 0).await.unwrap();
        (client, pool, handle)
    }

    async fn refused(&self, config: ClientConfig) -> ClientError {
        match Client::connect(&self.socket, config).await {
            Ok(_) => panic!("the daemon let it in"),
            Err(error) => error,
        }
    }

    async fn raw(&self) -> TerraceClient<Channel> {
        TerraceClient::new(channel(&self.socket).await)
    }
}

async fn channel(socket: &Path) -> Channel {
    let address = format!("unix:{}", socket.display());
    Endpoint::from_shared(address).unwrap().connect().await.unwrap()
}

fn namespace() -> Namespace {
    Namespace {
        model: "m".into(),
        revision: "r".into(),
        dtype: "bf16".into(),
        layout: "NHD".into(),
        shape: SHAPE,
        block_tokens: 16,
        shard_count: 2,
        hash_scheme: "test".into(),
        hash_bytes: u32::try_from(HASH_BYTES).unwrap(),
        tenant_salt: Vec::new(),
    }
}

/// Hashes `from..to` of one chain, one after the other.
fn hashes(from: u64, to: u64) -> Vec<u8> {
    (from..to).flat_map(u64::to_le_bytes).collect()
}
