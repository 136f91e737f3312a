//! The agents of the demo: the generated workload, cut to the size of its tiers.

use std::collections::BTreeSet;

use crate::domain::units::Time;
use crate::workload::Request;
use crate::workload::generator::{Agentic, AgenticParams, Quantiles};
use crate::workload::trace::{Format, TraceInfo};

pub(super) const BLOCK_TOKENS: u32 = 64;

/// Enough to fill every tier, few enough for half a minute.
const REQUESTS_MAX: usize = 700;

/// What the agents will ask, in order.
pub(super) struct Workload {
    pub(super) requests: Vec<Request>,
    /// Lead agents and sub-agents among them.
    pub(super) agents: usize,
    unique_blocks: u64,
}

impl Workload {
    /// As of a trace; it has no format of its own, so that field means nothing.
    pub(super) fn info(&self) -> TraceInfo {
        let at = |request: Option<&Request>| request.map_or(Time::ZERO, |request| request.t);
        TraceInfo {
            format: Format::KvTrace,
            block_tokens: BLOCK_TOKENS,
            unique_blocks: self.unique_blocks,
            contradicted_blocks: 0,
            requests: self.requests.len() as u64,
            first: at(self.requests.first()),
            last: at(self.requests.last()),
        }
    }
}

pub(super) fn workload(seed: u64) -> Workload {
    let requests: Vec<Request> = Agentic::new(params(seed)).take(REQUESTS_MAX).collect();
    let agents: BTreeSet<(u64, u32)> =
        requests.iter().map(|request| (request.session, request.sub)).collect();
    let blocks: BTreeSet<u64> = requests.iter().flat_map(Request::block_ids).collect();
    Workload { agents: agents.len(), unique_blocks: blocks.len() as u64, requests }
}

/// Contexts of a tenth of the usual length; otherwise the usual agents.
fn params(seed: u64) -> AgenticParams {
    AgenticParams {
        seed,
        block_tokens: BLOCK_TOKENS,
        leads: 20,
        starts_within_s: 900,
        products: 3,
        prefix_tokens: Quantiles([800, 1_200, 1_600, 2_000, 2_400, 3_200]),
        user_tokens: Quantiles([20, 50, 100, 300, 800, 2_000]),
        tool_tokens: Quantiles([30, 100, 250, 500, 1_000, 3_000]),
        output_tokens: Quantiles([10, 60, 120, 220, 450, 1_200]),
        summary_tokens: Quantiles([200, 300, 400, 500, 700, 1_000]),
        context_tokens_max: 12_000,
        ..AgenticParams::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::CAPACITY_BLOCKS;
    use super::*;
    use crate::domain::tier::Tier;
    use crate::manager::PolicyName;
    use crate::sim::replay::{Pace, Replay, ReplayConfig, Writes};

    /// Whatever the seed, every tier overflows and every tier serves something.
    #[test]
    fn the_tiers_are_too_small_for_the_agents() {
        for seed in 1..=5 {
            let workload = workload(seed);
            let all = CAPACITY_BLOCKS.iter().sum::<u64>();
            assert!(workload.unique_blocks > all, "seed {seed}: {}", workload.unique_blocks);
            let mut replay = Replay::new(&ReplayConfig {
                writes: Writes::default(),
                capacity_blocks: CAPACITY_BLOCKS,
                policy: PolicyName::Lru,
                block_tokens: BLOCK_TOKENS,
                seed,
                pace: Pace::Instant,
                answer_ms: ReplayConfig::ANSWER_MS,
            });
            workload.requests.iter().for_each(|request| replay.request(request));
            let outcome = replay.finish();
            for tier in Tier::ALL {
                let (hits, evicted) =
                    (outcome.hit_tokens[tier.index()], outcome.evicted_blocks[tier.index()]);
                assert!(hits > 0 && evicted > 0, "seed {seed}, {tier}: {outcome:?}");
            }
        }
    }
}
