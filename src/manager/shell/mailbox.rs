//! Where the manager hears what others have done.

use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};
use tokio::runtime;

use crate::domain::tier::Tier;
use crate::env;
use crate::manager::api::Event;
use crate::tiers::store::{FoundFrame, StoreError};

/// How often a task looks whether the manager's queue has room again. It holds thousands, which the manager
/// takes within milliseconds.
const ROOM_LOOK: Duration = Duration::from_millis(1);

/// Keeps nothing of the performer: whoever stops the manager is to find the devices and stores free.
#[derive(Clone)]
pub(super) struct Mailbox {
    pub events: Sender<Event>,
    pub runtime: runtime::Handle,
}

impl Mailbox {
    /// Never waits: whoever tells it may be the manager's own thread.
    pub fn tell(&self, event: Event) {
        // A manager that has stopped needs no answer.
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            let events = self.events.clone();
            env::spawn_task_on(&self.runtime, async move { deliver(&events, event).await });
        }
    }

    /// What was done but for a promise to forget that stood there is done. The manager hears of the promise,
    /// before it hears of the end.
    pub fn tell_outdone(&self, end: Result<(), StoreError>) -> Result<(), StoreError> {
        match end {
            Err(StoreError::Outdone(header)) => {
                let frame = Box::new(FoundFrame::object(*header));
                self.tell(Event::Found { tier: Tier::Object, frame });
                Ok(())
            }
            end => end,
        }
    }
}

/// Brings a task's event to the manager once there is room, and leaves its thread to others until then.
pub(super) async fn deliver(events: &Sender<Event>, mut event: Event) {
    // A manager that has stopped needs none.
    while let Err(TrySendError::Full(back)) = events.try_send(event) {
        event = back;
        tokio::time::sleep(ROOM_LOOK).await;
    }
}
