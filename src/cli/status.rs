//! `terrace status`: what a running daemon holds and does.

use std::collections::BTreeMap;

use serde::Serialize;

use super::output::{self, Table};
use super::{DaemonArgs, Failure, PATIENCE};
use crate::client::{self, DaemonStatus, LiftCounts, Link};
use crate::domain::admission::{Reason, Spared, WriteCounts};
use crate::domain::tier::Tier;
use crate::domain::units::Bytes;

/// Show what a running daemon holds and does
#[derive(clap::Args, Clone, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Asks the daemon and prints its answer.
///
/// # Errors
/// No daemon answers, or the settings don't say where.
pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let places = args.daemon.places()?;
    let status = super::ask(client::daemon_status(&places.socket, PATIENCE))?;
    Ok(output::show(args.json, &Shown::of(&status), || text(&status))?)
}

/// The status as JSON; fields are printed in this order.
#[derive(Serialize)]
struct Shown<'a> {
    version: &'a str,
    protocol_version: u32,
    node_id: &'a str,
    pid: u32,
    uptime_s: f64,
    policy: &'a str,
    tiers: Vec<ShownTier<'a>>,
    blocks: u64,
    clients: u64,
    pools: u64,
    leases: u64,
    ops_in_flight: u64,
    transfers_in_flight: u64,
    transfers_queued: u64,
    lookups: u64,
    lookup_blocks: u64,
    stores_dropped_blocks: u64,
    corrupt_copies: u64,
    sessions: u64,
    forgotten_blocks: u64,
    broken_shields: u64,
    links: Vec<ShownLink>,
    lifts: ShownLifts,
    #[serde(skip_serializing_if = "Option::is_none")]
    nvme_writes: Option<ShownWrites>,
    facts: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct ShownTier<'a> {
    tier: &'static str,
    capacity_bytes: u64,
    used_bytes: u64,
    blocks: u64,
    hit_blocks: u64,
    evicted_copies: u64,
    evicted_blocks: u64,
    bytes_in: u64,
    bytes_out: u64,
    failures: u64,
    shielded_bytes: u64,
    outage: Option<&'a str>,
}

#[derive(Serialize)]
struct ShownLink {
    link: &'static str,
    bytes_per_s: u64,
    latency_us: u64,
    demand_bytes: u64,
    prefetch_bytes: u64,
    background_bytes: u64,
    queued_transfers: u64,
    in_flight_bytes: u64,
}

#[derive(Serialize)]
struct ShownLifts {
    begun: u64,
    cancelled: u64,
    clipped_blocks: u64,
    bytes: u64,
    timely_bytes: u64,
    late_bytes: u64,
    wasted_bytes: u64,
}

impl From<&LiftCounts> for ShownLifts {
    fn from(counts: &LiftCounts) -> Self {
        Self {
            begun: counts.begun,
            cancelled: counts.cancelled,
            clipped_blocks: counts.clipped_blocks,
            bytes: counts.bytes,
            timely_bytes: counts.timely_bytes,
            late_bytes: counts.late_bytes,
            wasted_bytes: counts.wasted_bytes,
        }
    }
}

/// Bytes, by reason.
#[derive(Serialize)]
struct ShownWrites {
    written: BTreeMap<&'static str, u64>,
    spared: BTreeMap<&'static str, u64>,
    budget_left_bytes: Option<i64>,
}

impl From<&WriteCounts> for ShownWrites {
    fn from(counts: &WriteCounts) -> Self {
        let written = Reason::ALL.iter().map(|reason| reason.name()).zip(counts.written_bytes);
        let spared = Spared::ALL.iter().map(|why| why.name()).zip(counts.spared_bytes);
        let budget_left_bytes = counts.budget_left_bytes;
        Self { written: written.collect(), spared: spared.collect(), budget_left_bytes }
    }
}

fn has_nvme(status: &DaemonStatus) -> bool {
    status.tiers[Tier::Nvme.index()].present
}

impl<'a> Shown<'a> {
    fn of(status: &'a DaemonStatus) -> Self {
        Self {
            version: &status.daemon_version,
            protocol_version: status.protocol_version,
            node_id: &status.node_id,
            pid: status.pid,
            uptime_s: status.uptime.as_secs_f64(),
            policy: &status.policy,
            tiers: tiers(status),
            blocks: status.blocks,
            clients: status.clients,
            pools: status.pools,
            leases: status.leases,
            ops_in_flight: status.ops_in_flight,
            transfers_in_flight: status.transfers_in_flight,
            transfers_queued: status.transfers_queued,
            lookups: status.lookups,
            lookup_blocks: status.lookup_blocks,
            stores_dropped_blocks: status.stores_dropped_blocks,
            corrupt_copies: status.corrupt_copies,
            sessions: status.sessions,
            forgotten_blocks: status.forgotten_blocks,
            broken_shields: status.broken_shields,
            links: links(status),
            lifts: (&status.lifts).into(),
            nvme_writes: has_nvme(status).then(|| (&status.nvme_writes).into()),
            facts: &status.facts,
        }
    }
}

/// The tiers that are present, fastest first.
fn tiers(status: &DaemonStatus) -> Vec<ShownTier<'_>> {
    let figures = Tier::ALL.iter().map(|tier| (tier.name(), &status.tiers[tier.index()]));
    figures
        .filter(|(_, figures)| figures.present)
        .map(|(tier, figures)| ShownTier {
            tier,
            capacity_bytes: figures.capacity_bytes,
            used_bytes: figures.used_bytes,
            blocks: figures.blocks,
            hit_blocks: figures.hit_blocks,
            evicted_copies: figures.evicted_copies,
            evicted_blocks: figures.evicted_blocks,
            bytes_in: figures.bytes_in,
            bytes_out: figures.bytes_out,
            failures: figures.failures,
            shielded_bytes: figures.shielded_bytes,
            outage: figures.outage.as_deref(),
        })
        .collect()
}

/// All links, in the order of their numbers.
fn links(status: &DaemonStatus) -> Vec<ShownLink> {
    let shown = |link: Link| {
        let figures = &status.links[link.index()];
        ShownLink {
            link: link.name(),
            bytes_per_s: figures.bytes_per_s,
            latency_us: figures.latency_us,
            demand_bytes: figures.demand_bytes,
            prefetch_bytes: figures.prefetch_bytes,
            background_bytes: figures.background_bytes,
            queued_transfers: figures.queued_transfers,
            in_flight_bytes: figures.in_flight_bytes,
        }
    };
    Link::ALL.into_iter().map(shown).collect()
}

/// The links that have had anything to do; a table with nothing but its heading where there are none.
fn link_table(status: &DaemonStatus) -> Table {
    let mut table = Table::new(
        1,
        ["link", "learned", "latency", "demand", "prefetch", "background", "moving", "waiting"],
    );
    for link in links(status) {
        let moved_bytes = link.demand_bytes + link.prefetch_bytes + link.background_bytes;
        if moved_bytes + link.in_flight_bytes + link.queued_transfers == 0 {
            continue;
        }
        let bytes = |bytes: u64| Bytes(bytes).to_string();
        let (rate, latency) = match link.bytes_per_s {
            0 => ("-".into(), "-".into()),
            rate => (format!("{}/s", bytes(rate)), format!("{} us", link.latency_us)),
        };
        table.row([
            link.link.into(),
            rate,
            latency,
            bytes(link.demand_bytes),
            bytes(link.prefetch_bytes),
            bytes(link.background_bytes),
            bytes(link.in_flight_bytes),
            link.queued_transfers.to_string(),
        ]);
    }
    table
}

fn lift_line(lifts: &LiftCounts) -> String {
    let bytes = |bytes: u64| Bytes(bytes).to_string();
    format!(
        "{} lifts begun, {} cancelled; {} lifted: {} in time, {} late, {} in vain; {} blocks found \
         no room",
        lifts.begun,
        lifts.cancelled,
        bytes(lifts.bytes),
        bytes(lifts.timely_bytes),
        bytes(lifts.late_bytes),
        bytes(lifts.wasted_bytes),
        lifts.clipped_blocks,
    )
}

/// What NVMe was written; nothing where there is none.
fn write_line(status: &DaemonStatus) -> String {
    if !has_nvme(status) {
        return String::new();
    }
    let ShownWrites { written, spared, budget_left_bytes } = (&status.nvme_writes).into();
    let shown = |reasons: &BTreeMap<&str, u64>| {
        let parts: Vec<_> =
            reasons.iter().map(|(name, bytes)| format!("{name} {}", Bytes(*bytes))).collect();
        parts.join(", ")
    };
    let left = budget_left_bytes.map(budget_words);
    format!(
        "nvme written: {}\nnvme spared: {}{}\n",
        shown(&written),
        shown(&spared),
        left.unwrap_or_default()
    )
}

fn budget_words(left_bytes: i64) -> String {
    let bytes = Bytes(left_bytes.unsigned_abs());
    if left_bytes < 0 {
        format!("; the budget is overdrawn by {bytes}")
    } else {
        format!("; the budget has {bytes} left")
    }
}

fn text(status: &DaemonStatus) -> String {
    let links = link_table(status);
    let lifts = lift_line(&status.lifts);
    let writes = write_line(status);
    let mut table = Table::new(
        1,
        [
            "tier",
            "used",
            "of",
            "shielded",
            "blocks",
            "hits",
            "evicted",
            "last copies",
            "in",
            "out",
            "failures",
        ],
    );
    let mut outages = String::new();
    for tier in tiers(status) {
        let bytes = |bytes: u64| Bytes(bytes).to_string();
        table.row([
            tier.tier.into(),
            bytes(tier.used_bytes),
            bytes(tier.capacity_bytes),
            bytes(tier.shielded_bytes),
            tier.blocks.to_string(),
            tier.hit_blocks.to_string(),
            tier.evicted_copies.to_string(),
            tier.evicted_blocks.to_string(),
            bytes(tier.bytes_in),
            bytes(tier.bytes_out),
            tier.failures.to_string(),
        ]);
        if let Some(outage) = tier.outage {
            outages = format!("{outages}{} is {outage}\n", tier.tier);
        }
    }
    let mut facts = Table::new(2, ["what", "how"]);
    for (what, how) in &status.facts {
        facts.row([what.clone(), how.clone()]);
    }
    format!(
        "terrace {} (pid {}) up {} s, node {}, policy {}\n\n{table}{outages}\n{links}\n\
         {} blocks; {} clients, {} pools, {} leases, {} sessions\n\
         {} lookups for {} blocks; {} stores and loads under way; {} transfers under way, {} \
         waiting\n\
         {} offered blocks not kept; {} corrupt copies dropped; {} blocks forgotten as asked; {} \
         shields broken\n{lifts}\n{writes}\n{facts}",
        status.daemon_version,
        status.pid,
        status.uptime.as_secs(),
        status.node_id,
        status.policy,
        status.blocks,
        status.clients,
        status.pools,
        status.leases,
        status.sessions,
        status.lookups,
        status.lookup_blocks,
        status.ops_in_flight,
        status.transfers_in_flight,
        status.transfers_queued,
        status.stores_dropped_blocks,
        status.corrupt_copies,
        status.forgotten_blocks,
        status.broken_shields,
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn example() -> DaemonStatus {
        let mut status = DaemonStatus {
            protocol_version: 1,
            daemon_version: "0.1.0".into(),
            node_id: "00ff".into(),
            pid: 42,
            uptime: Duration::from_millis(90_500),
            policy: "lru".into(),
            blocks: 7,
            lookups: 3,
            lookup_blocks: 20,
            sessions: 2,
            forgotten_blocks: 4,
            facts: [("nvme".to_owned(), "io_uring".to_owned())].into(),
            ..DaemonStatus::default()
        };
        let dram = &mut status.tiers[Tier::Dram.index()];
        (dram.present, dram.capacity_bytes, dram.used_bytes) = (true, 3 << 30, 7 << 20);
        (dram.blocks, dram.hit_blocks, dram.bytes_in) = (7, 5, 7 << 20);
        dram.shielded_bytes = 2 << 20;
        let link = &mut status.links[Link::NvmeRead.index()];
        (link.demand_bytes, link.prefetch_bytes) = (3 << 20, 5 << 20);
        (link.bytes_per_s, link.latency_us) = (3 << 30, 85);
        (link.in_flight_bytes, link.queued_transfers) = (1 << 20, 4);
        status.links[Link::DeviceUp.index()].queued_transfers = 1;
        let nvme = &mut status.tiers[Tier::Nvme.index()];
        (nvme.present, nvme.capacity_bytes) = (true, 9 << 30);
        status.nvme_writes.written_bytes = [5 << 20, 0, 1 << 20, 0, 2 << 20, 4096];
        status.nvme_writes.spared_bytes = [3 << 20, 0, 1 << 20, 0];
        status.nvme_writes.budget_left_bytes = Some(7 << 20);
        status.lifts = LiftCounts {
            begun: 6,
            cancelled: 1,
            clipped_blocks: 2,
            bytes: 5 << 20,
            timely_bytes: 3 << 20,
            late_bytes: 1 << 20,
            wasted_bytes: 1 << 20,
        };
        status
    }

    #[test]
    fn the_text_is_as_people_read_it() {
        insta::assert_snapshot!(text(&example()));
    }

    #[test]
    fn a_budget_that_is_overdrawn_says_so() {
        let mut status = example();
        status.nvme_writes.budget_left_bytes = Some(-(3 << 20));
        let line = write_line(&status);
        assert!(line.ends_with("; the budget is overdrawn by 3 MiB\n"), "{line}");
        let shown = Shown::of(&status).nvme_writes.map(|writes| writes.budget_left_bytes);
        assert_eq!(shown, Some(Some(-(3 << 20))));
    }

    #[test]
    fn the_json_names_its_units() {
        insta::assert_json_snapshot!(Shown::of(&example()));
    }
}
