//! A real S3 server on loopback, its buckets in a folder.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_s3::config::{Builder, Credentials};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Error, S3ErrorCode, S3Result};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::super::{S3Store, connect};
use crate::domain::block::Key;
use crate::env;
use crate::tiers::dram::Arena;
use crate::tiers::object::target::Bucket;
use crate::tiers::object::{ObjectOptions, object_name};

const NAME: &str = "blocks";

pub(super) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What the server does with the requests that come.
#[derive(Clone, Debug)]
pub(super) enum Mood {
    Well,
    Refuses(S3ErrorCode),
    /// Refuses writes only.
    RefusesWrites(S3ErrorCode),
    /// Refuses all but every third.
    RefusesMost(S3ErrorCode),
    /// Takes requests and never answers.
    Silent,
}

/// The door of the server.
struct Door {
    mood: Arc<Mutex<Mood>>,
    requests: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl S3Access for Door {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        cx.credentials().ok_or_else(|| S3Error::new(S3ErrorCode::AccessDenied))?;
        let writes = !matches!(cx.s3_op().name(), "GetObject" | "HeadObject");
        let mood = self.mood.lock().unwrap().clone();
        match mood {
            Mood::RefusesWrites(code) if writes => return Err(S3Error::new(code)),
            Mood::RefusesMost(code) if !number.is_multiple_of(3) => return Err(S3Error::new(code)),
            Mood::Refuses(code) => return Err(S3Error::new(code)),
            Mood::Silent => std::future::pending().await,
            Mood::Well | Mood::RefusesWrites(_) | Mood::RefusesMost(_) => {}
        }
        Ok(())
    }
}

pub(super) struct Server {
    pub(super) runtime: Runtime,
    port: u16,
    root: tempfile::TempDir,
    mood: Arc<Mutex<Mood>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    pub(super) fn start() -> Self {
        let (runtime, root) = (runtime(), tempfile::tempdir().unwrap());
        std::fs::create_dir(root.path().join(NAME)).unwrap();
        let files = s3s_fs::FileSystem::new(root.path()).unwrap();
        let (mood, requests) = (Arc::new(Mutex::new(Mood::Well)), Arc::new(AtomicUsize::new(0)));
        let mut builder = s3s::service::S3ServiceBuilder::new(files);
        builder.set_auth(s3s::auth::SimpleAuth::from_single("key", "secret"));
        builder.set_access(Door { mood: Arc::clone(&mood), requests: Arc::clone(&requests) });
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
        Self { runtime, port, root, mood, requests }
    }

    pub(super) fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Requests that came so far.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn bucket(&self, prefix: &str) -> Bucket {
        bucket_at(self.port, prefix)
    }

    pub(super) fn store(&self, prefix: &str, arena: &Arc<Arena>) -> S3Store {
        let options = ObjectOptions::default();
        store_at(&self.bucket(prefix), "secret", options, arena, &self.runtime)
    }

    /// Where the server keeps a block's object.
    pub(super) fn file(&self, prefix: &str, key: Key) -> PathBuf {
        self.root.path().join(NAME).join(prefix).join(object_name(key))
    }
}

pub(super) fn bucket_at(port: u16, prefix: &str) -> Bucket {
    Bucket {
        name: NAME.into(),
        prefix: prefix.into(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        region: Some("us-east-1".into()),
        path_style: true,
    }
}

pub(super) fn store_at(
    bucket: &Bucket,
    secret: &str,
    options: ObjectOptions,
    arena: &Arc<Arena>,
    runtime: &Runtime,
) -> S3Store {
    let base = Builder::new()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new("us-east-1"))
        .credentials_provider(Credentials::new("key", secret, None, None, "test"));
    let client = connect::client(base, bucket, options);
    S3Store::with_client(connect::Source::Given, client, bucket, options, arena, runtime.handle())
}
