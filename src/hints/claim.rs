//! What outside calls a wish, before anything is known to hold: numbers of any size.
//!
//! Upgrades a claim to a [`Wish`]; bounds of priorities and times are [`Wish::admit`]'s to check.

use std::time::Duration;

use crate::domain::retention::{Kind, Scope, Shield, TokenRange, Wish};
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
}
