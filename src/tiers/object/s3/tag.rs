//! The tag by which a bucket's own lifecycle rules delete what was promised to be forgotten: for when
//! no daemon is left to do it.
//!
//! A rule deletes whole days after an object was written, so the tag names days, from a short list
//! that an operator makes rules for. Never too few: the promise itself is the daemon's to keep.

use std::time::Duration;

use crate::domain::retention::RetentionRecord;
use crate::domain::units::Time;

/// The days that there may be rules for.
const DAYS: [u32; 8] = [1, 2, 3, 7, 14, 30, 90, 365];

const DAY: Duration = Duration::from_hours(24);

/// `terrace-days=7`, if the block is promised to be forgotten within a year.
pub(super) fn of(record: &RetentionRecord, now: Time) -> Option<String> {
    if record.delete_after == Time::ZERO {
        return None;
    }
    let left = record.delete_after.since(now);
    let days = DAYS.into_iter().find(|days| DAY * *days >= left)?;
    Some(format!("terrace-days={days}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_names_the_fewest_days_that_are_enough() {
        let now = Time::ZERO + DAY * 20_000;
        let check = |left: Duration, wanted: Option<&str>| {
            let record = RetentionRecord { delete_after: now + left, ..RetentionRecord::default() };
            assert_eq!(of(&record, now).as_deref(), wanted, "{left:?}");
        };
        check(Duration::from_secs(1), Some("terrace-days=1"));
        check(DAY, Some("terrace-days=1"));
        check(DAY + Duration::from_secs(1), Some("terrace-days=2"));
        check(DAY * 8, Some("terrace-days=14"));
        check(DAY * 365, Some("terrace-days=365"));
        check(DAY * 366, None);
        assert_eq!(of(&RetentionRecord::default(), now), None);
        let past = RetentionRecord { delete_after: now, ..RetentionRecord::default() };
        assert_eq!(of(&past, now + DAY).as_deref(), Some("terrace-days=1"));
    }
}
