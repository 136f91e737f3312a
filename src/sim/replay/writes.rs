//! What a simulated drive is written, in bytes of blocks as they would be.
//!
//! The manager's simulated blocks are one page each; rates and counts are brought to their scale and
//! back here, and nowhere else.

use crate::domain::admission::{Reason, WriteCounts, WriteRules};

use super::FRAME_BYTES;

/// What is written to `NVMe`, and what a block takes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writes {
    pub rules: WriteRules,
    pub block_bytes: u64,
}

impl Default for Writes {
    /// 8 MiB, as a block of 64 tokens of an 8 billion parameter model in bf16 has.
    fn default() -> Self {
        Self { rules: WriteRules::default(), block_bytes: 8 << 20 }
    }
}

impl Writes {
    /// The rules for the manager's blocks. A rate of less than a byte stays one.
    pub(super) fn scaled(&self) -> WriteRules {
        let scaled = |rate: u64| {
            let down = u128::from(rate) * u128::from(FRAME_BYTES) / u128::from(self.block_bytes);
            u64::try_from(down).unwrap_or(u64::MAX).max(u64::from(rate > 0))
        };
        WriteRules {
            bytes_per_s: scaled(self.rules.bytes_per_s),
            bytes_per_day: scaled(self.rules.bytes_per_day),
            ..self.rules
        }
    }

    /// What the manager counted, as if every block had its configured bytes. Headers are what they
    /// are.
    pub(super) fn counted(&self, counts: &WriteCounts) -> WriteCounts {
        let scaled = |bytes: u64| bytes / FRAME_BYTES * self.block_bytes;
        let mut written_bytes = counts.written_bytes.map(scaled);
        written_bytes[Reason::Record.index()] = counts.written_bytes[Reason::Record.index()];
        WriteCounts {
            written_bytes,
            spared_bytes: counts.spared_bytes.map(scaled),
            budget_left_bytes: counts.budget_left_bytes.map(|left| self.scaled_up(left)),
        }
    }

    /// What is left of the budget, in whole blocks.
    fn scaled_up(&self, left_bytes: i64) -> i64 {
        let blocks = i128::from(left_bytes) / i128::from(FRAME_BYTES);
        i64::try_from(blocks * i128::from(self.block_bytes)).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_blocks() {
        let rules = WriteRules { bytes_per_s: 3 << 20, bytes_per_day: 1, ..WriteRules::default() };
        let writes = Writes { rules, block_bytes: 1 << 20 };
        let scaled = writes.scaled();
        assert_eq!((scaled.bytes_per_s, scaled.bytes_per_day), (3 * FRAME_BYTES, 1));
        let left = -FRAME_BYTES.cast_signed();
        let mut counts = WriteCounts { budget_left_bytes: Some(left), ..WriteCounts::default() };
        counts.written_bytes[Reason::Demoted.index()] = 7 * FRAME_BYTES;
        counts.written_bytes[Reason::Record.index()] = 4096;
        let counted = writes.counted(&counts);
        assert_eq!(counted.written_bytes_total(), (7 << 20) + 4096);
        assert_eq!(counted.budget_left_bytes, Some(-(1 << 20)));
    }
}
