//! One request, tried again where that may help: with growing, random pauses, in turn, within the
//! operation's time, and not while the store is out.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::super::guard::{Way, jittered};
use super::limiter::{Limiter, Told, Turn};
use super::{Requests, errors};
use crate::tiers::store::StoreError;

/// Attempts at one request, the first included.
const ATTEMPTS: u32 = 3;

/// The pause before the second attempt, about; before each further one twice that, up to a bound.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Cut connections that cost no attempt: each had an earlier request refused on it.
const CUT_MAX: u32 = 4;

/// A kind of request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Errand {
    pub way: Way,
    pub verb: &'static str,
    /// A lookup waits for it: it does not queue behind whole frames.
    pub is_short: bool,
    /// A denial may be this object's own.
    pub reads_an_object: bool,
}

pub(super) const LOOK: Errand =
    Errand { way: Way::Read, verb: "look at", is_short: true, reads_an_object: true };
/// Lookups wait for it as well.
pub(super) const LIST: Errand = Errand { verb: "list", reads_an_object: false, ..LOOK };
pub(super) const READ: Errand = Errand { verb: "read", is_short: false, ..LOOK };
pub(super) const WRITE: Errand =
    Errand { way: Way::Write, verb: "write", is_short: false, reads_an_object: false };
pub(super) const RESTAMP: Errand = Errand { verb: "write a record to", ..WRITE };
pub(super) const ERASE: Errand = Errand { verb: "erase", ..WRITE };

impl Requests {
    /// Tries `once` until it ends well, or for good, or attempts or time are used up. Waiting for a
    /// first turn is not the store's fault and counts as no time.
    pub(super) async fn attempts<T, F>(
        &self,
        errand: Errand,
        once: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        tokio::select! {
            result = self.in_turn(errand, ATTEMPTS, once) => result,
            out = self.guard.out(errand.way) => Err(out),
        }
    }

    /// Tries once: for what must not be done twice.
    pub(super) async fn attempt<T, F>(
        &self,
        errand: Errand,
        once: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        tokio::select! {
            result = self.in_turn(errand, 1, once) => result,
            out = self.guard.out(errand.way) => Err(out),
        }
    }

    fn limiter(&self, errand: Errand) -> &Limiter {
        if errand.is_short { &self.looks } else { &self.limiter }
    }

    async fn in_turn<T, F>(
        &self,
        errand: Errand,
        attempts: u32,
        once: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let turn = self.limiter(errand).turn().await;
        // A second attempt has a little time, on a connection of its own: the first one's may be dead.
        let patience = self.attempt_timeout + self.attempt_timeout / 4;
        let tries = Box::pin(self.tries(errand, attempts, once, turn));
        self.guard.unless_silent(errand.way, patience, tries).await
    }

    async fn tries<'a, T, F>(
        &'a self,
        errand: Errand,
        attempts: u32,
        once: impl Fn() -> F,
        mut turn: Turn<'a>,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let deadline = Instant::now() + self.op_timeout;
        let (mut attempt, mut pause, mut cut_left) = (1, PAUSE, CUT_MAX);
        loop {
            let late = || Err(errors::too_late(errand.verb, self.op_timeout));
            let result = timeout_at(deadline, once()).await.unwrap_or_else(|_| late());
            let result = self.judged(errand, result).await;
            let again = attempt < attempts
                && result.as_ref().is_err_and(is_worth_another)
                && Instant::now() + pause < deadline;
            let was_cut = again && cut_left > 0 && result.as_ref().is_err_and(was_cut);
            if was_cut {
                cut_left -= 1;
            } else {
                turn.tell(told_by(&result));
                self.guard.heard(errand.way, &result);
                attempt += 1;
            }
            if !again {
                return result;
            }
            drop(turn);
            sleep(jittered(pause)).await;
            turn = self.limiter(errand).turn().await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }
}

fn was_cut(error: &StoreError) -> bool {
    let kind = io::ErrorKind::ConnectionReset;
    matches!(error, StoreError::Io { source, .. } if source.kind() == kind)
}

/// Whether another attempt may end otherwise.
fn is_worth_another(error: &StoreError) -> bool {
    match error {
        StoreError::Busy => true,
        StoreError::Io { source, .. } => {
            !matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
        }
        StoreError::Missing(_)
        | StoreError::Corrupt(_)
        | StoreError::Outdone(_)
        | StoreError::TierLost(_) => false,
    }
}

fn told_by<T>(result: &Result<T, StoreError>) -> Told {
    match result {
        Ok(_) | Err(StoreError::Missing(_) | StoreError::Corrupt(_) | StoreError::Outdone(_)) => {
            Told::Well
        }
        Err(StoreError::Busy) => Told::TooMuch,
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::TimedOut => {
            Told::TooMuch
        }
        Err(_) => Told::Nothing,
    }
}
