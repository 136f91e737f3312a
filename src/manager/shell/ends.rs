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

/// For `count` operations: what each is given, and all their ends in that order once the last one
/// has ended. One that is dropped unanswered counts as lost.
pub(super) fn on_all_ends(
    count: usize,
) -> (impl Iterator<Item = Done>, oneshot::Receiver<Vec<End>>) {
    let (told, all) = oneshot::channel();
    let lost = || Err(StoreError::TierLost("it stopped".into()));
    let ends = Mutex::new((0..count).map(|_| lost()).collect());
    let gathering = Arc::new(Gathering { ends, told: Some(told) });
    let dones = (0..count).map(move |at| {
        let gathering = Arc::clone(&gathering);
        Box::new(move |end| gathering.enter(at, end)) as Done
    });
    (dones, all)
}

/// Tells all ends when the last operation lets go of it.
struct Gathering {
    ends: Mutex<Vec<End>>,
    told: Option<oneshot::Sender<Vec<End>>>,
}

impl Gathering {
    fn enter(&self, at: usize, end: End) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)[at] = end;
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let ends = self.ends.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = self.told.take() {
            // The receiver is gone only when the runtime stops.
            drop(told.send(std::mem::take(ends)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ends_come_in_order_with_the_last_one() {
        let (dones, mut all) = on_all_ends(3);
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
        let (dones, mut all) = on_all_ends(0);
        assert_eq!(dones.count(), 0);
        assert!(all.try_recv().unwrap().is_empty());
    }
}
