//! Blocks of the HBM tier that clients read where they lie.
//!
//! What is lent stays where it is until it is given back, its request ends or its client goes. No time
//! ends it: nothing would tell the reader. So no more than a share of the tier is lent.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::block::Key;
use crate::domain::directory::BlockIndex;
use crate::domain::residency::CopyState;
use crate::domain::tier::Tier;

use super::api::{ClientId, LentBlock, NamespaceId, Refusal, Reply, RequestId};
use super::clients::RETRY_AFTER;
use super::config::TierConfig;
use super::{Answer, Manager};

/// Who reads which copies of the HBM tier.
#[derive(Default)]
pub(super) struct Lent {
    /// By client and request.
    held: BTreeMap<(ClientId, RequestId), BTreeSet<BlockIndex>>,
    /// How many hold a copy.
    holders: BTreeMap<BlockIndex, u32>,
    /// Of distinct copies.
    bytes: u64,
    holds: usize,
}

impl Lent {
    /// Copies that are lent, and to how many.
    pub(super) fn holders(&self) -> impl Iterator<Item = (BlockIndex, u32)> + '_ {
        self.holders.iter().map(|(block, count)| (*block, *count))
    }

    fn is_held(&self, whose: (ClientId, RequestId), block: BlockIndex) -> bool {
        self.held.get(&whose).is_some_and(|blocks| blocks.contains(&block))
    }

    fn add(&mut self, whose: (ClientId, RequestId), block: BlockIndex, bytes: u64) {
        self.held.entry(whose).or_default().insert(block);
        self.holds += 1;
        let holders = self.holders.entry(block).or_default();
        *holders += 1;
        self.bytes += if *holders == 1 { bytes } else { 0 };
    }

    fn remove(&mut self, block: BlockIndex, bytes: u64) {
        self.holds -= 1;
        let holders = self.holders.get_mut(&block).expect("what is given back was lent");
        *holders -= 1;
        if *holders == 0 {
            self.holders.remove(&block);
            self.bytes -= bytes;
        }
    }
}

/// How much may be lent at a time.
#[derive(Clone, Copy)]
struct Share {
    bytes: u64,
    blocks: usize,
}

fn share(tier: TierConfig, percent: u8) -> Share {
    let of = |whole: u64| u128::from(whole) * u128::from(percent.min(100)) / 100;
    Share {
        bytes: u64::try_from(of(tier.capacity_bytes)).expect("a share is no more than the whole"),
        blocks: usize::try_from(of(tier.slots_max)).unwrap_or(usize::MAX),
    }
}

impl Manager {
    /// Lends those of the blocks that are in HBM, as far as the share of the tier goes.
    pub(super) fn borrow(&mut self, whose: (ClientId, RequestId), keys: &[Key]) -> Answer {
        self.client(whose.0)?;
        let Some(space) = &self.tiers[Tier::Hbm.index()] else {
            return Err(Refusal::Precondition(
                "this daemon has no HBM tier: Load copies blocks to where they are needed".into(),
            ));
        };
        let most = share(space.config, self.config.lent_percent);
        if self.lent.holds + keys.len() > self.config.lent_blocks_max {
            return Err(Refusal::Busy {
                what: "too many blocks are lent",
                retry_after: RETRY_AFTER,
            });
        }
        let (mut blocks, mut clipped) = (Vec::new(), 0);
        let mut previous = None;
        for (index, key) in (0_u32..).zip(keys) {
            previous = self.directory.find_after(previous, *key);
            let Some(block) = previous.filter(|block| self.is_lendable(*block)) else { continue };
            if self.lend(whose, block, most) {
                blocks.push(LentBlock { index, place: self.place_of(block, Tier::Hbm) });
            } else {
                clipped += 1;
            }
        }
        Ok(Reply::Borrow { blocks, clipped })
    }

    fn is_lendable(&self, block: BlockIndex) -> bool {
        let row = self.directory.get(block);
        row.may_be_served(self.now) && row.copy(Tier::Hbm).state == CopyState::Resident
    }

    /// False: the share is used up.
    fn lend(&mut self, whose: (ClientId, RequestId), block: BlockIndex, most: Share) -> bool {
        if self.lent.is_held(whose, block) {
            return true;
        }
        let bytes = self.lent_bytes_of(block);
        let more = Share { bytes: self.lent.bytes + bytes, blocks: self.lent.holders.len() + 1 };
        let fits = more.bytes <= most.bytes && more.blocks <= most.blocks;
        if !self.lent.holders.contains_key(&block) && !fits {
            return false;
        }
        self.lift_used(block);
        self.pin(block, Tier::Hbm);
        self.lent.add(whose, block, bytes);
        true
    }

    /// Nobody reads for this request any more; gives how many blocks it held.
    pub(super) fn give_back(&mut self, whose: (ClientId, RequestId)) -> u32 {
        let blocks = self.lent.held.remove(&whose).unwrap_or_default();
        let count = u32::try_from(blocks.len()).expect("what is lent is bounded");
        for block in blocks {
            self.lent.remove(block, self.lent_bytes_of(block));
            self.unpin(block, Tier::Hbm);
            // What was to go meanwhile waited for this.
            self.sweep(block);
        }
        count
    }

    pub(super) fn give_back_all(&mut self, client: ClientId) {
        let of_client = (client, RequestId(0))..=(client, RequestId(u64::MAX));
        let held: Vec<_> = self.lent.held.range(of_client).map(|(whose, _)| *whose).collect();
        for whose in held {
            self.give_back(whose);
        }
    }

    fn lent_bytes_of(&self, block: BlockIndex) -> u64 {
        let namespace = NamespaceId(self.directory.get(block).namespace);
        self.namespace(namespace).slot_bytes(Tier::Hbm).into()
    }

    /// What is counted of the lent is what is held, and no more of the tier than may be.
    pub(super) fn check_lent(&self) -> Result<(), String> {
        let mut holders: BTreeMap<BlockIndex, u32> = BTreeMap::new();
        for block in self.lent.held.values().flatten() {
            *holders.entry(*block).or_default() += 1;
        }
        let bytes: u64 = holders.keys().map(|block| self.lent_bytes_of(*block)).sum();
        let holds: usize = self.lent.held.values().map(BTreeSet::len).sum();
        if (&holders, bytes, holds) != (&self.lent.holders, self.lent.bytes, self.lent.holds) {
            return Err(format!(
                "{holds} blocks of {bytes} bytes are lent, otherwise than counted"
            ));
        }
        if self.lent.held.keys().any(|(client, _)| !self.clients.contains_key(client)) {
            return Err("blocks are lent to a client that went".into());
        }
        let Some(space) = &self.tiers[Tier::Hbm.index()] else { return Ok(()) };
        let most = share(space.config, self.config.lent_percent);
        (bytes <= most.bytes && holders.len() <= most.blocks)
            .then_some(())
            .ok_or_else(|| format!("{bytes} bytes of HBM are lent, more than may be"))
    }
}
