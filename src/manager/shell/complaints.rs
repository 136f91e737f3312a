//! Complaints: failures of single blocks, said at most once a second, however many there are.

use std::fmt;

use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::env::Seldom;
use crate::tiers::store::{StoreError, StoreOp};

pub(super) struct Complaints(Seldom);

/// What did not go well.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    Read(Tier, Key),
    Write(Tier, Key),
    Erase(Tier, Key),
    /// The record in a stored frame's header.
    Restamp(Tier, Key),
    /// The same in memory, before the frame goes down.
    RestampInMemory(Key),
    Flush(Tier),
    /// One on a device, between pools, its own memory and frames.
    DeviceCopy,
    /// One that it did not begin.
    DeviceTurn,
}

impl Deed {
    pub fn of(tier: Tier, op: &StoreOp) -> Self {
        match *op {
            StoreOp::Read { key, .. } => Self::Read(tier, key),
            StoreOp::Write { key, .. } => Self::Write(tier, key),
            StoreOp::Erase { key, .. } => Self::Erase(tier, key),
            StoreOp::Restamp { key, .. } => Self::Restamp(tier, key),
        }
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(tier, key) => write!(f, "block {key} was not read from {tier}"),
            Self::Write(tier, key) => write!(f, "block {key} was not written to {tier}"),
            Self::Erase(tier, key) => write!(f, "block {key} was not erased in {tier}"),
            Self::Restamp(tier, key) => {
                write!(f, "the record of block {key} was not written to {tier}")
            }
            Self::RestampInMemory(key) => {
                write!(f, "the record of block {key} was not written to its frame in memory")
            }
            Self::Flush(tier) => {
                write!(f, "{tier} was not flushed for blocks that are to be durable")
            }
            Self::DeviceCopy => write!(f, "a block was not copied by the device"),
            Self::DeviceTurn => write!(
                f,
                "a block was not copied by the device, for which too many wait or whose engine has left"
            ),
        }
    }
}

impl Complaints {
    pub fn start() -> Self {
        Self(Seldom::start())
    }

    /// Says it, with the number of others since the last time, or counts it.
    pub fn note(&self, deed: Deed, error: &StoreError) {
        if let Some(others) = self.0.turn() {
            tracing::warn!(others, "{deed}: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::namespace::example;

    #[test]
    fn whoever_reads_the_log_learns_what_was_not_done_to_which_block() {
        let key = example().digest().key(b"one");
        let said = |deed: Deed| deed.to_string().replace(&key.to_string(), "K");
        let deeds = [
            (Deed::Read(Tier::Object, key), "block K was not read from object"),
            (Deed::Write(Tier::Nvme, key), "block K was not written to nvme"),
            (Deed::Erase(Tier::Nvme, key), "block K was not erased in nvme"),
            (Deed::Restamp(Tier::Object, key), "the record of block K was not written to object"),
            (
                Deed::RestampInMemory(key),
                "the record of block K was not written to its frame in memory",
            ),
            (
                Deed::DeviceTurn,
                "a block was not copied by the device, for which too many wait or whose engine has left",
            ),
            (Deed::Flush(Tier::Nvme), "nvme was not flushed for blocks that are to be durable"),
            (Deed::DeviceCopy, "a block was not copied by the device"),
        ];
        for (deed, text) in deeds {
            assert_eq!(said(deed), text);
        }
    }
}
