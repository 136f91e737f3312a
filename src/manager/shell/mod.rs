//! The shell: performs the manager's effects on real threads and stores.
//!
//! Decides nothing: what to copy and drop, and in what order, is the manager's. One thread owns the
//! manager; copies run on the device's streams, the stores' threads and the runtime.

mod actor;

mod carrier;

mod complaints;
mod ends;

mod fate;

mod handle;

mod journal;

mod mailbox;

mod perform;

mod sealing;

mod upkeep;

mod shared;

mod staging;

mod strays;

#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;

use crate::domain::tier::Tier;
use crate::env::{self, Clock};
use crate::manager::api::Event;
use crate::manager::{Manager, ManagerConfig};
use crate::tiers::dram::Arena;
use crate::tiers::hbm::Device;
use crate::tiers::store::TierStore;

use actor::{Actor, Message, Queues};
pub use carrier::{Carrier, CarrierParts, Ended};
use complaints::Complaints;
use fate::{Fate, fate};
pub use handle::Handle;
pub use journal::{Batch, Entry, Journal, Page};
use perform::{Performer, Turns};
use sealing::SealThreads;
use shared::Shared;
use staging::Staging;
use upkeep::Erasing;

/// What a daemon is made of.
pub struct ShellParts {
    pub config: ManagerConfig,
    pub clock: Arc<dyn Clock>,
    pub runtime: runtime::Handle,
    pub arena: Arc<Arena>,
    /// Where the arena's staging frames lie, in bytes from its start.
    pub staging: std::ops::Range<u64>,
    pub device: Arc<dyn Device>,
    pub nvme: Option<Arc<dyn TierStore>>,
    pub object: Option<Arc<dyn TierStore>>,
    /// Stands in the header of every frame this node writes.
    pub node_id: [u8; 16],
    /// Changes of residency that are kept for those who follow them; zero: none are told.
    pub journal_changes_max: usize,
}

/// A running manager. Dropping it without [`Shell::stop`] leaves the thread to end on its own.
pub struct Shell {
    handle: Handle,
    thread: JoinHandle<()>,
    fate: Fate,
}

/// Commands that may wait for the manager's thread; more are told to try again.
const COMMANDS_QUEUED_MAX: usize = 1024;
/// Ends of transfers that may wait; their senders wait for room.
const EVENTS_QUEUED_MAX: usize = 4096;
/// Scanned frames that may wait. Whoever scans is faster than the manager and keeps their queue full, so it
/// is not that of the ends.
const SCANNED_QUEUED_MAX: usize = 1024;

impl Shell {
    /// Starts the manager's thread and the scan of what NVMe holds from before a restart.
    ///
    /// # Errors
    /// The machine refused a thread.
    pub fn start(parts: ShellParts) -> io::Result<Self> {
        let (commands, command_queue) = crossbeam_channel::bounded(COMMANDS_QUEUED_MAX);
        let (events, event_queue) = crossbeam_channel::bounded(EVENTS_QUEUED_MAX);
        let recovers = parts.config.tiers[Tier::Nvme.index()].is_some_and(|tier| tier.recovers);
        let shared = parts.object.clone().map(Shared::new);
        let scanned = parts.nvme.clone().filter(|_| recovers);
        let (object, node_id) = (parts.object.as_ref().map(Arc::downgrade), parts.node_id);
        let performer = Arc::new(Performer {
            staging: Staging::new(parts.staging),
            turns: Turns::of(|link| parts.config.links[link.index()].in_flight_max),
            arena: Arc::clone(&parts.arena),
            device: Arc::clone(&parts.device),
            erasing: Erasing::of(parts.nvme.as_ref(), parts.object.as_ref()),
            nvme: parts.nvme,
            object: parts.object,
            node_id: parts.node_id,
            events,
            complaints: Arc::new(Complaints::start()),
            seal_threads: Arc::new(SealThreads::start()?),
            runtime: parts.runtime,
        });
        let journal = (parts.journal_changes_max > 0)
            .then(|| Arc::new(Journal::new(parts.clock.now().micros, parts.journal_changes_max)));
        let manager = Manager::new(ManagerConfig {
            node_id: parts.node_id,
            tells_residency: journal.is_some(),
            ..parts.config
        });
        let actor = Actor::new(manager, parts.clock, performer, journal.clone());
        let (running, fate) = fate();
        let (frames, scanned_queue) = crossbeam_channel::bounded(SCANNED_QUEUED_MAX);
        let queues =
            Queues { messages: command_queue, events: event_queue, scanned: scanned_queue };
        let thread = env::spawn_thread("terrace-manager", move || {
            actor.run(running, &queues);
        })?;
        if scanned.is_some() || object.is_some() {
            env::spawn_thread("terrace-scan", move || {
                if let Some(store) = scanned {
                    scan(store.as_ref(), &frames);
                }
                // What NVMe has too is known by then.
                if let Some(store) = object {
                    strays::look(&store, node_id, &frames);
                }
            })?;
        }
        let handle =
            Handle::new(commands, fate.clone(), parts.arena, parts.device, shared, journal);
        Ok(Self { handle, thread, fate })
    }

    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends when the manager has ended by a defect: nobody answers from then on.
    pub fn failed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.fate.clone().failed()
    }

    /// Stops the manager's thread once nothing moves, or after `patience`.
    pub fn stop(self, patience: Duration) {
        self.handle.send(Message::Stop { patience });
        if self.thread.join().is_err() {
            tracing::error!("the manager's thread had panicked");
        }
    }
}

/// Reports what a store holds from before a restart. A tier whose scan failed stays closed: what was not
/// found would be written over.
fn scan(store: &dyn TierStore, events: &crossbeam_channel::Sender<Event>) {
    let tier = store.tier();
    let mut frames = 0_u64;
    let scanned = store.scan(&mut |frame| {
        frames += 1;
        // A manager that has stopped needs no frames.
        let _ = events.send(Event::Found { tier, frame: Box::new(frame) });
    });
    match scanned {
        Ok(()) => {
            tracing::info!(%tier, frames, "scanned what was there from before");
            let _ = events.send(Event::ScanDone { tier });
        }
        Err(error) => tracing::error!(
            %tier,
            %error,
            "could not scan what was there from before: the tier takes nothing until the daemon is \
             started anew"
        ),
    }
}
