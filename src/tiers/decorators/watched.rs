//! A store that is taken out while its device is silent, and let in again when it answers.
//!
//! A device that hangs answers nothing: whoever asks it waits for it, with all that he holds. So while
//! something is asked and nothing was answered for a time, what comes is refused at once, but for one
//! operation now and then. Nobody needs to ask: whoever looks at its health has it synced, which takes
//! no memory of anyone's. The first answer to anything brings the store back. Never answers for the store
//! inside: what is under way keeps its memory until the device lets go of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::env::Clock;
use crate::tiers::health::{Health, Refuses};
use crate::tiers::store::{Done, FoundFrame, Peeked, StoreError, StoreOp, TierStore};

/// How long a device may be silent, and how often it is asked meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub silence_max: Duration,
    pub probe_every: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { silence_max: Duration::from_secs(10), probe_every: Duration::from_secs(1) }
    }
}

/// A watched store.
pub struct Watched {
    store: Arc<dyn TierStore>,
    watch: Arc<Watch>,
}

struct Watch {
    clock: Arc<dyn Clock>,
    patience: Patience,
    heard: Mutex<Heard>,
}

/// What was asked and what was heard.
#[derive(Default)]
struct Heard {
    /// Operations under way: when each began, and its number.
    under_way: BTreeSet<(Time, u64)>,
    asked: u64,
    answered_at: Time,
    probed_at: Time,
    /// A sync is under way that nobody but this watch waits for.
    is_syncing: bool,
    /// Whether the log has been told.
    is_out: bool,
}

/// An operation under way. Dropped when it was answered, or its store let go of it.
struct Call {
    watch: Arc<Watch>,
    began: (Time, u64),
}

impl Watched {
    #[must_use]
    pub fn new(store: Arc<dyn TierStore>, clock: Arc<dyn Clock>, patience: Patience) -> Self {
        let watch = Watch { clock, patience, heard: Mutex::default() };
        Self { store, watch: Arc::new(watch) }
    }

    /// Counts the operation in, or refuses it for its silent device.
    fn admit(&self) -> Result<Call, StoreError> {
        let now = self.watch.clock.now();
        let mut heard = self.watch.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let silence = heard.silence(now);
        if silence > self.watch.patience.silence_max {
            heard.note_out(true, silence, self.store.tier());
            if now.since(heard.probed_at) < self.watch.patience.probe_every {
                let said = format!("its device has not answered for {} s", silence.as_secs());
                return Err(StoreError::TierLost(said));
            }
            heard.probed_at = now;
        } else {
            heard.note_out(false, silence, self.store.tier());
        }
        heard.asked += 1;
        let began = (now, heard.asked);
        heard.under_way.insert(began);
        Ok(Call { watch: Arc::clone(&self.watch), began })
    }

    /// For how long something has been asked and nothing answered. A store that is out is synced now
    /// and then, one at a time: others may have stopped asking it.
    fn silence(&self) -> Duration {
        let now = self.watch.clock.now();
        let mut heard = self.watch.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let silence = heard.silence(now);
        let is_due = now.since(heard.probed_at) >= self.watch.patience.probe_every;
        if silence > self.watch.patience.silence_max && is_due && !heard.is_syncing {
            heard.note_out(true, silence, self.store.tier());
            (heard.probed_at, heard.is_syncing) = (now, true);
            drop(heard);
            let watch = Arc::clone(&self.watch);
            self.store.sync(Box::new(move |result| watch.synced(&result)));
        }
        silence
    }
}

impl Watch {
    /// The sync of this watch's own ended: a device that is silent does not do one.
    fn synced(&self, result: &Result<(), StoreError>) {
        let now = self.clock.now();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_syncing = false;
        if result.is_ok() {
            heard.answered_at = now;
        }
    }
}

impl Heard {
    /// For how long something has been asked and nothing answered.
    fn silence(&self, now: Time) -> Duration {
        let Some((oldest, _)) = self.under_way.first() else { return Duration::ZERO };
        now.since((*oldest).max(self.answered_at))
    }

    fn note_out(&mut self, is_out: bool, silence: Duration, tier: Tier) {
        match (self.is_out, is_out) {
            (false, true) => tracing::error!(
                %tier,
                silent_s = silence.as_secs(),
                "the device does not answer: it is taken out, and asked again by itself"
            ),
            (true, false) => tracing::warn!(%tier, "the device answers again: it is let in"),
            _ => {}
        }
        self.is_out = is_out;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let now = self.watch.clock.now();
        let mut heard = self.watch.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.under_way.remove(&self.began);
        heard.answered_at = now;
    }
}

impl TierStore for Watched {
    fn tier(&self) -> Tier {
        self.store.tier()
    }

    fn submit(&self, op: StoreOp, done: Done) {
        match self.admit() {
            Ok(call) => self.store.submit(op, answered(call, done)),
            Err(error) => done(Err(error)),
        }
    }

    fn sync(&self, done: Done) {
        match self.admit() {
            Ok(call) => self.store.sync(answered(call, done)),
            Err(error) => done(Err(error)),
        }
    }

    fn erasures_max(&self) -> usize {
        self.store.erasures_max()
    }

    fn leaves_others(&self) -> bool {
        self.store.leaves_others()
    }

    fn health(&self) -> Health {
        let silence = self.silence();
        if silence <= self.watch.patience.silence_max {
            return self.store.health();
        }
        let why = "the device answers nothing: see the kernel's log".into();
        Health::Out { refuses: Refuses::ALL, on_trial: false, lasting: silence, why }
    }

    fn peek(&self, key: Key, told: Peeked) {
        self.store.peek(key, told);
    }

    fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        self.store.scan(found)
    }
}

fn answered(call: Call, done: Done) -> Done {
    Box::new(move |result| {
        drop(call);
        done(result);
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Receiver;

    use super::*;
    use crate::env::{ManualClock, SystemClock};
    use crate::tiers::decorators::check_contract;
    use crate::tiers::sample::{self, Sample};
    use crate::tiers::store::Erasure;

    const BLOCK: Sample = Sample { number: 1, payload_bytes: 4096 };

    /// A store that answers nothing until it is told to.
    #[derive(Default)]
    struct Hung {
        asked: Mutex<Vec<Done>>,
        syncs: Mutex<Vec<Done>>,
    }

    impl Hung {
        fn answer_one(&self) {
            let done = self.asked.lock().unwrap().remove(0);
            done(Ok(()));
        }

        /// Answers the one sync that is under way.
        fn answer_sync(&self, result: Result<(), StoreError>) {
            let mut syncs = self.syncs.lock().unwrap();
            assert_eq!(syncs.len(), 1);
            let done = syncs.remove(0);
            drop(syncs);
            done(result);
        }
    }

    impl TierStore for Hung {
        fn tier(&self) -> Tier {
            Tier::Nvme
        }

        fn submit(&self, _op: StoreOp, done: Done) {
            self.asked.lock().unwrap().push(done);
        }

        fn sync(&self, done: Done) {
            self.syncs.lock().unwrap().push(done);
        }
    }

    struct Bench {
        hung: Arc<Hung>,
        clock: Arc<ManualClock>,
        watched: Watched,
    }

    impl Bench {
        fn new() -> Self {
            let (hung, clock) = (Arc::new(Hung::default()), Arc::new(ManualClock::default()));
            let patience = Patience {
                silence_max: Duration::from_secs(10),
                probe_every: Duration::from_secs(1),
            };
            let watched = Watched::new(Arc::clone(&hung) as _, Arc::clone(&clock) as _, patience);
            Self { hung, clock, watched }
        }

        fn ask(&self) -> Receiver<Result<(), StoreError>> {
            let (done, told) = sample::heard();
            self.watched.submit(
                StoreOp::Erase {
                    key: BLOCK.key(),
                    place: BLOCK.place(0, 0),
                    why: Erasure::Unusable,
                },
                done,
            );
            told
        }

        fn is_refused(&self) -> bool {
            matches!(self.ask().try_recv(), Ok(Err(StoreError::TierLost(_))))
        }

        fn pass(&self, seconds: u64) {
            self.clock.advance_to(self.clock.now() + Duration::from_secs(seconds));
        }
    }

    #[test]
    fn keeps_the_contract() {
        check_contract(|inside, _| {
            Watched::new(inside, Arc::new(SystemClock::start()), Patience::default())
        });
    }

    #[test]
    fn a_silent_device_is_taken_out_and_what_it_holds_is_left_to_it() {
        let bench = Bench::new();
        let held = bench.ask();
        bench.pass(10);
        assert!(!bench.is_refused(), "it may take that long");
        bench.pass(1);
        assert!(!bench.is_refused(), "the first one is a probe");
        assert!(bench.watched.health().is_out());
        assert!(bench.is_refused());
        assert!(held.try_recv().is_err(), "its memory is the device's still");
    }

    #[test]
    fn the_first_answer_lets_it_in_again() {
        let bench = Bench::new();
        let held = bench.ask();
        bench.pass(11);
        assert!(!bench.is_refused());
        assert!(bench.is_refused());
        bench.pass(1);
        assert!(!bench.is_refused(), "the next probe");
        assert!(bench.is_refused());
        bench.hung.answer_one();
        assert!(matches!(held.try_recv(), Ok(Ok(()))));
        assert!(!bench.watched.health().is_out() && !bench.is_refused());
    }

    #[test]
    fn it_is_let_in_again_when_nobody_asks_any_more() {
        let bench = Bench::new();
        let _held = bench.ask();
        bench.pass(11);
        assert!(bench.watched.health().is_out());
        bench.hung.answer_sync(Err(StoreError::Busy));
        assert!(bench.watched.health().is_out());
        assert!(bench.hung.syncs.lock().unwrap().is_empty(), "it is not asked at once again");
        bench.pass(5);
        assert!(bench.watched.health().is_out());
        bench.pass(5);
        assert!(bench.watched.health().is_out());
        bench.hung.answer_sync(Ok(()));
        assert!(!bench.watched.health().is_out() && !bench.is_refused());
    }

    #[test]
    fn a_device_that_answers_others_is_not_silent() {
        let bench = Bench::new();
        let _lost = bench.ask();
        for _ in 0..5 {
            bench.pass(6);
            let _told = bench.ask();
            let last = bench.hung.asked.lock().unwrap().len() - 1;
            let done = bench.hung.asked.lock().unwrap().remove(last);
            done(Ok(()));
            assert!(!bench.watched.health().is_out());
        }
    }

    #[test]
    fn nothing_asked_is_no_silence() {
        let bench = Bench::new();
        bench.pass(1000);
        assert!(!bench.is_refused());
    }
}
