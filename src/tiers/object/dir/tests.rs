//! The folder against the contract, and against what else may lie in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use tokio::runtime::Runtime;

use super::*;
use crate::domain::retention::RetentionRecord;
use crate::domain::units::Time;
use crate::env::Stopwatch;
use crate::tiers::contract::{self, Fixture};
use crate::tiers::health::Refuses;
use crate::tiers::object::s3::tests::s3::runtime;
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::{Erasure, Place};

const BLOCK: Sample = Sample { number: 1, payload_bytes: 20_000 };
const ANYWHERE: Place = Place { offset: 0, slot_bytes: 0 };

static RUNTIME: LazyLock<Runtime> = LazyLock::new(runtime);

fn open(dir: &Path, arena: &Arc<Arena>) -> DirStore {
    DirStore::open(dir, false, ObjectOptions::default(), arena, RUNTIME.handle())
        .unwrap_or_else(|error| panic!("{error}"))
}

fn opened() -> (tempfile::TempDir, Arc<Arena>, DirStore) {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let store = open(dir.path(), &arena);
    (dir, arena, store)
}

fn path(dir: &Path, block: Sample) -> PathBuf {
    dir.join(object_name(block.key()))
}

#[test]
fn keeps_the_contract() {
    contract::check_store(|| {
        let (dir, arena) = (tempfile::tempdir().unwrap(), contract::arena(0));
        let store = Arc::new(open(dir.path(), &arena));
        let root = dir.path().to_owned();
        let (path, memory) = (root.clone(), Arc::clone(&arena));
        let restart = move |old| {
            drop(old);
            Arc::new(open(&path, &memory)) as Arc<dyn TierStore>
        };
        let flip = move |key, _, byte: usize| {
            let path = root.join(object_name(key));
            let mut bytes = fs::read(&path).unwrap();
            bytes[byte] ^= 1;
            fs::write(path, bytes).unwrap();
        };
        Fixture::new(arena, store).restarted_by(restart).corrupted_by(flip).keeping(dir)
    });
}

#[test]
fn what_was_written_is_flushed_and_a_folder_that_is_gone_says_so() {
    let (dir, arena, store) = opened();
    let flushed = |store: &DirStore| {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        store.sync(Box::new(move |result| tell.send(result).unwrap()));
        told.recv().unwrap()
    };
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    flushed(&store).unwrap();
    sample::write(&store, &arena, Sample { number: 2, ..BLOCK }, ANYWHERE).unwrap();
    flushed(&store).unwrap();
    let (gone, _, store) = opened();
    drop(gone);
    assert!(matches!(flushed(&store), Err(StoreError::Io { .. })));
    drop(dir);
}

#[test]
fn objects_settle_whoever_wrote_them_and_those_that_are_gone_are_no_error() {
    let (dir, _, store) = opened();
    let blobs = store.blobs(RUNTIME.handle());
    fs::create_dir(dir.path().join("v1/packs")).unwrap();
    fs::write(dir.path().join("v1/packs/there"), "x").unwrap();
    let settle = |name: &str| RUNTIME.block_on(blobs.settle(vec![name.to_owned()]));
    settle("v1/packs/there").unwrap();
    settle("v1/packs/gone").unwrap();
    settle("v1/gone/gone").unwrap();
    let path = dir.path().join("v1/packs/loop");
    std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
    settle("v1/packs/loop").unwrap();
    assert!(settle("v1/packs/there/not-a-folder").is_err());
}

/// A block in a pack is found by the pack's head, and may come to be told as durable by this daemon.
#[test]
fn what_another_daemon_wrote_is_flushed_with_the_next_flush_after_it_was_found() {
    let (dir, arena, store) = opened();
    let other = open(dir.path(), &arena);
    let name = "v1/packs/one/a-pack";
    let path = dir.path().join(name);
    let flush = || store.folder.unsynced.flush(dir.path()).unwrap();
    flush();
    let (here, there) = (store.blobs(RUNTIME.handle()), other.blobs(RUNTIME.handle()));
    RUNTIME
        .block_on(there.put(name, vec![bytes::Bytes::from_static(b"a head, and frames")]))
        .unwrap();
    assert!(!store.folder.unsynced.has(&path));
    assert_eq!(RUNTIME.block_on(here.head(name, 6)).unwrap(), b"a head");
    assert!(store.folder.unsynced.has(&path));
    flush();
    assert!(!store.folder.unsynced.has(&path));
}

#[test]
fn objects_outlive_the_store_and_are_shared_between_stores() {
    let (dir, arena, store) = opened();
    let other = open(dir.path(), &arena);
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    sample::read(&other, &arena, BLOCK, ANYWHERE).unwrap();
    drop((store, other));
    let store = open(dir.path(), &arena);
    assert!(store.contains(BLOCK.key()));
    sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
    assert_eq!(sample::scan(&store), [(ANYWHERE, BLOCK.key())]);
    assert_eq!(fs::read(path(dir.path(), BLOCK)).unwrap(), BLOCK.bytes());
}

#[test]
fn an_object_that_is_there_is_not_written_again() {
    let (dir, arena, store) = opened();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    let before = fs::metadata(path(dir.path(), BLOCK)).unwrap().ino();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    assert_eq!(fs::metadata(path(dir.path(), BLOCK)).unwrap().ino(), before);
}

#[test]
fn durable_objects_come_back_too() {
    let (dir, arena) = (tempfile::tempdir().unwrap(), sample::arena());
    let options = ObjectOptions::default();
    let store = DirStore::open(dir.path(), true, options, &arena, RUNTIME.handle()).unwrap();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
}

/// Something that is not this block's object lies under its name.
fn check_foreign(make: impl Fn(&Path), mends: bool) {
    let (dir, arena, store) = opened();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    let path = path(dir.path(), BLOCK);
    fs::remove_file(&path).unwrap();
    make(&path);
    let error = sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    let written = sample::write(&store, &arena, BLOCK, ANYWHERE);
    assert_eq!(written.is_ok(), mends, "{written:?}");
    if mends {
        sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
    }
}

#[test]
fn what_is_not_the_blocks_object_is_corrupt_and_a_write_replaces_it() {
    check_foreign(|path| fs::write(path, []).unwrap(), true);
    check_foreign(|path| fs::write(path, "a note").unwrap(), true);
    check_foreign(|path| fs::write(path, vec![0; 24_576]).unwrap(), true);
    check_foreign(|path| fs::write(path, vec![7; 1 << 20]).unwrap(), true);
    check_foreign(|path| fs::write(path, &BLOCK.bytes()[..8192]).unwrap(), true);
    let other = Sample { number: 2, ..BLOCK };
    check_foreign(|path| fs::write(path, other.bytes()).unwrap(), true);
    check_foreign(|path| std::os::unix::fs::symlink("/etc/hostname", path).unwrap(), true);
    check_foreign(
        |path| {
            let mode = rustix::fs::Mode::RUSR;
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
        },
        true,
    );
    check_foreign(|path| fs::create_dir(path).unwrap(), false);
}

#[test]
fn a_torn_object_is_corrupt_until_it_is_erased() {
    let (dir, arena, store) = opened();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    let mut bytes = BLOCK.bytes();
    bytes[12_000..].fill(0);
    fs::write(path(dir.path(), BLOCK), bytes).unwrap();
    let error = sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
    sample::run(
        &store,
        StoreOp::Erase { key: BLOCK.key(), place: ANYWHERE, why: Erasure::Unusable },
    )
    .unwrap();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
}

#[test]
fn a_folder_that_went_away_is_a_lost_tier_not_missing_blocks() {
    let (dir, arena, store) = opened();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    fs::remove_dir_all(dir.path()).unwrap();
    let read = sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
    assert!(matches!(read, StoreError::TierLost(_)), "{read}");
    let written = sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
    assert!(matches!(written, StoreError::TierLost(_)), "{written}");
}

fn until(wanted: impl Fn() -> bool) {
    let waiting = Stopwatch::start();
    while !wanted() {
        assert!(waiting.elapsed() < Duration::from_secs(30), "it takes too long");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_folder_that_is_taken_away_is_out_though_nobody_asks_and_comes_back_by_itself() {
    let (dir, arena, store) = opened();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    assert_eq!(store.health(), Health::Well);
    let (there, away) = (dir.path().join("v1"), dir.path().join("away"));
    fs::rename(&there, &away).unwrap();
    until(|| store.health().is_out());
    let said = store.health().to_string();
    assert!(said.contains("OUT for reads and writes") && said.contains("mount it"), "{said}");
    let refused = sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap_err();
    assert!(refused.to_string().contains("the object store is OUT"), "{refused}");
    fs::rename(&away, &there).unwrap();
    until(|| store.health() == Health::Well);
    sample::read(&store, &arena, BLOCK, ANYWHERE).unwrap();
    sample::write(&store, &arena, Sample { number: 2, ..BLOCK }, ANYWHERE).unwrap();
}

#[test]
fn a_folder_that_was_read_only_is_watched_and_takes_writes_again_though_nobody_writes() {
    let (dir, _, store) = opened();
    let read_only = || {
        let error = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
        let denied = store.folder.failed("write", dir.path())(error);
        store.folder.guard.heard::<()>(guard::Way::Write, &Err(denied));
        assert_eq!(store.health().refuses(), Refuses::WRITES);
    };
    read_only();
    until(|| store.health() == Health::Well);
    // No word of a full disk says that it has room for frames: reads are watched all the same.
    let full = StoreError::TierLost("it is full".into());
    store.folder.guard.heard::<()>(guard::Way::Write, &Err(full));
    let (there, away) = (dir.path().join("v1"), dir.path().join("away"));
    fs::rename(&there, &away).unwrap();
    until(|| store.health().refuses().reads);
}

#[test]
fn folders_that_cannot_be_written_are_refused_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "mine").unwrap();
    for path in [file.as_path(), Path::new("/sys/kernel/terrace")] {
        let (options, arena) = (ObjectOptions::default(), sample::arena());
        let opened = DirStore::open(path, false, options, &arena, RUNTIME.handle());
        let said = opened.err().expect("it can't be written to").to_string();
        assert!(said.contains(path.to_str().unwrap()), "{said}");
        assert!(said.contains("choose another folder"), "{said}");
    }
}

#[test]
fn a_crashs_leavings_are_cleared_and_others_work_is_not() {
    let (dir, arena, store) = opened();
    drop(store);
    let unfinished = dir.path().join("v1/unfinished");
    let (old, young) = (unfinished.join("old"), unfinished.join("young"));
    fs::write(&old, "half").unwrap();
    fs::write(&young, "half").unwrap();
    let two_hours_ago = fs::metadata(&old).unwrap().modified().unwrap() - 2 * LEFT_BEHIND;
    File::options().write(true).open(&old).unwrap().set_modified(two_hours_ago).unwrap();
    open(dir.path(), &arena);
    assert!(!old.exists() && young.exists());
}

#[test]
fn frames_outside_the_arena_are_refused() {
    let (_dir, arena, store) = opened();
    let frame = FrameSpan { offset: arena.len_bytes(), bytes: BLOCK.frame_bytes() };
    for op in [
        StoreOp::Write { key: BLOCK.key(), place: ANYWHERE, frame },
        StoreOp::Read { key: BLOCK.key(), place: ANYWHERE, frame },
    ] {
        assert!(matches!(sample::run(&store, op), Err(StoreError::Io { .. })));
    }
}

#[test]
fn a_record_is_written_in_place_and_through_no_link() {
    let (dir, arena, store) = opened();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    let path = path(dir.path(), BLOCK);
    let before = fs::metadata(&path).unwrap().ino();
    sample::restamp(&store, BLOCK, ANYWHERE, 80).unwrap();
    assert_eq!(sample::peek(&store, BLOCK).unwrap(), 80);
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);
    let (found, written) = (fs::read(&path).unwrap(), BLOCK.bytes());
    assert_eq!((&found[..1024], &found[1536..]), (&written[..1024], &written[1536..]));
    // A node that stores the block as well brings what it was asked for.
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    assert_eq!(sample::peek(&store, BLOCK).unwrap(), 35);
    assert_eq!(fs::metadata(&path).unwrap().ino(), before);

    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let linked = sample::restamp(&store, BLOCK, ANYWHERE, 90).unwrap_err();
    assert!(matches!(linked, StoreError::Corrupt(_)), "{linked}");
    let linked = sample::peek(&store, BLOCK).unwrap_err();
    assert!(matches!(linked, StoreError::Corrupt(_)), "{linked}");
}

#[test]
fn what_is_no_object_is_corrupt_to_a_look_at_its_header_and_stays_as_it_is() {
    let (dir, arena, store) = opened();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    let path = path(dir.path(), BLOCK);
    let other = Sample { number: 2, ..BLOCK }.bytes();
    for bad in
        [&[][..], b"a note", &vec![0; 24_576], &vec![7; 100_000], &BLOCK.bytes()[..4096], &other]
    {
        fs::write(&path, bad).unwrap();
        for error in [
            sample::peek(&store, BLOCK).unwrap_err(),
            sample::restamp(&store, BLOCK, ANYWHERE, 80).unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::Corrupt(_)), "{} bytes: {error}", bad.len());
        }
        assert_eq!(fs::read(&path).unwrap(), bad);
    }
}

const LATER: Time = Time::from_millis(5_000);

fn promise() -> RetentionRecord {
    RetentionRecord { delete_after: LATER, ..RetentionRecord::default() }
}

/// Two daemons that share the folder.
fn shared() -> (tempfile::TempDir, [(Arc<Arena>, DirStore); 2]) {
    let dir = tempfile::tempdir().unwrap();
    let one = || {
        let arena = sample::arena();
        let store = open(dir.path(), &arena);
        (arena, store)
    };
    let both = [one(), one()];
    (dir, both)
}

/// Has both do the work at the same moment, which is told who does it.
fn at_once(
    both: &[(Arc<Arena>, DirStore); 2],
    work: impl Fn(&Arena, &DirStore, bool) -> Result<(), StoreError> + Sync,
) {
    let (start, work) = (&std::sync::Barrier::new(2), &work);
    std::thread::scope(|scope| {
        for (who, (arena, store)) in both.iter().enumerate() {
            scope.spawn(move || {
                start.wait();
                match work(arena, store, who == 0) {
                    Ok(()) | Err(StoreError::Outdone(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            });
        }
    });
}

#[test]
fn of_two_that_write_a_block_at_the_same_moment_the_promise_stands() {
    let (_dir, both) = shared();
    for number in 0..100 {
        let block = Sample { number, ..BLOCK };
        at_once(&both, |arena, store, promises| {
            let record = if promises { promise() } else { RetentionRecord::default() };
            sample::write_of(store, arena, block, (record, Time::from_millis(1)))
        });
        let (_, store) = &both[0];
        let stands = sample::header(store, block).unwrap().meta.record.delete_after;
        assert_eq!(stands, LATER, "block {number}");
    }
}

#[test]
fn of_two_that_write_records_at_the_same_moment_the_promise_stands() {
    let (_dir, both) = shared();
    for number in 0..100 {
        let block = Sample { number, ..BLOCK };
        sample::write(&both[0].1, &both[0].0, block, ANYWHERE).unwrap();
        at_once(&both, |_, store, promises| {
            let record = if promises { promise() } else { RetentionRecord::default() };
            let (key, known) = (block.key(), Time::ZERO);
            sample::run(store, StoreOp::Restamp { key, place: ANYWHERE, record, known })
        });
        let stands = sample::header(&both[1].1, block).unwrap().meta.record.delete_after;
        assert_eq!(stands, LATER, "block {number}");
    }
}

#[test]
fn a_record_waits_for_another_daemons_and_not_for_ever() {
    let (dir, arena, store) = opened();
    sample::write(&store, &arena, BLOCK, ANYWHERE).unwrap();
    let others = fs::File::open(path(dir.path(), BLOCK)).unwrap();
    rustix::fs::flock(&others, FlockOperation::LockExclusive).unwrap();
    let held = sample::restamp(&store, BLOCK, ANYWHERE, 80).unwrap_err();
    assert!(held.to_string().contains("another daemon has locked it"), "{held}");
    drop(others);
    sample::restamp(&store, BLOCK, ANYWHERE, 80).unwrap();
    assert_eq!(sample::peek(&store, BLOCK).unwrap(), 80);
}
