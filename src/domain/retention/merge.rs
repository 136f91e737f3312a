//! What becomes of a record when something is asked for its block.
//!
//! Who has a block alone may change its mind about everything. Of a block that others have too, each
//! gets what keeps it longer: the longer shield, the higher priority, the deeper floor; and the
//! promise to forget holds only as far as all agree. What an owner does not say is the default.
//! Joining is commutative, associative and idempotent, so the order of requests decides nothing.

use std::time::Duration;

use super::directive::{TTL_MAX, Wish};
use super::record::{Kind, PRIORITY_DEFAULT, RetentionRecord, Scope};
use crate::domain::tier::Tier;
use crate::domain::units::Time;

/// Whether others have asked for the block too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    Sole,
    Shared,
}

impl RetentionRecord {
    /// The record after `wish` was asked at `now`.
    #[must_use]
    pub fn asked(self, wish: &Wish, now: Time, ownership: Ownership) -> Self {
        match ownership {
            Ownership::Sole => self.overlaid(wish, now),
            Ownership::Shared => self.joined(Self::default().overlaid(wish, now)),
        }
    }

    /// What `wish` names replaces what stood there.
    fn overlaid(mut self, wish: &Wish, now: Time) -> Self {
        if let Some((priority, lasts)) = wish.priority {
            self.priority = priority;
            self.priority_until = lasts.map_or(Time::ZERO, |lasts| now + lasts);
        }
        if let Some(shield) = wish.shield {
            self.shield_until = now + shield.ttl;
            self.refresh_on_hit_ms = if shield.refresh_on_hit { millis(shield.ttl) } else { 0 };
        }
        if let Some(after) = wish.delete_after {
            self.delete_after = now + after;
        }
        self.scope = wish.scope.unwrap_or(self.scope);
        if let Some(kind) = wish.kind {
            // A kind raises the floor and never lowers it: that takes a floor that is named.
            self.kind = kind;
            self.floor = self.floor.min(kind.floor());
        }
        self.floor = wish.floor.unwrap_or(self.floor);
        self
    }

    /// The record after its owner released the block.
    #[must_use]
    pub fn released(mut self) -> Self {
        (self.shield_until, self.refresh_on_hit_ms) = (Time::ZERO, 0);
        // A lowered one stays, for as long as it was asked for.
        if self.priority > PRIORITY_DEFAULT {
            (self.priority, self.priority_until) = (PRIORITY_DEFAULT, Time::ZERO);
        }
        self
    }

    /// What satisfies the owners of both records.
    #[must_use]
    pub fn joined(self, other: Self) -> Self {
        let (priority, until) = self.priority_rank().max(other.priority_rank());
        let priority_until = if until == Time::MAX { Time::ZERO } else { until };
        let (scope, delete_after) = joined_promise(&self, &other);
        Self {
            priority,
            priority_until,
            shield_until: self.shield_until.max(other.shield_until),
            refresh_on_hit_ms: self.refresh_on_hit_ms.max(other.refresh_on_hit_ms),
            delete_after,
            kind: if self.kind.rank() >= other.kind.rank() { self.kind } else { other.kind },
            floor: self.floor.max(other.floor),
            scope,
        }
    }

    /// Higher first, then longer; a priority without an end lasts longest.
    fn priority_rank(&self) -> (u8, Time) {
        let for_good = self.priority_until == Time::ZERO;
        (self.priority, if for_good { Time::MAX } else { self.priority_until })
    }

    /// The record without what is over by `now`: records that are equal so ask for the same.
    #[must_use]
    pub fn standing(&self, now: Time) -> Self {
        let mut standing = *self;
        if standing.shield_until <= now {
            (standing.shield_until, standing.refresh_on_hit_ms) = (Time::ZERO, 0);
        }
        if standing.priority_until != Time::ZERO && standing.priority_until <= now {
            (standing.priority, standing.priority_until) = (PRIORITY_DEFAULT, Time::ZERO);
        }
        standing
    }

    /// What counts of a record that a header brings. Nobody is granted more than [`TTL_MAX`], so what
    /// lasts longer was written by a clock that was ahead. Promises to forget count as they stand: where it is
    /// this node's clock that is wrong, the header would be told to forget too soon.
    #[must_use]
    pub fn believed(&self, now: Time) -> Self {
        let mut believed = self.standing(now);
        believed.shield_until = believed.shield_until.min(now + TTL_MAX);
        believed.priority_until = believed.priority_until.min(now + TTL_MAX);
        believed.refresh_on_hit_ms = believed.refresh_on_hit_ms.min(millis(TTL_MAX));
        believed
    }

    /// Whether something besides its shield ends by itself.
    #[must_use]
    pub fn has_times(&self) -> bool {
        self.delete_after != Time::ZERO || self.priority_until != Time::ZERO
    }

    /// Whether a session promised, of its own, that the block is forgotten.
    #[must_use]
    pub fn is_sessions_promise(&self) -> bool {
        self.scope == Scope::Session && self.delete_after != Time::ZERO
    }

    /// Whether the promise to forget is due.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        self.delete_after != Time::ZERO && self.delete_after <= now
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// A block in a session's own scope is forgotten when the first session that owns it wants that;
/// any other block when the last of its owners does, or never.
fn joined_promise(a: &RetentionRecord, b: &RetentionRecord) -> (Scope, Time) {
    let or_never = |time: Time| if time == Time::ZERO { Time::MAX } else { time };
    let (first, second) = (or_never(a.delete_after), or_never(b.delete_after));
    let (scope, at) = match (a.scope == Scope::Session, b.scope == Scope::Session) {
        (true, true) => (Scope::Session, first.min(second)),
        (true, false) => (Scope::Session, first),
        (false, true) => (Scope::Session, second),
        (false, false) => {
            (if a.scope == b.scope { a.scope } else { Scope::Global }, first.max(second))
        }
    };
    (scope, if at == Time::MAX { Time::ZERO } else { at })
}

impl Kind {
    /// The lowest tier that blocks of this kind sink to unless their owner says otherwise: scratch
    /// is not worth writing down.
    #[must_use]
    pub const fn floor(self) -> Tier {
        match self {
            Self::Reasoning | Self::Subagent => Tier::Dram,
            _ => Tier::Object,
        }
    }

    /// Of two kinds named for one block, the one more often read again counts.
    const fn rank(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Subagent => 1,
            Self::Reasoning => 2,
            Self::Output => 3,
            Self::ToolResult => 4,
            Self::Conversation => 5,
            Self::Tools => 6,
            Self::System => 7,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::directive::Shield;
    use super::*;

    const NOW: Time = Time::from_millis(1_000_000);

    fn seconds() -> impl Strategy<Value = Duration> {
        (1_u64..5).prop_map(|n| Duration::from_secs(n * 300))
    }

    fn wish() -> impl Strategy<Value = Wish> {
        let priority = prop::option::of((0_u8..=100, prop::option::of(seconds())));
        let shield = prop::option::of((seconds(), any::<bool>()));
        let kind = prop::option::of(prop::sample::select(Kind::ALL.to_vec()));
        let floor = prop::option::of(prop::sample::select(Tier::ALL.to_vec()));
        let scope = prop::option::of(prop::sample::select(Scope::ALL.to_vec()));
        (priority, shield, prop::option::of(seconds()), kind, floor, scope).prop_map(
            |(priority, shield, delete_after, kind, floor, scope)| Wish {
                priority,
                shield: shield.map(|(ttl, refresh_on_hit)| Shield { ttl, refresh_on_hit }),
                delete_after,
                kind,
                floor,
                scope,
            },
        )
    }

    fn record() -> impl Strategy<Value = RetentionRecord> {
        wish().prop_map(|wish| RetentionRecord::default().asked(&wish, NOW, Ownership::Sole))
    }

    proptest! {
        #[test]
        fn the_order_of_owners_decides_nothing(a in wish(), b in wish(), c in wish()) {
            let first = |w: &Wish| RetentionRecord::default().asked(w, NOW, Ownership::Sole);
            let then = |r: RetentionRecord, w: &Wish| r.asked(w, NOW, Ownership::Shared);
            prop_assert_eq!(then(first(&a), &b), then(first(&b), &a));
            prop_assert_eq!(then(then(first(&a), &b), &c), then(then(first(&c), &b), &a));
            prop_assert_eq!(then(first(&a), &a), first(&a));
        }

        #[test]
        fn joining_is_a_join(a in record(), b in record(), c in record()) {
            prop_assert_eq!(a.joined(b), b.joined(a));
            prop_assert_eq!(a.joined(a), a);
            prop_assert_eq!(a.joined(b).joined(c), a.joined(b.joined(c)));
        }

        #[test]
        fn nobody_loses_by_sharing(a in record(), b in record()) {
            let both = a.joined(b);
            for one in [a, b] {
                prop_assert!(both.priority >= one.priority);
                prop_assert!(both.shield_until >= one.shield_until);
                prop_assert!(both.floor >= one.floor);
                if one.scope == Scope::Session && one.delete_after != Time::ZERO {
                    prop_assert!(both.delete_after != Time::ZERO);
                    prop_assert!(both.delete_after <= one.delete_after);
                }
            }
            if [a, b].iter().all(|one| one.scope != Scope::Session) {
                let agreed = a.delete_after != Time::ZERO && b.delete_after != Time::ZERO;
                let last = a.delete_after.max(b.delete_after);
                prop_assert_eq!(both.delete_after, if agreed { last } else { Time::ZERO });
            }
        }

        #[test]
        fn who_is_alone_gets_exactly_what_was_asked(old in record(), w in wish()) {
            let new = old.asked(&w, NOW, Ownership::Sole);
            if let Some((priority, _)) = w.priority {
                prop_assert_eq!(new.priority, priority);
            }
            if let Some(shield) = w.shield {
                prop_assert_eq!(new.shield_until, NOW + shield.ttl);
            }
            if let Some(after) = w.delete_after {
                prop_assert_eq!(new.delete_after, NOW + after);
            }
            if w.is_empty() {
                prop_assert_eq!(new, old);
            }
        }
    }

    #[test]
    fn scratch_has_a_floor() {
        let wish = Wish { kind: Some(Kind::Reasoning), ..Wish::default() };
        let record = RetentionRecord::default().asked(&wish, NOW, Ownership::Sole);
        assert_eq!(record.floor, Tier::Dram);
        let wish = Wish { floor: Some(Tier::Nvme), ..wish };
        let record = RetentionRecord::default().asked(&wish, NOW, Ownership::Sole);
        assert_eq!(record.floor, Tier::Nvme);
    }
}
