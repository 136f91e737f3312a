//! A scan that does not come on: its pauses, and what whoever asks for the store's health is told.
//!
//! Decides nothing: when to pause and when to go on is the scan's.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::slots::Access;
use crate::env::Stopwatch;
use crate::tiers::health::{Health, Refuses};

/// Whether the folder's scan stands still, since when and why.
pub struct Stall {
    dir: PathBuf,
    access: Arc<dyn Access>,
    since: Mutex<Option<(Stopwatch, String)>>,
}

impl Stall {
    #[must_use]
    pub fn new(dir: PathBuf, access: &Arc<dyn Access>) -> Self {
        Self { dir, access: Arc::clone(access), since: Mutex::new(None) }
    }

    /// Lets the device be for so long.
    pub fn pause(&self, how_long: Duration) {
        self.access.pause(how_long);
    }

    /// The device gives nothing: the log hears it the first time.
    pub fn begin(&self, error: &str) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none() {
            tracing::error!(
                folder = %self.dir.display(),
                error,
                "the disk can't be read, so NVMe stays closed: what is unread must not be written \
                 over. It is asked again by itself; if the disk is lost, stop the daemon and move \
                 everything out of all of the tier's folders to start with an empty one"
            );
            *since = Some((Stopwatch::start(), error.to_owned()));
        }
    }

    /// The scan comes on, or is over.
    pub fn end(&self) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.take().is_some() {
            tracing::warn!(folder = %self.dir.display(), "the disk can be read again");
        }
    }

    /// Out for writes while the scan stands still. What was found can be read.
    #[must_use]
    pub fn health(&self) -> Health {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        since.as_ref().map_or(Health::Well, |(since, error)| Health::Out {
            refuses: Refuses::WRITES,
            on_trial: false,
            lasting: since.elapsed(),
            why: format!("what it held before the start can't be read ({error})"),
        })
    }
}
