//! A real S3 server that has moods, and stores that know its address.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_s3::config::{Builder, Credentials};
use s3s::access::{S3Access, S3AccessContext};
use s3s::service::S3ServiceBuilder;
use s3s::{S3Error, S3ErrorCode, S3Result};
use tokio::runtime::Runtime;

use super::super::{S3Store, connect};
use super::s3::{self, BUCKET, CREDENTIALS, S3Server};
use crate::domain::block::Key;
use crate::tiers::dram::Arena;
use crate::tiers::object::target::Bucket;
use crate::tiers::object::{ObjectOptions, object_name};

/// What the server does with the requests that come.
#[derive(Clone, Debug)]
pub(in crate::tiers::object) enum Mood {
    Well,
    Refuses(S3ErrorCode),
    /// Refuses writes only.
    RefusesWrites(S3ErrorCode),
    /// Refuses all but every third.
    RefusesMost(S3ErrorCode),
    /// Refuses objects whose names have one of these parts.
    RefusesObjects(Vec<String>, S3ErrorCode),
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
            Mood::RefusesObjects(parts, code) => {
                let (_, name) = cx.s3_path().as_object().unwrap_or_default();
                if parts.iter().any(|part| name.contains(part)) {
                    return Err(S3Error::new(code));
                }
            }
            Mood::Silent => std::future::pending().await,
            Mood::Well | Mood::RefusesWrites(_) | Mood::RefusesMost(_) => {}
        }
        Ok(())
    }
}

pub(in crate::tiers::object) struct Server {
    server: S3Server,
    root: tempfile::TempDir,
    mood: Arc<Mutex<Mood>>,
    requests: Arc<AtomicUsize>,
}

impl Server {
    pub(in crate::tiers::object) fn start() -> Self {
        Self::start_with(|_| ())
    }

    pub(in crate::tiers::object) fn start_with(set_up: impl FnOnce(&mut S3ServiceBuilder)) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (mood, requests) = (Arc::new(Mutex::new(Mood::Well)), Arc::new(AtomicUsize::new(0)));
        let door = Door { mood: Arc::clone(&mood), requests: Arc::clone(&requests) };
        let server = S3Server::start(root.path(), |builder, port| {
            s3::ask_for_credentials(builder, port);
            builder.set_access(door);
            set_up(builder);
        });
        Self { server, root, mood, requests }
    }

    pub(in crate::tiers::object) fn runtime(&self) -> &Runtime {
        &self.server.runtime
    }

    pub(in crate::tiers::object) fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Requests that came so far.
    pub(in crate::tiers::object) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(in crate::tiers::object) fn port(&self) -> u16 {
        self.server.port
    }

    pub(in crate::tiers::object) fn bucket(&self, prefix: &str) -> Bucket {
        bucket_at(self.port(), prefix)
    }

    pub(in crate::tiers::object) fn store(&self, prefix: &str, arena: &Arc<Arena>) -> S3Store {
        let options = ObjectOptions::default();
        store_at(&self.bucket(prefix), "secret", options, arena, self.runtime())
    }

    /// Where the server keeps what has this prefix.
    pub(in crate::tiers::object) fn folder(&self, prefix: &str) -> PathBuf {
        self.root.path().join(BUCKET).join(prefix)
    }

    /// Where the server keeps a block's object.
    pub(in crate::tiers::object) fn file(&self, prefix: &str, key: Key) -> PathBuf {
        self.folder(prefix).join(object_name(key))
    }
}

pub(in crate::tiers::object) fn bucket_at(port: u16, prefix: &str) -> Bucket {
    bucket_of(format!("http://127.0.0.1:{port}"), prefix)
}

pub(in crate::tiers::object) fn bucket_of(endpoint: String, prefix: &str) -> Bucket {
    Bucket {
        name: BUCKET.into(),
        prefix: prefix.into(),
        endpoint: Some(endpoint),
        region: Some("us-east-1".into()),
        path_style: Some(true),
    }
}

pub(in crate::tiers::object) fn store_at(
    bucket: &Bucket,
    secret: &str,
    options: ObjectOptions,
    arena: &Arc<Arena>,
    runtime: &Runtime,
) -> S3Store {
    let clients = connect::clients(&base_of(secret), bucket, options);
    S3Store::with_clients(connect::Source::Given, clients, bucket, options, arena, runtime.handle())
}

pub(in crate::tiers::object) fn base_of(secret: &str) -> Builder {
    Builder::new()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new("us-east-1"))
        .credentials_provider(Credentials::new(CREDENTIALS[0].1, secret, None, None, "test"))
}
