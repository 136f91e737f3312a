//! What the requests of a timed replay wait for: their loads, then the model.
//!
//! The model computes what was not loaded at its own rate, and engines never wait for one another.
//! Never asks the manager: the engine tells it when things happened.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::manager::api::{LeaseId, RequestId, Run};

/// An agent that was idle for so long left time to lift its blocks.
pub(super) const IDLE_MIN: Duration = Duration::from_secs(2);

/// Session and sub-agent.
pub(super) type Agent = (u64, u32);

/// The mean and the percentiles of what requests waited, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    pub mean_us: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
}

impl Spread {
    /// Of the samples, percentiles by nearest rank; zero when there are none.
    #[must_use]
    pub fn of(samples_us: &mut [u64]) -> Self {
        samples_us.sort_unstable();
        let sum: u128 = samples_us.iter().map(|sample| u128::from(*sample)).sum();
        let mean = sum.checked_div(samples_us.len() as u128).unwrap_or(0);
        let at = |percent: usize| {
            let rank = (samples_us.len() * percent).div_ceil(100);
            samples_us.get(rank.saturating_sub(1)).copied().unwrap_or(0)
        };
        Self {
            mean_us: u64::try_from(mean).expect("a mean is no more than the largest"),
            p50_us: at(50),
            p90_us: at(90),
            p99_us: at(99),
        }
    }
}

/// A request whose blocks are on their way.
pub(super) struct Loading {
    pub arrived: Time,
    pub input_tokens: u32,
    /// Blocks that were asked for, from the root on.
    pub blocks: u32,
    /// Ends when the load does: the engine has its blocks then.
    pub lease: Option<LeaseId>,
}

/// Tokens that were counted by where they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    /// Found, and computed all the same, as the manager advised.
    pub declined: u64,
    /// Needed from below DRAM by an agent that had been idle for [`IDLE_MIN`], and those of them
    /// that had been lifted by then.
    pub idle_promoted: u64,
    pub idle_timely: u64,
}

pub(super) struct Waits {
    prefill_tokens_per_s: NonZeroU32,
    block_tokens: u64,
    stalls_us: Vec<u64>,
    ttfts_us: Vec<u64>,
    loading: BTreeMap<RequestId, Loading>,
    /// When agents whose next request has not come yet had their last answer.
    idle_since: BTreeMap<Agent, Time>,
    tokens: Tokens,
}

impl Waits {
    pub(super) fn new(prefill_tokens_per_s: NonZeroU32, block_tokens: u32) -> Self {
        Self {
            prefill_tokens_per_s,
            block_tokens: block_tokens.into(),
            stalls_us: Vec::new(),
            ttfts_us: Vec::new(),
            loading: BTreeMap::new(),
            idle_since: BTreeMap::new(),
            tokens: Tokens::default(),
        }
    }

    pub(super) fn answered(&mut self, agent: Agent, now: Time) {
        self.idle_since.insert(agent, now);
    }

    /// The agent makes a request: whether it had been idle for long. One that has not been answered
    /// before was never idle.
    pub(super) fn was_idle(&mut self, agent: Agent, now: Time) -> bool {
        let since = self.idle_since.remove(&agent);
        since.is_some_and(|since| now.since(since) >= IDLE_MIN)
    }

    /// The request's load begins; without blocks to load the model starts at once.
    pub(super) fn begin(&mut self, request: RequestId, loading: Loading) {
        if loading.blocks == 0 {
            self.record(&loading, 0, loading.arrived);
        } else {
            self.loading.insert(request, loading);
        }
    }

    /// The request's load ended: gives back the lease it had. What comes behind a block that failed
    /// is computed.
    pub(super) fn loaded(
        &mut self,
        request: RequestId,
        failed: &[u32],
        now: Time,
    ) -> Option<LeaseId> {
        let loading = self.loading.remove(&request).expect("a load ends once");
        let blocks = failed.first().copied().unwrap_or(loading.blocks);
        self.record(&loading, blocks, now);
        loading.lease
    }

    pub(super) fn all_loaded(&self) -> bool {
        self.loading.is_empty()
    }

    fn record(&mut self, loading: &Loading, blocks: u32, now: Time) {
        let input = u64::from(loading.input_tokens);
        let computed = input.saturating_sub(u64::from(blocks) * self.block_tokens);
        let compute_us = (computed * 1_000_000).div_ceil(self.prefill_tokens_per_s.get().into());
        let stall_us = now.micros - loading.arrived.micros;
        self.stalls_us.push(stall_us);
        self.ttfts_us.push(stall_us + compute_us);
    }

    /// Of what was found, only the first `advised` blocks are loaded.
    pub(super) fn declined(&mut self, found: usize, advised: usize) {
        self.tokens.declined += (found - advised) as u64 * self.block_tokens;
    }

    /// An agent that had been idle loads the first `advised` blocks of the runs, and finds
    /// `timely_blocks` that had been lifted from below DRAM.
    pub(super) fn resumed(&mut self, runs: &[Run], advised: usize, timely_blocks: u64) {
        let below = blocks_below_dram(runs, advised as u64);
        self.tokens.idle_promoted += (below + timely_blocks) * self.block_tokens;
        self.tokens.idle_timely += timely_blocks * self.block_tokens;
    }

    /// Time to the first token, load stalls, and what was counted.
    pub(super) fn finish(&mut self) -> (Spread, Spread, Tokens) {
        assert!(self.all_loaded(), "{} loads never ended", self.loading.len());
        (Spread::of(&mut self.ttfts_us), Spread::of(&mut self.stalls_us), self.tokens)
    }
}

/// Of the first `advised` blocks, those that were in no memory.
fn blocks_below_dram(runs: &[Run], advised: u64) -> u64 {
    let mut left = advised;
    let mut below = 0;
    for run in runs {
        let blocks = left.min(run.blocks.into());
        left -= blocks;
        if run.tier > Tier::Dram {
            below += blocks;
        }
    }
    below
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An engine of 1,000 tokens a second with blocks of 100 tokens.
    fn waits() -> Waits {
        Waits::new(NonZeroU32::new(1000).unwrap(), 100)
    }

    fn loading(arrived_ms: u64, input_tokens: u32, blocks: u32) -> Loading {
        Loading { arrived: Time::from_millis(arrived_ms), input_tokens, blocks, lease: None }
    }

    #[test]
    fn spreads() {
        let check = |mut samples: Vec<u64>, [mean_us, p50_us, p90_us, p99_us]: [u64; 4]| {
            let expected = Spread { mean_us, p50_us, p90_us, p99_us };
            assert_eq!(Spread::of(&mut samples), expected, "{} samples", samples.len());
        };
        check(vec![], [0; 4]);
        check(vec![7], [7; 4]);
        check((1..=200).rev().collect(), [100, 100, 180, 198]);
        check(vec![u64::MAX; 3], [u64::MAX; 4]);
    }

    #[test]
    fn the_first_token_comes_after_the_load_and_the_rest() {
        // What a request of 1,000 tokens that loads 8 blocks by 60 ms after its arrival waits.
        let check = |failed: &[u32], ttft_us: u64| {
            let mut waits = waits();
            let lease = Some(LeaseId(3));
            waits.begin(RequestId(1), Loading { lease, ..loading(40, 1000, 8) });
            assert_eq!(waits.loaded(RequestId(1), failed, Time::from_millis(100)), lease);
            let (ttft, stall, _) = waits.finish();
            assert_eq!((ttft.mean_us, stall.mean_us), (ttft_us, 60_000), "{failed:?}");
        };
        check(&[], 260_000);
        check(&[7], 360_000);
        check(&[0, 7], 1_060_000);
    }

    #[test]
    fn nothing_to_load_is_no_stall() {
        let mut waits = waits();
        waits.begin(RequestId(1), loading(40, 1000, 0));
        let (ttft, stall, _) = waits.finish();
        assert_eq!((ttft.p50_us, stall), (1_000_000, Spread::default()));
    }

    #[test]
    fn an_agent_is_idle_from_its_answer_to_its_request() {
        let (agent, at) = ((1, 0), Time::from_millis);
        let mut waits = waits();
        assert!(!waits.was_idle(agent, at(9_000)), "never answered");
        waits.answered(agent, at(10_000));
        assert!(!waits.was_idle((1, 1), at(99_000)), "another agent");
        assert!(waits.was_idle(agent, at(12_000)));
        assert!(!waits.was_idle(agent, at(99_000)), "its answer is still out");
        waits.answered(agent, at(100_000));
        assert!(!waits.was_idle(agent, at(101_999)));
    }

    #[test]
    fn what_is_promoted_lies_below_dram_and_is_wanted() {
        let runs = [(Tier::Hbm, 2), (Tier::Nvme, 4), (Tier::Dram, 3), (Tier::Object, 5)]
            .map(|(tier, blocks)| Run { tier, blocks });
        let below = |advised| blocks_below_dram(&runs, advised);
        assert_eq!([0, 2, 5, 6, 9, 10, 14].map(below), [0, 0, 3, 4, 4, 5, 9]);
        let mut waits = waits();
        waits.declined(14, 5);
        waits.resumed(&runs, 5, 6);
        let expected = Tokens { declined: 900, idle_promoted: 900, idle_timely: 600 };
        assert_eq!(waits.finish().2, expected);
    }
}
