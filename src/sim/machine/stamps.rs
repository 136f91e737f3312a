//! Records written into the headers of stored frames.

use crate::domain::block::Key;
use crate::domain::retention::{NewRecord, RetentionRecord};
use crate::domain::tier::Tier;
use crate::manager::api::RestampEnd;
use crate::tiers::store::Place;

use super::ends::erased_address;
use super::{Checked, Frame, Machine};

impl Machine {
    /// A header is being written: readers may read it meanwhile, but nobody may write there, erase
    /// it or give its slot away, and nobody else may write its record.
    pub(in crate::sim) fn begin_restamp(
        &mut self,
        tier: Tier,
        place: Option<Place>,
        key: Key,
        record: RetentionRecord,
    ) -> Checked {
        let address = erased_address(tier, place, key);
        let bytes = place.map_or(1, |place| u64::from(place.slot_bytes));
        if self.restamps.insert(address, record).is_some() {
            return Err(format!("two records are written at once at {address:?}"));
        }
        if self.locks.is_locked(address) {
            return Err(format!("a record is written at {address:?} while others are there"));
        }
        self.locks.read(address, bytes)
    }

    /// The write is over; one that failed may have been carried out all the same.
    pub(in crate::sim) fn end_restamp(
        &mut self,
        (tier, place): (Tier, Option<Place>),
        key: Key,
        new: NewRecord,
        end: RestampEnd,
    ) -> Checked<RestampEnd> {
        let address = erased_address(tier, place, key);
        self.locks.end_read(address);
        self.restamps.remove(&address);
        let Some(frame) = self.stored_mut(tier, place, key) else {
            let lost = place.is_none() && self.lost_objects.contains(&key);
            let what = format!("{address:?} held nothing when its record was written");
            return if lost { Ok(RestampEnd::Missing) } else { Err(what) };
        };
        if frame.torn {
            return Err(format!("{address:?} was written over before {key}'s record was"));
        }
        if frame.damaged {
            return Ok(RestampEnd::Corrupt);
        }
        let Some(header) = frame.header.as_mut().filter(|header| header.meta.key == key) else {
            return Err(format!("{address:?} did not hold {key} when its record was written"));
        };
        match end {
            // Of a block's places only its object is written by others too.
            RestampEnd::Written if place.is_none() => {
                header.meta.record = new.over(&header.meta.record);
                if header.meta.record != new.record {
                    return Ok(RestampEnd::Outdone(header.meta.record));
                }
            }
            RestampEnd::Written | RestampEnd::Outdone(_) => header.meta.record = new.record,
            RestampEnd::Failed => {}
            RestampEnd::Missing | RestampEnd::Corrupt => {
                frame.damaged = true;
                if place.is_none() {
                    self.objects.remove(&key);
                    self.lost_objects.insert(key);
                }
            }
        }
        Ok(end)
    }

    pub(super) fn stored_mut(
        &mut self,
        tier: Tier,
        place: Option<Place>,
        key: Key,
    ) -> Option<&mut Frame> {
        match place {
            Some(place) => self.places.get_mut(&(tier, place.offset)),
            None => self.objects.get_mut(&key),
        }
    }
}
