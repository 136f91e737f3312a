//! Load or recompute: how much of a stored prefix is worth loading.
//!
//! A cold tier may be slower than the model itself. Knows times only, never links or queues: the
//! caller says when each stretch of the prefix can be in the engine.

use std::time::Duration;

/// A stretch of a stored prefix, and when it can be in the engine, counted from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub blocks: u32,
    /// Its first block, and its last.
    pub first: Duration,
    pub last: Duration,
}

/// So many blocks from the root are loaded, and the time that takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub blocks: u32,
    pub takes: Duration,
}

/// What an engine is advised to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// For each run of the answer: when all blocks up to its end can be in the engine.
    pub ready: Vec<Duration>,
    /// The longest prefix that loads no slower than the model computes it; the whole prefix while
    /// nothing is known of the model.
    pub load: Head,
    /// For an engine that computes the rest while the head loads: the head with which both are done
    /// soonest, and when that is. Never later than computing everything.
    pub mixed: Head,
    /// What the model needs for everything that was asked for; none while nothing is known of it.
    pub recompute: Option<Duration>,
}

/// Plans the loading of a prefix of `asked` blocks, of which those in `stretches` are stored.
/// `block_compute`: what the model needs for one block, if that is known.
#[must_use]
pub fn plan(stretches: &[Stretch], asked: u32, block_compute: Option<Duration>) -> Plan {
    let curve = Curve::new(stretches);
    let ready = curve.pieces.iter().map(|piece| Duration::from_nanos(piece.last)).collect();
    let whole =
        Head { blocks: curve.blocks(), takes: Duration::from_nanos(curve.at(curve.blocks())) };
    let Some(compute) = block_compute.map(nanos).filter(|compute| *compute > 0) else {
        return Plan { ready, load: whole, mixed: whole, recompute: None };
    };
    let load = curve.longest_within(compute);
    let (mixed, takes) = curve.soonest_done(u64::from(asked.max(curve.blocks())), compute);
    Plan {
        ready,
        load: Head { blocks: load, takes: Duration::from_nanos(curve.at(load)) },
        mixed: Head { blocks: mixed, takes: Duration::from_nanos(takes) },
        recompute: Some(Duration::from_nanos(compute.saturating_mul(u64::from(asked)))),
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// When the first `n` blocks are loaded: rises with n, straight within a stretch.
struct Curve {
    pieces: Vec<Piece>,
}

/// Blocks `from + 1` to `to`, which come between `first` and `last` nanoseconds from now.
#[derive(Clone, Copy)]
struct Piece {
    from: u32,
    to: u32,
    first: u64,
    last: u64,
}

impl Curve {
    fn new(stretches: &[Stretch]) -> Self {
        let mut pieces: Vec<Piece> = Vec::with_capacity(stretches.len());
        for stretch in stretches.iter().filter(|stretch| stretch.blocks > 0) {
            let (from, before) = pieces.last().map_or((0, 0), |piece| (piece.to, piece.last));
            let first = nanos(stretch.first).max(before);
            let last = nanos(stretch.last).max(first);
            pieces.push(Piece { from, to: from.saturating_add(stretch.blocks), first, last });
        }
        Self { pieces }
    }

    fn blocks(&self) -> u32 {
        self.pieces.last().map_or(0, |piece| piece.to)
    }

    /// Nanoseconds until the first `blocks` are loaded.
    fn at(&self, blocks: u32) -> u64 {
        let after = self.pieces.partition_point(|piece| piece.to < blocks);
        self.pieces.get(after).filter(|_| blocks > 0).map_or(0, |piece| piece.at(blocks))
    }

    /// The most blocks that are loaded no later than computed, at `compute` nanoseconds each.
    fn longest_within(&self, compute: u64) -> u32 {
        let found = self.pieces.iter().rev().find_map(|piece| {
            let worth = |blocks: u32| piece.at(blocks) <= compute.saturating_mul(blocks.into());
            if worth(piece.to) {
                return Some(piece.to);
            }
            // Both sides are straight here, so once loading falls behind it stays behind.
            worth(piece.from + 1).then(|| last_where(piece.from + 1, piece.to, worth))
        });
        found.unwrap_or(0)
    }

    /// The head with which loading it and computing the rest of `asked` end soonest, and when.
    fn soonest_done(&self, asked: u64, compute: u64) -> (u32, u64) {
        let rest = |blocks: u32| compute.saturating_mul(asked - u64::from(blocks));
        let done = |blocks: u32| self.at(blocks).max(rest(blocks));
        // The longest head that is there before the rest is computed, or one block more.
        let within = last_where(0, self.blocks(), |blocks| self.at(blocks) <= rest(blocks));
        let more = (within + 1).min(self.blocks());
        let best = if done(more) < done(within) { more } else { within };
        (best, done(best))
    }
}

impl Piece {
    fn at(&self, blocks: u32) -> u64 {
        let steps = u128::from(self.to - self.from - 1);
        let gone = u128::from(blocks - self.from - 1);
        let rise = u128::from(self.last - self.first) * gone;
        self.first
            + rise.checked_div(steps).map_or(0, |rise| u64::try_from(rise).unwrap_or(u64::MAX))
    }
}

/// The last of `low..=high` that `holds`, which holds for `low` and never again once it does not.
fn last_where(mut low: u32, mut high: u32, holds: impl Fn(u32) -> bool) -> u32 {
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if holds(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn stretch(blocks: u32, first: u64, last: u64) -> Stretch {
        Stretch { blocks, first: ms(first), last: ms(last) }
    }

    /// What is planned for `asked` blocks of 10 ms each: blocks to load, head to mix, and when that
    /// is done.
    fn check(stretches: &[Stretch], asked: u32, expected: (u32, u32, u64)) {
        let plan = plan(stretches, asked, Some(ms(10)));
        let took = u64::try_from(plan.mixed.takes.as_millis()).unwrap();
        assert_eq!((plan.load.blocks, plan.mixed.blocks, took), expected, "{stretches:?}");
    }

    #[test]
    fn loads_what_is_faster_than_the_model() {
        check(&[], 5, (0, 0, 50));
        check(&[stretch(10, 1, 10)], 10, (10, 9, 10));
        check(&[stretch(10, 1, 10)], 20, (10, 10, 100));
        // A slow start that pays off later, and a tail that never does.
        check(&[stretch(10, 55, 73)], 10, (10, 4, 61));
        check(&[stretch(4, 1, 4), stretch(6, 200, 210)], 10, (4, 4, 60));
        // Slower than the model all the way.
        check(&[stretch(10, 20, 200)], 10, (0, 3, 70));
    }

    #[test]
    fn without_a_rate_everything_is_loaded() {
        let unknown = plan(&[stretch(3, 5, 900)], 10, None);
        assert_eq!(unknown.load, Head { blocks: 3, takes: ms(900) });
        assert_eq!((unknown.mixed, unknown.recompute), (unknown.load, None));
        assert_eq!(unknown.ready, [ms(900)]);
    }

    proptest! {
        /// Never slower than computing everything, and as good as trying every head.
        #[test]
        fn agrees_with_trying_every_head(
            parts in prop::collection::vec((1_u32..40, 0_u64..3_000, 0_u64..3_000), 0..5),
            more in 0_u32..40,
            compute in 1_u64..200,
        ) {
            let stretches: Vec<_> =
                parts.iter().map(|(blocks, first, more)| stretch(*blocks, *first, first + more)).collect();
            let found: u32 = stretches.iter().map(|stretch| stretch.blocks).sum();
            let asked = found + more;
            let plan = plan(&stretches, asked, Some(ms(compute)));
            let curve = Curve::new(&stretches);
            let per_block = compute * 1_000_000;
            let longest = (0..=found).rev().find(|n| curve.at(*n) <= per_block * u64::from(*n));
            prop_assert_eq!(Some(plan.load.blocks), longest);
            let done = |n: u32| curve.at(n).max(per_block * u64::from(asked - n));
            let soonest = (0..=found).map(done).min().unwrap();
            prop_assert_eq!(nanos(plan.mixed.takes), soonest);
            prop_assert!(plan.mixed.takes <= plan.recompute.unwrap());
        }
    }
}
