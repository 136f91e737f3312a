//! A real S3 server on loopback, its buckets in a folder, and how to reach it.

use std::path::Path;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use terrace::env;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// What the credentials are: a test's process has them in its environment.
pub const CREDENTIALS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret")];

pub struct Server {
    _runtime: Runtime,
    port: u16,
}

impl Server {
    /// Serves the bucket `blocks`, which is a folder in `root`.
    pub fn start(root: &Path) -> Self {
        std::fs::create_dir_all(root.join("blocks")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let mut builder =
            s3s::service::S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
        builder.set_auth(s3s::auth::SimpleAuth::from_single("key", "secret"));
        let service = builder.build();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let handle = runtime.handle().clone();
        env::spawn_task_on(runtime.handle(), async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                env::spawn_task_on(&handle, async move {
                    let http = auto::Builder::new(TokioExecutor::new());
                    // A client that goes away is its own business.
                    let _ = http.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { _runtime: runtime, port }
    }

    pub fn url(&self) -> String {
        format!("s3://blocks/fleet?endpoint=http://127.0.0.1:{}", self.port)
    }
}
