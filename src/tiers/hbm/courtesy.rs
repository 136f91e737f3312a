//! Has stores wait while loads copy: both take the same memory's bandwidth, and a request waits for
//! the load.
//!
//! Knows nothing of copies. Loads without a pause slow stores down and don't starve them: what they have
//! waited gives them a turn.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::await_turn_after;

/// What a store waits at most before its turn.
const PATIENCE: Duration = Duration::from_millis(2);

/// How many loads copy now.
#[derive(Default)]
pub(super) struct Courtesy {
    loading: Mutex<usize>,
    over: Condvar,
}

impl Courtesy {
    /// A load copies until what this gives is dropped.
    pub(super) fn begin(&self) -> Loading<'_> {
        *self.loading() += 1;
        Loading(self)
    }

    /// Waits for loads and for whoever else wants the processor, unless it is the calling thread's turn
    /// still.
    pub(super) fn await_turn(&self) {
        await_turn_after(|| self.wait(PATIENCE));
    }

    /// Returns once nothing is loaded, or `patience` is over.
    fn wait(&self, patience: Duration) {
        let waited = self.over.wait_timeout_while(self.loading(), patience, |loading| *loading > 0);
        drop(waited);
    }

    fn loading(&self) -> MutexGuard<'_, usize> {
        // A count is right whoever panicked beside it.
        self.loading.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Loading<'a>(&'a Courtesy);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        *self.0.loading() -= 1;
        self.0.over.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::env::{Stopwatch, spawn_thread};

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn stores_wait_until_the_last_load_is_over() {
        let courtesy = Arc::new(Courtesy::default());
        courtesy.wait(LONG);
        let (first, second) = (courtesy.begin(), courtesy.begin());
        let (tell, told) = sync_channel(1);
        let waits = Arc::clone(&courtesy);
        let store = spawn_thread("store", move || {
            waits.wait(LONG);
            tell.send(()).unwrap();
        });
        drop(first);
        assert_eq!(told.recv_timeout(Duration::from_millis(50)).ok(), None);
        drop(second);
        told.recv_timeout(LONG / 2).unwrap();
        store.unwrap().join().unwrap();
    }

    #[test]
    fn loads_without_a_pause_leave_stores_their_turns() {
        let courtesy = Courtesy::default();
        let _loading = courtesy.begin();
        let watch = Stopwatch::start();
        courtesy.await_turn();
        let waited = watch.elapsed();
        assert!(waited >= PATIENCE && waited < LONG, "waited for as long as it is willing to");
        (0..1000).for_each(|_| courtesy.await_turn());
        assert!(watch.elapsed() < PATIENCE * 1000, "a turn is not waited for while it lasts");
    }
}
