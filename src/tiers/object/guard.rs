//! Keeps an outage of the object store from costing anybody time: who asks while it is out is
//! answered at once, who waits is let go, and the store is asked by itself whether it is back.
//!
//! Reads and writes are judged apart: a bucket that may only be read serves reads. One that is silent
//! is out for both. Never tries an operation again; that is the store's.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::refused::is_refused;
use crate::domain::units::Time;
use crate::env::{self, Clock, SystemClock};
use crate::tiers::breaker::{Breaker, Heard};
use crate::tiers::health::{Health, Refuses};
use crate::tiers::store::{StoreError, StoreOp};

/// Whether the object store is out: one for all stores, one value each.
pub const OUT: &str = "terrace_object_out";

/// What an operation wants of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Read,
    Write,
}

impl Way {
    const ALL: [Self; 2] = [Self::Read, Self::Write];

    pub const fn of(op: &StoreOp) -> Self {
        match op {
            StoreOp::Read { .. } => Self::Read,
            StoreOp::Write { .. } | StoreOp::Erase { .. } | StoreOp::Restamp { .. } => Self::Write,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Read => Self::Write,
            Self::Write => Self::Read,
        }
    }

    const fn refused(self) -> Refuses {
        match self {
            Self::Read => Refuses::READS,
            Self::Write => Refuses::WRITES,
        }
    }
}

/// The longest that one who tries is waited for: more than an operation takes.
const TRIAL_MAX: Duration = Duration::from_mins(1);

pub(super) struct Guard {
    clock: SystemClock,
    breakers: [Mutex<Breaker>; 2],
    /// When anything last came from the store, in microseconds.
    answered_at: [AtomicU64; 2],
    /// Counts how often either has opened or closed. Its end tells the prober that the store is gone.
    turns: watch::Sender<u64>,
}

impl Guard {
    pub fn new() -> Arc<Self> {
        let guard = Self {
            clock: SystemClock::start(),
            breakers: Way::ALL.map(|_| Mutex::new(Breaker::new())),
            answered_at: Way::ALL.map(|_| AtomicU64::new(0)),
            turns: watch::Sender::new(0),
        };
        // Before anything is out: whoever watches over it finds the figure.
        guard.publish();
        Arc::new(guard)
    }

    fn with<T>(&self, way: Way, look: impl FnOnce(&mut Breaker) -> T) -> T {
        let breaker = &self.breakers[way as usize];
        look(&mut breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets an operation through, or says since when and why the store is out.
    pub fn admit(&self, way: Way) -> Result<(), StoreError> {
        let admitted = self.with(way, Breaker::admits);
        if admitted { Ok(()) } else { Err(self.refusal(way)) }
    }

    /// The same, but where one tries whether the store is back, others wait for what comes of that.
    pub async fn admit_in_turn(&self, way: Way) -> Result<(), StoreError> {
        let mut turns = self.turns.subscribe();
        loop {
            let (admitted, tried) =
                self.with(way, |breaker| (breaker.admits(), breaker.is_on_trial()));
            match (admitted, tried) {
                (true, _) => return Ok(()),
                (false, false) => return Err(self.refusal(way)),
                (false, true) => {
                    let turned = tokio::time::timeout(TRIAL_MAX, turns.changed()).await;
                    turned.map_err(|_| self.refusal(way))?.unwrap_or_default();
                }
            }
        }
    }

    /// Why nobody is let through before the store answers again, if so.
    pub fn shut(&self, way: Way) -> Option<StoreError> {
        self.with(way, |breaker| breaker.wait()).map(|_| self.refusal(way))
    }

    fn refusal(&self, way: Way) -> StoreError {
        StoreError::TierLost(format!("the object store is {}", self.health_of(way)))
    }

    /// What came of one attempt.
    pub fn heard<T>(&self, way: Way, result: &Result<T, StoreError>) {
        if !is_too_late(result) {
            self.answered(way);
        }
        let (heard, error) = match result {
            Ok(_)
            | Err(StoreError::Missing(_) | StoreError::Corrupt(_) | StoreError::Outdone(_)) => {
                return self.worked(way);
            }
            // It answers others.
            Err(error) if is_refused(error) => return self.worked(way),
            Err(error @ StoreError::TierLost(_)) => (Heard::Lost, error),
            Err(error) => (Heard::Failed, error),
        };
        self.failed(way, heard, &error.to_string());
    }

    /// What the store answered to a first question: one that does not answer as a store would is out for all,
    /// one that denies it only for reads. Unless somebody else heard of it meanwhile, who knows better.
    pub fn introduced(&self, answer: &Result<(), StoreError>) {
        // One that asks for patience is there.
        let Err(error) = answer.as_ref() else { return };
        if matches!(error, StoreError::Busy) {
            return;
        }
        let is_denied = |source: &io::Error| source.kind() == ErrorKind::PermissionDenied;
        let reads_only = matches!(error, StoreError::Io { source, .. } if is_denied(source));
        let is_unheard = |way: Way| self.last_answer(way) == Time::ZERO;
        if !reads_only && is_unheard(Way::Write) {
            self.failed(Way::Write, Heard::Nothing, &error.to_string());
        }
        if is_unheard(Way::Read) {
            self.failed(Way::Read, Heard::Lost, &error.to_string());
        }
    }

    fn failed(&self, way: Way, heard: Heard, why: &str) {
        let now = self.clock.now();
        if self.with(way, |breaker| breaker.failed(now, heard, || why.to_owned())) {
            tracing::warn!("the object store is out for {}: {why}", way.refused());
            self.turns.send_modify(|count| *count += 1);
            self.publish();
        }
    }

    /// Something came from the store, if only a part of an answer.
    pub fn answered(&self, way: Way) {
        self.answered_at[way as usize].store(self.clock.now().micros, Ordering::Relaxed);
    }

    fn last_answer(&self, way: Way) -> Time {
        Time { micros: self.answered_at[way as usize].load(Ordering::Relaxed) }
    }

    /// Runs an operation that began just now. When nothing comes for so long, for it or for any other
    /// of its kind, or when it ends without a word, then the store is out: who asks little would
    /// otherwise wait for ten of its operations' attempts.
    pub async fn unless_silent<T>(
        &self,
        way: Way,
        patience: Duration,
        op: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let began = self.clock.now();
        tokio::select! {
            result = op => {
                if is_too_late(&result) && self.last_answer(way) < began {
                    self.note_silence(way, self.clock.now().since(began));
                }
                result
            }
            silence = self.silence(way, began, patience) => {
                self.note_silence(way, silence);
                Err(self.refusal(way))
            }
        }
    }

    /// Ends when nothing has come for so long.
    async fn silence(&self, way: Way, began: Time, patience: Duration) -> Duration {
        loop {
            let silence = self.clock.now().since(self.last_answer(way).max(began));
            if silence >= patience {
                return silence;
            }
            tokio::time::sleep(patience.saturating_sub(silence)).await;
        }
    }

    /// What is silent to one way is out for the other as well, unless that hears something.
    fn note_silence(&self, way: Way, silence: Duration) {
        let why = format!("nothing came from it for {} ms", silence.as_millis());
        let other = way.other();
        if self.clock.now().since(self.last_answer(other)) >= silence {
            self.failed(other, Heard::Nothing, &why);
        }
        self.failed(way, Heard::Lost, &why);
    }

    fn worked(&self, way: Way) {
        let was_out = self.with(way, |breaker| {
            let was_out = breaker.out().is_some();
            breaker.worked();
            was_out
        });
        if was_out {
            tracing::info!("the object store is back for {}", way.refused());
            self.turns.send_modify(|count| *count += 1);
            self.publish();
        }
    }

    fn publish(&self) {
        metrics::gauge!(OUT).set(if self.health().is_out() { 1.0 } else { 0.0 });
    }

    /// Ends when the store is out, with what to answer.
    pub async fn out(&self, way: Way) -> StoreError {
        let mut turns = self.turns.subscribe();
        loop {
            if let Some(out) = self.shut(way) {
                return out;
            }
            // The sending end is `self`.
            let _ = turns.changed().await;
        }
    }

    /// Whether the store does what it is asked: the worse of reads and writes.
    pub fn health(&self) -> Health {
        let [reads, writes] = Way::ALL.map(|way| self.health_of(way));
        match (reads, writes) {
            (Health::Out { lasting, why, .. }, Health::Out { on_trial, .. }) => {
                Health::Out { refuses: Refuses::ALL, on_trial, lasting, why }
            }
            (Health::Well, writes) => writes,
            (reads, Health::Well) => reads,
        }
    }

    fn health_of(&self, way: Way) -> Health {
        let now = self.clock.now();
        self.with(way, |breaker| match breaker.out() {
            None => Health::Well,
            Some((since, why)) => Health::Out {
                refuses: way.refused(),
                on_trial: way == Way::Write && breaker.is_on_trial(),
                lasting: now.since(since),
                why: why.to_owned(),
            },
        })
    }

    /// When the store is to be asked again, if it is out.
    fn wait(&self) -> Option<Duration> {
        Way::ALL.into_iter().filter_map(|way| self.with(way, |breaker| breaker.wait())).min()
    }

    fn probed(&self, result: &Result<(), StoreError>) {
        let answers = result.is_ok();
        let was_out = self.with(Way::Write, |breaker| {
            breaker.probed(answers);
            breaker.out().is_some()
        });
        if answers && !was_out {
            self.publish();
        }
        // The question is a read: one that is answered needs no other to try.
        if answers {
            self.worked(Way::Read);
        } else {
            self.with(Way::Read, |breaker| breaker.probed(false));
        }
    }

    /// Asks, whenever the store is out, until it answers. `probe` gives nothing once the store is
    /// gone.
    pub fn keep_probing<P, F>(self: &Arc<Self>, runtime: &Handle, probe: P)
    where
        P: Fn() -> Option<F> + Send + Sync + 'static,
        F: Future<Output = Result<(), StoreError>> + Send,
    {
        let (guard, mut turns) = (Arc::downgrade(self), self.turns.subscribe());
        env::spawn_task_on(runtime, async move {
            while turns.changed().await.is_ok() {
                while let Some(wait) = guard.upgrade().and_then(|guard| guard.wait()) {
                    tokio::time::sleep(jittered(wait)).await;
                    let Some(asked) = probe() else { return };
                    let answer = asked.await;
                    let Some(guard) = guard.upgrade() else { return };
                    guard.probed(&answer);
                }
            }
        });
    }
}

/// Whether it ended without a word from the store.
fn is_too_late<T>(result: &Result<T, StoreError>) -> bool {
    let kind = ErrorKind::TimedOut;
    matches!(result, Err(StoreError::Io { source, .. }) if source.kind() == kind)
}

/// Between half of it and all of it: nodes that lost a store together don't come back as one.
pub(super) fn jittered(wait: Duration) -> Duration {
    let part = u16::from_le_bytes(env::random_bytes());
    wait.mul_f64(0.5 + f64::from(part) / f64::from(u16::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn a_store_that_says_nothing_is_out_and_back_with_its_first_word() {
        let guard = Guard::new();
        let forever = std::future::pending::<Result<(), StoreError>>();
        let ended = guard.unless_silent(Way::Write, PATIENCE, forever).await;
        assert!(matches!(ended, Err(StoreError::TierLost(_))), "{ended:?}");
        assert_eq!(guard.health().refuses(), Refuses::ALL);
        guard.probed(&Ok(()));
        assert_eq!(guard.health().refuses(), Refuses::NOTHING);
        assert!(guard.health().is_out(), "writes are tried");
        guard.heard(Way::Write, &Ok(()));
        assert_eq!(guard.health(), Health::Well);
    }

    #[test]
    fn a_store_that_does_not_answer_at_first_is_out_until_it_does() {
        let error = |kind: ErrorKind| StoreError::Io { what: "look".into(), source: kind.into() };
        let guard = Guard::new();
        guard.introduced(&Ok(()));
        guard.introduced(&Err(StoreError::Busy));
        assert_eq!(guard.health(), Health::Well);
        guard.introduced(&Err(error(ErrorKind::PermissionDenied)));
        assert_eq!(guard.health().refuses(), Refuses::READS, "it may still take what is written");
        guard.introduced(&Err(error(ErrorKind::ConnectionRefused)));
        assert_eq!(guard.health().refuses(), Refuses::ALL);
        guard.probed(&Ok(()));
        assert_eq!(guard.health(), Health::Well);

        let used = Guard::new();
        used.heard(Way::Write, &Ok(()));
        used.introduced(&Err(error(ErrorKind::TimedOut)));
        assert_eq!(used.health().refuses(), Refuses::READS, "writes are known to work");
    }

    #[tokio::test]
    async fn what_is_silent_to_reads_is_out_for_writes_unless_they_hear_something() {
        let guard = Guard::new();
        let written = async {
            tokio::time::sleep(PATIENCE / 2).await;
            guard.heard(Way::Write, &Ok(()));
            std::future::pending::<Result<(), StoreError>>().await
        };
        guard.unless_silent(Way::Read, PATIENCE, written).await.unwrap_err();
        assert_eq!(guard.health().refuses(), Refuses::READS);
        tokio::time::sleep(PATIENCE).await;
        guard.note_silence(Way::Read, PATIENCE);
        assert_eq!(guard.health().refuses(), Refuses::ALL);
        // Nothing was said against writes but that.
        guard.probed(&Ok(()));
        assert_eq!(guard.health(), Health::Well);
    }

    #[tokio::test]
    async fn a_store_that_says_something_now_and_then_is_not_silent() {
        // Longer than a machine stands still that has much to do.
        let (guard, patience) = (Guard::new(), 8 * PATIENCE);
        let slow = async {
            for _ in 0..10 {
                tokio::time::sleep(patience / 8).await;
                guard.answered(Way::Read);
            }
            Ok(())
        };
        assert!(guard.unless_silent(Way::Read, patience, slow).await.is_ok());
        assert_eq!(guard.health(), Health::Well);
    }

    #[tokio::test]
    async fn a_write_is_let_through_once_the_store_answers_again_and_others_wait_for_it() {
        let guard = Guard::new();
        let refuses = || guard.health().refuses();
        guard.heard::<()>(Way::Write, &Err(StoreError::TierLost("denied".into())));
        assert_eq!(refuses(), Refuses::WRITES);
        guard.probed(&Ok(()));
        assert!(guard.health().is_out(), "nobody has written yet");
        assert_eq!(refuses(), Refuses::NOTHING, "or nobody ever would");
        for denied in [true, false] {
            guard.admit(Way::Write).expect("one goes first");
            assert_eq!(refuses(), Refuses::NOTHING, "and the others wait for it");
            let mut other = std::pin::pin!(guard.admit_in_turn(Way::Write));
            tokio::time::timeout(PATIENCE, &mut other).await.unwrap_err();
            if denied {
                guard.heard::<()>(Way::Write, &Err(StoreError::TierLost("denied".into())));
                assert!(matches!(other.await, Err(StoreError::TierLost(_))));
                guard.probed(&Ok(()));
            } else {
                guard.heard(Way::Write, &Ok(()));
                other.await.unwrap();
            }
        }
        assert_eq!(guard.health(), Health::Well);
    }
}
