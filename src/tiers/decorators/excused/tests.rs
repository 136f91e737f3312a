//! A device that fails writes, and what is asked of it meanwhile.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::env::{ManualClock, SystemClock};
use crate::tiers::decorators::check_contract;
use crate::tiers::dram::Arena;
use crate::tiers::memory::MemoryStore;
use crate::tiers::sample::{self, Sample};
use crate::tiers::store::Erasure;

const BLOCK: Sample = Sample { number: 1, payload_bytes: 4096 };

/// A store whose device fails writes while it is told to.
struct Device {
    inside: MemoryStore,
    frames_fail: Mutex<Option<ErrorKind>>,
    pages_fail: AtomicBool,
    frames_asked: AtomicUsize,
    is_out: AtomicBool,
    /// Frames that it takes its time for, while it does.
    late: Mutex<Option<Vec<(StoreOp, Done)>>>,
}

fn fault(kind: ErrorKind) -> StoreError {
    StoreError::Io { what: "can't write".into(), source: io::Error::from(kind) }
}

impl TierStore for Device {
    fn tier(&self) -> Tier {
        Tier::Nvme
    }

    fn submit(&self, op: StoreOp, done: Done) {
        let failure = match op {
            StoreOp::Read { .. } => None,
            StoreOp::Write { .. } => {
                self.frames_asked.fetch_add(1, Ordering::Relaxed);
                if let Some(late) = &mut *self.late.lock().unwrap() {
                    return late.push((op, done));
                }
                *self.frames_fail.lock().unwrap()
            }
            _ => self.pages_fail.load(Ordering::Relaxed).then_some(ErrorKind::Other),
        };
        match failure {
            Some(kind) => done(Err(fault(kind))),
            None => self.inside.submit(op, done),
        }
    }

    fn health(&self) -> Health {
        if !self.is_out.load(Ordering::Relaxed) {
            return Health::Well;
        }
        let (refuses, lasting, why) = (Refuses::ALL, Duration::ZERO, "silent".into());
        Health::Out { refuses, on_trial: false, lasting, why }
    }
}

struct Bench {
    device: Arc<Device>,
    arena: Arc<Arena>,
    clock: Arc<ManualClock>,
    excused: Excused,
}

impl Bench {
    fn new() -> Self {
        let arena = sample::arena();
        let device = Arc::new(Device {
            inside: MemoryStore::new(Tier::Nvme, Arc::clone(&arena)),
            frames_fail: Mutex::default(),
            pages_fail: AtomicBool::new(false),
            frames_asked: AtomicUsize::new(0),
            is_out: AtomicBool::new(false),
            late: Mutex::default(),
        });
        let clock = Arc::new(ManualClock::default());
        let excused = Excused::new(Arc::clone(&device) as _, Arc::clone(&clock) as _);
        let bench = Self { device, arena, clock, excused };
        bench.write().unwrap();
        bench
    }

    fn fail(&self, frames: impl Into<Option<ErrorKind>>, pages: bool) {
        *self.device.frames_fail.lock().unwrap() = frames.into();
        self.device.pages_fail.store(pages, Ordering::Relaxed);
    }

    fn write(&self) -> Result<(), StoreError> {
        sample::write(&self.excused, &self.arena, BLOCK, BLOCK.place(0, 0))
    }

    fn erase(&self) -> Result<(), StoreError> {
        let (key, place) = (BLOCK.key(), BLOCK.place(0, 1));
        let erase = StoreOp::Erase { key, place, why: Erasure::Unusable };
        sample::run(&self.excused, erase)
    }

    /// Whether a frame that is written now comes as far as the device.
    fn is_asked(&self) -> bool {
        let asked = || self.device.frames_asked.load(Ordering::Relaxed);
        let before = asked();
        drop(self.write());
        asked() > before
    }

    fn refuses(&self) -> Refuses {
        self.excused.health().refuses()
    }

    fn pass(&self, time: Duration) {
        self.clock.advance_to(self.clock.now() + time);
    }
}

/// One that is out, by so many failures on end.
fn out(pages: bool) -> Bench {
    let bench = Bench::new();
    bench.fail(ErrorKind::Other, pages);
    for _ in 0..9 {
        bench.write().unwrap_err();
        assert_eq!(bench.excused.health(), Health::Well);
    }
    bench.write().unwrap_err();
    bench
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn keeps_the_contract() {
    check_contract(|inside, _| Excused::new(inside, Arc::new(SystemClock::start())));
}

#[test]
fn a_device_that_fails_write_after_write_is_asked_for_none_and_read_on() {
    let bench = out(true);
    assert!(!bench.is_asked());
    assert_eq!(bench.refuses(), Refuses::WRITES);
    let said = bench.excused.health().to_string();
    assert!(said.starts_with("OUT for writes since 0 s, asked again by itself"), "{said}");
    assert!(said.contains("the device fails every write, see the kernel's log (can't write"));
    sample::read(&bench.excused, &bench.arena, BLOCK, BLOCK.place(0, 0)).unwrap();
}

#[test]
fn one_that_went_well_in_between_says_that_it_is_the_spots() {
    let bench = Bench::new();
    for _ in 0..3 {
        bench.fail(ErrorKind::Other, true);
        (0..9).for_each(|_| drop(bench.write().unwrap_err()));
        bench.fail(None, true);
        bench.write().unwrap();
    }
    // Pages alone say nothing: a slot with a bad one is erased again and again.
    (0..20).for_each(|_| drop(bench.erase().unwrap_err()));
    assert_eq!(bench.excused.health(), Health::Well);
}

#[test]
fn a_file_system_that_can_only_be_read_is_known_by_its_first_answer() {
    let bench = Bench::new();
    bench.fail(ErrorKind::ReadOnlyFilesystem, true);
    bench.write().unwrap_err();
    assert_eq!(bench.refuses(), Refuses::WRITES);
}

#[test]
fn a_page_that_was_written_has_one_frame_tried_and_that_decides() {
    let bench = out(true);
    bench.erase().unwrap_err();
    bench.pass(60 * SECOND);
    assert_eq!(bench.refuses(), Refuses::WRITES);
    bench.fail(ErrorKind::Other, false);
    bench.erase().unwrap();
    assert_eq!(bench.refuses(), Refuses::NOTHING, "somebody has to write");
    assert!(bench.excused.health().is_out());
    assert!(bench.is_asked() && !bench.is_asked());
    assert_eq!(bench.refuses(), Refuses::WRITES);
    bench.fail(None, false);
    bench.erase().unwrap();
    bench.write().unwrap();
    assert_eq!(bench.excused.health(), Health::Well);
}

#[test]
fn frames_that_come_while_one_is_tried_wait_for_its_end_and_share_it() {
    for fails in [None, Some(ErrorKind::Other)] {
        let bench = out(true);
        bench.fail(fails, false);
        bench.erase().unwrap();
        *bench.device.late.lock().unwrap() = Some(Vec::new());
        let asked = || bench.device.frames_asked.load(Ordering::Relaxed);
        let before = asked();
        let write = |lane: u32| {
            let (done, told) = sample::heard();
            let (place, frame) = (BLOCK.place(0, lane), BLOCK.fill(&bench.arena, lane));
            bench.excused.submit(StoreOp::Write { key: BLOCK.key(), place, frame }, done);
            told
        };
        let told: Vec<_> = (0..3).map(write).collect();
        assert_eq!(asked() - before, 1);
        assert!(told.iter().all(|told| told.try_recv().is_err()), "none is refused");
        let late = bench.device.late.lock().unwrap().take().unwrap();
        // Asked once more, it does it.
        for (op, done) in late {
            bench.device.submit(op, done);
        }
        let ended: Vec<bool> = told.iter().map(|told| told.recv().unwrap().is_ok()).collect();
        assert_eq!(ended, [fails.is_none(); 3]);
        assert_eq!(asked() - before, if fails.is_none() { 4 } else { 2 });
        assert_eq!(bench.excused.health().is_out(), fails.is_some());
    }
}

#[test]
fn where_no_page_says_anything_a_frame_is_tried_after_a_while() {
    let bench = out(false);
    assert!(!bench.is_asked());
    for wait in [1, 2, 4] {
        bench.pass((SECOND / 2 * wait).saturating_sub(SECOND / 1000));
        assert!(!bench.is_asked());
        bench.pass(SECOND / 1000);
        assert!(bench.is_asked() && !bench.is_asked());
    }
    bench.fail(None, false);
    bench.pass(4 * SECOND);
    bench.write().unwrap();
    assert_eq!(bench.excused.health(), Health::Well);
}

#[test]
fn where_pages_fail_a_frame_is_tried_all_the_same_if_seldom() {
    let bench = out(true);
    bench.erase().unwrap_err();
    bench.pass(TRIAL_EVERY.saturating_sub(SECOND));
    assert!(!bench.is_asked());
    bench.pass(SECOND);
    bench.fail(None, true);
    bench.write().unwrap();
    assert_eq!(bench.excused.health(), Health::Well);
}

#[test]
fn what_is_out_itself_is_not_judged() {
    let bench = Bench::new();
    bench.fail(ErrorKind::ReadOnlyFilesystem, true);
    bench.device.is_out.store(true, Ordering::Relaxed);
    bench.write().unwrap_err();
    assert_eq!(bench.refuses(), Refuses::ALL, "as it says itself");
    bench.device.is_out.store(false, Ordering::Relaxed);
    assert_eq!(bench.excused.health(), Health::Well);
}

#[test]
fn a_frame_that_is_none_says_nothing_of_the_device() {
    let bench = Bench::new();
    bench.fail(ErrorKind::InvalidInput, false);
    (0..20).for_each(|_| drop(bench.write().unwrap_err()));
    assert_eq!(bench.excused.health(), Health::Well);
}
