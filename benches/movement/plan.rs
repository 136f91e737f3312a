//! How long lookups say that loads take, against how long they take.

use std::fmt;

use rand::Rng;
use terrace::domain::tier::Tier;
use terrace::env::{self, Stopwatch};

use super::rig::{Chain, Engine, daemon, rank, tier_of};

const BLOCKS_MAX: u32 = 128;

#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub page_bytes: u32,
    /// Of HBM, DRAM and NVMe.
    pub chunks: [u64; 3],
    pub loads: usize,
}

/// One load: microseconds said, and taken.
#[derive(Clone, Copy, Debug)]
struct Sample {
    tier: Option<Tier>,
    blocks: u32,
    said: f64,
    took: f64,
}

pub struct Figures {
    samples: Vec<Sample>,
}

/// Loads chains of all lengths from all tiers, each when nothing else moves. The first third
/// teaches the links, and does not count.
pub async fn measure(load: Load) -> Figures {
    let daemon = daemon(load.chunks).await;
    let engine = Engine::join(&daemon, "plans", load.page_bytes, BLOCKS_MAX).await;
    let mut random = env::seeded_rng(1);
    let mut chains = store(&engine, load, &mut random).await;
    let mut samples = Vec::new();
    for turn in 0..load.loads {
        // The longer ago, the deeper it sank.
        let zone = [chains.len() / 12, chains.len() / 4, chains.len() - 1][turn % 3];
        let chain = chains.remove(chains.len() - 1 - random.random_range(0..=zone));
        chains.push(chain);
        engine.settle().await;
        let found = engine.lookup(chain).await;
        if found.matched_blocks < chain.blocks {
            // Copies in several tiers took its place.
            engine.end_request().await;
            engine.store(chain).await;
            continue;
        }
        let watch = Stopwatch::start();
        engine.load(chain).await;
        let took = watch.elapsed().as_secs_f64() * 1e6;
        engine.end_request().await;
        if turn >= load.loads / 3 && found.plan.load.blocks == chain.blocks {
            let said = found.plan.load.takes.as_secs_f64() * 1e6;
            samples.push(Sample { tier: tier_of(&found), blocks: chain.blocks, said, took });
        }
    }
    Figures { samples }
}

/// As many chains as the tiers hold, almost.
async fn store(engine: &Engine, load: Load, random: &mut env::SeededRng) -> Vec<Chain> {
    let block_bytes = u64::from(load.page_bytes) * 64;
    let room = load.chunks.iter().sum::<u64>() * (64 << 20) / block_bytes * 8 / 10;
    let (mut chains, mut stored) = (Vec::new(), 0);
    while stored < room {
        let blocks = 1 << random.random_range(0..=BLOCKS_MAX.ilog2());
        let chain = Chain { first: 1_000_000 + chains.len() as u64 * 1000, blocks };
        let dropped = engine.store(chain).await;
        engine.settle().await;
        if dropped == 0 {
            chains.push(chain);
        }
        stored += u64::from(blocks);
    }
    chains
}

impl Figures {
    /// Median of the relative error of the samples that are meant; none if there are none.
    fn error(&self, is_meant: impl Fn(&Sample) -> bool) -> Option<(usize, f64, f64)> {
        let meant: Vec<&Sample> = self.samples.iter().filter(|sample| is_meant(sample)).collect();
        let mut errors: Vec<f64> =
            meant.iter().map(|sample| (sample.said / sample.took - 1.0).abs()).collect();
        let mut signed: Vec<f64> = meant.iter().map(|sample| sample.said / sample.took).collect();
        let count = errors.len();
        (count > 0).then(|| (count, rank(&mut errors, 50), rank(&mut signed, 50)))
    }

    pub fn median_error(&self) -> f64 {
        self.error(|_| true).unwrap().1
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, found: Option<(usize, f64, f64)>| match found {
            Some((loads, error, ratio)) => writeln!(
                f,
                "planned loads, {what:<16} {loads:>4} loads, median error {:.0}%, said over taken \
                 {ratio:.2}",
                100.0 * error
            ),
            None => Ok(()),
        };
        for tier in Tier::ALL {
            line(tier.name(), self.error(|sample| sample.tier == Some(tier)))?;
        }
        line("of several tiers", self.error(|sample| sample.tier.is_none()))?;
        for (what, from, to) in
            [("1 to 4 blocks", 1, 4), ("8 to 32", 8, 32), ("64 and more", 64, 128)]
        {
            line(what, self.error(|sample| (from..=to).contains(&sample.blocks)))?;
        }
        write!(f, "all of them: median error {:.0}% (goal 25%)", 100.0 * self.median_error())
    }
}
