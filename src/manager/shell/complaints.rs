//! Complaints: failures of single copies, said at most once a second, however many there are.

use crate::env::Seldom;

pub(super) struct Complaints(Seldom);

impl Complaints {
    pub fn start() -> Self {
        Self(Seldom::start())
    }

    /// Says it, with the number of others since the last time, or counts it.
    pub fn note(&self, failure: &str) {
        if let Some(others) = self.0.turn() {
            tracing::warn!(others, "a copy failed: {failure}");
        }
    }
}
