//! The engines' pools: memory that clients lend, slot by slot.

use crate::domain::block::Key;
use crate::manager::api::PoolId;

use super::locks::Address;
use super::{Checked, GARBAGE, Machine, Value, value_of};

pub(super) struct PoolMemory {
    pub(super) shard: u32,
    pub(super) slots: Vec<Value>,
    /// The manager gave it back. The engine's own memory stays, so loads that had ended by then
    /// can still be checked.
    freed: bool,
}

impl Machine {
    pub(in crate::sim) fn add_pool(&mut self, pool: PoolId, shard: u32, slots: u32) {
        self.pools
            .insert(pool, PoolMemory { shard, slots: vec![GARBAGE; slots as usize], freed: false });
    }

    /// The manager gave the pool back: nothing may touch it from now on.
    pub(in crate::sim) fn free_pool(&mut self, pool: PoolId) -> Checked {
        if let Some(address) = self.locks.within_pool(pool) {
            return Err(format!("{pool:?} was freed while a copy touches {address:?}"));
        }
        match self.pools.get_mut(&pool) {
            Some(memory) if !memory.freed => {
                memory.freed = true;
                Ok(())
            }
            _ => Err(format!("{pool:?} was freed twice")),
        }
    }

    pub(in crate::sim) fn pools_left(&self) -> usize {
        self.pools.values().filter(|memory| !memory.freed).count()
    }

    /// The engine computed the block's shard into one of its own slots.
    pub(in crate::sim) fn write_slot(&mut self, pool: PoolId, slot: u32, key: Key) -> Checked {
        let address = Address::Slot(pool, slot);
        if self.locks.is_locked(address) {
            return Err(format!("{address:?} is touched by a copy after its operation completed"));
        }
        let shard = self.pool(pool)?.shard;
        *self.slot_mut(pool, slot)? = value_of(key, shard);
        Ok(())
    }

    /// Whether the slot holds the block's shard.
    pub(in crate::sim) fn slot_holds(&self, pool: PoolId, slot: u32, key: Key) -> bool {
        let memory = self.pools.get(&pool);
        memory.is_some_and(|m| m.slots[slot as usize] == value_of(key, m.shard))
    }

    pub(super) fn pool(&self, pool: PoolId) -> Checked<&PoolMemory> {
        let memory = self.pools.get(&pool).filter(|memory| !memory.freed);
        memory.ok_or_else(|| format!("{pool:?} is used after it was freed"))
    }

    pub(super) fn slot_mut(&mut self, pool: PoolId, slot: u32) -> Checked<&mut Value> {
        let memory = self.pools.get_mut(&pool).filter(|memory| !memory.freed);
        let slot = memory.and_then(|memory| memory.slots.get_mut(slot as usize));
        slot.ok_or_else(|| format!("a copy touches {pool:?} after it was freed"))
    }
}
