//! Stores around stores: each changes one thing and keeps the contract.
//!
//! `Metered::new(Excused::new(Watched::new(Throttled::new(Faulty::new(store, …)?, …)?, …), …))`. Never knows what store is inside.

mod excused;
mod faulty;
mod later;
mod metered;
mod throttled;
mod watched;

pub use excused::Excused;
pub use faulty::{FaultPlan, Faulty};
pub use metered::Metered;
pub use throttled::{Limits, Throttled};
pub use watched::{Patience, Watched};
