//! Loads that come from a store straight into an engine's slots: given up when their time is over, while
//! nothing touches the slots. Whatever the store does then stays in the frame that it was asked to fill.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit, oneshot};

use super::{Outcomes, Performer, Work};
use crate::env;
use crate::manager::api::FailureKind;
use crate::movement::Link;

/// How often it is looked whether slots are still touched, once the time is over.
const LOOK: Duration = Duration::from_millis(50);

/// Who has the slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Nobody yet.
    #[default]
    Reads,
    /// A copy into them is under way.
    Touches,
    /// Their engine again: none begins any more.
    GivenUp,
}

#[derive(Default)]
pub(super) struct Bound {
    state: Mutex<State>,
    given_up: Notify,
}

/// As long as this is there slots are touched.
pub(super) struct Touching<'a>(Option<&'a Bound>);

/// Turns of such loads. One that was given up has its turn until its store has done with it: more beside it
/// would only be late as well.
pub(in crate::manager::shell) struct Turns {
    near: Semaphore,
    far: Semaphore,
}

impl Turns {
    /// As many at a time as there may be transfers on the link.
    pub(in crate::manager::shell) fn of(in_flight_max: impl Fn(Link) -> usize) -> Self {
        let turns = |link| Semaphore::new(in_flight_max(link).clamp(1, Semaphore::MAX_PERMITS));
        Self { near: turns(Link::NvmeRead), far: turns(Link::ObjectGet) }
    }

    async fn take(&self, link: Link) -> Option<SemaphorePermit<'_>> {
        let turns = if link == Link::ObjectGet { &self.far } else { &self.near };
        // Never closed.
        turns.acquire().await.ok()
    }
}

impl Bound {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) -> Option<Touching<'_>> {
        let mut state = self.state();
        if *state == State::GivenUp {
            return None;
        }
        *state = State::Touches;
        Some(Touching(Some(self)))
    }

    /// False: slots are touched just now.
    fn give_up(&self) -> bool {
        let mut state = self.state();
        if *state == State::Reads {
            *state = State::GivenUp;
            self.given_up.notify_waiters();
        }
        *state == State::GivenUp
    }

    /// What was waited for; nothing once it was given up.
    async fn unless_given_up<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let told = self.given_up.notified();
        if *self.state() == State::GivenUp {
            return None;
        }
        tokio::select! {
            biased;
            () = told => None,
            ended = wait => Some(ended),
        }
    }
}

impl Drop for Touching<'_> {
    fn drop(&mut self) {
        if let Some(bound) = self.0 {
            *bound.state() = State::Reads;
        }
    }
}

impl Work {
    /// Leave to write where the copies go; nothing once it was given up.
    pub(super) fn may_touch(&self) -> Option<Touching<'_>> {
        match &self.bound {
            Some(bound) => bound.touch(),
            None => Some(Touching(None)),
        }
    }

    /// What the work waits for before it asks anything of a store: nobody wants what comes later.
    pub(super) async fn unless_given_up<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        match &self.bound {
            Some(bound) => bound.unless_given_up(wait).await,
            None => Some(wait.await),
        }
    }
}

impl Performer {
    /// Copies what comes within this time. The frames of a read that did not come are kept until it does.
    pub(super) async fn perform_within(
        self: &Arc<Self>,
        mut work: Work,
        waits: Duration,
    ) -> Outcomes {
        let (bound, items) = (Arc::new(Bound::default()), work.items.len());
        work.bound = Some(Arc::clone(&bound));
        let (tell, mut told) = oneshot::channel();
        let this = Arc::clone(self);
        env::spawn_task_on(&self.runtime, async move {
            let Some(_turn) = work.unless_given_up(this.turns.take(work.link)).await else {
                return;
            };
            // Nobody hears it who gave it up.
            let _ = tell.send(this.perform(&work).await);
        });
        let given_up = vec![Err(FailureKind::NotDone); items];
        let mut waits = waits;
        loop {
            match tokio::time::timeout(waits, &mut told).await {
                Ok(ended) => return ended.unwrap_or(given_up),
                Err(_) if bound.give_up() => return given_up,
                Err(_) => waits = LOOK,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_up_between_copies_and_none_begins_afterwards() {
        let bound = Bound::default();
        let touching = bound.touch().unwrap();
        assert!(!bound.give_up());
        drop(touching);
        assert!(bound.give_up() && bound.give_up());
        assert!(bound.touch().is_none());
    }

    #[tokio::test]
    async fn who_waits_for_frames_leaves_the_line_when_it_is_given_up() {
        let bound = Arc::new(Bound::default());
        assert_eq!(bound.unless_given_up(std::future::ready(1)).await, Some(1));
        let waits = Arc::clone(&bound);
        let waiting = async move { waits.unless_given_up(std::future::pending::<()>()).await };
        let (left, ()) = tokio::join!(waiting, async { assert!(bound.give_up()) });
        assert_eq!(left, None);
        assert_eq!(bound.unless_given_up(std::future::ready(1)).await, None);
    }
}
