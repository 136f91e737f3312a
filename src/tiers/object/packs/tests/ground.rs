//! What stores of packs stand on in tests: a folder, or a bucket whose server keeps it in a folder.

use std::any::Any;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

use super::super::{PackOptions, PackedStore};
use super::block;
use super::faults::Faults;
use crate::tiers::dram::Arena;
use crate::tiers::object::blobs::Blobs;
use crate::tiers::object::s3::tests::s3::runtime;
use crate::tiers::object::s3::tests::server::{Server, store_at};
use crate::tiers::object::{DirStore, ObjectOptions};
use crate::tiers::sample;
use crate::tiers::store::{StoreError, TierStore};

type Inside = (Arc<dyn TierStore>, Arc<dyn Blobs>);
type Open = Box<dyn Fn(&Arc<Arena>) -> Inside>;

pub(super) struct Ground {
    /// Where all objects lie as files.
    pub root: PathBuf,
    open: Open,
    pub handle: Handle,
    _keep: Box<dyn Any>,
}

/// A store on it, and its memory.
pub(super) struct Node {
    pub store: Arc<PackedStore>,
    pub arena: Arc<Arena>,
}

/// Everything is packed, and nobody's knowledge is old enough.
pub(super) fn options(node: u8) -> PackOptions {
    PackOptions {
        linger: Duration::from_millis(50),
        frames_min: 1,
        freshness: Duration::ZERO,
        trusted_for: Duration::ZERO,
        ..PackOptions::new([node; 16])
    }
}

impl Node {
    /// Clears away what it would by itself a moment later.
    pub fn shed(&self, on: &Handle) -> Result<(), StoreError> {
        on.block_on(self.store.packs.shed())
    }

    /// The name of the pack that the block would be read from.
    pub fn pack_of(&self, number: u32) -> String {
        self.store.packs.find(block(number).key()).unwrap().pack.to_string()
    }
}

impl Ground {
    pub fn folder() -> Self {
        let (runtime, folder) = (runtime(), tempfile::tempdir().unwrap());
        let (handle, root) = (runtime.handle().clone(), folder.path().to_owned());
        let (opened, on) = (root.clone(), handle.clone());
        let open = move |arena: &Arc<Arena>| -> Inside {
            let options = ObjectOptions::default();
            let store = DirStore::open(&opened, false, options, arena, &on).unwrap();
            let blobs = store.blobs(&on);
            (Arc::new(store), blobs)
        };
        Self { root, open: Box::new(open), handle, _keep: Box::new((runtime, folder)) }
    }

    pub fn bucket() -> Self {
        Self::bucket_of(&Arc::new(Server::start()), ObjectOptions::default())
    }

    pub fn bucket_of(server: &Arc<Server>, options: ObjectOptions) -> Self {
        let server = Arc::clone(server);
        let (handle, root) = (server.runtime().handle().clone(), server.folder("p"));
        let opened = Arc::clone(&server);
        let open = move |arena: &Arc<Arena>| -> Inside {
            let (bucket, on) = (opened.bucket("p"), opened.runtime());
            let store = store_at(&bucket, "secret", options, arena, on);
            let blobs = store.blobs();
            (Arc::new(store), blobs)
        };
        Self { root, open: Box::new(open), handle, _keep: Box::new(server) }
    }

    pub fn node(&self, node: u8) -> Node {
        self.node_with(options(node), |blobs| blobs)
    }

    /// A node, and what goes wrong on its way to the store: nothing yet.
    pub fn node_with_faults(&self, node: u8) -> (Node, Faults) {
        let faults = Faults::default();
        (self.node_with(options(node), |blobs| faults.around(blobs)), faults)
    }

    pub fn node_with(
        &self,
        options: PackOptions,
        around: impl Fn(Arc<dyn Blobs>) -> Arc<dyn Blobs>,
    ) -> Node {
        let arena = sample::arena();
        Node { store: self.store(&arena, options, around), arena }
    }

    pub fn store(
        &self,
        arena: &Arc<Arena>,
        options: PackOptions,
        around: impl Fn(Arc<dyn Blobs>) -> Arc<dyn Blobs>,
    ) -> Arc<PackedStore> {
        let (store, blobs) = (self.open)(arena);
        let ops_max = ObjectOptions::default().ops_max;
        let inside = (store, around(blobs));
        Arc::new(PackedStore::new(inside, options, ops_max, arena, &self.handle))
    }

    /// The files of packs (`p`) or of changes (`c`), in order.
    pub fn files(&self, kind: char) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for folder in children(&self.root.join("v1/packs")) {
            let holds = |path: &PathBuf| {
                let name = path.file_name().unwrap().to_string_lossy();
                name.rsplit('-').next().is_some_and(|last| last.starts_with(kind))
            };
            found.extend(children(&folder).into_iter().filter(holds));
        }
        found.sort();
        found
    }

    /// The objects of single blocks.
    pub fn singles(&self) -> usize {
        let folders = children(&self.root.join("v1"));
        let shards = folders.iter().filter(|path| path.file_name().unwrap().len() == 2);
        shards.map(|folder| children(folder).len()).sum()
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}
