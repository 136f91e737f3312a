//! What a live replay counts and measures.

use std::time::Duration;

use crate::cli::replay::report::Percentiles;
use crate::client::Run;
use crate::domain::tier::Tier;
use crate::workload::Request;

/// Measurements kept for percentiles; what comes later is not among them.
const SAMPLES_MAX: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) input_tokens: u64,
    pub(crate) hit_tokens: [u64; Tier::COUNT],
    pub(crate) bytes_verified: u64,
    pub(crate) corrupt_blocks: u64,
    /// Blocks that were found and did not come: the engine computes them again.
    pub(crate) failed_loads: u64,
    /// Blocks that found no room, or whose copy failed.
    pub(crate) failed_stores: u64,
    /// Blocks beyond what one lookup takes, which were neither asked for nor stored.
    pub(crate) left_out: u64,
    /// Loads from each tier.
    pub(super) loads: [Busy; Tier::COUNT],
    lookups: Samples,
    load_times: Samples,
}

impl Tally {
    /// A request that was served the first `usable` blocks of what was found.
    pub(super) fn request(
        &mut self,
        request: &Request,
        (runs, usable): (&[Run], usize),
        block_tokens: u32,
    ) {
        self.requests += 1;
        let mut left = u64::from(request.input_tokens);
        self.input_tokens += left;
        let mut usable = usable as u64;
        for run in runs {
            let blocks = u64::from(run.blocks).min(usable);
            usable -= blocks;
            // The last block may be partial, so a hit never counts more than the input had.
            let tokens = (blocks * u64::from(block_tokens)).min(left);
            self.hit_tokens[run.tier.index()] += tokens;
            left -= tokens;
        }
    }

    pub(super) fn lookup_took(&mut self, took: Duration) {
        self.lookups.add(took);
    }

    /// One load call, from asking to its end.
    pub(super) fn load_took(&mut self, tier: Tier, started: Duration, ended: Duration, bytes: u64) {
        self.load_times.add(ended.saturating_sub(started));
        self.loads[tier.index()].add(started, ended, bytes);
    }

    pub(super) fn lookup_us(&mut self) -> Percentiles {
        Percentiles::of(&mut self.lookups.0)
    }

    pub(super) fn load_us(&mut self) -> Percentiles {
        Percentiles::of(&mut self.load_times.0)
    }
}

/// Microseconds.
#[derive(Debug, Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn add(&mut self, took: Duration) {
        if self.0.len() < SAMPLES_MAX {
            self.0.push(took.as_secs_f64() * 1e6);
        }
    }
}

/// How many bytes moved, and for how long at least one movement was under way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Busy {
    bytes: u64,
    time: Duration,
    until: Duration,
}

impl Busy {
    /// A movement from `started` to `ended`, not started before the one added before it.
    pub(super) fn add(&mut self, started: Duration, ended: Duration, bytes: u64) {
        self.bytes += bytes;
        self.time += ended.saturating_sub(started.max(self.until));
        self.until = self.until.max(ended);
    }

    /// Gigabytes (10^9) a second; zero when nothing moved.
    #[expect(clippy::cast_precision_loss, reason = "a rate is shown with a few digits")]
    pub(super) fn gb_per_s(&self) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 { self.bytes as f64 / seconds / 1e9 } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_movements_share_their_time() {
        let mut busy = Busy::default();
        let second = Duration::from_secs;
        for (started, ended) in [(0, 4), (1, 2), (3, 5), (7, 8)] {
            busy.add(second(started), second(ended), 3_000_000_000);
        }
        assert_eq!(busy.time, second(6));
        assert!((busy.gb_per_s() - 2.0).abs() < 1e-9);
        assert!(Busy::default().gb_per_s().abs() < f64::EPSILON);
    }

    #[test]
    fn only_what_was_served_is_a_hit() {
        let runs = [Run { tier: Tier::Hbm, blocks: 2 }, Run { tier: Tier::Nvme, blocks: 2 }];
        let request = Request { input_tokens: 250, ..Request::default() };
        let hits = |usable| {
            let mut tally = Tally::default();
            tally.request(&request, (&runs, usable), 64);
            (tally.hit_tokens, tally.input_tokens)
        };
        assert_eq!(hits(4), ([128, 0, 122, 0], 250));
        assert_eq!(hits(3), ([128, 0, 64, 0], 250));
        assert_eq!(hits(0), ([0; 4], 250));
    }
}
