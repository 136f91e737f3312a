//! What the manager is told of copies and engines.

use super::Outcomes;
use crate::manager::api::{Event, ItemFailure, OpId, TransferId};
use crate::manager::shell::mailbox::Mailbox;

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
