//! A store that is excused from writes while its device fails them all, and read on.
//!
//! A file system that can only be read fails every write at once: each costs a block that might have gone
//! elsewhere, and a slot whose frame nobody can make unreadable. So after so many frames on end that were not
//! written further ones are refused, by the breaker that object stores have. What writes a page, an erasure
//! or a record, goes through and says whether the device takes writes again; then one frame goes first, and
//! its end decides. Never refuses a read, and judges nothing while the store inside is out itself.

use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::env::Clock;
use crate::tiers::breaker::{Breaker, Heard};
use crate::tiers::health::{Health, Refuses};
use crate::tiers::store::{Done, FoundFrame, Peeked, StoreError, StoreOp, TierStore};

/// Where pages fail as well a frame is tried after so long all the same: they may be bad ones.
const TRIAL_EVERY: Duration = Duration::from_mins(10);

/// A store that may be excused.
pub struct Excused {
    store: Arc<dyn TierStore>,
    writes: Arc<Writes>,
}

struct Writes {
    tier: Tier,
    clock: Arc<dyn Clock>,
    told: Mutex<Told>,
}

/// What its device did with writes.
struct Told {
    breaker: Breaker,
    /// When the last frame failed that put the store out.
    failed_at: Time,
    /// Whether a page has failed since, and none went well.
    pages_fail: bool,
}

impl Excused {
    #[must_use]
    pub fn new(store: Arc<dyn TierStore>, clock: Arc<dyn Clock>) -> Self {
        let told = Told { breaker: Breaker::new(), failed_at: Time::ZERO, pages_fail: false };
        let writes = Writes { tier: store.tier(), clock, told: Mutex::new(told) };
        Self { store, writes: Arc::new(writes) }
    }
}

impl Writes {
    /// Looks at what was told, with the time; a frame may be due by then.
    fn with<T>(&self, look: impl FnOnce(&mut Told, Time) -> T) -> T {
        let now = self.clock.now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.note_time(now);
        look(&mut told, now)
    }

    fn admit_frame(&self) -> Result<(), StoreError> {
        self.with(|told, _| {
            if told.breaker.admits() {
                return Ok(());
            }
            Err(StoreError::TierLost(format!("its {}", told.why())))
        })
    }

    fn frame_ended(&self, result: &Result<(), StoreError>) {
        self.with(|told, now| {
            let is_out = told.breaker.out().is_some();
            match result {
                Ok(()) => {
                    told.breaker.worked();
                    if is_out {
                        tracing::warn!(tier = %self.tier, "the device takes writes again");
                    }
                }
                // A trial decides by whatever comes of it: nobody else may try meanwhile.
                Err(error) if is_of_device(error) || told.breaker.is_on_trial() => {
                    if told.failed(now, error) && !is_out {
                        tracing::error!(
                            tier = %self.tier,
                            %error,
                            "the device fails every write: none is asked of it but one now and then, \
                             and what it holds is read as ever"
                        );
                    }
                }
                Err(_) => {}
            }
        });
    }

    fn page_ended(&self, result: &Result<(), StoreError>) {
        self.with(|told, _| match result {
            Ok(()) => {
                told.pages_fail = false;
                told.breaker.probed(true);
            }
            Err(error) => told.pages_fail |= is_of_device(error),
        });
    }
}

impl Told {
    /// A device that is not known to fail even a page is tried as soon as a breaker says, another seldom.
    fn note_time(&mut self, now: Time) {
        let Some(wait) = self.breaker.wait() else { return };
        let wait = if self.pages_fail { TRIAL_EVERY } else { wait };
        if now.since(self.failed_at) >= wait {
            self.breaker.probed(true);
        }
    }

    /// Whether the store goes out by that.
    fn failed(&mut self, now: Time, error: &StoreError) -> bool {
        let heard = if is_read_only(error) { Heard::Lost } else { Heard::Failed };
        let goes_out = self.breaker.failed(now, heard, || error.to_string());
        if goes_out {
            (self.failed_at, self.pages_fail) = (now, false);
        }
        goes_out
    }

    fn why(&self) -> String {
        let why = self.breaker.out().map_or("", |(_, why)| why);
        format!("device fails every write, see the kernel's log ({why})")
    }
}

/// Whether the device is at fault, and not what was asked of it.
fn is_of_device(error: &StoreError) -> bool {
    match error {
        StoreError::Io { source, .. } => source.kind() != ErrorKind::InvalidInput,
        StoreError::TierLost(_) => true,
        StoreError::Busy | StoreError::Missing(_) | StoreError::Corrupt(_) => false,
    }
}

/// Whether no other write will do better.
fn is_read_only(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == ErrorKind::ReadOnlyFilesystem)
}

impl TierStore for Excused {
    fn tier(&self) -> Tier {
        self.store.tier()
    }

    fn submit(&self, op: StoreOp, done: Done) {
        // What is out refuses by itself, which says nothing of writes.
        if matches!(op, StoreOp::Read { .. }) || self.store.health().is_out() {
            return self.store.submit(op, done);
        }
        let is_frame = matches!(op, StoreOp::Write { .. });
        if is_frame && let Err(error) = self.writes.admit_frame() {
            return done(Err(error));
        }
        let writes = Arc::clone(&self.writes);
        let ended = move |result: Result<(), StoreError>| {
            if is_frame {
                writes.frame_ended(&result);
            } else {
                writes.page_ended(&result);
            }
            done(result);
        };
        self.store.submit(op, Box::new(ended));
    }

    fn sync(&self, done: Done) {
        self.store.sync(done);
    }

    fn erasures_max(&self) -> usize {
        self.store.erasures_max()
    }

    fn leaves_others(&self) -> bool {
        self.store.leaves_others()
    }

    fn health(&self) -> Health {
        let inside = self.store.health();
        if inside.is_out() {
            return inside;
        }
        self.writes.with(|told, now| match told.breaker.out() {
            None => inside,
            Some((since, _)) => Health::Out {
                refuses: Refuses::WRITES,
                on_trial: told.breaker.takes_one(),
                lasting: now.since(since),
                why: format!("the {}", told.why()),
            },
        })
    }

    fn peek(&self, key: Key, told: Peeked) {
        self.store.peek(key, told);
    }

    fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        self.store.scan(found)
    }
}

#[cfg(test)]
mod tests {
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
}
