//! Waiting for ends: for one operation of a store, or for all of a list at once.
//!
//! A task that waited for each of a list by itself would be woken once a block; here it is woken
//! when the last one ended.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::tiers::store::{Done, StoreError};

type End = Result<(), StoreError>;

/// For one operation: what it is given, and its end.
pub(super) fn on_end() -> (Done, oneshot::Receiver<End>) {
    let (ended, end) = oneshot::channel();
    // The receiver is gone only when the runtime stops.
    (Box::new(move |result| drop(ended.send(result))), end)
}

/// For `count` operations: what each is given. Once the last one has ended, `then` hears all their ends
/// in that order, on that one's thread, or on this one if there are none. One that is dropped unanswered
/// counts as lost.
pub(super) fn at_all_ends(
    count: usize,
    then: impl FnOnce(Vec<End>) + Send + 'static,
) -> impl Iterator<Item = Done> {
    let lost = || Err(StoreError::TierLost("it stopped".into()));
    let gathering = Gathering::of((0..count).map(|_| lost()).collect(), then);
    (0..count).map(move |at| {
        let gathering = Arc::clone(&gathering);
        Box::new(move |end| gathering.enter(at, end)) as Done
    })
}

/// Tells all ends when the last who enters some lets go of it.
pub(super) struct Gathering<E, F: FnOnce(Vec<E>)>(Mutex<(Vec<E>, Option<F>)>);

impl<E, F: FnOnce(Vec<E>)> Gathering<E, F> {
    /// `ends` are what counts where nobody enters another.
    pub(super) fn of(ends: Vec<E>, then: F) -> Arc<Self> {
        Arc::new(Self(Mutex::new((ends, Some(then)))))
    }

    pub(super) fn enter(&self, at: usize, end: E) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0[at] = end;
    }
}

impl<E, F: FnOnce(Vec<E>)> Drop for Gathering<E, F> {
    fn drop(&mut self) {
        let (ends, then) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(then) = then.take() {
            then(std::mem::take(ends));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ends_come_in_order_with_the_last_one() {
        let (tell, mut all) = oneshot::channel();
        let dones = at_all_ends(3, |ends| tell.send(ends).unwrap());
        let mut dones: Vec<Done> = dones.collect();
        dones.remove(2)(Ok(()));
        dones.remove(0)(Err(StoreError::Busy));
        assert!(all.try_recv().is_err(), "one is under way");
        drop(dones);
        let ends = all.try_recv().unwrap();
        assert!(
            matches!(ends[..], [Err(StoreError::Busy), Err(StoreError::TierLost(_)), Ok(())]),
            "{ends:?}"
        );
    }

    #[test]
    fn no_operations_have_ended() {
        let (tell, mut all) = oneshot::channel();
        assert_eq!(at_all_ends(0, |ends| tell.send(ends).unwrap()).count(), 0);
        assert!(all.try_recv().unwrap().is_empty());
    }
}
