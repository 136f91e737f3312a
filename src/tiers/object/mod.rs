//! Object storage: a folder or a bucket in which frames are objects, shared by all nodes that name
//! it.
//!
//! A block's object is called `v1/<first two digits of the key>/<key in hex>`; the key is keyed by
//! its namespace, so blocks of two namespaces never meet. A payload is written once: who finds it
//! there writes at most its record. Of two nodes that write records the last one wins. Addresses by
//! key alone: never looks at places. A scan reads a folder's headers and what is known of packs; a bucket's
//! single objects are not listed, since each header is a request.

mod blobs;
mod dir;
mod guard;
mod lent;
mod packs;
mod question;
mod refused;
mod s3;
mod target;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use dir::DirStore;
pub use packs::{PACKED_BLOCKS, PACKS, PackOptions};
pub use s3::{S3Store, Signed, SignedObject, sign};
pub use target::{Bucket, Target};

use blobs::Blobs;
use packs::PackedStore;

use super::dram::Arena;
use super::frame::HEADER_SPAN_BYTES;
use super::open::OpenError;
use super::store::{StoreError, TierStore};
use super::ticket::OPS_MAX_DEFAULT;
use crate::domain::block::Key;

/// The version of the format that objects are named and written in.
const FORMAT_PREFIX: &str = "v1";

/// S3 gives each connection a share of its rate only. Source: Amazon S3 user guide, "Performance
/// guidelines": ranges of 8 to 16 MiB.
const RANGE_BYTES_DEFAULT: u32 = 8 << 20;

/// How the store behaves, whatever it is.
#[derive(Clone, Copy, Debug)]
pub struct ObjectOptions {
    /// Requests at once (S3), and threads, up to 16 (folder).
    pub concurrency: usize,
    /// Operations under way at most, waiting ones included; beyond it the store answers `Busy`.
    pub ops_max: usize,
    /// S3: how long one attempt at a request may take, and the operation with all its attempts.
    pub attempt_timeout: Duration,
    pub op_timeout: Duration,
    /// S3: whether it is asked at the start if it is there: one that is away is out before anybody waits.
    pub asked_at_start: bool,
    /// S3: what one request fetches at most of a frame; longer ones come in parallel ranges.
    pub range_bytes: u32,
    /// S3: whether objects that are promised to be forgotten are tagged for the bucket's own rules.
    pub lifecycle_tags: bool,
    /// How small blocks are packed; nothing: each block is an object, and no packs are looked for.
    pub packs: Option<PackOptions>,
}

impl Default for ObjectOptions {
    fn default() -> Self {
        Self {
            concurrency: 64,
            ops_max: OPS_MAX_DEFAULT,
            attempt_timeout: Duration::from_secs(10),
            op_timeout: Duration::from_secs(30),
            asked_at_start: true,
            range_bytes: RANGE_BYTES_DEFAULT,
            lifecycle_tags: false,
            packs: None,
        }
    }
}

impl ObjectOptions {
    fn check(&self) -> Result<(), OpenError> {
        let said = if !(1..=4096).contains(&self.concurrency) {
            format!("{} requests at once: use 1 to 4096", self.concurrency)
        } else if !(1..=1 << 20).contains(&self.ops_max) {
            format!("{} operations at once: use 1 to {}", self.ops_max, 1 << 20)
        } else if self.attempt_timeout.is_zero() || self.op_timeout < self.attempt_timeout {
            "the timeouts must be above zero, the operation's at least the attempt's".into()
        } else if self.range_bytes < HEADER_SPAN_BYTES {
            format!("ranges of {} bytes: use {HEADER_SPAN_BYTES} or more", self.range_bytes)
        } else {
            return Ok(());
        };
        Err(OpenError::Config(format!("object: {said}")))
    }
}

/// Opens the store at `target`.
///
/// Waits for the runtime while it looks for S3 credentials, so call it from outside the runtime.
///
/// # Errors
/// See [`OpenError`]; every text names the remedy.
pub fn open(
    target: &Target,
    options: ObjectOptions,
    arena: &Arc<Arena>,
    runtime: &tokio::runtime::Handle,
) -> Result<Arc<dyn TierStore>, OpenError> {
    options.check()?;
    let inside = open_plain(target, options, arena, runtime)?;
    let Some(packs) = options.packs else { return Ok(inside.0) };
    Ok(Arc::new(PackedStore::new(inside, packs, options.ops_max, arena, runtime)))
}

type Inside = (Arc<dyn TierStore>, Arc<dyn Blobs>);

/// The store in which each block is an object, and the same place as packs need it.
fn open_plain(
    target: &Target,
    options: ObjectOptions,
    arena: &Arc<Arena>,
    runtime: &tokio::runtime::Handle,
) -> Result<Inside, OpenError> {
    Ok(match target {
        Target::Dir { path, fsync } => {
            let store = DirStore::open(path, *fsync, options, arena, runtime)?;
            let blobs = store.blobs(runtime);
            (Arc::new(store), blobs)
        }
        Target::S3(bucket) => {
            let store = S3Store::open(bucket, options, arena, runtime)?;
            let blobs = store.blobs();
            (Arc::new(store), blobs)
        }
    })
}

/// Whether packs can be listed there: whoever packs must. Called from outside the runtime.
///
/// # Errors
/// They can't, named by what the caller does next.
pub fn list_packs(
    target: &Target,
    options: ObjectOptions,
    arena: &Arc<Arena>,
    runtime: &tokio::runtime::Handle,
) -> Result<(), StoreError> {
    let opened = open_plain(target, options, arena, runtime);
    let (_, blobs) = opened.map_err(|error| StoreError::TierLost(error.to_string()))?;
    runtime.block_on(blobs.list(packs::FOLDER, "")).map(drop)
}

/// What is said of a server that has objects which nobody can have stored, or no place for new ones.
pub const NO_STORE: &str =
    "no S3 store answers like this: mend object.endpoint, or the endpoint in object.url";

/// Whether a folder that is to hold objects has one to be made in: what is mounted there may be missing.
///
/// # Errors
/// It has none, with what to do.
pub fn check_parent(path: &Path) -> Result<(), OpenError> {
    match path.parent() {
        Some(_) if path.is_symlink() && !path.is_dir() => Err(OpenError::Config(format!(
            "{} is a link to what is no folder: mount its file system, or mend object.url",
            path.display()
        ))),
        Some(parent) if !path.is_dir() && !parent.is_dir() => Err(OpenError::Config(format!(
            "{} can't be made for objects, for {} is not there: mount its file system, make that \
             folder, or mend object.url",
            path.display(),
            parent.display()
        ))),
        _ => Ok(()),
    }
}

/// The object's name below the folder's or bucket's prefix.
fn object_name(key: Key) -> String {
    let hex = key.to_string();
    format!("{FORMAT_PREFIX}/{}/{hex}", &hex[..2])
}
