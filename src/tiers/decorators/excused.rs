//! A store that is excused from writes while its device fails them all, and read on.
//!
//! A file system that can only be read fails every write at once: each costs a block that might have gone
//! elsewhere, and a slot whose frame nobody can make unreadable. So after so many frames on end that were not
//! written further ones are refused, by the breaker that object stores have. What writes a page, an erasure
//! or a record, goes through and says whether the device takes writes again; then one frame goes first, and
//! its end decides; those that come meanwhile wait for that. Never refuses a read, and judges nothing while
//! the store inside is out itself.

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
    writes: Arc<Writes>,
}

struct Writes {
    store: Arc<dyn TierStore>,
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
    /// What came while one frame was tried.
    waiting: Vec<Frame>,
}

/// A frame to be written.
struct Frame {
    op: StoreOp,
    done: Done,
}

/// What becomes of one that comes.
enum Turn {
    Now(Frame),
    Later,
    Never(Frame, StoreError),
}

impl Excused {
    #[must_use]
    pub fn new(store: Arc<dyn TierStore>, clock: Arc<dyn Clock>) -> Self {
        let (breaker, failed_at) = (Breaker::new(), Time::ZERO);
        let told = Told { breaker, failed_at, pages_fail: false, waiting: Vec::new() };
        Self { writes: Arc::new(Writes { store, clock, told: Mutex::new(told) }) }
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

    fn write(self: &Arc<Self>, frame: Frame) {
        match self.with(|told, _| told.turn_of(frame)) {
            Turn::Now(Frame { op, done }) => {
                let this = Arc::clone(self);
                let ended = move |result| {
                    this.frame_ended(&result);
                    done(result);
                };
                self.store.submit(op, Box::new(ended));
            }
            Turn::Later => {}
            Turn::Never(frame, error) => (frame.done)(Err(error)),
        }
    }

    fn frame_ended(self: &Arc<Self>, result: &Result<(), StoreError>) {
        let waited = self.with(|told, now| {
            let is_out = told.breaker.out().is_some();
            match result {
                Ok(()) => {
                    told.breaker.worked();
                    if is_out {
                        tracing::warn!(tier = %self.store.tier(), "the device takes writes again");
                    }
                }
                // A trial decides by whatever comes of it: nobody else may try meanwhile.
                Err(error) if is_of_device(error) || told.breaker.is_on_trial() => {
                    if told.failed(now, error) && !is_out {
                        tracing::error!(
                            tier = %self.store.tier(),
                            %error,
                            "the device fails every write: none is asked of it but one now and then, \
                             and what it holds is read as ever"
                        );
                    }
                }
                Err(_) => {}
            }
            let is_decided = !told.breaker.is_on_trial();
            if is_decided { std::mem::take(&mut told.waiting) } else { Vec::new() }
        });
        for frame in waited {
            self.write(frame);
        }
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
    fn turn_of(&mut self, frame: Frame) -> Turn {
        if self.breaker.admits() {
            return Turn::Now(frame);
        }
        if self.breaker.is_on_trial() {
            self.waiting.push(frame);
            return Turn::Later;
        }
        Turn::Never(frame, StoreError::TierLost(format!("its {}", self.why())))
    }

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
        StoreError::Busy
        | StoreError::Missing(_)
        | StoreError::Corrupt(_)
        | StoreError::Outdone(_) => false,
    }
}

/// Whether no other write will do better.
fn is_read_only(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == ErrorKind::ReadOnlyFilesystem)
}

impl TierStore for Excused {
    fn tier(&self) -> Tier {
        self.writes.store.tier()
    }

    fn submit(&self, op: StoreOp, done: Done) {
        // What is out refuses by itself, which says nothing of writes.
        if matches!(op, StoreOp::Read { .. }) || self.writes.store.health().is_out() {
            return self.writes.store.submit(op, done);
        }
        if matches!(op, StoreOp::Write { .. }) {
            return self.writes.write(Frame { op, done });
        }
        let writes = Arc::clone(&self.writes);
        let ended = move |result: Result<(), StoreError>| {
            writes.page_ended(&result);
            done(result);
        };
        self.writes.store.submit(op, Box::new(ended));
    }

    fn sync(&self, done: Done) {
        self.writes.store.sync(done);
    }

    fn erasures_max(&self) -> usize {
        self.writes.store.erasures_max()
    }

    fn leaves_others(&self) -> bool {
        self.writes.store.leaves_others()
    }

    fn health(&self) -> Health {
        let inside = self.writes.store.health();
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
        self.writes.store.peek(key, told);
    }

    fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        self.writes.store.scan(found)
    }
}

#[cfg(test)]
mod tests;
