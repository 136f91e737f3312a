//! What a replay found, as one JSON object or as a table.
//!
//! The same object for `--simulate`, `--live` and `demo`: figures that only moving real bytes
//! gives are left out of a simulated one, and those of simulated time out of the others.

mod timed;
mod writes;

use std::fmt::Write;

use serde::Serialize;

use crate::domain::tier::Tier;
use crate::domain::units::Bytes;
use crate::sim::replay::ratio;
use crate::workload::trace::TraceInfo;

pub use timed::TimedReport;
pub use writes::WritesReport;

/// One replay. Fields are printed in this order.
#[derive(Clone, Debug, Serialize)]
pub struct ReplayReport {
    /// The file, as it was named.
    pub trace: String,
    pub format: &'static str,
    pub mode: Mode,
    pub policy: &'static str,
    pub hints: String,
    pub seed: u64,
    pub requests: u64,
    pub input_tokens: u64,
    pub block_tokens: u32,
    pub unique_blocks: u64,
    /// Those of the trace that stand after different blocks: anything but zero is a trace that
    /// contradicts itself, of which less is found than could be.
    pub contradicted_blocks: u64,
    /// The tiers that are present, fastest first.
    pub tiers: Vec<TierReport>,
    pub hit_tokens: u64,
    /// Of the input tokens, 0 to 1.
    pub hit_ratio: f64,
    pub recomputed_tokens: u64,
    pub elapsed_s: f64,
    /// Only of a simulation with an NVMe tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvme_writes: Option<WritesReport>,
    /// Only of a simulation in which answers matter, of a trace that doesn't say when they came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assumed_answers: Option<AssumedAnswers>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub timed: Option<TimedReport>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub live: Option<LiveReport>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Simulate,
    Live,
}

/// So many requests are taken to be answered after so long.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AssumedAnswers {
    pub requests: u64,
    pub ms: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct TierReport {
    pub tier: &'static str,
    pub capacity_blocks: u64,
    /// Input tokens whose blocks had this as their fastest tier at arrival.
    pub hit_tokens: u64,
    /// Blocks that left the tier because room was needed.
    pub evicted_blocks: u64,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TierTraffic>,
}

/// Real bytes into and out of a tier, and how fast they went while they did.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TierTraffic {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub in_gb_per_s: f64,
    pub out_gb_per_s: f64,
}

/// What only real bytes give.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LiveReport {
    pub block_bytes: u64,
    /// Bytes that were loaded and compared with what had been stored.
    pub bytes_verified: u64,
    /// Blocks that were not what had been stored. Anything but zero is a defect.
    pub corrupt_blocks: u64,
    pub lookup_us: Percentiles,
    pub load_us: Percentiles,
}

/// Microseconds that half, and all but one in a hundred, stayed below.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
}

impl Percentiles {
    /// Of the samples, by nearest rank; zero when there are none.
    #[must_use]
    pub fn of(samples_us: &mut [f64]) -> Self {
        samples_us.sort_unstable_by(f64::total_cmp);
        let at = |percent: usize| {
            let rank = (samples_us.len() * percent).div_ceil(100);
            samples_us.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self { p50: at(50), p99: at(99) }
    }
}

/// What is known of a replay before it starts.
#[derive(Clone, Debug)]
pub struct ReportHead {
    pub trace: String,
    pub info: TraceInfo,
    pub mode: Mode,
    pub policy: &'static str,
    pub hints: String,
    pub seed: u64,
}

/// What was counted while it ran.
#[derive(Clone, Debug, Default)]
pub struct ReportCounts {
    pub requests: u64,
    pub input_tokens: u64,
    pub capacity_blocks: [u64; Tier::COUNT],
    pub hit_tokens: [u64; Tier::COUNT],
    pub evicted_blocks: [u64; Tier::COUNT],
    /// Only where real bytes moved.
    pub traffic: [Option<TierTraffic>; Tier::COUNT],
}

impl ReplayReport {
    #[must_use]
    pub fn new(
        head: ReportHead,
        counts: &ReportCounts,
        elapsed_s: f64,
        live: Option<LiveReport>,
    ) -> Self {
        let hit_tokens = counts.hit_tokens.iter().sum();
        Self {
            trace: head.trace,
            format: head.info.format.name(),
            mode: head.mode,
            policy: head.policy,
            hints: head.hints,
            seed: head.seed,
            requests: counts.requests,
            input_tokens: counts.input_tokens,
            block_tokens: head.info.block_tokens,
            unique_blocks: head.info.unique_blocks,
            contradicted_blocks: head.info.contradicted_blocks,
            tiers: tiers(counts),
            hit_tokens,
            hit_ratio: ratio(hit_tokens, counts.input_tokens),
            recomputed_tokens: counts.input_tokens - hit_tokens,
            elapsed_s,
            nvme_writes: None,
            assumed_answers: None,
            timed: None,
            live,
        }
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = String::new();
        self.write_table(&mut out).expect("writing to a string does not fail");
        out
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{} ({}), {} requests, {} input tokens, {} unique blocks of {} tokens",
            self.trace,
            self.format,
            grouped(self.requests),
            grouped(self.input_tokens),
            grouped(self.unique_blocks),
            self.block_tokens
        )?;
        writeln!(out)?;
        writeln!(
            out,
            "{:<10} {:>16} {:>16} {:>8} {:>16}",
            "tier", "capacity blocks", "hit tokens", "hits", "evicted blocks"
        )?;
        for tier in &self.tiers {
            writeln!(
                out,
                "{:<10} {:>16} {:>16} {:>7.2}% {:>16}",
                tier.tier,
                grouped(tier.capacity_blocks),
                grouped(tier.hit_tokens),
                100.0 * ratio(tier.hit_tokens, self.input_tokens),
                grouped(tier.evicted_blocks)
            )?;
        }
        let recomputed = ratio(self.recomputed_tokens, self.input_tokens);
        for (name, tokens, share) in [
            ("recompute", self.recomputed_tokens, recomputed),
            ("all hits", self.hit_tokens, self.hit_ratio),
        ] {
            let (tokens, percent) = (grouped(tokens), 100.0 * share);
            writeln!(out, "{name:<10} {:>16} {tokens:>16} {percent:>7.2}%", "")?;
        }
        writeln!(out)?;
        if let Some(writes) = &self.nvme_writes {
            writes.write_table(out)?;
        }
        if let Some(timed) = &self.timed {
            timed.write_table(out)?;
        }
        if let Some(AssumedAnswers { requests, ms }) = self.assumed_answers {
            let requests = grouped(requests);
            writeln!(out, "answers to {requests} requests assumed after {ms} ms")?;
        }
        self.write_live(out)?;
        writeln!(
            out,
            "policy {}, hints {}, seed {}, {:.1} s",
            self.policy, self.hints, self.seed, self.elapsed_s
        )
    }

    fn write_live(&self, out: &mut String) -> std::fmt::Result {
        let Some(live) = &self.live else { return Ok(()) };
        for tier in &self.tiers {
            if let Some(traffic) = &tier.traffic {
                writeln!(
                    out,
                    "{:<10} in {:>10} at {:.2} GB/s, out {:>10} at {:.2} GB/s",
                    tier.tier,
                    Bytes(traffic.bytes_in).to_string(),
                    traffic.in_gb_per_s,
                    Bytes(traffic.bytes_out).to_string(),
                    traffic.out_gb_per_s
                )?;
            }
        }
        for (name, us) in [("lookup", live.lookup_us), ("load", live.load_us)] {
            writeln!(out, "{name:<10} p50 {:.0} us, p99 {:.0} us", us.p50, us.p99)?;
        }
        writeln!(
            out,
            "blocks of {}, {} loaded and compared, corrupt blocks: {}",
            Bytes(live.block_bytes),
            Bytes(live.bytes_verified),
            live.corrupt_blocks
        )
    }
}

fn tiers(counts: &ReportCounts) -> Vec<TierReport> {
    let present = Tier::ALL.into_iter().filter(|tier| counts.capacity_blocks[tier.index()] > 0);
    present
        .map(|tier| TierReport {
            tier: tier.name(),
            capacity_blocks: counts.capacity_blocks[tier.index()],
            hit_tokens: counts.hit_tokens[tier.index()],
            evicted_blocks: counts.evicted_blocks[tier.index()],
            traffic: counts.traffic[tier.index()],
        })
        .collect()
}

/// A number with its thousands apart: `29,753`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests;
