//! Several folders as one tier: chunk after chunk lies in one after the other, so that slots which are
//! dealt out in turn keep all devices busy.
//!
//! Each folder has its own lock, superblock, slot file and engine. Never moves a frame from one to
//! another, and never serves without one of them: a chain would have holes wherever it was.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::superblock::{Stripe, Superblock};
use super::{NvmeConfig, NvmeFacts, home, open};
use crate::domain::tier::Tier;
use crate::domain::units::CHUNK_BYTES;
use crate::env;
use crate::tiers::dram::Arena;
use crate::tiers::health::Health;
use crate::tiers::open::OpenError;
use crate::tiers::store::{Done, FoundFrame, Place, StoreError, StoreOp, TierStore};
use crate::tiers::workers::Workers;

/// Frames of all folders that wait for a scan's caller at most.
const FOUND_MAX: usize = 1024;

/// A folder's store, and what it turned out to be.
pub type Opened = (Arc<dyn TierStore>, NvmeFacts);

/// Opens each of the folders, `config.dir` first: as stores that [`Striped::new`] makes one of. The
/// capacity is that of all, and a multiple of a chunk in each.
///
/// # Errors
/// See [`OpenError`]. One of the folders is not what it was when the others were written.
pub fn open_striped(
    config: &NvmeConfig,
    more_dirs: &[PathBuf],
    arena: &Arc<Arena>,
) -> Result<Vec<Opened>, OpenError> {
    let parts = parts(config, more_dirs)?;
    if parts.len() > 1 {
        // All of them before the first is made: it would be one of several for good.
        parts.iter().try_for_each(home::look)?;
    }
    parts.iter().map(|part| open(part, arena)).collect()
}

/// Whether [`open_striped`] would take the folders as they are; a single one too. Changes nothing.
///
/// # Errors
/// What it would say, as far as that is known without making anything.
pub fn look_striped(config: &NvmeConfig, more_dirs: &[PathBuf]) -> Result<(), OpenError> {
    parts(config, more_dirs)?.iter().try_for_each(home::look)
}

/// The tier's folders, each with its part of the capacity, and all of one node.
fn parts(config: &NvmeConfig, more_dirs: &[PathBuf]) -> Result<Vec<NvmeConfig>, OpenError> {
    let dirs: Vec<_> = std::iter::once(&config.dir).chain(more_dirs).collect();
    let mut node_id = config.node_id;
    if dirs.len() > 1 {
        are_apart(&dirs)?;
        let known = known_node(&dirs)?;
        node_id = Some(node_id.or(known).unwrap_or_else(env::random_bytes));
    }
    let count = u32::try_from(dirs.len()).expect("folders are few");
    let capacity_bytes = config.capacity_bytes / u64::from(count);
    let part = |(index, dir): (u32, &PathBuf)| NvmeConfig {
        dir: dir.clone(),
        capacity_bytes,
        node_id,
        stripe: Stripe { index, count },
        ..config.clone()
    };
    Ok((0..count).zip(dirs).map(part).collect())
}

/// No two of them are one folder, by whatever name.
fn are_apart(dirs: &[&PathBuf]) -> Result<(), OpenError> {
    let mut seen: Vec<(PathBuf, &PathBuf)> = Vec::new();
    for dir in dirs {
        let real = real_path(dir);
        if let Some((_, before)) = seen.iter().find(|(before, _)| *before == real) {
            return Err(OpenError::Config(format!(
                "{} and {} are one folder: name each disk's folder once in nvme.path and nvme.more_paths",
                before.display(),
                dir.display()
            )));
        }
        seen.push((real, dir));
    }
    Ok(())
}

/// Where the path leads, as far as it is there.
fn real_path(path: &Path) -> PathBuf {
    let standing = path.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    let Some((above, mut real)) = standing else { return path.to_owned() };
    for part in path.strip_prefix(above).into_iter().flat_map(Path::components) {
        match part {
            Component::ParentDir => drop(real.pop()),
            part => real.push(part),
        }
    }
    real
}

/// The node that the folders belong to, if any is known. A folder that has nothing while others were
/// written to is a disk that is not mounted.
fn known_node(dirs: &[&PathBuf]) -> Result<Option<[u8; 16]>, OpenError> {
    let found = dirs.iter().map(|dir| Superblock::load(dir)).collect::<Result<Vec<_>, _>>()?;
    let is_used = found.iter().flatten().any(|block| block.written_bytes() > 0);
    match dirs.iter().zip(&found).find(|(_, block)| block.is_none()) {
        Some((dir, _)) if is_used => {
            let all: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
            Err(OpenError::Refused(format!(
                "{} holds no slots while the tier's other folders do; nothing was changed: mount its \
                 disk, or move everything out of all of {} to start with an empty tier",
                dir.display(),
                all.join(", ")
            )))
        }
        _ => Ok(found.iter().flatten().next().map(|block| block.node_id)),
    }
}

/// The folders' stores as one.
pub struct Striped {
    stores: Vec<Arc<dyn TierStore>>,
}

impl Striped {
    /// # Panics
    /// There is no store.
    #[must_use]
    pub fn new(stores: Vec<Arc<dyn TierStore>>) -> Self {
        assert!(!stores.is_empty(), "a tier lies somewhere");
        Self { stores }
    }

    /// Which store has the place, and where there.
    fn inside(&self, place: Place) -> (&Arc<dyn TierStore>, Place) {
        let count = self.stores.len() as u64;
        let (chunk, within) = (place.offset / CHUNK_BYTES, place.offset % CHUNK_BYTES);
        let store = usize::try_from(chunk % count).expect("an index of a slice");
        (&self.stores[store], Place { offset: chunk / count * CHUNK_BYTES + within, ..place })
    }
}

/// Where the place of the store with this index lies in the tier.
fn outside((index, count): (usize, usize), place: Place) -> Place {
    let (chunk, within) = (place.offset / CHUNK_BYTES, place.offset % CHUNK_BYTES);
    Place { offset: (chunk * count as u64 + index as u64) * CHUNK_BYTES + within, ..place }
}

impl TierStore for Striped {
    fn tier(&self) -> Tier {
        Tier::Nvme
    }

    fn submit(&self, mut op: StoreOp, done: Done) {
        let (StoreOp::Write { place, .. }
        | StoreOp::Read { place, .. }
        | StoreOp::Erase { place, .. }
        | StoreOp::Restamp { place, .. }) = &mut op;
        let (store, there) = self.inside(*place);
        *place = there;
        store.submit(op, done);
    }

    fn sync(&self, done: Done) {
        let unsynced = AtomicUsize::new(self.stores.len());
        let all = Arc::new(All { done: Mutex::new(Some(done)), unsynced });
        for store in &self.stores {
            let one = Arc::clone(&all);
            store.sync(Box::new(move |result| one.ended(result)));
        }
    }

    /// One that is out takes the tier out: chains have blocks on all of them. The one that refuses most
    /// speaks for all.
    fn health(&self) -> Health {
        let healths = self.stores.iter().map(|store| store.health());
        let badness = |health: &Health| {
            let refuses = health.refuses();
            (refuses.reads, refuses.writes, health.is_out())
        };
        healths.max_by_key(badness).unwrap_or_default()
    }

    fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        // Waited for after the channel is gone: a scan that nobody hears must not wait to be heard.
        let mut scans = Workers::default();
        let (report, reports) = crossbeam_channel::bounded(FOUND_MAX);
        let count = self.stores.len();
        for (index, store) in self.stores.iter().enumerate() {
            let (store, report) = (Arc::clone(store), report.clone());
            let scan = move || {
                let scanned = store.scan(&mut |mut frame| {
                    frame.place = outside((index, count), frame.place);
                    drop(report.send(Ok(frame)));
                });
                scanned.unwrap_or_else(|error| drop(report.send(Err(error))));
            };
            scans.start_one(&format!("nvme-scan-of-{index}"), scan).map_err(no_thread)?;
        }
        drop(report);
        let mut ended = Ok(());
        for what in reports {
            match what {
                Ok(frame) => found(frame),
                Err(error) => ended = Err(error),
            }
        }
        ended
    }
}

fn no_thread(source: io::Error) -> StoreError {
    StoreError::Io { what: "can't start the scan".into(), source }
}

/// Waits for the answers of all stores: well only when each of them said so.
struct All {
    done: Mutex<Option<Done>>,
    unsynced: AtomicUsize,
}

impl All {
    fn ended(&self, result: Result<(), StoreError>) {
        match result {
            Ok(()) if self.unsynced.fetch_sub(1, Ordering::AcqRel) > 1 => {}
            result => self.answer(result),
        }
    }

    fn answer(&self, result: Result<(), StoreError>) {
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(done) = done {
            done(result);
        }
    }
}

impl Drop for All {
    /// A store that let go of the question without an answer has kept nothing.
    fn drop(&mut self) {
        self.answer(Err(StoreError::TierLost("a folder's store did not answer".into())));
    }
}
