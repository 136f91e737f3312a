//! What the demo ends with: the figures for people, and where to go from here.

use std::fmt::Write;

use crate::cli::output::Table;
use crate::cli::replay::live::LiveOutcome;
use crate::cli::replay::report::ReplayReport;
use crate::domain::units::Bytes;
use crate::sim::replay::ratio;

use super::pauses::{self, Pauses};

pub(super) fn show(
    report: &ReplayReport,
    pauses: &[Pauses],
    outcome: &LiveOutcome,
    agents: usize,
) -> String {
    let mut out = String::new();
    write_all(&mut out, report, pauses, outcome, agents)
        .expect("writing to a string does not fail");
    out
}

fn write_all(
    out: &mut String,
    report: &ReplayReport,
    pauses: &[Pauses],
    outcome: &LiveOutcome,
    agents: usize,
) -> std::fmt::Result {
    writeln!(
        out,
        "{agents} agents made {} requests of {} input tokens over {} different blocks of {}.",
        report.requests,
        report.input_tokens,
        report.unique_blocks,
        Bytes(outcome.live.block_bytes)
    )?;
    writeln!(out)?;
    writeln!(out, "{}", tiers(report))?;
    let live = &outcome.live;
    writeln!(
        out,
        "hit ratio  {} of the input tokens did not have to be computed again",
        percent(report.hit_tokens, report.input_tokens)
    )?;
    for (name, us) in [("lookup", live.lookup_us), ("load", live.load_us)] {
        writeln!(out, "{name:<10} p50 {:.0} us, p99 {:.0} us", us.p50, us.p99)?;
    }
    writeln!(
        out,
        "verified   {} byte by byte; corrupt blocks {}",
        Bytes(live.bytes_verified),
        live.corrupt_blocks
    )?;
    writeln!(out, "took       {:.1} s (seed {})", report.elapsed_s, report.seed)?;
    writeln!(out)?;
    writeln!(
        out,
        "{} agents made {} requests with tools in between, while their blocks sank to NVMe; without \
         prefetch\nand with it, by hints of when each tool should return; corrupt blocks {}:",
        pauses::AGENTS,
        pauses[0].requests,
        pauses.iter().map(|side| side.corrupt_blocks).sum::<u64>()
    )?;
    writeln!(out)?;
    writeln!(out, "{}", waits(pauses))?;
    writeln!(
        out,
        "It ran on a daemon of its own (terrace {}) in {}, which is gone again:",
        outcome.status.daemon_version, outcome.daemon_folder
    )?;
    for (what, how) in &outcome.status.facts {
        writeln!(out, "  {what:<10} {how}")?;
    }
    writeln!(out)?;
    write!(
        out,
        "Try next:\n  \
         terrace doctor                what this machine offers, and what to mend\n  \
         terrace serve                 a daemon for your engine\n  \
         terrace replay TRACE --live   the same with a trace of your own\n"
    )
}

fn tiers(report: &ReplayReport) -> Table {
    let heading = ["tier", "blocks", "hits", "bytes in", "GB/s", "bytes out", "GB/s", "evicted"];
    let mut table = Table::new(1, heading);
    for tier in &report.tiers {
        let traffic = tier.traffic.as_ref();
        let bytes = |bytes: Option<u64>| Bytes(bytes.unwrap_or(0)).to_string();
        let rate = |rate: Option<f64>| format!("{:.2}", rate.unwrap_or(0.0));
        table.row([
            tier.tier.into(),
            tier.capacity_blocks.to_string(),
            percent(tier.hit_tokens, report.input_tokens),
            bytes(traffic.map(|traffic| traffic.bytes_in)),
            rate(traffic.map(|traffic| traffic.in_gb_per_s)),
            bytes(traffic.map(|traffic| traffic.bytes_out)),
            rate(traffic.map(|traffic| traffic.out_gb_per_s)),
            tier.evicted_blocks.to_string(),
        ]);
    }
    let recomputed = percent(report.recomputed_tokens, report.input_tokens);
    table.row(["recompute".into(), String::new(), recomputed]);
    table
}

fn waits(pauses: &[Pauses]) -> Table {
    let heading =
        ["prefetch", "wait for loads", "p99", "from NVMe", "lifted", "in time", "late", "in vain"];
    let mut table = Table::new(1, heading);
    for side in pauses {
        let us = |us: f64| format!("{us:.0} us");
        let lifts = [side.lifted_bytes, side.timely_bytes, side.late_bytes, side.wasted_bytes];
        let [lifted, timely, late, wasted] = lifts.map(|bytes| Bytes(bytes).to_string());
        table.row([
            if side.prefetch { "on" } else { "off" }.into(),
            us(side.load_wait_us.mean),
            us(side.load_wait_us.p99),
            percent(side.nvme_blocks, side.found_blocks),
            lifted,
            timely,
            late,
            wasted,
        ]);
    }
    table
}

fn percent(part: u64, whole: u64) -> String {
    format!("{:.1}%", 100.0 * ratio(part, whole))
}
