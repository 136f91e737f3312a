//! The engines' pools: memory that clients lend, slot by slot.

use std::collections::BTreeMap;

use crate::domain::block::Key;
use crate::manager::api::{ClientId, End, PoolId};

use super::locks::Address;
use super::{Checked, GARBAGE, Machine, Value, value_of};

pub(super) struct PoolMemory {
    client: ClientId,
    /// Its engine calls before its stream has come so far.
    has_events: bool,
    /// Slots that the engine's stream is yet to read, or to write with a block.
    engine: BTreeMap<u32, Option<Key>>,
    pub(super) shard: u32,
    pub(super) slots: Vec<Value>,
    /// The manager gave it back. The engine's own memory stays, so loads that had ended by then
    /// can still be checked.
    freed: bool,
}

impl Machine {
    pub(in crate::sim) fn add_pool(
        &mut self,
        pool: PoolId,
        (client, has_events): (ClientId, bool),
        shard: u32,
        slots: u32,
    ) {
        let (engine, slots) = (BTreeMap::new(), vec![GARBAGE; slots as usize]);
        let memory = PoolMemory { client, has_events, engine, shard, slots, freed: false };
        self.pools.insert(pool, memory);
    }

    /// The manager gave the pool back: nothing may touch it from now on.
    pub(in crate::sim) fn free_pool(&mut self, client: ClientId, pool: PoolId) -> Checked {
        if let Some(address) = self.locks.within_pool(pool) {
            return Err(format!("{pool:?} was freed while a copy touches {address:?}"));
        }
        match self.pools.get_mut(&pool) {
            Some(memory) if memory.client != client => {
                Err(format!("{pool:?} of {:?} was freed for {client:?}", memory.client))
            }
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

    /// The engine computes the blocks' shard into its own slots; one that calls early has not yet.
    pub(in crate::sim) fn engine_writes(
        &mut self,
        pool: PoolId,
        slots: &[u32],
        keys: &[Key],
    ) -> Checked {
        let has_events = self.pool(pool)?.has_events;
        for (slot, key) in slots.iter().zip(keys) {
            self.check_idle(pool, *slot)?;
            if has_events {
                *self.slot_mut(pool, *slot)? = GARBAGE;
                self.engine_mut(pool)?.insert(*slot, Some(*key));
            } else {
                self.fill_slot(pool, *slot, *key)?;
            }
        }
        Ok(())
    }

    /// The engine has read the slots that it has filled; one that calls early has not yet.
    pub(in crate::sim) fn engine_reads(&mut self, pool: PoolId, slots: &[u32]) -> Checked {
        let has_events = self.pool(pool)?.has_events;
        for slot in slots.iter().filter(|_| has_events) {
            self.check_idle(pool, *slot)?;
            self.engine_mut(pool)?.insert(*slot, None);
        }
        Ok(())
    }

    /// The engine's stream has come so far: what it was yet to do with the slots it has done.
    pub(in crate::sim) fn engine_came(&mut self, pool: PoolId, slots: &[u32]) -> Checked {
        for slot in slots {
            if let Some(Some(key)) = self.engine_mut(pool)?.remove(slot) {
                self.fill_slot(pool, *slot, key)?;
            }
        }
        Ok(())
    }

    /// The engine does no more of what it was yet to do with the slots.
    pub(in crate::sim) fn engine_rests(&mut self, pool: PoolId, slots: &[u32]) -> Checked {
        let engine = self.engine_mut(pool)?;
        engine.retain(|slot, _| !slots.contains(slot));
        Ok(())
    }

    /// No copy may touch what the engine's stream is yet to read or write.
    pub(super) fn check_engine(&self, end: &End) -> Checked {
        let End::Pool { pool, slot, .. } = end else { return Ok(()) };
        if self.pools.get(pool).is_some_and(|memory| memory.engine.contains_key(slot)) {
            return Err(format!("{end:?} is touched before its engine has come so far"));
        }
        Ok(())
    }

    fn check_idle(&self, pool: PoolId, slot: u32) -> Checked {
        let address = Address::Slot(pool, slot);
        if self.locks.is_locked(address) {
            return Err(format!("{address:?} is touched by a copy after its operation completed"));
        }
        Ok(())
    }

    fn engine_mut(&mut self, pool: PoolId) -> Checked<&mut BTreeMap<u32, Option<Key>>> {
        let memory = self.pools.get_mut(&pool);
        memory.map(|memory| &mut memory.engine).ok_or_else(|| format!("{pool:?} was never there"))
    }

    fn fill_slot(&mut self, pool: PoolId, slot: u32, key: Key) -> Checked {
        // The engine's own memory stays when the pool was given back.
        let memory = self.pools.get_mut(&pool);
        let memory = memory.ok_or_else(|| format!("{pool:?} was never there"))?;
        memory.slots[slot as usize] = value_of(key, memory.shard);
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
