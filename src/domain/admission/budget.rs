//! The write budget: token buckets of bytes a second and bytes a day, and what of them each kind
//! has to leave.
//!
//! Exact: levels are counted in byte-microseconds, so that nothing is lost to rounding however
//! often it is asked. Reads no clock.

use std::time::Duration;

use crate::domain::retention::Kind;
use crate::domain::units::Time;

const DAY: Duration = Duration::from_hours(24);

/// What the bucket of bytes a second holds: bursts of so much time.
const BURST_S: u64 = 10;

/// How much of a bucket's first fill a block of this kind has to leave to others, in hundredths:
/// what many share is written to the last byte, scratch while there is plenty.
#[must_use]
pub const fn floor_percent(kind: Kind) -> u8 {
    match kind {
        Kind::System | Kind::Tools => 0,
        Kind::Unknown | Kind::Conversation | Kind::ToolResult | Kind::Output => 20,
        Kind::Reasoning | Kind::Subagent => 50,
    }
}

/// A bucket into which bytes run at a steady rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// So many bytes...
    bytes: u64,
    /// ...in so many microseconds.
    micros: u64,
    /// What is in it now, in byte-microseconds: a byte counts `micros`. Below zero it is in debt.
    level: i128,
    level_max: i128,
    /// What was in it at the start.
    fill: i128,
    /// What the bound of debts has forgiven since it was in debt: what costs nothing gives nothing back.
    forgiven: i128,
    since: Option<Time>,
}

impl Bucket {
    /// Starts with what runs into it in `fill`; holds what runs into it in `most`.
    fn new(bytes: u64, per: Duration, fill: Duration, most: Duration) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let level = i128::from(bytes) * i128::from(micros(fill));
        let level_max = i128::from(bytes) * i128::from(micros(most));
        Self { bytes, micros: micros(per), level, level_max, fill: level, forgiven: 0, since: None }
    }

    fn level_at(&self, now: Time) -> i128 {
        let passed = now.since(self.since.unwrap_or(now)).as_micros();
        let passed = i128::try_from(passed).unwrap_or(i128::MAX);
        let came = i128::from(self.bytes).saturating_mul(passed);
        self.level.saturating_add(came).min(self.level_max)
    }

    fn advance(&mut self, now: Time) {
        self.level = self.level_at(now);
        self.since = Some(self.since.map_or(now, |since| since.max(now)));
        if self.level >= 0 {
            self.forgiven = 0;
        }
    }

    fn cost(&self, bytes: u64) -> i128 {
        i128::from(bytes) * i128::from(self.micros)
    }

    /// Whether so much may be taken. A full bucket has it in any case: what is longer than all that it
    /// holds would never be had.
    fn has(&self, bytes: u64, floor_percent: u8) -> bool {
        let floor = self.fill * i128::from(floor_percent) / 100;
        self.level == self.level_max || self.level - self.cost(bytes) >= floor
    }

    fn take(&mut self, bytes: u64) {
        self.level -= self.cost(bytes);
    }

    /// Debts are bounded by what the bucket starts with, and what goes beyond is not owed: then there is
    /// writing again soon.
    fn charge(&mut self, bytes: u64) {
        let owed = self.level - self.cost(bytes);
        self.level = owed.max(self.level.min(-self.fill));
        self.forgiven += self.level - owed;
    }

    fn refund(&mut self, bytes: u64) {
        let free = self.forgiven.min(self.cost(bytes));
        self.forgiven -= free;
        self.level = (self.level + self.cost(bytes) - free).min(self.level_max);
    }

    fn left_bytes(&self, now: Time) -> i64 {
        let left = self.level_at(now) / i128::from(self.micros);
        i64::try_from(left).unwrap_or(if left < 0 { i64::MIN } else { i64::MAX })
    }
}

/// How many bytes may be written.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    buckets: [Option<Bucket>; 2],
}

impl Budget {
    /// Zero is no limit. The bucket of a second holds ten; that of a day a whole one, and starts
    /// with an hour's share.
    #[must_use]
    pub fn new(bytes_per_s: u64, bytes_per_day: u64) -> Self {
        let burst = Duration::from_secs(BURST_S);
        let second = Bucket::new(bytes_per_s, Duration::from_secs(1), burst, burst);
        let day = Bucket::new(bytes_per_day, DAY, DAY / 24, DAY);
        let buckets = [(bytes_per_s, second), (bytes_per_day, day)];
        Self { buckets: buckets.map(|(bytes, bucket)| (bytes > 0).then_some(bucket)) }
    }

    /// Takes the bytes, if a block of this kind may have them.
    pub fn takes(&mut self, now: Time, kind: Kind, bytes: u64) -> bool {
        let mut buckets = self.buckets.iter_mut().flatten();
        let has = buckets.all(|bucket| {
            bucket.advance(now);
            bucket.has(bytes, floor_percent(kind))
        });
        if has {
            self.buckets.iter_mut().flatten().for_each(|bucket| bucket.take(bytes));
        }
        has
    }

    /// Takes the bytes, whatever there is, and has all of them paid back.
    pub fn owe(&mut self, now: Time, bytes: u64) {
        for bucket in self.buckets.iter_mut().flatten() {
            bucket.advance(now);
            bucket.take(bytes);
        }
    }

    /// Takes the bytes, if need be on credit, which is bounded.
    pub fn charge(&mut self, now: Time, bytes: u64) {
        for bucket in self.buckets.iter_mut().flatten() {
            bucket.advance(now);
            bucket.charge(bytes);
        }
    }

    /// Gives back what was taken and not used.
    pub fn refund(&mut self, bytes: u64) {
        for bucket in self.buckets.iter_mut().flatten() {
            bucket.refund(bytes);
        }
    }

    /// What may be written at once, below zero what is owed; none where nothing is limited.
    #[must_use]
    pub fn left_bytes(&self, now: Time) -> Option<i64> {
        self.buckets.iter().flatten().map(|bucket| bucket.left_bytes(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(secs: u64) -> Time {
        Time::ZERO + Duration::from_secs(secs)
    }

    #[test]
    fn no_limit_takes_everything() {
        let mut budget = Budget::new(0, 0);
        assert!(budget.takes(Time::ZERO, Kind::Subagent, u64::MAX));
        assert_eq!(budget.left_bytes(Time::MAX), None);
    }

    #[test]
    fn a_second_has_its_bytes_and_a_burst_is_saved_up() {
        let mut budget = Budget::new(100, 0);
        assert!(budget.takes(at(5), Kind::System, 1000));
        assert!(!budget.takes(at(5), Kind::System, 1));
        assert!(budget.takes(at(6), Kind::System, 100));
        assert!(!budget.takes(at(6), Kind::System, 1));
        assert_eq!(budget.left_bytes(at(1_000_000)), Some(1000));
    }

    #[test]
    fn a_day_has_its_bytes_and_starts_with_an_hour() {
        let mut budget = Budget::new(0, 24_000);
        assert!(budget.takes(at(0), Kind::System, 1000));
        assert!(!budget.takes(at(0), Kind::System, 1));
        assert_eq!(budget.left_bytes(at(3600 * 7)), Some(7000));
        assert_eq!(budget.left_bytes(at(3600 * 100)), Some(24_000));
    }

    #[test]
    fn scratch_leaves_more_than_what_many_share() {
        let taken = |kind| {
            let mut budget = Budget::new(10, 0);
            (0..100).filter(|_| budget.takes(at(0), kind, 1)).count()
        };
        assert_eq!([Kind::Subagent, Kind::Output, Kind::Tools].map(taken), [50, 80, 100]);
    }

    #[test]
    fn debts_are_bounded_and_paid_first() {
        let mut budget = Budget::new(100, 0);
        budget.charge(at(0), u64::MAX);
        assert_eq!(budget.left_bytes(at(4)), Some(-600), "it says what is owed");
        assert!(!budget.takes(at(10), Kind::System, 1));
        assert!(budget.takes(at(11), Kind::System, 100));
        budget.refund(100);
        assert_eq!(budget.left_bytes(at(11)), Some(100));
    }

    #[test]
    fn what_is_owed_is_paid_back_in_full() {
        let mut budget = Budget::new(100, 0);
        budget.owe(at(0), 3500);
        assert_eq!(budget.left_bytes(at(0)), Some(-2500));
        budget.charge(at(0), 700);
        assert_eq!(budget.left_bytes(at(0)), Some(-2500), "beyond the bound of debts");
        assert!(!budget.takes(at(25), Kind::System, 1));
        assert!(budget.takes(at(26), Kind::System, 100));
    }

    #[test]
    fn what_is_longer_than_a_full_bucket_is_written_as_often_as_it_may_be() {
        let mut budget = Budget::new(100, 0);
        let takes = |budget: &mut Budget, secs| budget.takes(at(secs), Kind::Subagent, 4000);
        let seconds: Vec<_> = (0..100).filter(|secs| takes(&mut budget, *secs)).collect();
        assert_eq!(seconds, [0, 40, 80]);
        // What is written on credit forgives no debt.
        budget.charge(at(80), 1);
        assert!(!takes(&mut budget, 119));
        assert!(takes(&mut budget, 120));
    }

    #[derive(Clone, Copy, Debug)]
    enum Ask {
        Take(u8, u64),
        Wait(u64),
    }

    fn asks() -> impl Strategy<Value = Vec<Ask>> {
        let take = (0_u8..8, 0_u64..5000).prop_map(|(kind, bytes)| Ask::Take(kind, bytes));
        let wait = (0_u64..7_000_000).prop_map(Ask::Wait);
        proptest::collection::vec(prop_oneof![3 => take, 1 => wait], 0..200)
    }

    proptest! {
        /// However deep the debt: what was written on credit and came to nothing earns nothing.
        #[test]
        fn what_is_given_back_is_no_more_than_was_taken(
            before in proptest::collection::vec(0_u64..5000, 0..5),
            bytes in 0_u64..50_000,
        ) {
            let mut budget = Budget::new(100, 24_000);
            for bytes in &before {
                budget.charge(at(0), *bytes);
            }
            let levels = |budget: &Budget| budget.buckets.map(|one| one.map(|one| one.level));
            let was = levels(&budget);
            budget.charge(at(0), bytes);
            budget.refund(bytes);
            for (is, was) in levels(&budget).into_iter().zip(was) {
                prop_assert!(is <= was);
            }
            if before.is_empty() {
                prop_assert_eq!(levels(&budget), was, "nor does it cost anything");
            }
        }

        /// Whatever is asked and when: never more than the first fill and what ran in since, but for a
        /// block that is longer than a full bucket.
        #[test]
        fn it_never_gives_more_than_came_in(asks in asks(), rate in 1_u64..1000, daily in 1_u64..10_000_000) {
            let (mut budget, mut now, mut given) = (Budget::new(rate, daily), Time::ZERO, 0_u64);
            let mut credit = 0;
            for ask in asks {
                match ask {
                    Ask::Wait(micros) => now = now + Duration::from_micros(micros),
                    Ask::Take(kind, bytes) => {
                        let kind = Kind::ALL[usize::from(kind)];
                        let before = budget.left_bytes(now);
                        let takes = budget.takes(now, kind, bytes);
                        let before = before.and_then(|left| u64::try_from(left).ok());
                        let has_it = before >= Some(bytes);
                        let is_full = [Some(rate * BURST_S), Some(daily)].contains(&before);
                        prop_assert!(!takes || has_it || is_full);
                        credit = credit.max(if takes && is_full { bytes } else { 0 });
                        given += if takes { bytes } else { 0 };
                    }
                }
                let micros = u128::from(now.micros);
                let most_s = u128::from(rate) * (u128::from(BURST_S) * 1_000_000 + micros);
                let most_day = u128::from(daily) * (DAY.as_micros() / 24 + micros);
                let given = u128::from(given - credit.min(given));
                prop_assert!(given * 1_000_000 <= most_s);
                prop_assert!(given * DAY.as_micros() <= most_day);
            }
        }
    }
}
