//! Directives: what a client asks for the blocks of a stretch of tokens.
//!
//! Checks and clips claims; never looks at a block.

use std::time::Duration;

use super::record::{Kind, PRIORITY_MAX, Scope};
use crate::domain::tier::Tier;

/// Directives of one request at most.
pub const DIRECTIVES_MAX: usize = 64;

/// The longest time to live that is granted; longer ones are clipped to it.
pub const TTL_MAX: Duration = Duration::from_hours(24);

/// The farthest a promise to forget may lie ahead.
pub const DELETE_AFTER_MAX: Duration = Duration::from_hours(24 * 365);

/// Half-open: tokens `start` to before `end`, or to the end of what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TokenRange {
    pub start: u64,
    pub end: Option<u64>,
}

impl TokenRange {
    pub const ALL: Self = Self { start: 0, end: None };

    /// Whether the block at `position` of a chain holds a token of the range.
    #[must_use]
    pub fn covers(self, position: u32, block_tokens: u32) -> bool {
        let first = u64::from(position) * u64::from(block_tokens);
        let after = first + u64::from(block_tokens);
        after > self.start && self.end.is_none_or(|end| first < end)
    }
}

/// A shield against eviction, as `cache_control` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shield {
    pub ttl: Duration,
    /// Whether a hit starts the time anew.
    pub refresh_on_hit: bool,
}

/// What is asked for; what is not named stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wish {
    /// 0..=100, and how long it counts: for good without a time.
    pub priority: Option<(u8, Option<Duration>)>,
    pub shield: Option<Shield>,
    /// From now on.
    pub delete_after: Option<Duration>,
    pub kind: Option<Kind>,
    pub floor: Option<Tier>,
    pub scope: Option<Scope>,
}

/// A wish for a stretch of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Directive {
    pub tokens: TokenRange,
    pub wish: Wish,
}

/// A request's directives, checked: ranges run forward and don't overlap, priorities and times are
/// in bounds. In the order of their ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    list: Vec<Directive>,
    /// How many had a time that was clipped.
    pub clipped: u32,
}

impl Directives {
    /// Checks the claims of one request.
    ///
    /// # Errors
    /// A range is reversed or empty, two overlap, a priority or time is out of bounds, or there are
    /// more than [`DIRECTIVES_MAX`]: which one, and what to do.
    pub fn admit(mut claims: Vec<Directive>) -> Result<Self, String> {
        if claims.len() > DIRECTIVES_MAX {
            return Err(format!(
                "{} directives in one request: join ranges that ask for the same, at most \
                 {DIRECTIVES_MAX} are taken",
                claims.len()
            ));
        }
        let mut clipped = 0;
        for (index, claim) in claims.iter_mut().enumerate() {
            let TokenRange { start, end } = claim.tokens;
            if let Some(end) = end.filter(|end| *end <= start) {
                return Err(format!(
                    "directive {index} covers tokens {start} to {end}: ranges are half-open and \
                     run forward, so the end must be larger than the start"
                ));
            }
            let (wish, was_clipped) =
                claim.wish.admit().map_err(|why| format!("directive {index}: {why}"))?;
            claim.wish = wish;
            clipped += u32::from(was_clipped);
        }
        claims.sort_by_key(|directive| directive.tokens.start);
        for pair in claims.windows(2) {
            let [before, after] = [pair[0].tokens, pair[1].tokens];
            if before.end.is_none_or(|end| end > after.start) {
                return Err(format!(
                    "directives overlap at token {}: give each token to one directive",
                    after.start
                ));
            }
        }
        Ok(Self { list: claims, clipped })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Directive> {
        self.list.iter()
    }

    /// The first token that any directive speaks of.
    #[must_use]
    pub fn start(&self) -> Option<u64> {
        self.list.first().map(|first| first.tokens.start)
    }
}

impl Wish {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether what was asked `before` says nothing any more once who has the block alone asks for this.
    #[must_use]
    pub fn replaces(&self, before: &Self) -> bool {
        // A kind may have raised the floor, which only a named one undoes.
        let raised = before.kind.is_some_and(|kind| kind.floor() < Tier::Object);
        let names = |now: bool, before: bool| now || !before;
        names(self.priority.is_some(), before.priority.is_some())
            && names(self.shield.is_some(), before.shield.is_some())
            && names(self.delete_after.is_some(), before.delete_after.is_some())
            && names(self.kind.is_some(), before.kind.is_some())
            && names(self.floor.is_some(), before.floor.is_some())
            && names(self.scope.is_some(), before.scope.is_some())
            && (!raised || self.floor.is_some() || self.kind == before.kind)
    }

    /// Checks the wish; times beyond their bound are clipped to it, which the flag tells.
    ///
    /// # Errors
    /// A priority over 100 or a time of zero, with what to do.
    pub fn admit(mut self) -> Result<(Self, bool), String> {
        if let Some((priority, _)) = self.priority.filter(|(p, _)| *p > PRIORITY_MAX) {
            return Err(format!("priority {priority} is out of range: 0 to {PRIORITY_MAX}"));
        }
        let mut clipped = false;
        let mut bound = |time: &mut Duration, what: &str, max: Duration| {
            if time.is_zero() {
                return Err(format!("{what} of 0 keeps nothing: leave it out, or say how long"));
            }
            clipped |= *time > max;
            *time = (*time).min(max);
            Ok(())
        };
        if let Some((_, Some(time))) = &mut self.priority {
            bound(time, "a priority's duration", TTL_MAX)?;
        }
        if let Some(shield) = &mut self.shield {
            bound(&mut shield.ttl, "a TTL", TTL_MAX)?;
        }
        if let Some(time) = &mut self.delete_after {
            bound(time, "delete_after", DELETE_AFTER_MAX)?;
        }
        Ok((self, clipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: impl Into<Option<u64>>) -> Directive {
        Directive { tokens: TokenRange { start, end: end.into() }, wish: Wish::default() }
    }

    fn ttl(secs: u64) -> Directive {
        let shield = Some(Shield { ttl: Duration::from_secs(secs), refresh_on_hit: true });
        Directive { tokens: TokenRange::ALL, wish: Wish { shield, ..Wish::default() } }
    }

    fn check(claims: &[Directive], expected: &str) {
        let said = match Directives::admit(claims.to_vec()) {
            Ok(admitted) => format!("taken, {} clipped", admitted.clipped),
            Err(why) => why,
        };
        assert!(said.contains(expected), "{claims:?}\n  said  {said}\n  lacks {expected}");
    }

    #[test]
    fn claims_are_checked() {
        check(&[], "taken, 0 clipped");
        check(&[range(64, None), range(0, 64)], "taken, 0 clipped");
        check(&[range(7, 3)], "directive 0 covers tokens 7 to 3");
        check(&[range(7, 7)], "run forward");
        check(&[range(0, 10), range(9, 20)], "directives overlap at token 9");
        check(&[range(0, None), range(9, 20)], "directives overlap at token 9");
        check(&[range(0, 1); DIRECTIVES_MAX + 1], "at most 64 are taken");
        check(&[ttl(0)], "a TTL of 0 keeps nothing");
        check(&[ttl(300)], "taken, 0 clipped");
        check(&[ttl(365 * 24 * 3600)], "taken, 1 clipped");
        let wish = Wish { priority: Some((101, None)), ..Wish::default() };
        check(&[Directive { wish, ..range(0, 1) }], "priority 101 is out of range: 0 to 100");
    }

    #[test]
    fn a_range_covers_every_block_that_holds_one_of_its_tokens() {
        let covered = |range: TokenRange| -> Vec<u32> {
            (0..5).filter(|position| range.covers(*position, 64)).collect()
        };
        assert_eq!(covered(TokenRange { start: 0, end: Some(64) }), [0]);
        assert_eq!(covered(TokenRange { start: 63, end: Some(65) }), [0, 1]);
        assert_eq!(covered(TokenRange { start: 128, end: None }), [2, 3, 4]);
    }
}
