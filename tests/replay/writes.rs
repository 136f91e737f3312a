//! What a replay writes to `NVMe`.

use terrace::domain::admission::{Rule, WriteMode, WriteRules};
use terrace::manager::PolicyName;
use terrace::sim::replay::{Pace, Replay, ReplayConfig, Writes};

use super::{agents, unique_blocks};

/// However long the chains are: no more than the bucket held and what ran into it since, and what one chain
/// may overdraw it by.
#[test]
fn the_write_budget_holds_in_every_mode() {
    const BLOCK_BYTES: u64 = 1 << 20;
    let requests = agents(7);
    let unique = unique_blocks(&requests);
    let lengths = requests.iter().map(|request| request.block_ids().count());
    let longest = lengths.max().unwrap() as u64;
    let took_s = requests.last().unwrap().t.since(requests[0].t).as_secs() + 1;
    let bytes_per_s = unique * BLOCK_BYTES / (8 * took_s);
    for mode in WriteMode::ALL {
        let rules = WriteRules { mode, rule: Rule::All, bytes_per_s, bytes_per_day: 0 };
        let mut replay = Replay::new(&ReplayConfig {
            capacity_blocks: [0, unique / 10, 2 * unique, 0],
            policy: PolicyName::Value,
            block_tokens: 64,
            seed: 1,
            pace: Pace::Instant,
            answer_ms: ReplayConfig::ANSWER_MS,
            writes: Writes { rules, block_bytes: BLOCK_BYTES },
        });
        for request in &requests {
            replay.request(request);
        }
        let written = replay.finish().nvme_writes.written_bytes_total();
        let most = bytes_per_s * (took_s + 10) + longest * BLOCK_BYTES;
        assert!(written <= most, "{}: {written} of {most}", mode.name());
        assert!(written > most / 4, "{}: {written} of {most}", mode.name());
    }
}
