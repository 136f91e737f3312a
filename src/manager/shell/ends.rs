//! Waiting for stores: for one operation, or for all of a list at once.
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
    let ends = (0..count).map(|_| lost()).collect();
    let gathering = Arc::new(Gathering(Mutex::new((ends, Some(then)))));
    (0..count).map(move |at| {
        let gathering = Arc::clone(&gathering);
        Box::new(move |end| gathering.enter(at, end)) as Done
    })
}

/// Tells all ends when the last operation lets go of it.
struct Gathering<F: FnOnce(Vec<End>)>(Mutex<(Vec<End>, Option<F>)>);

impl<F: FnOnce(Vec<End>)> Gathering<F> {
    fn enter(&self, at: usize, end: End) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0[at] = end;
    }
}

impl<F: FnOnce(Vec<End>)> Drop for Gathering<F> {
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
