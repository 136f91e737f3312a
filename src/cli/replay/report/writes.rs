//! What a replay wrote to the NVMe drive, and what it did not, by reason.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::domain::admission::{Reason, Spared, WriteCounts, WriteRules};
use crate::domain::units::Bytes;

/// Bytes that went to the NVMe tier, as if every block had its configured bytes.
#[derive(Clone, Debug, Serialize)]
pub struct WritesReport {
    pub mode: &'static str,
    pub admission: &'static str,
    pub block_bytes: u64,
    pub bytes: u64,
    pub by_reason: BTreeMap<&'static str, u64>,
    /// Bytes that would have been written.
    pub spared: BTreeMap<&'static str, u64>,
}

impl WritesReport {
    #[must_use]
    pub fn new(rules: &WriteRules, block_bytes: u64, counts: &WriteCounts) -> Self {
        let by_reason = Reason::ALL.iter().map(|reason| reason.name()).zip(counts.written_bytes);
        let spared = Spared::ALL.iter().map(|why| why.name()).zip(counts.spared_bytes);
        Self {
            mode: rules.mode.name(),
            admission: rules.rule.name(),
            block_bytes,
            bytes: counts.written_bytes_total(),
            by_reason: by_reason.collect(),
            spared: spared.collect(),
        }
    }

    /// For people; reasons that never came up are left out.
    pub(super) fn write_table(&self, out: &mut String) -> std::fmt::Result {
        let shown = |reasons: &BTreeMap<&'static str, u64>| {
            let some = reasons.iter().filter(|(_, bytes)| **bytes > 0);
            let parts: Vec<_> =
                some.map(|(name, bytes)| format!("{name} {}", Bytes(*bytes))).collect();
            if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
        };
        writeln!(
            out,
            "nvme write {}, admission {}: {} written ({}); spared: {}",
            self.mode,
            self.admission,
            Bytes(self.bytes),
            shown(&self.by_reason),
            shown(&self.spared)
        )
    }
}
