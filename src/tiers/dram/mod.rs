//! DRAM: the arena, one mapping that holds the tier's frames and the staging frames.
//!
//! Never decides which span belongs to whom: an operation owns the spans it was given.

mod arena;
mod store;

pub use arena::{Arena, ArenaConfig};
pub use store::DramStore;
