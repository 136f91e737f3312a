//! What a disk does to frames: restarts, torn writes, chunks cut anew, operations that make no
//! sense.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{config, opened, overwrite};
use crate::domain::block::Key;
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::nvme::home::SLOTS_NAME;
use crate::tiers::nvme::recovery::{Passed, look_through};
use crate::tiers::nvme::slots::{Access, SlotFile, Straight};
use crate::tiers::nvme::stall::Stall;
use crate::tiers::nvme::superblock::Superblock;
use crate::tiers::nvme::table::ChunkTable;
use crate::tiers::nvme::{EngineChoice, NvmeConfig, open_through};
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::{Erasure, FoundFrame, FrameSpan, Place, StoreError, StoreOp};

const SMALL: Sample = Sample { number: 1, payload_bytes: 20_000 };
const LARGE: Sample = Sample { number: 2, payload_bytes: 1 << 20 };

fn for_each_engine(check: impl Fn(EngineChoice)) {
    [EngineChoice::Uring, EngineChoice::Blocking].into_iter().for_each(check);
}

#[test]
fn frames_of_two_lengths_are_found_after_a_restart_and_read_back() {
    for_each_engine(|engine| {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        let config = config(dir.path(), engine);
        // The same block twice: which copy counts is not the store's business.
        let wanted = [
            (SMALL.place(0, 7), SMALL),
            (SMALL.place(0, 9), SMALL),
            (LARGE.place(CHUNK_BYTES, 3), LARGE),
        ];
        let (store, _) = opened(&config, &arena);
        for (place, block) in wanted {
            sample::write(&*store, &arena, block, place).unwrap();
        }
        drop(store);
        let (store, _) = opened(&config, &arena);
        assert_eq!(sample::scan(&*store), wanted.map(|(place, block)| (place, block.key())));
        for (place, block) in wanted {
            sample::read(&*store, &arena, block, place).unwrap();
        }
    });
}

#[test]
fn a_scan_tells_what_is_damaged_from_what_was_never_there() {
    tells_damage(&(Arc::new(Straight) as _));
    tells_damage(&(Arc::new(NoZeros::new(io::ErrorKind::Unsupported, true)) as _));
}

/// A file system that makes no zeros, for this reason, while the test says so.
struct NoZeros {
    why: io::ErrorKind,
    is_so: Arc<AtomicBool>,
}

impl NoZeros {
    fn new(why: io::ErrorKind, is_so: bool) -> Self {
        Self { why, is_so: Arc::new(AtomicBool::new(is_so)) }
    }
}

impl Access for NoZeros {
    fn slots(&self, file: Arc<File>) -> Arc<dyn SlotFile> {
        let (inside, is_so) = (Straight.slots(file), Arc::clone(&self.is_so));
        Arc::new(NoZerosFile { inside, why: self.why, is_so })
    }
}

struct NoZerosFile {
    inside: Arc<dyn SlotFile>,
    why: io::ErrorKind,
    is_so: Arc<AtomicBool>,
}

impl FileExt for NoZerosFile {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.inside.read_at(into, at)
    }

    fn write_at(&self, from: &[u8], at: u64) -> io::Result<usize> {
        self.inside.write_at(from, at)
    }
}

impl SlotFile for NoZerosFile {
    fn flush(&self) -> io::Result<()> {
        self.inside.flush()
    }

    fn zero(&self, at: u64, bytes: u64) -> io::Result<()> {
        if self.is_so.load(Ordering::SeqCst) {
            Err(self.why.into())
        } else {
            self.inside.zero(at, bytes)
        }
    }
}

/// What a start would find if it came now.
fn next_scan(config: &NvmeConfig) -> (Vec<(Place, Key)>, Passed) {
    let superblock = Superblock::load(&config.dir).unwrap().unwrap();
    let file = File::open(config.dir.join(SLOTS_NAME)).unwrap();
    let slots = Straight.slots(Arc::new(file));
    let table = Arc::new(ChunkTable::new(&superblock));
    let stall = Stall::new(config.dir.clone(), &(Arc::new(Straight) as _));
    let mut frames = Vec::new();
    let mut found = |frame: FoundFrame| frames.push((frame.place, frame.header.meta.key));
    let passed = look_through(&slots, &table, &stall, &mut found).unwrap();
    (frames, passed)
}

fn tells_damage(access: &Arc<dyn Access>) {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let config = config(dir.path(), EngineChoice::Blocking);
    let scanned = |wanted: usize| {
        let (frames, passed) = next_scan(&config);
        assert_eq!(frames.len(), wanted);
        passed
    };
    let (store, _) = open_through(&config, &arena, access).unwrap();
    // In the second, part of the payload lies where the second large slot will begin.
    let places = [SMALL.place(0, 7), SMALL.place(0, 42)];
    for place in places {
        sample::write(&*store, &arena, SMALL, place).unwrap();
    }
    assert_eq!(scanned(2), Passed::default());
    overwrite(&config.dir, places[0].offset + 100, |found| !found, 1);
    assert_eq!(scanned(1), Passed { damaged: 1, ..Passed::default() });
    // A chunk that is cut anew has headers where payloads were.
    sample::write(&*store, &arena, LARGE, LARGE.place(0, 0)).unwrap();
    assert_eq!(scanned(1), Passed::default());
}

#[test]
fn the_last_slot_of_the_last_chunk_is_usable() {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let (store, _) = opened(&config(dir.path(), EngineChoice::Auto), &arena);
    let last = u32::try_from(CHUNK_BYTES).unwrap() / LARGE.frame_bytes() - 1;
    let place = LARGE.place(CHUNK_BYTES, last);
    sample::write(&*store, &arena, LARGE, place).unwrap();
    sample::read(&*store, &arena, LARGE, place).unwrap();
}

/// A write that a crash cut short: `written` bytes of the frame, and what was there before behind.
fn torn_after(written: usize) -> (Vec<(Place, Key)>, StoreError) {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let config = config(dir.path(), EngineChoice::Auto);
    let (store, _) = opened(&config, &arena);
    let place = LARGE.place(0, 0);
    sample::write(&*store, &arena, LARGE, place).unwrap();
    drop(store);
    let rest = LARGE.frame_bytes() as usize - written;
    overwrite(dir.path(), place.offset + written as u64, |_| 0, rest);
    let (store, _) = opened(&config, &arena);
    (sample::scan(&*store), sample::read(&*store, &arena, LARGE, place).unwrap_err())
}

#[test]
fn a_torn_payload_is_found_and_then_known_as_corrupt() {
    for written in [4096, 512 << 10] {
        let (found, read) = torn_after(written);
        assert_eq!(found, [(LARGE.place(0, 0), LARGE.key())], "{written} bytes written");
        assert!(matches!(read, StoreError::Corrupt(_)), "{written} bytes written: {read}");
    }
}

#[test]
fn a_torn_header_is_passed_over() {
    let (found, read) = torn_after(16);
    assert_eq!(found, []);
    assert!(matches!(read, StoreError::Corrupt(_)), "{read}");
    let (found, read) = torn_after(0);
    assert_eq!(found, []);
    assert!(matches!(read, StoreError::Missing(_)), "{read}");
}

#[test]
fn a_chunk_cut_anew_forgets_what_was_in_it_for_good() {
    for_each_engine(|engine| {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        let config = config(dir.path(), engine);
        let (store, _) = opened(&config, &arena);
        let far = SMALL.place(0, 1000);
        sample::write(&*store, &arena, SMALL, far).unwrap();
        sample::write(&*store, &arena, LARGE, LARGE.place(0, 0)).unwrap();
        let missing = sample::read(&*store, &arena, SMALL, far).unwrap_err();
        assert!(matches!(missing, StoreError::Missing(_)), "{missing}");
        sample::read(&*store, &arena, LARGE, LARGE.place(0, 0)).unwrap();
        drop(store);
        let (store, _) = opened(&config, &arena);
        assert_eq!(sample::scan(&*store), [(LARGE.place(0, 0), LARGE.key())]);
        // Cut back: nothing of the first cut may come to life again.
        sample::write(&*store, &arena, SMALL, SMALL.place(0, 1)).unwrap();
        assert_eq!(sample::scan(&*store), [(SMALL.place(0, 1), SMALL.key())]);
    });
}

#[test]
fn whoever_got_a_chunk_and_wrote_nothing_ends_by_an_erase_what_was_in_it() {
    for_each_engine(|engine| {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        let stuck = NoZeros::new(io::ErrorKind::Other, false);
        let (config, is_stuck) = (config(dir.path(), engine), Arc::clone(&stuck.is_so));
        let (store, _) = open_through(&config, &arena, &(Arc::new(stuck) as _)).unwrap();
        let (old, new) = (SMALL.place(0, 1000), LARGE.place(0, 3));
        let erase = |place| {
            sample::run(&*store, StoreOp::Erase { key: LARGE.key(), place, why: Erasure::Unusable })
        };
        sample::write(&*store, &arena, SMALL, old).unwrap();
        // The write came nowhere, or none ever began.
        for writes in [true, false] {
            is_stuck.store(true, Ordering::SeqCst);
            if writes {
                sample::write(&*store, &arena, LARGE, new).unwrap_err();
            }
            erase(new).expect_err("the old frames are readable as before");
            assert_eq!(next_scan(&config).0, [(old, SMALL.key())]);
            erase(LARGE.place(CHUNK_BYTES, 0)).expect("nothing was ever there");
            is_stuck.store(false, Ordering::SeqCst);
            erase(new).unwrap();
            assert_eq!(next_scan(&config).0, []);
            sample::write(&*store, &arena, SMALL, old).unwrap();
        }
    });
}

/// A folder whose names are made durable only when the test says so.
#[derive(Default)]
struct Unsynced(AtomicBool);

impl Access for Unsynced {
    fn sync_folder(&self, dir: &Path) -> io::Result<()> {
        let is_new = Superblock::load(dir).unwrap().unwrap().slot_bytes[0] == LARGE.frame_bytes();
        if is_new && self.0.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Straight.sync_folder(dir)
    }
}

#[test]
fn a_cut_that_may_not_be_durable_is_made_anew_before_the_next_write() {
    for_each_engine(|engine| {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        let (config, unsynced) = (config(dir.path(), engine), Arc::new(Unsynced::default()));
        let (store, _) = open_through(&config, &arena, &(Arc::clone(&unsynced) as _)).unwrap();
        sample::write(&*store, &arena, SMALL, SMALL.place(0, 7)).unwrap();
        unsynced.0.store(true, Ordering::SeqCst);
        // The exchange is done, and the folder shows the new cut.
        let failed = sample::write(&*store, &arena, LARGE, LARGE.place(0, 0)).unwrap_err();
        assert!(matches!(failed, StoreError::Io { .. }), "{failed}");
        let place = SMALL.place(0, 9);
        sample::write(&*store, &arena, SMALL, place).unwrap_err();
        unsynced.0.store(false, Ordering::SeqCst);
        sample::write(&*store, &arena, SMALL, place).unwrap();
        drop(store);
        assert_eq!(sample::scan(&*opened(&config, &arena).0), [(place, SMALL.key())]);
    });
}

#[test]
fn operations_that_reach_outside_are_refused_and_harm_nothing() {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let (store, _) = opened(&config(dir.path(), EngineChoice::Auto), &arena);
    let good = SMALL.place(0, 0);
    sample::write(&*store, &arena, SMALL, good).unwrap();
    let frame = SMALL.fill(&arena, 2);
    let places = [
        Place { offset: 2 * CHUNK_BYTES, ..good },
        Place { offset: u64::MAX - 4095, ..good },
        Place { offset: 512, ..good },
        Place { slot_bytes: 0, ..good },
        Place { slot_bytes: 4096, ..good },
        Place { slot_bytes: u32::MAX, ..good },
        // The chunk's end lies inside.
        SMALL.place(0, u32::try_from(CHUNK_BYTES).unwrap() / SMALL.frame_bytes()),
    ];
    let spans = [
        FrameSpan { offset: arena.len_bytes(), ..frame },
        FrameSpan { offset: u64::MAX - 4095, ..frame },
        FrameSpan { offset: 100, ..frame },
        FrameSpan { bytes: frame.bytes - 1, ..frame },
        FrameSpan { bytes: frame.bytes + 4096, ..frame },
        FrameSpan { bytes: 0, ..frame },
    ];
    let key = SMALL.key();
    let badly_placed = places.into_iter().flat_map(|place| {
        [
            StoreOp::Write { key, place, frame },
            StoreOp::Read { key, place, frame },
            StoreOp::Erase { key, place, why: Erasure::Unusable },
        ]
    });
    let badly_framed = spans.into_iter().flat_map(|frame| {
        [StoreOp::Write { key, place: good, frame }, StoreOp::Read { key, place: good, frame }]
    });
    for op in badly_placed.chain(badly_framed) {
        match sample::run(&*store, op) {
            Err(StoreError::Io { source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::InvalidInput, "{op:?}");
            }
            other => panic!("{op:?} ended as {other:?}"),
        }
    }
    sample::read(&*store, &arena, SMALL, good).unwrap();
}

#[test]
fn what_is_not_the_blocks_sealed_frame_takes_no_slot() {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let (store, _) = opened(&config(dir.path(), EngineChoice::Auto), &arena);
    let (place, frame) = (LARGE.place(0, 0), LARGE.fill(&arena, 0));
    let other = StoreOp::Write { key: SMALL.key(), place, frame };
    assert!(matches!(sample::run(&*store, other), Err(StoreError::Corrupt(_))));
    let short = FrameSpan { bytes: frame.bytes - 4096, ..frame };
    let short = StoreOp::Write { key: LARGE.key(), place, frame: short };
    assert!(matches!(sample::run(&*store, short), Err(StoreError::Corrupt(_))));
    assert_eq!(sample::scan(&*store), []);
}

#[test]
fn a_missing_slot_file_page_is_an_error_of_the_copy_not_a_panic() {
    for_each_engine(|engine| {
        let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
        let (store, _) = opened(&config(dir.path(), engine), &arena);
        let place = SMALL.place(0, 5);
        sample::write(&*store, &arena, SMALL, place).unwrap();
        // Someone truncates the file under a running daemon.
        let slots = dir.path().join(crate::tiers::nvme::home::SLOTS_NAME);
        std::fs::OpenOptions::new().write(true).open(slots).unwrap().set_len(8192).unwrap();
        let error = sample::read(&*store, &Arc::clone(&arena), SMALL, place).unwrap_err();
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
    });
}
