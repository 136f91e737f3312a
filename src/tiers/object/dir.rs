//! Objects in a folder: nothing to install, and any shared file system will do.
//!
//! An object appears whole or not at all: it is written under another name and moved. Never
//! follows links, and never trusts what it finds under a block's name.

mod blobs;
mod fresh;
mod scan;
mod unsynced;
mod watch;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use tokio::runtime::Handle;

use self::fresh::{Put, fresh_file};
use self::unsynced::Unsynced;
use super::blobs::Blobs;
use super::guard::{self, Guard};
use super::question::Question;
use super::{FORMAT_PREFIX, ObjectOptions, check_parent, object_name};
use crate::domain::block::Key;
use crate::domain::retention::NewRecord;
use crate::domain::tier::Tier;
use crate::tiers::dram::Arena;
use crate::tiers::frame::{self, FrameHeader, HEADER_BYTES};
use crate::tiers::health::Health;
use crate::tiers::open::{OpenError, try_lock};
use crate::tiers::store::{Done, FoundFrame, FrameSpan, Peeked, StoreError, StoreOp, TierStore};
use crate::tiers::sync::Syncer;
use crate::tiers::ticket::{Gate, Ticket, answer};
use crate::tiers::workers::Pool;

/// More threads than this only wait for the same disk.
const THREADS_MAX: usize = 16;

/// A half-written object older than this was left behind by a crash.
const LEFT_BEHIND: Duration = Duration::from_hours(1);

/// The object tier as a folder.
pub struct DirStore {
    gate: Arc<Gate>,
    folder: Arc<Folder>,
    arena: Arc<Arena>,
    pool: Pool,
    syncer: Syncer,
    /// Headers are asked for while somebody waits: not behind whole frames.
    questions: Pool<Question>,
}

impl DirStore {
    /// Opens the folder, or makes it, and keeps an eye on it from the runtime.
    ///
    /// # Errors
    /// It can't be made or written to.
    pub fn open(
        path: &Path,
        fsync: bool,
        options: ObjectOptions,
        arena: &Arc<Arena>,
        runtime: &Handle,
    ) -> Result<Self, OpenError> {
        let folder = Arc::new(Folder {
            root: path.to_owned(),
            fsync,
            guard: Guard::new(),
            was_read_only: AtomicBool::new(false),
            unsynced: Unsynced::default(),
        });
        folder.prepare()?;
        let (at_work, at_hand) = (Arc::clone(&folder), Arc::clone(arena));
        let threads = options.concurrency.min(THREADS_MAX);
        let pool = Pool::start("object-dir", threads, options.ops_max, move |ticket: Ticket| {
            let result = at_work.serve(&at_hand, ticket.op);
            ticket.finish(result);
        })
        .map_err(no_thread)?;
        let asked = Arc::clone(&folder);
        let questions =
            Pool::start("object-peek", threads, options.ops_max, move |one: Question| {
                let found = asked.guarded(guard::Way::Read, || asked.peek(one.key));
                one.answer(found);
            })
            .map_err(no_thread)?;
        let flushed = Arc::clone(&folder);
        let flush = move || flushed.unsynced.flush(&flushed.root);
        let syncer = Syncer::start("object-sync", flush, options.ops_max);
        let syncer = syncer.map_err(no_thread)?;
        watch::keep_watch(&folder, runtime);
        let (gate, arena) = (Gate::new(options.ops_max), Arc::clone(arena));
        Ok(Self { gate, folder, arena, pool, syncer, questions })
    }

    /// Whether an object of this name is there; says nothing of its bytes. Blocks.
    #[must_use]
    pub fn contains(&self, key: Key) -> bool {
        self.folder.object(key).is_file()
    }
}

impl DirStore {
    /// The same folder, as packs need it.
    pub(super) fn blobs(&self, runtime: &Handle) -> Arc<dyn Blobs> {
        Arc::new(blobs::DirBlobs::new(&self.folder, &self.arena, runtime))
    }
}

impl TierStore for DirStore {
    fn tier(&self) -> Tier {
        Tier::Object
    }

    fn submit(&self, op: StoreOp, done: Done) {
        // Its threads may be busy with what never ends.
        if let Some(out) = self.folder.guard.shut(guard::Way::of(&op)) {
            return answer(done, Err(out));
        }
        if let Some(ticket) = self.gate.admit(op, done) {
            self.pool.push(ticket);
        }
    }

    fn sync(&self, done: Done) {
        self.syncer.ask(done);
    }

    fn peek(&self, key: Key, told: Peeked) {
        if let Some(out) = self.folder.guard.shut(guard::Way::Read) {
            return told(Err(out));
        }
        self.questions.push(Question::new(key, told));
    }

    fn health(&self) -> Health {
        self.folder.guard.health()
    }

    fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        self.folder.scan(found)
    }
}

fn no_thread(source: io::Error) -> OpenError {
    OpenError::Io { what: "can't start the object tier".into(), source }
}

struct Folder {
    root: PathBuf,
    fsync: bool,
    guard: Arc<Guard>,
    /// Since it was, nothing has been written.
    was_read_only: AtomicBool,
    unsynced: Unsynced,
}

impl Folder {
    fn object(&self, key: Key) -> PathBuf {
        self.root.join(object_name(key))
    }

    fn unfinished(&self) -> PathBuf {
        self.root.join(FORMAT_PREFIX).join("unfinished")
    }

    /// Makes the folders, tries to write, and clears what a crash left.
    fn prepare(&self) -> Result<(), OpenError> {
        check_parent(&self.root)?;
        let unfinished = self.unfinished();
        let make = DirBuilder::new().recursive(true).mode(0o700).create(&unfinished);
        make.map_err(OpenError::io("create the folder", &unfinished))?;
        let now = match self.try_write() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // What is there can be read all the same.
                let folder = self.root.display();
                tracing::warn!(%folder, "the object tier's disk is full: nothing is written to it");
                return Ok(());
            }
            written => written.map_err(OpenError::io("write to", &self.root))?,
        };
        for entry in fs::read_dir(&unfinished).into_iter().flatten().flatten() {
            let written = entry.metadata().and_then(|found| found.modified());
            if written.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > LEFT_BEHIND)) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Writes a file and takes it away; gives the time at which it was written by the clock that counts,
    /// the file system's: other nodes may share it.
    fn try_write(&self) -> io::Result<SystemTime> {
        let path = self.fresh_path();
        let mut file = fresh_file(&path)?;
        let written = file.write_all(b"written to see whether this folder can be");
        let now = written.and_then(|()| file.metadata()?.modified());
        // On a full disk too: it is tried again and again.
        fs::remove_file(&path)?;
        now
    }

    /// Does `work` unless the folder is out, and hears how it ended.
    fn guarded<T>(
        &self,
        way: guard::Way,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.guard.admit(way)?;
        let result = work();
        self.guard.heard(way, &result);
        result
    }

    fn serve(&self, arena: &Arena, op: StoreOp) -> Result<(), StoreError> {
        if let StoreOp::Write { frame, .. } | StoreOp::Read { frame, .. } = op
            && !(arena.contains(frame) && frame.bytes as usize > HEADER_BYTES)
        {
            let what = format!("{frame:?} is no frame of the arena");
            return Err(StoreError::Io { what, source: io::ErrorKind::InvalidInput.into() });
        }
        self.guarded(guard::Way::of(&op), || self.perform(arena, op))
    }

    fn perform(&self, arena: &Arena, op: StoreOp) -> Result<(), StoreError> {
        match op {
            StoreOp::Write { key, frame, .. } => {
                // SAFETY: the operation shares the span until it is done: nobody writes to it.
                self.write(key, unsafe { arena.bytes(frame) })
            }
            StoreOp::Read { key, frame, .. } => self.read(key, arena, frame),
            StoreOp::Erase { key, .. } => self.erase(key),
            StoreOp::Restamp { key, record, known, .. } => {
                self.restamp(key, NewRecord::of_change(record, known))
            }
        }
    }

    fn write(&self, key: Key, bytes: &[u8]) -> Result<(), StoreError> {
        let header = FrameHeader::decode(bytes)?;
        header.verify_key(key)?;
        let path = self.object(key);
        let new = NewRecord::of_frame(header.meta.record, header.meta.created_at);
        let there = || there_already(&path, key, bytes.len());
        if let Some(there) = there() {
            return self.join(key, new, &there);
        }
        let put = self.put(&path, (&[bytes], self.fsync), || there().is_some());
        match put.map_err(self.failed("write", &path))? {
            Put::Done => Ok(()),
            Put::Outrun => self.restamp(key, new),
        }
    }

    /// The block's object is there already, written by this daemon or another one: it gets the record.
    fn join(&self, key: Key, new: NewRecord, there: &FrameHeader) -> Result<(), StoreError> {
        if there.meta.record != new.over(&there.meta.record) {
            return self.restamp(key, new);
        }
        self.unsynced.note(&self.object(key));
        there.has_taken(&new, there.meta.record)
    }

    fn read(&self, key: Key, arena: &Arena, frame: FrameSpan) -> Result<(), StoreError> {
        let path = self.object(key);
        let failed = |error: io::Error| self.failed("read", &path)(error);
        let foreign = |what: &str| foreign(&path, what);
        let (file, found_bytes) = self.open_plain(Way::Read, &path)?;
        let bytes = match u32::try_from(found_bytes) {
            Ok(bytes) if bytes <= frame.bytes => bytes,
            _ => return Err(foreign(&format!("has {found_bytes} bytes, not {}", frame.bytes))),
        };
        // SAFETY: the operation owns the span until it is done.
        let into = unsafe { arena.bytes_mut(FrameSpan { bytes, ..frame }) };
        file.read_exact_at(into, 0).map_err(failed)?;
        match frame::verify(into, key) {
            Err(error) => Err(no_frame(&path, error)),
            Ok(_) => Ok(()),
        }
    }

    /// What the object's header says, for whoever may come to tell the block as durable.
    fn peek(&self, key: Key) -> Result<FrameHeader, StoreError> {
        let header = self.header(key)?;
        self.unsynced.note(&self.object(key));
        Ok(header)
    }

    fn header(&self, key: Key) -> Result<FrameHeader, StoreError> {
        let path = self.object(key);
        let (file, bytes) = self.open_plain(Way::Read, &path)?;
        let page = self.header_of((&file, bytes), Way::Read, &path)?;
        let header = FrameHeader::decode(&*page).map_err(|error| no_frame(&path, error))?;
        header.verify_key(key)?;
        Ok(header)
    }

    /// Writes the record's sector in place: the header keeps the other one, and so the block.
    fn restamp(&self, key: Key, new: NewRecord) -> Result<(), StoreError> {
        let path = self.object(key);
        let (file, bytes) = self.open_plain(Way::ReadWrite, &path)?;
        // What another daemon wrote between the look and the write would be lost. The lock ends with the
        // file; a file system without locks keeps nobody from writing.
        if matches!(try_lock(&file, FlockOperation::NonBlockingLockExclusive), Ok(false)) {
            return Err(self.failed(Way::ReadWrite.verb(), &path)(held_by_another()));
        }
        let mut page = self.header_of((&file, bytes), Way::ReadWrite, &path)?;
        let there = FrameHeader::decode(&*page).map_err(|error| no_frame(&path, error))?;
        let record = new.over(&there.meta.record);
        let changed =
            frame::restamp(&mut *page, key, &record).map_err(|error| no_frame(&path, error))?;
        let written = file.write_all_at(&page[changed.clone()], changed.start as u64);
        let synced = written.and_then(|()| if self.fsync { file.sync_data() } else { Ok(()) });
        self.unsynced.note(&path);
        synced.map_err(self.failed(Way::ReadWrite.verb(), &path))?;
        there.has_taken(&new, record)
    }

    /// The object, if it is a plain file and not a link, and how long it is.
    fn open_plain(&self, way: Way, path: &Path) -> Result<(File, u64), StoreError> {
        let verb = way.verb();
        let file = match open_object(path, way) {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(foreign(path, "is a link"));
            }
            result => result.map_err(self.failed(verb, path))?,
        };
        let found = file.metadata().map_err(self.failed(verb, path))?;
        if !found.is_file() {
            return Err(foreign(path, "is not a plain file"));
        }
        Ok((file, found.len()))
    }

    /// The object's header page.
    fn header_of(
        &self,
        (file, bytes): (&File, u64),
        way: Way,
        path: &Path,
    ) -> Result<Box<[u8; HEADER_BYTES]>, StoreError> {
        if bytes <= HEADER_BYTES as u64 {
            return Err(foreign(path, &format!("has {bytes} bytes: too few for a frame")));
        }
        let mut page = Box::new([0; HEADER_BYTES]);
        file.read_exact_at(&mut *page, 0).map_err(self.failed(way.verb(), path))?;
        Ok(page)
    }

    fn erase(&self, key: Key) -> Result<(), StoreError> {
        let path = self.object(key);
        match fs::remove_file(&path).map_err(self.failed("erase", &path)) {
            Err(StoreError::Missing(_)) => Ok(()),
            result => result,
        }
    }

    /// Names an error of the file system by what the caller does next.
    fn failed(&self, verb: &str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let what = format!("can't {verb} {}", path.display());
        let unfinished = self.unfinished();
        move |source| {
            if source.kind() == io::ErrorKind::ReadOnlyFilesystem {
                self.was_read_only.store(true, Ordering::Relaxed);
            }
            match watch::lost(source.kind(), || unfinished.is_dir()) {
                Some(why) => StoreError::TierLost(format!("{what}: {why}")),
                None if source.kind() == io::ErrorKind::NotFound => StoreError::Missing(what),
                None => StoreError::Io { what, source },
            }
        }
    }
}

/// What an object is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    /// To change the record in its header.
    ReadWrite,
}

impl Way {
    const fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ReadWrite => "write a record to",
        }
    }
}

/// Without following a link, and without waiting for the other end of a pipe.
fn open_object(path: &Path, way: Way) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).write(way == Way::ReadWrite).custom_flags(flags).open(path)
}

/// The header of the object, if it is there already as far as that tells.
fn there_already(path: &Path, key: Key, bytes: usize) -> Option<FrameHeader> {
    let file = open_object(path, Way::Read).ok()?;
    if !file.metadata().is_ok_and(|found| found.is_file() && found.len() == bytes as u64) {
        return None;
    }
    let mut page = [0; HEADER_BYTES];
    file.read_exact_at(&mut page, 0).ok()?;
    FrameHeader::decode(&page).ok().filter(|header| header.verify_key(key).is_ok())
}

fn held_by_another() -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, "another daemon has locked it")
}

fn foreign(path: &Path, what: &str) -> StoreError {
    StoreError::Corrupt(format!("{} {what}", path.display()))
}

/// Something is there, so it is not a block's object that is missing.
fn no_frame(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Missing(why) => foreign(path, &format!("is no frame: {why}")),
        error => error,
    }
}

#[cfg(test)]
mod tests;
