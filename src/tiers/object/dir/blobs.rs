//! The folder as packs need it: see [`Blobs`]. Files are read and written on the runtime's threads for
//! blocking work, a bounded number at a time. One that never ends, on a share whose server is silent, keeps its
//! thread; who waits for it is let go when the folder is out, unless it may write to the arena.

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
    turns: Arc<Semaphore>,
}

impl DirBlobs {
    pub fn new(folder: &Arc<Folder>, arena: &Arc<Arena>, runtime: &Handle) -> Self {
        let (folder, arena) = (Arc::clone(folder), Arc::clone(arena));
        Self {
            folder,
            arena,
            runtime: runtime.clone(),
            turns: Arc::new(Semaphore::new(THREADS_MAX)),
        }
    }

    fn run<T: Send + 'static>(
        &self,
        errand: Errand,
        work: impl FnOnce(&Folder, &Arena) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'_, T> {
        let (folder, arena) = (Arc::clone(&self.folder), Arc::clone(&self.arena));
        Box::pin(async move {
            let turn = tokio::select! {
                biased;
                error = self.folder.guard.out(errand) => return Err(error),
                turn = Arc::clone(&self.turns).acquire_owned() => turn,
            };
            let work = move || {
                // As long as the thread is busy; never closed.
                let _turn = turn;
                folder.guarded(errand, || work(&folder, &arena))
            };
            let ended = env::spawn_blocking_on(&self.runtime, work).await;
            ended.unwrap_or(Err(StoreError::Busy))
        })
    }

    /// The same for work that touches nothing of the caller's: it is waited for only until the folder is
    /// out.
    fn run_apart<T: Send + 'static>(
        &self,
        errand: Errand,
        work: impl FnOnce(&Folder) -> Result<T, StoreError> + Send + 'static,
    ) -> Answer<'_, T> {
        let running = self.run(errand, |folder, _| work(folder));
        Box::pin(async move {
            tokio::select! {
                biased;
                ended = running => ended,
                error = self.folder.guard.out(errand) => Err(error),
            }
        })
    }
}

impl DirBlobs {
    fn put_by(&self, name: &str, body: Vec<Bytes>, fsync: bool) -> Answer<'_, ()> {
        let name = name.to_owned();
        self.run_apart(Errand::Write, move |folder| {
            let path = folder.root.join(name);
            let pieces: Vec<&[u8]> = body.iter().map(AsRef::as_ref).collect();
            let put = folder.put(&path, (&pieces, fsync), || false);
            put.map(drop).map_err(folder.failed("write", &path))
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

    fn settle(&self, names: Vec<String>) -> Answer<'_, ()> {
        self.run_apart(Errand::Write, move |folder| {
            let paths = names.iter().map(|name| folder.root.join(name)).collect();
            unsynced::flush(&paths, &folder.root).map_err(folder.failed("sync", &folder.root))
        })
    }

    fn head<'a>(&'a self, name: &'a str, bytes: u64) -> Answer<'a, Vec<u8>> {
        let name = name.to_owned();
        self.run_apart(Errand::Read, move |folder| {
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
        self.run_apart(Errand::Read, move |folder| {
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
        self.run_apart(Errand::Write, move |folder| {
            match fs::remove_file(&path).map_err(folder.failed("erase", &path)) {
                Err(StoreError::Missing(_)) => Ok(()),
                removed => removed,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use futures_util::future::{join, join_all};

    use super::super::DirStore;
    use super::*;
    use crate::tiers::object::ObjectOptions;
    use crate::tiers::sample;

    /// Far more than it takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn who_waits_for_a_silent_share_is_let_go_when_it_is_out() {
        let (dir, arena, on) = (tempfile::tempdir().unwrap(), sample::arena(), Handle::current());
        let options = ObjectOptions::default();
        let store = DirStore::open(dir.path(), false, options, &arena, &on).unwrap();
        let blobs = DirBlobs::new(&store.folder, &arena, &on);
        let guard = &store.folder.guard;
        let (began, under_way) = sync_channel(2 * THREADS_MAX);
        // The last ones find all threads taken.
        let silent = (0..THREADS_MAX + 4).map(|_| {
            let (answers, answer) = sync_channel::<()>(0);
            let began = began.clone();
            let asked = blobs.run_apart(Errand::Read, move |_| {
                began.send(()).unwrap();
                answer.recv().unwrap_or_default();
                Ok(())
            });
            (answers, asked)
        });
        let (answers, asked): (Vec<_>, Vec<_>) = silent.unzip();
        // It stays out.
        fs::remove_dir_all(dir.path()).unwrap();
        let out = async {
            let mut left = THREADS_MAX;
            while left > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                left -= under_way.try_iter().count();
            }
            guard.heard::<()>(Errand::Read, &Err(StoreError::TierLost("on purpose".into())));
        };
        let ended = join(join_all(asked), out);
        let (ended, ()) = tokio::time::timeout(PATIENCE, ended).await.expect("they are let go");
        assert!(ended.iter().all(|ended| matches!(ended, Err(StoreError::TierLost(_)))));
        // Who asks while it is out is answered at once.
        let key = sample::Sample { number: 1, payload_bytes: 20_000 };
        assert!(matches!(sample::header(&store, key), Err(StoreError::TierLost(_))));
        drop(answers);
    }
}
