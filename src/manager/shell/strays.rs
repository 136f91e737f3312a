//! Finds what this node's runs before this one left in the shared store, once, after the start.
//!
//! Decides nothing. While the store is out it waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::manager::api::Event;
use crate::manager::{STRAYS_MAX, Stray};
use crate::tiers::store::{StoreError, TierStore};

/// Of what is known, other nodes' may be one in so many.
const OTHERS_PART: usize = 4;

/// How often it is looked whether a store is back.
const PAUSE: Duration = Duration::from_secs(5);

/// Reports them to the manager; ends early when nobody has the store any more.
pub(super) fn look(store: &Weak<dyn TierStore>, node_id: [u8; 16], events: &Sender<Event>) {
    while let Some(here) = store.upgrade() {
        // A manager that has stopped needs none of it.
        let tell = |event| drop(events.send(event));
        tell(Event::LookForStrays { begins: true });
        let (strays, scanned) = find(&here, node_id);
        let count = strays.len();
        for stray in strays {
            tell(Event::Stray(Box::new(stray)));
        }
        tell(Event::LookForStrays { begins: false });
        match scanned {
            Ok(()) => {
                return tracing::info!(objects = count, "found what was stored before the start");
            }
            Err(error) if !is_out(&error, &here) => {
                return tracing::warn!(
                    %error,
                    "could not look at all that was stored in the object tier before the start: what was \
                     not found counts for nothing until somebody asks for it"
                );
            }
            Err(_) => drop(here),
        }
        wait_until_back(store);
    }
}

/// Whether it is for the whole store that it could not be looked at: it may be back by now.
fn is_out(error: &StoreError, store: &Arc<dyn TierStore>) -> bool {
    matches!(error, StoreError::TierLost(_)) || store.health().is_out()
}

fn wait_until_back(store: &Weak<dyn TierStore>) {
    loop {
        std::thread::sleep(PAUSE);
        if store.upgrade().is_none_or(|store| !store.health().is_out()) {
            return;
        }
    }
}

fn find(store: &Arc<dyn TierStore>, node_id: [u8; 16]) -> (Vec<Stray>, Result<(), StoreError>) {
    let (mut found, mut of_others) = (BTreeMap::new(), 0);
    let scanned = store.scan(&mut |frame| {
        let Some(stray) = Stray::of(frame.header, node_id) else { return };
        let is_others = frame.header.node_id != node_id;
        of_others += usize::from(is_others);
        if found.len() < STRAYS_MAX && (!is_others || of_others <= STRAYS_MAX / OTHERS_PART) {
            found.insert(frame.header.meta.key, stray);
        }
    });
    (Stray::linked(found), scanned)
}
