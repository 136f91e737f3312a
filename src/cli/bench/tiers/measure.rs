//! Measures one thing beside its limit: in turns, so that what else the machine does hits both.

use std::ops::Range;
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::bench::stats::{median, percentile};

/// How many turns each has; the middle one counts. Short turns, and many: what else the machine
/// does comes and goes.
const TURNS_MIN: usize = 7;
const TURNS_MAX: usize = 101;

/// The part of a cell's time that goes to blocks moved one by one.
const SINGLES_SHARE: f64 = 0.15;
const SINGLES_MIN: usize = 20;
const SINGLES_MAX: usize = 2000;

/// Moves blocks of the set.
pub trait Mover {
    /// Moves these blocks once, and says how long that took.
    ///
    /// # Errors
    /// A block could not be moved.
    fn go(&mut self, blocks: Range<usize>) -> Result<Duration, Failure>;

    /// Makes these blocks movable again; takes no part in the measurement.
    ///
    /// # Errors
    /// That can't be done.
    fn rewind(&mut self, _blocks: Range<usize>) -> Result<(), Failure> {
        Ok(())
    }
}

/// What is moved, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub blocks: usize,
    pub block_bytes: u64,
    /// Every turn moves the whole set: a part of it would stay in the caches.
    pub whole_set: bool,
    pub time: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// The middle turn's, in 10^9 bytes a second.
    pub gbps: f64,
    pub limit_gbps: f64,
    /// The middle one of the turns' own ratios.
    pub ratio: f64,
    /// How long a block takes that is alone on its way.
    pub p50_us: f64,
    pub p99_us: f64,
}

/// Measures `ours` in turns with `limit`.
///
/// # Errors
/// One of them failed.
pub fn measure(
    ours: &mut dyn Mover,
    limit: &mut dyn Mover,
    effort: Effort,
) -> Result<Figures, Failure> {
    let turn = Turn::plan(ours, limit, effort)?;
    let (mut rates, mut limits, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..turn.turns {
        // Who goes first alternates: neither always finds the machine as the other left it.
        let (rate, bound) = if number % 2 == 0 {
            let rate = turn.rate(ours)?;
            (rate, turn.rate(limit)?)
        } else {
            let bound = turn.rate(limit)?;
            (turn.rate(ours)?, bound)
        };
        rates.push(rate);
        limits.push(bound);
        ratios.push(rate / bound);
    }
    let mut singles = singles(ours, effort)?;
    Ok(Figures {
        gbps: median(&mut rates),
        limit_gbps: median(&mut limits),
        ratio: median(&mut ratios),
        p50_us: percentile(&mut singles, 50),
        p99_us: percentile(&mut singles, 99),
    })
}

/// What a turn moves: so many blocks from the first on; and how many turns there are.
#[derive(Clone, Copy, Debug)]
struct Turn {
    blocks: usize,
    turns: usize,
    block_bytes: u64,
}

impl Turn {
    /// Moves the whole set once each, so that every page and file is there, and sees from that what
    /// fits the time.
    fn plan(ours: &mut dyn Mover, limit: &mut dyn Mover, effort: Effort) -> Result<Self, Failure> {
        let Effort { blocks, block_bytes, whole_set, time } = effort;
        let (mut first, mut second) = (pass(ours, blocks)?, pass(limit, blocks)?);
        if whole_set {
            // The first pass may have met fresh memory, which is many times slower.
            (first, second) = (pass(ours, blocks)?, pass(limit, blocks)?);
        }
        let left = time.saturating_sub(first + second).mul_f64(1.0 - SINGLES_SHARE);
        let turns = left.as_secs_f64() / (first + second).as_secs_f64().max(1e-9);
        Ok(Self::that_fit(turns, blocks, whole_set, block_bytes))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a number of turns, not below zero and bounded"
    )]
    fn that_fit(turns: f64, blocks: usize, whole_set: bool, block_bytes: u64) -> Self {
        let fewest = TURNS_MIN as f64;
        if whole_set || turns >= fewest {
            let turns = (turns as usize).clamp(TURNS_MIN, TURNS_MAX);
            return Self { blocks, turns, block_bytes };
        }
        let part = (turns / fewest * blocks as f64) as usize;
        let part = part.clamp(blocks.min(SINGLES_MIN), blocks);
        Self { blocks: part, turns: TURNS_MIN, block_bytes }
    }

    /// 10^9 bytes a second.
    fn rate(self, mover: &mut dyn Mover) -> Result<f64, Failure> {
        let took = pass(mover, self.blocks)?;
        let bytes = self.blocks as u64 * self.block_bytes;
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        Ok(bytes as f64 / took.as_secs_f64() / 1e9)
    }
}

fn pass(mover: &mut dyn Mover, blocks: usize) -> Result<Duration, Failure> {
    mover.rewind(0..blocks)?;
    mover.go(0..blocks)
}

/// Microseconds of blocks that were alone on their way.
fn singles(ours: &mut dyn Mover, effort: Effort) -> Result<Vec<f64>, Failure> {
    let time = effort.time.mul_f64(SINGLES_SHARE);
    let (mut took, mut sum) = (Vec::new(), Duration::ZERO);
    while took.len() < SINGLES_MIN || (sum < time && took.len() < SINGLES_MAX) {
        let block = took.len() % effort.blocks;
        ours.rewind(block..block + 1)?;
        let one = ours.go(block..block + 1)?;
        sum += one;
        took.push(one.as_secs_f64() * 1e6);
    }
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so long for a block, and remembers what it moved.
    struct Slow {
        block_us: u64,
        moved: usize,
        rewound: usize,
    }

    impl Mover for Slow {
        fn go(&mut self, blocks: Range<usize>) -> Result<Duration, Failure> {
            self.moved += blocks.len();
            Ok(Duration::from_micros(self.block_us) * u32::try_from(blocks.len()).unwrap())
        }

        fn rewind(&mut self, blocks: Range<usize>) -> Result<(), Failure> {
            self.rewound += blocks.len();
            Ok(())
        }
    }

    fn slow(block_us: u64) -> Slow {
        Slow { block_us, moved: 0, rewound: 0 }
    }

    fn effort(whole_set: bool, millis: u64) -> Effort {
        let time = Duration::from_millis(millis);
        Effort { blocks: 100, block_bytes: 1_000_000, whole_set, time }
    }

    #[test]
    fn rates_and_their_ratio_are_what_the_movers_take() {
        let (mut ours, mut limit) = (slow(1000), slow(500));
        let figures = measure(&mut ours, &mut limit, effort(true, 5000)).unwrap();
        let near =
            |value: f64, wanted: f64| assert!((value / wanted - 1.0).abs() < 1e-9, "{value}");
        near(figures.gbps, 1.0);
        near(figures.limit_gbps, 2.0);
        near(figures.ratio, 0.5);
        near(figures.p50_us, 1000.0);
        near(figures.p99_us, 1000.0);
        assert_eq!(ours.moved, ours.rewound, "nothing is moved twice without a rewind");
    }

    #[test]
    fn a_turn_fits_the_time_but_a_whole_set_is_whole() {
        let planned = |whole_set, millis| {
            let (mut ours, mut limit) = (slow(1000), slow(1000));
            let turn = Turn::plan(&mut ours, &mut limit, effort(whole_set, millis)).unwrap();
            (turn.blocks, turn.turns)
        };
        // A turn of both takes 200 ms, and so did the first; 0.85 of the rest is theirs.
        assert_eq!(planned(false, 200 + 140), (20, 7), "never fewer than twenty");
        assert_eq!(planned(false, 200 + 1410), (85, 7));
        assert_eq!(planned(false, 200 + 4800), (100, 20));
        assert_eq!(planned(true, 340), (100, 7));
        assert_eq!(planned(true, 1_000_000), (100, 101));
    }
}
