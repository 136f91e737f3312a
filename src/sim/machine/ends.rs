//! Where the ends of copies are, as addresses.

use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::manager::api::End;
use crate::tiers::store::Place;

use super::locks::Address;

pub(super) fn tier_of(end: &End) -> Tier {
    match end {
        End::Hbm(_) => Tier::Hbm,
        End::Dram(_) => Tier::Dram,
        End::Nvme(_) => Tier::Nvme,
        End::Object => Tier::Object,
        End::Pool { .. } => unreachable!("a pool is in no tier"),
    }
}

pub(super) fn address(end: &End, key: Key) -> Address {
    match end {
        End::Hbm(place) | End::Dram(place) | End::Nvme(place) => {
            Address::Place(tier_of(end), place.offset)
        }
        End::Object => Address::Object(key),
        End::Pool { pool, slot, .. } => Address::Slot(*pool, *slot),
    }
}

pub(super) fn erased_address(tier: Tier, place: Option<Place>, key: Key) -> Address {
    place.map_or(Address::Object(key), |place| Address::Place(tier, place.offset))
}

pub(super) fn length(end: &End) -> u64 {
    match end {
        End::Hbm(place) | End::Dram(place) | End::Nvme(place) => u64::from(place.slot_bytes),
        End::Object | End::Pool { .. } => 1,
    }
}
