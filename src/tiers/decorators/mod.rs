//! Stores around stores: each changes one thing and keeps the contract.
//!
//! `Metered::new(Excused::new(Watched::new(Throttled::new(Faulty::new(store, …)?, …)?, …), …))`. Never knows
//! what store is inside.

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

#[cfg(test)]
use std::sync::Arc;

#[cfg(test)]
use super::{contract, dram::Arena, store::TierStore};

/// Checks the contract of what `decorate` makes of a store in memory, and of that store's arena.
#[cfg(test)]
fn check_contract<S: TierStore + 'static>(decorate: impl Fn(Arc<dyn TierStore>, &Arc<Arena>) -> S) {
    contract::check_store(|| {
        let arena = contract::arena(0);
        let tier = crate::domain::tier::Tier::Nvme;
        let inside = Arc::new(super::memory::MemoryStore::new(tier, Arc::clone(&arena)));
        let store = Arc::new(decorate(Arc::clone(&inside) as _, &arena));
        let flip = move |key, place, byte| inside.flip_bit(key, place, byte);
        contract::Fixture::new(arena, store).corrupted_by(flip)
    });
}
