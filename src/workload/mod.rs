//! Workloads: requests as agents make them, read from a trace or generated from a seed.
//!
//! Says what is asked for and when; never talks to a manager or a daemon, and never reads a clock:
//! times are the workload's own.

pub mod content;
pub mod draw;
pub mod generator;
pub mod request;
pub mod trace;

pub use request::{IdRun, Request, Stop, Trigger};
