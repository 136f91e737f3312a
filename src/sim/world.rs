//! A node in virtual time: one manager, the machine it believes in, clients, and faults.
//!
//! Everything that happens comes off one timeline, so a seed gives the same run every time. After
//! every step all invariants are checked; the first violation ends the run and names its seed.

mod core;
mod headers;
mod run;
mod shared;

use crate::domain::block::Key;
use crate::domain::directory::Change;
use crate::domain::units::Time;
use crate::manager::Manager;
use crate::manager::api::{Effect, Event};

pub(super) use core::{Core, Due};
pub use run::run;
pub(super) use shared::Stretch;

/// What is simulated: the manager, or something that pretends to be one.
pub trait Subject {
    fn step(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>);

    /// # Errors
    /// The first broken invariant, in a sentence.
    fn check(&self) -> Result<(), String>;

    /// As [`Subject::check`], of what is too much to look through after every step.
    ///
    /// # Errors
    /// The first broken invariant, in a sentence.
    fn check_lists(&mut self) -> Result<(), String>;

    /// How many of the chain's first blocks are known; nothing if what follows is not to be had.
    fn known_prefix(&self, keys: &[Key]) -> Option<usize>;

    /// Every block that is served from somewhere, as a change from nowhere.
    fn residents(&self) -> Vec<Change>;
}

impl Subject for Manager {
    fn step(&mut self, now: Time, event: Event, effects: &mut Vec<Effect>) {
        Self::step(self, now, event, effects);
    }

    fn check(&self) -> Result<(), String> {
        self.check_invariants()
    }

    fn check_lists(&mut self) -> Result<(), String> {
        self.check_ranks()
    }

    fn known_prefix(&self, keys: &[Key]) -> Option<usize> {
        Self::known_prefix(self, keys)
    }

    fn residents(&self) -> Vec<Change> {
        Self::residents(self, 0, u32::MAX).0
    }
}

/// The manager, or this simulation, broke a rule.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{level} seed {seed}, step {step} at {} ms: {what}\n    \
     replay it with: SIM_LEVEL={level} SIM_SEED={seed} cargo test --test sim one_seed -- --nocapture",
    at.millis()
)]
pub struct Violation {
    pub level: super::scenario::Level,
    pub seed: u64,
    pub step: u64,
    pub at: Time,
    pub what: String,
}

/// A run that kept every rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunReport {
    /// BLAKE3 over every event and every effect.
    pub digest: String,
    pub steps: u64,
    pub transfers: u64,
    /// Records written into the headers of stored frames.
    pub restamps: u64,
    /// Blocks that loads delivered, and blocks that loads and stores reported as failed.
    pub loaded_blocks: u64,
    pub failed_blocks: u64,
    pub crashes: u64,
    /// Times that a tier went out.
    pub outages: u64,
    pub clients: u64,
    /// Frames that scans found after crashes.
    pub found_frames: u64,
    /// Blocks that the shared store was found to have, and that were not known here.
    pub shared_blocks: u64,
}
