//! The folder as packs need it: see [`Blobs`]. Files are read and written on the runtime's threads for
//! blocking work, a bounded number at a time.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::{fs, io};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::super::blobs::{Answer, Blobs, Listed, Piece};
use super::super::guard::Way as Errand;
use super::{Folder, THREADS_MAX, Way, foreign, unsynced};
use crate::env;
use crate::tiers::dram::Arena;
use crate::tiers::store::StoreError;

pub(in super::super) struct DirBlobs {
    folder: Arc<Folder>,
    arena: Arc<Arena>,
    runtime: Handle,
    turns: Semaphore,
}

impl DirBlobs {
    pub fn new(folder: &Arc<Folder>, arena: &Arc<Arena>, runtime: &Handle) -> Self {
        let (folder, arena) = (Arc::clone(folder), Arc::clone(arena));
        Self { folder, arena, runtime: runtime.clone(), turns: Semaphore::new(THREADS_MAX) }
    }

    fn run<T: Send + 'static>(
        &self,
        errand: Errand,
        work: impl FnOnce(&Folder, &Arena) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'_, T> {
        let (folder, arena) = (Arc::clone(&self.folder), Arc::clone(&self.arena));
        Box::pin(async move {
            // Never closed.
            let _turn = self.turns.acquire().await;
            let work = move || folder.guarded(errand, || work(&folder, &arena));
            let ended = env::spawn_blocking_on(&self.runtime, work).await;
            ended.unwrap_or(Err(StoreError::Busy))
        })
    }
}

impl DirBlobs {
    fn put_by(&self, name: &str, body: Vec<Bytes>, fsync: bool) -> Answer<'_, ()> {
        let name = name.to_owned();
        self.run(Errand::Write, move |folder, _| {
            let (fresh, path) = (folder.fresh_path(), folder.root.join(name));
            let pieces: Vec<&[u8]> = body.iter().map(AsRef::as_ref).collect();
            folder.write_fresh(&fresh, &path, &pieces, fsync).map_err(|source| {
                let _ = fs::remove_file(&fresh);
                folder.failed("write", &path)(source)
            })
        })
    }
}

impl Blobs for DirBlobs {
    fn put<'a>(&'a self, name: &'a str, body: Vec<Bytes>) -> Answer<'a, ()> {
        self.put_by(name, body, self.folder.fsync)
    }

    fn put_lasting<'a>(&'a self, name: &'a str, body: Vec<Bytes>) -> Answer<'a, ()> {
        self.put_by(name, body, true)
    }

    fn settle<'a>(&'a self, names: Vec<String>) -> Answer<'a, ()> {
        self.run(Errand::Write, move |folder, _| {
            let paths = names.iter().map(|name| folder.root.join(name)).collect();
            unsynced::flush(&paths, &folder.root).map_err(folder.failed("sync", &folder.root))
        })
    }

    fn head<'a>(&'a self, name: &'a str, bytes: u64) -> Answer<'a, Vec<u8>> {
        let name = name.to_owned();
        self.run(Errand::Read, move |folder, _| {
            let path = folder.root.join(name);
            let (file, found) = folder.open_plain(Way::Read, &path)?;
            let mut head = vec![0; usize::try_from(bytes.min(found)).unwrap_or(0)];
            file.read_exact_at(&mut head, 0).map_err(folder.failed("read", &path))?;
            // What is in it may come to be told as durable, whoever wrote it.
            folder.unsynced.note(&path);
            Ok(head)
        })
    }

    fn fetch<'a>(&'a self, name: &'a str, pieces: &'a [Piece]) -> Answer<'a, ()> {
        let (name, pieces) = (name.to_owned(), pieces.to_vec());
        self.run(Errand::Read, move |folder, arena| {
            let path = folder.root.join(name);
            let (file, _) = folder.open_plain(Way::Read, &path)?;
            for piece in pieces {
                // SAFETY: the caller owns the pieces' spans until this ends.
                let into = unsafe { arena.bytes_mut(piece.into) };
                match file.read_exact_at(into, piece.at) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        return Err(foreign(&path, "ends before the frames that it has"));
                    }
                    read => read.map_err(folder.failed("read", &path))?,
                }
            }
            Ok(())
        })
    }

    fn list<'a>(&'a self, folder: &'a str, after: &'a str) -> Answer<'a, Vec<Listed>> {
        let (name, after) = (folder.to_owned(), after.to_owned());
        self.run(Errand::Read, move |folder, _| {
            let path = folder.root.join(name);
            let entries = match fs::read_dir(&path).map_err(folder.failed("list", &path)) {
                // Nobody has written there.
                Err(StoreError::Missing(_)) => return Ok(Vec::new()),
                entries => entries?,
            };
            let mut listed = Vec::new();
            for entry in entries {
                let entry = entry.map_err(folder.failed("list", &path))?;
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let name = entry.file_name().to_string_lossy().into_owned();
                if name > after {
                    listed.push(Listed { name, is_folder });
                }
            }
            listed.sort_unstable();
            Ok(listed)
        })
    }

    fn delete<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        let path: PathBuf = self.folder.root.join(name);
        self.run(Errand::Write, move |folder, _| {
            match fs::remove_file(&path).map_err(folder.failed("erase", &path)) {
                Err(StoreError::Missing(_)) => Ok(()),
                removed => removed,
            }
        })
    }
}
