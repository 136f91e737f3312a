//! What outside calls a wish, before anything is known to hold: numbers of any size.
//!
//! Upgrades a claim to a [`Wish`] or a [`LiftWish`]; bounds of priorities and times are theirs to
//! check, by `admit`.

use std::time::Duration;

use crate::domain::hint::{LiftWish, Target};
use crate::domain::retention::{Kind, Scope, Shield, TokenRange, Wish};
use crate::domain::session::SessionName;
use crate::domain::tier::Tier;

/// What a pin without a TTL asks for: what `cache_control` does.
pub const PIN_DEFAULT: Shield = Shield { ttl: Duration::from_mins(5), refresh_on_hit: true };

/// A wish as it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimedWish {
    pub priority: Option<u64>,
    pub priority_ms: Option<u64>,
    pub ttl_ms: Option<u64>,
    pub refresh_on_hit: Option<bool>,
    pub delete_after_ms: Option<u64>,
    pub kind: Option<Kind>,
    pub floor: Option<Tier>,
    pub scope: Option<Scope>,
}

impl ClaimedWish {
    /// The wish that is meant.
    ///
    /// # Errors
    /// A field belongs to one that is missing, or a priority is no priority; with what to do.
    pub fn wish(self) -> Result<Wish, String> {
        let priority = match (self.priority, self.priority_ms) {
            (None, Some(_)) => {
                return Err("priority_ms without priority: name the priority that counts so \
                            long, or leave it out"
                    .into());
            }
            (None, None) => None,
            (Some(priority), lasts) => {
                // Everything over a byte is over the bound as well, which `admit` tells.
                let priority = u8::try_from(priority)
                    .map_err(|_| format!("priority {priority} is out of range: 0 to 100"))?;
                Some((priority, lasts.map(Duration::from_millis)))
            }
        };
        let shield = match (self.ttl_ms, self.refresh_on_hit) {
            (None, Some(_)) => {
                return Err("refresh_on_hit without ttl_ms: name the TTL that a hit starts anew, \
                            or leave it out"
                    .into());
            }
            (ttl_ms, refresh) => ttl_ms.map(|ttl_ms| Shield {
                ttl: Duration::from_millis(ttl_ms),
                refresh_on_hit: refresh.unwrap_or(true),
            }),
        };
        let delete_after = self.delete_after_ms.map(Duration::from_millis);
        let Self { kind, floor, scope, .. } = self;
        Ok(Wish { priority, shield, delete_after, kind, floor, scope })
    }

    /// The wish of a `retain`.
    ///
    /// # Errors
    /// As [`Self::wish`]; or it asks for nothing.
    pub fn retain(self) -> Result<Wish, String> {
        let wish = self.wish()?;
        if wish.is_empty() {
            return Err(
                "it asks for nothing: name priority, ttl_ms, delete_after_ms, kind, floor \
                        or scope"
                    .into(),
            );
        }
        Ok(wish)
    }

    /// The wish of a `pin`, which always has a shield.
    ///
    /// # Errors
    /// As [`Self::wish`].
    pub fn pin(mut self) -> Result<Wish, String> {
        if self.ttl_ms.is_none() {
            let refresh = self.refresh_on_hit.take();
            let mut wish = self.wish()?;
            let refresh_on_hit = refresh.unwrap_or(PIN_DEFAULT.refresh_on_hit);
            wish.shield = Some(Shield { refresh_on_hit, ..PIN_DEFAULT });
            return Ok(wish);
        }
        self.wish()
    }
}

/// How blocks are to be lifted, as it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClaimedLift {
    pub to: Option<Tier>,
    pub deadline_ms: Option<u64>,
    pub priority: Option<u64>,
}

impl ClaimedLift {
    /// The wish that is meant; what of it is too far off is clipped by whoever carries it out.
    ///
    /// # Errors
    /// The deadline is over already, or the priority is no priority; with what to do.
    pub fn lift(self) -> Result<LiftWish, String> {
        // Everything over a byte is over the bound as well, which `admit` tells.
        let priority = self.priority.map(|priority| {
            u8::try_from(priority)
                .map_err(|_| format!("priority {priority} is out of range: give 0 to 100"))
        });
        let wish = LiftWish {
            to: self.to,
            deadline: self.deadline_ms.map(Duration::from_millis),
            priority: priority.transpose()?,
        };
        wish.admit().map(|_| wish)
    }
}

/// All of the chain that the session's last request reached.
#[must_use]
pub const fn last_chain(session: SessionName) -> Target {
    Target::Session { session, tokens: TokenRange::ALL }
}

/// What is said of a speculative prefill that names a target and a session.
pub const TARGET_TWICE: &str =
    "it names a target and a session: name the target, or the session whose last chain is meant";

/// A range that runs forward.
///
/// # Errors
/// It is empty or reversed.
pub fn forward(start: u64, end: Option<u64>) -> Result<TokenRange, String> {
    match end {
        Some(end) if end <= start => Err(format!(
            "tokens {start} to {end}: ranges are half-open and run forward, so the end must be \
             larger than the start"
        )),
        _ => Ok(TokenRange { start, end }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::hint::LIFT_DEADLINE_MAX;

    #[test]
    fn claims_become_wishes_or_say_what_is_missing() {
        let none = ClaimedWish::default();
        let said = |claim: ClaimedWish| claim.wish().and_then(Wish::admit).unwrap_err();
        assert!(said(ClaimedWish { priority_ms: Some(5), ..none }).contains("without priority"));
        assert!(said(ClaimedWish { refresh_on_hit: Some(true), ..none }).contains("without ttl"));
        for priority in [101, 255, 256, u64::MAX] {
            let text = said(ClaimedWish { priority: Some(priority), ..none });
            assert_eq!(text, format!("priority {priority} is out of range: 0 to 100"));
        }
        assert!(none.retain().unwrap_err().contains("asks for nothing"));
        assert_eq!(none.pin().unwrap().shield, Some(PIN_DEFAULT));
        let once = ClaimedWish { refresh_on_hit: Some(false), ..none }.pin().unwrap();
        assert_eq!(once.shield, Some(Shield { refresh_on_hit: false, ..PIN_DEFAULT }));
        let wish = ClaimedWish { ttl_ms: Some(u64::MAX), ..none }.wish().unwrap();
        assert!(wish.admit().unwrap().1, "a time without measure is clipped");
    }

    #[test]
    fn lifts_have_a_time_to_come_and_a_priority() {
        let none = ClaimedLift::default();
        assert_eq!(none.lift(), Ok(LiftWish::default()));
        let over = ClaimedLift { deadline_ms: Some(0), ..none }.lift().unwrap_err();
        assert!(over.contains("0 ms from now, which is over already"), "{over}");
        for priority in [101, 255, 256, u64::MAX] {
            let said = ClaimedLift { priority: Some(priority), ..none }.lift().unwrap_err();
            assert_eq!(said, format!("priority {priority} is out of range: give 0 to 100"));
        }
        let far = ClaimedLift { deadline_ms: Some(u64::MAX), ..none }.lift().unwrap();
        let (admitted, clipped) = far.admit().unwrap();
        assert_eq!((admitted.deadline, clipped), (Some(LIFT_DEADLINE_MAX), true));
    }
}
