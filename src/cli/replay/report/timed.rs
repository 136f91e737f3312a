//! What a simulation adds in which copies take time: waits, prefetch, links.

use std::fmt::Write;

use serde::Serialize;

use crate::domain::units::Bytes;
use crate::movement::Link;
use crate::sim::replay::{Prefetched, Spread, TimedOutcome, Timing, ratio};

use super::grouped;

#[derive(Clone, Debug, Serialize)]
pub struct TimedReport {
    pub block_bytes: u64,
    pub prefill_tokens_per_s: u32,
    /// From the first request until everything had ended.
    pub simulated_s: f64,
    pub ttft_ms: SpreadMs,
    pub load_stall_ms: SpreadMs,
    /// Found, and computed all the same, since that was held to be faster.
    pub declined_tokens: u64,
    pub prefetch: PrefetchReport,
    pub links: Vec<LinkReport>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SpreadMs {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
}

impl From<Spread> for SpreadMs {
    fn from(spread: Spread) -> Self {
        let Spread { mean_us, p50_us, p90_us, p99_us } = spread;
        let [mean, p50, p90, p99] = [mean_us, p50_us, p90_us, p99_us].map(|us| ratio(us, 1000));
        Self { mean, p50, p90, p99 }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct PrefetchReport {
    pub on: bool,
    pub bytes: u64,
    pub timely_bytes: u64,
    pub late_bytes: u64,
    pub wasted_bytes: u64,
    pub idle_promoted_tokens: u64,
    pub idle_timely_tokens: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct LinkReport {
    pub link: &'static str,
    pub bytes_per_s: u64,
    pub latency_us: u64,
    pub bytes: u64,
    /// The part of the simulated time in which bytes moved, 0 to 1.
    pub utilisation: f64,
}

impl TimedReport {
    #[must_use]
    pub fn new(timing: &Timing, outcome: &TimedOutcome) -> Self {
        let took_s = outcome.took.as_secs_f64();
        let links = Link::ALL.map(|link| {
            let (speed, used) = (timing.links.of(link), outcome.links[link.index()]);
            let busy = used.busy.as_secs_f64() / took_s;
            LinkReport {
                link: link.name(),
                bytes_per_s: speed.bytes_per_s,
                latency_us: speed.latency_us,
                bytes: used.bytes,
                utilisation: if used.busy.is_zero() { 0.0 } else { busy },
            }
        });
        let Prefetched {
            bytes,
            timely_bytes,
            late_bytes,
            wasted_bytes,
            idle_promoted_tokens,
            idle_timely_tokens,
        } = outcome.prefetched;
        Self {
            block_bytes: timing.block_bytes,
            prefill_tokens_per_s: timing.prefill_tokens_per_s.get(),
            simulated_s: took_s,
            ttft_ms: outcome.ttft.into(),
            load_stall_ms: outcome.load_stall.into(),
            declined_tokens: outcome.declined_tokens,
            prefetch: PrefetchReport {
                on: timing.prefetch,
                bytes,
                timely_bytes,
                late_bytes,
                wasted_bytes,
                idle_promoted_tokens,
                idle_timely_tokens,
            },
            links: links.into(),
        }
    }

    /// For people; links that moved nothing are left out.
    pub(super) fn write_table(&self, out: &mut String) -> std::fmt::Result {
        for (name, ms) in [("ttft", self.ttft_ms), ("load stall", self.load_stall_ms)] {
            writeln!(
                out,
                "{name:<10} mean {:.1} ms, p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms",
                ms.mean, ms.p50, ms.p90, ms.p99
            )?;
        }
        self.write_prefetch(out)?;
        for link in self.links.iter().filter(|link| link.bytes > 0) {
            writeln!(
                out,
                "{:<12} {:>12}, busy {:.2}% of the time",
                link.link,
                Bytes(link.bytes).to_string(),
                100.0 * link.utilisation
            )?;
        }
        writeln!(
            out,
            "blocks of {}, prefill of {} tokens/s, {} found tokens computed, {:.0} s simulated",
            Bytes(self.block_bytes),
            grouped(self.prefill_tokens_per_s.into()),
            grouped(self.declined_tokens),
            self.simulated_s
        )
    }

    fn write_prefetch(&self, out: &mut String) -> std::fmt::Result {
        let prefetch = &self.prefetch;
        if !prefetch.on {
            return writeln!(out, "{:<10} off", "prefetch");
        }
        let percent = |bytes| 100.0 * ratio(bytes, prefetch.bytes);
        writeln!(
            out,
            "{:<10} {}: {:.1}% in time, {:.1}% late, {:.1}% in vain",
            "prefetch",
            Bytes(prefetch.bytes),
            percent(prefetch.timely_bytes),
            percent(prefetch.late_bytes),
            percent(prefetch.wasted_bytes)
        )?;
        writeln!(
            out,
            "{:<10} {} tokens promoted after 2 s or more of idleness, {:.1}% in time",
            "",
            grouped(prefetch.idle_promoted_tokens),
            100.0 * ratio(prefetch.idle_timely_tokens, prefetch.idle_promoted_tokens)
        )
    }
}
