//! What the manager is told of copies and engines, and how that comes to it.

use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError};
use tokio::runtime;

use super::Outcomes;
use crate::env;
use crate::manager::api::{Event, ItemFailure, OpId, TransferId};

/// How often a task looks whether the manager's queue has room again. It holds thousands, which the manager
/// takes within milliseconds.
const ROOM_LOOK: Duration = Duration::from_millis(1);

/// Tells the manager how a transfer ended.
pub(super) struct Teller {
    pub transfer: TransferId,
    pub mailbox: Mailbox,
}

impl Teller {
    pub fn tell(self, outcomes: Outcomes) {
        let failed = (0..)
            .zip(outcomes)
            .filter_map(|(item, end)| end.err().map(|kind| ItemFailure { item, kind }))
            .collect();
        self.mailbox.tell(Event::TransferDone { transfer: self.transfer, failed });
    }
}

/// An engine that is asked for. Dropped untold, it says that nobody can tell.
pub(super) struct Asked {
    pub op: OpId,
    pub mailbox: Option<Mailbox>,
}

impl Asked {
    pub fn tell(mut self, came: bool) {
        self.tell_once(came);
    }

    fn tell_once(&mut self, came: bool) {
        if let Some(mailbox) = self.mailbox.take() {
            mailbox.tell(Event::EngineCame { op: self.op, came });
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.tell_once(false);
    }
}

/// Where the manager hears of one thing. Keeps nothing of the performer: whoever stops the manager is to
/// find the devices and stores free.
pub(super) struct Mailbox {
    pub events: Sender<Event>,
    pub runtime: runtime::Handle,
}

impl Mailbox {
    /// Never waits: whoever tells it may be the manager's own thread.
    fn tell(self, event: Event) {
        // A manager that has stopped needs no answer.
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            env::spawn_task_on(&self.runtime, async move { deliver(&self.events, event).await });
        }
    }
}

/// Brings a task's event to the manager once there is room, and leaves its thread to others until then.
pub(in crate::manager::shell) async fn deliver(events: &Sender<Event>, mut event: Event) {
    // A manager that has stopped needs none.
    while let Err(TrySendError::Full(back)) = events.try_send(event) {
        event = back;
        tokio::time::sleep(ROOM_LOOK).await;
    }
}
