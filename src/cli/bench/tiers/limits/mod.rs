//! What the machine can do by the simplest means: what each path is held against.
//!
//! Knows nothing of frames, tiers or the daemon; moves as many bytes in pieces of the same length.

mod crew;
pub mod disk;
pub mod files;
pub mod gpu;
pub mod http;
pub mod memory;
