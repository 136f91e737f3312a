//! Simulation: the manager in virtual time.
//!
//! Performs the manager's effects without moving a byte, from a heap ordered by virtual time, so
//! that policies are judged on millions of real requests in seconds and faults come back from a
//! seed. Never reads a clock and never asks the machine for randomness.
//!
//! `replay` judges policies: one engine, a real workload, figures. `world` looks for defects: many
//! clients, faults of every kind, and a checker after every step.

mod timeline;

pub mod oracle;
pub mod replay;

mod actors;
mod asks;
mod checker;
mod digest;
mod faults;
mod machine;
mod residency;
pub mod scenario;
pub mod world;
