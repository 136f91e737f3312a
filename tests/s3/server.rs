//! A real S3 server on loopback: s3s-fs, its buckets in a folder. Unit tests, tests of whole nodes and
//! benches all include this file; each has `env` beside it.
//!
//! Never reached from another machine, and gone when it is dropped.

use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::env;

/// The bucket that every server has.
pub const BUCKET: &str = "blocks";

/// Whom a server knows that asks for credentials, as a process has them in its environment.
pub const CREDENTIALS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];

pub struct S3Server {
    pub runtime: Runtime,
    pub port: u16,
}

impl S3Server {
    /// Serves the folders in `root`; `set_up` is told the port.
    pub fn start(root: &Path, set_up: impl FnOnce(&mut S3ServiceBuilder, u16)) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).unwrap();
        let runtime = runtime();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
        set_up(&mut builder, port);
        let service = builder.build();
        let serving = serve(listener, service, runtime.handle().clone());
        env::spawn_task_on(runtime.handle(), serving);
        Self { runtime, port }
    }

    /// What the object tier calls this prefix of the bucket.
    pub fn url(&self, prefix: &str) -> String {
        match elsewhere() {
            Some(endpoint) => format!("s3://{BUCKET}/{prefix}?endpoint={endpoint}"),
            None => url_at(self.port, prefix),
        }
    }
}

/// Another server's endpoint, where the tests are to use one: see `scripts/test-moto`.
pub fn elsewhere() -> Option<String> {
    std::env::var("TERRACE_TEST_S3").ok()
}

pub fn url_at(port: u16, prefix: &str) -> String {
    format!("s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{port}")
}

/// Has the server refuse whoever does not sign with [`CREDENTIALS`].
pub fn ask_for_credentials(builder: &mut S3ServiceBuilder, _port: u16) {
    let [(_, key), (_, secret)] = CREDENTIALS;
    builder.set_auth(s3s::auth::SimpleAuth::from_single(key, secret));
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn serve(listener: TcpListener, service: S3Service, handle: tokio::runtime::Handle) {
    while let Ok((socket, _)) = listener.accept().await {
        let service = service.clone();
        // Answers are not held back for more to come.
        let _ = socket.set_nodelay(true);
        env::spawn_task_on(&handle, async move {
            let http = auto::Builder::new(TokioExecutor::new());
            // A client that goes away is its own business.
            let _ = http.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}
