//! The rules of the house, as plain data and pure functions.
//!
//! Never does IO, reads a clock, takes a lock, spawns or logs: time comes in as an argument, and
//! decisions go out as values.

pub mod admission;
pub mod block;
pub mod directory;
pub mod hint;
pub mod namespace;
pub mod planner;
pub mod prefetch;
pub mod residency;
pub mod retention;
pub mod session;
pub mod slots;
pub mod tier;
pub mod units;
