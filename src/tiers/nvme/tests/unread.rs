//! Headers that can't be read at a start: for a moment, while the device is away, and for good.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

use super::{CHUNKS, config, opened};
use crate::domain::block::Key;
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::health::{Health, Refuses};
use crate::tiers::nvme::slots::{Access, SlotFile};
use crate::tiers::nvme::{EngineChoice, NvmeConfig, Stripe, Striped, open_through};
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::{Place, TierStore};

const BLOCK: Sample = Sample { number: 1, payload_bytes: 64 << 10 };
/// How long a test waits for a pause.
const PATIENCE: Duration = Duration::from_mins(1);
/// No place in the file.
const NOWHERE: u64 = u64::MAX;

/// A device whose test says what it gives, and hears of each pause.
struct Device {
    is_away: AtomicBool,
    bad_offset: AtomicU64,
    pauses: Sender<Duration>,
    go: Mutex<Receiver<()>>,
}

/// The test's side of its pauses.
struct Pauses {
    heard: Receiver<Duration>,
    go: Sender<()>,
}

impl Device {
    fn new() -> (Arc<Self>, Pauses) {
        let (pauses, heard) = crossbeam_channel::bounded(1);
        let (go, goes) = crossbeam_channel::bounded(1);
        let bad_offset = AtomicU64::new(NOWHERE);
        let go_on = Mutex::new(goes);
        let device = Self { is_away: AtomicBool::new(false), bad_offset, pauses, go: go_on };
        (Arc::new(device), Pauses { heard, go })
    }

    fn check(&self, at: u64) -> io::Result<()> {
        let is_bad = self.bad_offset.load(Ordering::SeqCst) == at;
        if is_bad || self.is_away.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

impl Pauses {
    /// Has `meanwhile` done in the next pause, and says how long that is.
    fn next(&self, meanwhile: impl FnOnce()) -> Duration {
        let pause = self.heard.recv_timeout(PATIENCE).expect("a scan that waits");
        meanwhile();
        self.go.send(()).unwrap();
        pause
    }
}

struct Through(Arc<Device>);

impl Access for Through {
    fn slots(&self, file: Arc<File>) -> Arc<dyn SlotFile> {
        Arc::new(Slots { file, device: Arc::clone(&self.0) })
    }

    fn pause(&self, how_long: Duration) {
        self.0.pauses.send(how_long).unwrap();
        self.0.go.lock().unwrap().recv().unwrap();
    }
}

struct Slots {
    file: Arc<File>,
    device: Arc<Device>,
}

impl FileExt for Slots {
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.device.check(at)?;
        self.file.read_at(into, at)
    }

    fn write_at(&self, from: &[u8], at: u64) -> io::Result<usize> {
        self.file.write_at(from, at)
    }
}

impl SlotFile for Slots {
    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn zero(&self, at: u64, bytes: u64) -> io::Result<()> {
        self.file.zero(at, bytes)
    }
}

fn places() -> Vec<Place> {
    (0..CHUNKS)
        .flat_map(|chunk| [2, 5].map(|slot| BLOCK.place(chunk * CHUNK_BYTES, slot)))
        .collect()
}

/// What a scan finds where `places` hold the block.
fn found(places: &[Place]) -> Vec<(Place, Key)> {
    places.iter().map(|place| (*place, BLOCK.key())).collect()
}

/// A store that has what a former run left in its folder, and its device.
fn used(dir: &Path, stripe: Stripe) -> (Arc<dyn TierStore>, Arc<Device>, Pauses) {
    let config = NvmeConfig { stripe, ..config(dir, EngineChoice::Blocking) };
    let arena = sample::arena();
    let (store, _) = opened(&config, &arena);
    for place in places() {
        sample::write(&*store, &arena, BLOCK, place).unwrap();
    }
    drop(store);
    let (device, pauses) = Device::new();
    let access: Arc<dyn Access> = Arc::new(Through(Arc::clone(&device)));
    (open_through(&config, &arena, &access).unwrap().0, device, pauses)
}

/// Away for longer than any number of tries, and back.
fn waits_for(store: &Arc<dyn TierStore>, device: &Device, pauses: &Pauses) -> Vec<(Place, Key)> {
    device.is_away.store(true, Ordering::SeqCst);
    thread::scope(|scope| {
        let scanned = scope.spawn(|| sample::scan(&**store));
        pauses.next(|| {});
        for _ in 0..20 {
            pauses.next(|| {
                let Health::Out { refuses, why, .. } = store.health() else { panic!("it is out") };
                assert_eq!(refuses, Refuses::WRITES, "what was found is read");
                assert!(why.contains("can't be read"), "{why}");
            });
        }
        pauses.next(|| device.is_away.store(false, Ordering::SeqCst));
        let scanned = scanned.join().unwrap();
        assert_eq!(store.health(), Health::Well);
        scanned
    })
}

#[test]
fn a_device_that_is_away_at_the_start_is_waited_for_and_keeps_its_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device, pauses) = used(dir.path(), Stripe::ALONE);
    assert_eq!(waits_for(&store, &device, &pauses), found(&places()));
}

#[test]
fn one_of_several_folders_that_is_away_is_waited_for() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, _, _) = used(one.path(), Stripe { index: 0, count: 2 });
    let (second, device, pauses) = used(other.path(), Stripe { index: 1, count: 2 });
    let store: Arc<dyn TierStore> = Arc::new(Striped::new(vec![first, second]));
    assert_eq!(waits_for(&store, &device, &pauses).len(), 2 * places().len());
}

#[test]
fn a_header_that_is_unreadable_for_a_moment_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device, pauses) = used(dir.path(), Stripe::ALONE);
    device.bad_offset.store(places()[1].offset, Ordering::SeqCst);
    thread::scope(|scope| {
        let scanned = scope.spawn(|| sample::scan(&*store));
        pauses.next(|| {});
        pauses.next(|| {
            assert_eq!(store.health(), Health::Well, "the others are read");
            device.bad_offset.store(NOWHERE, Ordering::SeqCst);
        });
        assert_eq!(scanned.join().unwrap(), found(&places()));
    });
}

#[test]
fn a_header_that_stays_unreadable_costs_its_own_block() {
    let dir = tempfile::tempdir().unwrap();
    let (store, device, pauses) = used(dir.path(), Stripe::ALONE);
    let mut left = places();
    device.bad_offset.store(left.remove(1).offset, Ordering::SeqCst);
    thread::scope(|scope| {
        let scanned = scope.spawn(|| sample::scan(&*store));
        let waited: Duration = (0..4).map(|_| pauses.next(|| {})).sum();
        assert!((10..=30).contains(&waited.as_secs()), "{waited:?}");
        assert_eq!(scanned.join().unwrap(), found(&left));
    });
}
