//! Faults of the device, beneath both engines: what the kernel does now and then must not be seen, and
//! what it can't do must be named, and nothing wrong served.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;

use super::{config, keeps_the_contract, opened};
use crate::domain::tier::Tier;
use crate::domain::units::CHUNK_BYTES;
use crate::env::{SeededRng, seeded_rng};
use crate::tiers::dram::Arena;
use crate::tiers::memory::MemoryStore;
use crate::tiers::nvme::flights::{Io, IoKind};
use crate::tiers::nvme::home::SLOTS_NAME;
use crate::tiers::nvme::ring::{Kernel, Landed};
use crate::tiers::nvme::slots::{Access, SlotFile};
use crate::tiers::nvme::{EngineChoice, NvmeConfig, open, open_through};
use crate::tiers::open::OpenError;
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::{Erasure, Place, StoreError, StoreOp, TierStore};

const PAGE: usize = 4096;
const ENGINES: [EngineChoice; 2] = [EngineChoice::Uring, EngineChoice::Blocking];

/// What goes wrong with an IO how often.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    /// Less than was asked for is moved, in whole pages.
    short: f64,
    /// Nothing is moved, and it has to be asked again.
    interrupted: f64,
    /// Of writes only.
    no_space: f64,
    failed: f64,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Whole,
    /// So many bytes.
    Short(usize),
    Errno(i32),
}

/// Draws what becomes of each IO, and counts what went wrong.
struct Faults {
    rates: Rates,
    rng: Mutex<SeededRng>,
    met: AtomicU64,
}

impl Faults {
    fn new(rates: Rates, seed: u64) -> Arc<Self> {
        Arc::new(Self { rates, rng: Mutex::new(seeded_rng(seed)), met: AtomicU64::new(0) })
    }

    fn fate(&self, is_write: bool, bytes: usize) -> Fate {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut fate, share): (f64, u32) = rng.random();
        let pages = bytes / PAGE;
        let some = 1 + share as usize % pages.saturating_sub(1).max(1);
        let kinds = [
            (self.rates.short, Fate::Short(some * PAGE)),
            (self.rates.interrupted, Fate::Errno(libc::EINTR)),
            (if is_write { self.rates.no_space } else { 0.0 }, Fate::Errno(libc::ENOSPC)),
            (self.rates.failed, Fate::Errno(libc::EIO)),
        ];
        for (rate, kind) in kinds {
            // A single page moves whole or not at all.
            if fate < rate && !(matches!(kind, Fate::Short(_)) && pages < 2) {
                self.met.fetch_add(1, Ordering::Relaxed);
                return kind;
            }
            fate -= rate;
        }
        Fate::Whole
    }
}

/// Puts the faults between a store and its device, whichever way it goes there.
struct Through(Arc<Faults>);

impl Access for Through {
    fn slots(&self, file: Arc<File>) -> Arc<dyn SlotFile> {
        Arc::new(FaultySlots { file, faults: Arc::clone(&self.0) })
    }

    fn kernel(&self, kernel: Box<dyn Kernel>) -> Box<dyn Kernel> {
        Box::new(FaultyKernel { kernel, faults: Arc::clone(&self.0), answers: Vec::new() })
    }
}

struct FaultySlots {
    file: Arc<File>,
    faults: Arc<Faults>,
}

impl FileExt for FaultySlots {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        match self.faults.fate(false, into.len()) {
            Fate::Whole => self.file.read_at(into, at),
            Fate::Short(bytes) => self.file.read_at(&mut into[..bytes], at),
            Fate::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn write_at(&self, from: &[u8], at: u64) -> io::Result<usize> {
        match self.faults.fate(true, from.len()) {
            Fate::Whole => self.file.write_at(from, at),
            Fate::Short(bytes) => self.file.write_at(&from[..bytes], at),
            Fate::Errno(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl SlotFile for FaultySlots {
    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn zero(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.file.zero(at, bytes)
    }
}

struct FaultyKernel {
    kernel: Box<dyn Kernel>,
    faults: Arc<Faults>,
    /// Answers that the kernel was never asked for.
    answers: Vec<Landed>,
}

impl Kernel for FaultyKernel {
    fn push(&mut self, tag: usize, io: Io) {
        match self.faults.fate(io.kind != IoKind::Read, io.bytes as usize) {
            Fate::Whole => self.kernel.push(tag, io),
            Fate::Short(bytes) => {
                self.kernel.push(tag, Io { bytes: u32::try_from(bytes).unwrap(), ..io });
            }
            Fate::Errno(errno) => self.answers.push(Landed::Piece { tag, answer: -errno }),
        }
    }

    fn watch_bell(&mut self) {
        self.kernel.watch_bell();
    }

    fn enter(&mut self) -> io::Result<()> {
        // What was pushed goes with the next call.
        if self.answers.is_empty() { self.kernel.enter() } else { Ok(()) }
    }

    fn landed(&mut self, into: &mut Vec<Landed>) {
        into.append(&mut self.answers);
        self.kernel.landed(into);
    }
}

fn faulty(config: &NvmeConfig, arena: &Arc<Arena>, faults: &Arc<Faults>) -> Arc<dyn TierStore> {
    let access: Arc<dyn Access> = Arc::new(Through(Arc::clone(faults)));
    open_through(config, arena, &access).expect("a start meets no fault").0
}

#[test]
fn short_and_interrupted_io_is_not_seen() {
    let rates = Rates { short: 0.4, interrupted: 0.3, ..Rates::default() };
    for engine in ENGINES {
        let faults = Faults::new(rates, 7);
        let access: Arc<dyn Access> = Arc::new(Through(Arc::clone(&faults)));
        let change = |config: &mut NvmeConfig| {
            config.engine = engine;
            (config.queue_depth, config.io_bytes) = (4, 64 << 10);
        };
        keeps_the_contract(&access, change);
        let met = faults.met.load(Ordering::Relaxed);
        assert!(met > 1_000, "only {met} faults");
    }
}

const SLOTS: u32 = 6;
const STEPS: u32 = 400;

fn block(number: u32) -> Sample {
    Sample { number, payload_bytes: 64 << 10 }
}

fn place(slot: u32) -> Place {
    block(0).place(u64::from(slot % 2) * CHUNK_BYTES, slot)
}

/// What a slot may hold by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Nothing,
    Whole(u32),
    /// An IO of it failed, or its file was cut: nobody can tell.
    Anything,
}

/// A store over a device that fails, and what every slot must hold.
struct Bench {
    store: Arc<dyn TierStore>,
    arena: Arc<Arena>,
    slots: [Holds; SLOTS as usize],
    failed: u32,
}

impl Bench {
    fn new(store: Arc<dyn TierStore>, arena: Arc<Arena>) -> Self {
        Self { store, arena, slots: [Holds::Nothing; SLOTS as usize], failed: 0 }
    }

    /// Lets go of the store, and so of its folder.
    fn close(&mut self) {
        self.store = Arc::new(MemoryStore::new(Tier::Nvme, Arc::clone(&self.arena)));
    }

    fn step(&mut self, rng: &mut SeededRng) {
        let slot = rng.random_range(0..SLOTS);
        let number = rng.random_range(0..SLOTS);
        match rng.random_range(0..10) {
            0..4 => {
                let end = sample::write(&*self.store, &self.arena, block(number), place(slot));
                self.changed(slot, Holds::Whole(number), end);
            }
            4..5 => {
                let erase = StoreOp::Erase {
                    key: block(number).key(),
                    place: place(slot),
                    why: Erasure::Unusable,
                };
                // Of a chunk that was never cut there is nothing to erase.
                let end = sample::run(&*self.store, erase);
                self.changed(slot, Holds::Nothing, end);
            }
            _ => self.read(slot, number),
        }
    }

    fn changed(&mut self, slot: u32, now: Holds, end: Result<(), StoreError>) {
        self.slots[slot as usize] = match end {
            Ok(()) => now,
            Err(error) => {
                self.named(&error);
                Holds::Anything
            }
        };
    }

    /// What is read well is the block's own bytes: `sample::read` compares them.
    fn read(&mut self, slot: u32, number: u32) {
        let holds = self.slots[slot as usize];
        let end = sample::read(&*self.store, &self.arena, block(number), place(slot));
        if let Err(error @ StoreError::Io { .. }) = &end {
            return self.named(error);
        }
        let is_right = match holds {
            Holds::Anything => !matches!(end, Err(StoreError::Busy | StoreError::TierLost(_))),
            Holds::Whole(there) if there == number => end.is_ok(),
            Holds::Whole(_) => matches!(end, Err(StoreError::Corrupt(_))),
            Holds::Nothing => matches!(end, Err(StoreError::Missing(_))),
        };
        assert!(is_right, "block {number} of slot {slot}, which holds {holds:?}: {end:?}");
    }

    fn named(&mut self, error: &StoreError) {
        let StoreError::Io { source, .. } = error else { panic!("{error:?} is another error") };
        let is_named = matches!(source.raw_os_error(), Some(libc::EIO | libc::ENOSPC))
            || source.kind() == io::ErrorKind::UnexpectedEof;
        assert!(is_named, "{source:?} is not what went wrong");
        self.failed += 1;
    }

    /// Every block that was written well is there, over a device that is well again.
    fn all_there(&self, store: &dyn TierStore) {
        let found = sample::scan(store);
        for (slot, holds) in (0..SLOTS).zip(self.slots) {
            if let Holds::Whole(number) = holds {
                assert!(found.contains(&(place(slot), block(number).key())), "{slot}: {found:?}");
                sample::read(store, &self.arena, block(number), place(slot)).unwrap();
            }
        }
    }
}

#[test]
fn what_the_device_can_not_do_is_named_and_nothing_wrong_is_served() {
    let rates = Rates { short: 0.3, interrupted: 0.1, no_space: 0.1, failed: 0.1 };
    for (engine, seed) in ENGINES.into_iter().flat_map(|engine| [(engine, 1), (engine, 2)]) {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        let small = NvmeConfig { io_bytes: 16 << 10, ..config(dir.path(), engine) };
        let store = faulty(&small, &arena, &Faults::new(rates, seed));
        let mut bench = Bench::new(store, Arc::clone(&arena));
        let mut rng = seeded_rng(seed);
        (0..STEPS).for_each(|_| bench.step(&mut rng));
        assert!(bench.failed > STEPS / 10, "{engine:?}, seed {seed}: {} failed", bench.failed);
        bench.close();
        bench.all_there(&*opened(&small, &arena).0);
    }
}

#[test]
fn of_a_file_that_shrinks_what_is_left_is_served_and_the_rest_is_an_error() {
    for engine in ENGINES {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        let config = config(dir.path(), engine);
        let mut bench = Bench::new(opened(&config, &arena).0, Arc::clone(&arena));
        for slot in 0..SLOTS {
            let end = sample::write(&*bench.store, &arena, block(slot), place(slot));
            bench.changed(slot, Holds::Whole(slot), end);
        }
        // In the middle of a slot of the first chunk: the second chunk goes as a whole.
        let cut = place(2).offset + 8192;
        shrink(dir.path(), cut);
        for slot in 0..SLOTS {
            let end = sample::read(&*bench.store, &arena, block(slot), place(slot));
            let is_left = place(slot).offset + u64::from(place(slot).slot_bytes) <= cut;
            assert_eq!(end.is_ok(), is_left, "slot {slot}: {end:?}");
            if let Err(error) = end {
                bench.named(&error);
                bench.slots[slot as usize] = Holds::Anything;
            }
        }
        bench.close();
        let refused = open(&config, &arena).err().expect("a file that shrank is refused");
        assert!(matches!(refused, OpenError::Refused(_)), "{refused:?}");
        // Written again it is long enough, with a hole where nothing is.
        bench.store = again(&config, dir.path(), &arena);
        let mut rng = seeded_rng(3);
        (0..STEPS).for_each(|_| bench.step(&mut rng));
    }
}

fn shrink(dir: &Path, bytes: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(dir.join(SLOTS_NAME)).unwrap();
    file.set_len(bytes).unwrap();
}

/// Someone lengthens the file again: its frames are gone all the same.
fn again(config: &NvmeConfig, dir: &Path, arena: &Arc<Arena>) -> Arc<dyn TierStore> {
    shrink(dir, config.capacity_bytes);
    opened(config, arena).0
}
