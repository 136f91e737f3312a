//! The S3 server: its own runtime, with or without signatures, near or far.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Error, S3ErrorCode, S3Result};
use terrace::env;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub const BUCKET: &str = "blocks";

pub struct Server {
    _runtime: Runtime,
    pub port: u16,
}

/// Answers so much later.
struct Far(Duration);

#[async_trait::async_trait]
impl S3Access for Far {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        cx.credentials().ok_or_else(|| S3Error::new(S3ErrorCode::AccessDenied))?;
        if !self.0.is_zero() {
            tokio::time::sleep(self.0).await;
        }
        Ok(())
    }
}

impl Server {
    pub fn start(root: &Path, signed: bool) -> Self {
        Self::start_far(root, signed, Duration::ZERO)
    }

    pub fn start_far(root: &Path, signed: bool, far: Duration) -> Self {
        std::fs::create_dir_all(root.join(BUCKET)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let files = s3s_fs::FileSystem::new(root).unwrap();
        let mut builder = s3s::service::S3ServiceBuilder::new(files);
        if signed {
            builder.set_auth(s3s::auth::SimpleAuth::from_single("key", "secret"));
            builder.set_access(Far(far));
        }
        let service = builder.build();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let handle = runtime.handle().clone();
        env::spawn_task_on(runtime.handle(), async move {
            while let Ok((socket, _)) = listener.accept().await {
                let service = service.clone();
                env::spawn_task_on(&handle, async move {
                    let http = auto::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });
        Self { _runtime: runtime, port }
    }

    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{}", self.port)
    }
}
