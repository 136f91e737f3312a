//! Stores around stores: each changes one thing and keeps the contract.
//!
//! `Metered::new(Watched::new(Throttled::new(Faulty::new(store, …)?, …)?, …))`. Never knows what store is inside.

mod faulty;
mod later;
mod metered;
mod throttled;
mod watched;

pub use faulty::{FaultPlan, Faulty};
pub use metered::Metered;
pub use throttled::{Limits, Throttled};
pub use watched::{Patience, Watched};
