//! The tiers: stores of frames behind one small trait.
//!
//! A store keeps bytes where it is told and gives back the same bytes. It never chooses a place,
//! never evicts, and never knows what a session or a policy is.

mod breaker;
#[cfg(test)]
pub(crate) mod contract;
pub mod decorators;
pub mod dram;
pub mod frame;
pub mod hbm;
pub mod health;
pub mod memory;
pub mod nvme;
pub mod object;
pub mod open;
#[cfg(test)]
pub(crate) mod sample;
pub mod shm;
pub mod store;
pub mod sync;
pub mod ticket;
pub mod workers;
