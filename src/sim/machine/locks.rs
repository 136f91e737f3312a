//! Who reads and who writes what: many readers or one writer, and one writer a shard.

use std::collections::BTreeMap;

use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::domain::units::CHUNK_BYTES;
use crate::manager::api::PoolId;

use super::Checked;

/// Something that holds bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Address {
    Place(Tier, u64),
    Object(Key),
    Slot(PoolId, u32),
}

/// All shards: what anything but an engine's store of one rank writes.
pub(super) const WHOLE: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, Default)]
struct Lock {
    readers: u32,
    /// Shards being written, by bit.
    writers: u64,
    bytes: u64,
}

/// Everything that is being touched.
#[derive(Debug, Default)]
pub(super) struct Locks {
    held: BTreeMap<Address, Lock>,
}

impl Locks {
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn is_locked(&self, address: Address) -> bool {
        self.held.contains_key(&address)
    }

    pub(super) fn read(&mut self, address: Address, bytes: u64) -> Checked {
        self.check_overlap(address, bytes)?;
        let lock = self.held.entry(address).or_default();
        if lock.writers != 0 {
            return Err(format!("reads {address:?} while it is being written"));
        }
        lock.readers += 1;
        lock.bytes = bytes;
        Ok(())
    }

    pub(super) fn write(&mut self, address: Address, bytes: u64, shards: u64) -> Checked {
        self.check_overlap(address, bytes)?;
        let lock = self.held.entry(address).or_default();
        if lock.readers > 0 || lock.writers & shards != 0 {
            return Err(format!("writes {address:?} while it is being read or written"));
        }
        lock.writers |= shards;
        lock.bytes = bytes;
        Ok(())
    }

    pub(super) fn end_read(&mut self, address: Address) {
        let lock = self.held.get_mut(&address).expect("what ends was begun");
        lock.readers -= 1;
        self.drop_idle(address);
    }

    pub(super) fn end_write(&mut self, address: Address, shards: u64) {
        let lock = self.held.get_mut(&address).expect("what ends was begun");
        lock.writers &= !shards;
        self.drop_idle(address);
    }

    /// A slot of the pool that is being touched.
    pub(super) fn within_pool(&self, pool: PoolId) -> Option<Address> {
        let slots = Address::Slot(pool, 0)..=Address::Slot(pool, u32::MAX);
        self.held.range(slots).next().map(|(address, _)| *address)
    }

    /// The tier's places that are being written: offset and length.
    pub(super) fn written_places(&self, tier: Tier) -> Vec<(u64, u32)> {
        let places = Address::Place(tier, 0)..=Address::Place(tier, u64::MAX);
        let written = self.held.range(places).filter(|(_, lock)| lock.writers != 0);
        written
            .filter_map(|(address, lock)| match address {
                Address::Place(_, offset) => Some((*offset, u32::try_from(lock.bytes).ok()?)),
                _ => None,
            })
            .collect()
    }

    /// Slots of another length must not be in use where this one lies.
    fn check_overlap(&self, address: Address, bytes: u64) -> Checked {
        let Address::Place(tier, offset) = address else { return Ok(()) };
        let from = Address::Place(tier, offset.saturating_sub(CHUNK_BYTES));
        let to = Address::Place(tier, offset + bytes);
        for (other, lock) in self.held.range(from..to) {
            if let Address::Place(_, at) = other
                && *at != offset
                && at + lock.bytes > offset
            {
                return Err(format!("{address:?} overlaps {other:?}, which is in use"));
            }
        }
        Ok(())
    }

    fn drop_idle(&mut self, address: Address) {
        if self.held.get(&address).is_some_and(|lock| lock.readers == 0 && lock.writers == 0) {
            self.held.remove(&address);
        }
    }
}
