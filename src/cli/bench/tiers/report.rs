//! The result: one row a path, layout and block size, as a table or as JSON.

use std::fmt::Write;

use serde::Serialize;

use crate::cli::output::Table;
use crate::domain::tier::Tier;
use crate::domain::units::Bytes;
use crate::tiers::object::Target;

use super::args::{Against, Cell, TiersArgs};
use super::device::Hbm;
use super::ground::Ground;
use super::measure::Figures;

/// One row. Fields are printed in this order.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub path: String,
    pub block_bytes: u64,
    pub fragment_bytes: u64,
    pub gbps: f64,
    pub limit_gbps: f64,
    pub ratio: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    #[serde(skip)]
    pub cell: Cell,
}

impl Row {
    pub fn new(cell: Cell, figures: Figures) -> Self {
        let thousandths = |value: f64| (value * 1000.0).round() / 1000.0;
        Self {
            path: cell.path.to_string(),
            block_bytes: cell.block_bytes,
            fragment_bytes: cell.fragment_bytes,
            gbps: thousandths(figures.gbps),
            limit_gbps: thousandths(figures.limit_gbps),
            ratio: thousandths(figures.ratio),
            p50_us: thousandths(figures.p50_us),
            p99_us: thousandths(figures.p99_us),
            cell,
        }
    }

    /// The length of its fragments, nothing where each block is one.
    #[must_use]
    pub fn fragment(&self) -> Option<u64> {
        (self.fragment_bytes < self.block_bytes).then_some(self.fragment_bytes)
    }
}

/// Path by path, the longest fragments first, then by block size.
pub fn sort(rows: &mut [Row]) {
    let longest_first = |row: &Row| std::cmp::Reverse(row.fragment().unwrap_or(u64::MAX));
    rows.sort_by_key(|row| (row.cell.path, longest_first(row), row.block_bytes));
}

pub fn text(rows: &[Row], ground: &Ground, args: &TiersArgs) -> String {
    let mut said = table(rows).to_string();
    said.push('\n');
    for (tier, limit) in limits_of(args, ground) {
        if rows.iter().any(|row| row.cell.path.far_tier() == tier) {
            let _ = writeln!(said, "{limit}");
        }
    }
    if let Some(facts) = &ground.nvme {
        let engine = facts.engine;
        let direct = if facts.direct {
            "past the page cache"
        } else {
            "through the page cache, since this folder takes no O_DIRECT: name one on ext4 or xfs \
             with --dir"
        };
        let _ = writeln!(said, "nvme ran on {engine}, {direct}.");
    }
    said.push_str(
        "GB/s are 10^9 payload bytes a second, and ratios those of single turns, the middle one \
         each; a latency is that of a block alone on its way.\n",
    );
    said
}

fn limits_of(args: &TiersArgs, ground: &Ground) -> [(Tier, String); 3] {
    let hbm = &ground.hbm;
    let device = hbm.device().describe();
    [
        (Tier::Hbm, format!("hbm ran on {device}. Limit: {}.", hbm_limit(args.against, hbm))),
        (
            Tier::Nvme,
            format!("limit of nvme: a loop of {} threads, frames as long, same disk.", args.depth),
        ),
        (
            Tier::Object,
            match args.object {
                Some(Target::S3(_)) => format!(
                    "limit of object: a bare HTTP client's {} connections, objects as long, same \
                     bucket.",
                    args.depth
                ),
                _ => {
                    let synced = if ground.syncs_objects { ", each synced" } else { "" };
                    format!(
                        "limit of object: {} threads, plain files as long{synced}, same folder.",
                        args.depth
                    )
                }
            },
        ),
    ]
}

fn hbm_limit(against: Against, hbm: &Hbm) -> &'static str {
    match (hbm, against) {
        (Hbm::Host(_), Against::Memory) => {
            "one thread's memcpy of blocks as long; both ways at once, two threads'"
        }
        (Hbm::Host(_), Against::Calls) => {
            "one thread's memcpy call a fragment; both ways at once, two threads'"
        }
        (Hbm::Gpu(_), Against::Memory) => {
            "one copy of the set between pinned memory and the GPU, or within it; both ways at \
             once, one copy each"
        }
        (Hbm::Gpu(_), Against::Calls) => {
            "one copy call a fragment, whose ends on the GPU lie apart, or in a row within it"
        }
    }
}

fn table(rows: &[Row]) -> Table {
    let heading = ["path", "block", "fragment", "GB/s", "limit", "ratio", "p50 us", "p99 us"];
    let mut table = Table::new(1, heading);
    for row in rows {
        let fragment = row.fragment().map_or("-".into(), |bytes| Bytes(bytes).to_string());
        table.row([
            row.path.clone(),
            Bytes(row.block_bytes).to_string(),
            fragment,
            format!("{:.2}", row.gbps),
            format!("{:.2}", row.limit_gbps),
            format!("{:.0}%", 100.0 * row.ratio),
            format!("{:.0}", row.p50_us),
            format!("{:.0}", row.p99_us),
        ]);
    }
    table
}

#[cfg(test)]
pub(super) fn sample() -> Vec<Row> {
    use super::path::Path;
    let row = |path, block_bytes, fragment_bytes, ratio: f64| {
        let cell = Cell { path, block_bytes, fragment_bytes };
        let figures =
            Figures { gbps: 8.0 * ratio, limit_gbps: 8.0, ratio, p50_us: 31.25, p99_us: 60.0 };
        Row::new(cell, figures)
    };
    let mut rows = Vec::new();
    for (step, block) in [1 << 16, 1 << 20, 1 << 23].into_iter().enumerate() {
        let plus = f64::from(u32::try_from(step).unwrap()) / 20.0;
        for path in Path::ALL {
            rows.push(row(path, block, block, 0.9 + plus));
            if path.is_paged() {
                rows.push(row(path, block, 16 << 10, 0.8 + plus));
            }
        }
    }
    sort(&mut rows);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_as_people_read_it() {
        let rows: Vec<_> = sample().into_iter().filter(|row| row.cell.path.is_paged()).collect();
        insta::assert_snapshot!(table(&rows[..8]).to_string(), @r"
        path        block  fragment  GB/s  limit  ratio  p50 us  p99 us
        dram->hbm  64 KiB         -  7.20   8.00    90%      31      60
        dram->hbm   1 MiB         -  7.60   8.00    95%      31      60
        dram->hbm   8 MiB         -  8.00   8.00   100%      31      60
        dram->hbm  64 KiB    16 KiB  6.40   8.00    80%      31      60
        dram->hbm   1 MiB    16 KiB  6.80   8.00    85%      31      60
        dram->hbm   8 MiB    16 KiB  7.20   8.00    90%      31      60
        hbm->dram  64 KiB         -  7.20   8.00    90%      31      60
        hbm->dram   1 MiB         -  7.60   8.00    95%      31      60
        ");
    }

    #[test]
    fn the_json_has_these_fields_and_no_others() {
        let json = serde_json::to_string(&sample()[0]).unwrap();
        insta::assert_snapshot!(
            json,
            @r#"{"path":"dram->hbm","block_bytes":65536,"fragment_bytes":65536,"gbps":7.2,"limit_gbps":8.0,"ratio":0.9,"p50_us":31.25,"p99_us":60.0}"#
        );
    }
}
