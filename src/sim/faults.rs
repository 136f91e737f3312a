//! What goes wrong, and how often: drawn from the run's seed.
//!
//! Only decides; the world makes it happen.

use std::time::Duration;

use crate::domain::tier::Tier;
use crate::manager::api::{End, EndKind, FailureKind, RestampEnd, Transfer, TransferItem};
use crate::tiers::health::Refuses;
use crate::workload::draw::Draw;

use super::machine::Fate;

/// How often things go wrong, of a thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Items of transfers that fail, in any of the ways that items fail.
    pub item_fails: u32,
    /// Transfers that take seconds instead of milliseconds.
    pub slow: u32,
    /// Transfers whose end nobody hears of, so that the watchdog has to give them up.
    pub lost: u32,
    /// Erases that fail.
    pub erase_fails: u32,
    /// Records that can't be written into a header, in either of the ways.
    pub restamp_fails: u32,
    /// Steps of a client at which it dies, whatever it is doing.
    pub client_dies: u32,
    /// Steps of a client at which it asks for nonsense.
    pub client_errs: u32,
    /// Ticks at which the whole node loses power.
    pub crash: u32,
    /// Ticks at which a cold tier goes out, if none is.
    pub outage: u32,
    /// Ticks at which another node stores a chain in the shared store, or erases one of its own.
    pub other_writes: u32,
    pub other_erases: u32,
    /// Pools whose engines call before their streams have come so far.
    pub behind: u32,
}

/// After so long the watchdog answers for a transfer that nobody heard of.
pub(super) const WATCHDOG: Duration = Duration::from_secs(10);

/// What becomes of one transfer.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) lands_after: Duration,
    pub(super) fates: Vec<Fate>,
    /// Nobody hears of its end.
    pub(super) lost: bool,
}

/// A tier refuses what it is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub(super) tier: Tier,
    pub(super) refuses: Refuses,
    pub(super) lasts: Duration,
}

impl Outage {
    /// How the tier refuses this copy, if it does.
    pub(super) fn refusal(&self, item: &TransferItem) -> Option<FailureKind> {
        let is_mine = |end: &End| end.kind() == EndKind::Tier(self.tier);
        if self.refuses.writes && is_mine(&item.to) {
            Some(FailureKind::TargetFailed)
        } else if self.refuses.reads && is_mine(&item.from) && item.from != item.to {
            Some(FailureKind::SourceFailed)
        } else {
            None
        }
    }

    pub(super) fn refuses_writes_to(&self, tier: Tier) -> bool {
        self.refuses.writes && self.tier == tier
    }
}

/// Draws what becomes of things.
pub(super) struct Faults {
    pub(super) rates: FaultRates,
    draw: Draw,
}

impl Faults {
    pub(super) fn new(rates: FaultRates, seed: u64) -> Self {
        Self { rates, draw: Draw::new(seed) }
    }

    pub(super) fn plan(&mut self, transfer: &Transfer) -> Plan {
        let micros = if self.draw.per_mille(self.rates.slow) {
            1_000_000 + self.draw.below(4_000_000)
        } else {
            100 + self.draw.below(40_000)
        };
        let lost = self.draw.per_mille(self.rates.lost);
        // Of the transfers nobody hears of, half did all they should have done.
        let nothing_done = lost && self.draw.percent(50);
        let fates = transfer.items.iter().map(|item| self.fate(item, nothing_done)).collect();
        Plan { lands_after: Duration::from_micros(micros.into()), fates, lost }
    }

    fn fate(&mut self, item: &TransferItem, nothing_done: bool) -> Fate {
        if nothing_done {
            return Fate::Fails(FailureKind::NotDone);
        }
        if !self.draw.per_mille(self.rates.item_fails) {
            return Fate::Lands;
        }
        let kind = match self.draw.below(4) {
            // Only what is checked on reading can turn out lost.
            0 if item.from != item.to && matches!(item.from, End::Nvme(_) | End::Object) => {
                if item.from == End::Object && self.draw.percent(50) {
                    FailureKind::SourceMissing
                } else {
                    FailureKind::SourceCorrupt
                }
            }
            0 | 1 if item.from != item.to => FailureKind::SourceFailed,
            2 => FailureKind::NotDone,
            _ => FailureKind::TargetFailed,
        };
        Fate::Fails(kind)
    }

    pub(super) fn erase_succeeds(&mut self) -> bool {
        !self.draw.per_mille(self.rates.erase_fails)
    }

    /// How the write of a record ends, as far as the store decides that.
    pub(super) fn restamp(&mut self) -> RestampEnd {
        if !self.draw.per_mille(self.rates.restamp_fails) {
            return RestampEnd::Written;
        }
        if self.draw.percent(20) { RestampEnd::Corrupt } else { RestampEnd::Failed }
    }

    pub(super) fn client_dies(&mut self) -> bool {
        self.draw.per_mille(self.rates.client_dies)
    }

    pub(super) fn client_errs(&mut self) -> bool {
        self.draw.per_mille(self.rates.client_errs)
    }

    pub(super) fn other_writes(&mut self) -> bool {
        self.draw.per_mille(self.rates.other_writes)
    }

    pub(super) fn other_erases(&mut self) -> bool {
        self.draw.per_mille(self.rates.other_erases)
    }

    pub(super) fn crashes(&mut self) -> bool {
        self.draw.per_mille(self.rates.crash)
    }

    pub(super) fn has_events(&mut self) -> bool {
        self.draw.per_mille(self.rates.behind)
    }

    /// When an engine has come as far as its call, if it ever does, and whether anybody can tell.
    pub(super) fn engine_comes(&mut self) -> Option<(Duration, bool)> {
        if self.draw.per_mille(self.rates.lost) {
            return None;
        }
        let micros = if self.draw.per_mille(self.rates.slow) {
            1_000_000 + self.draw.below(4_000_000)
        } else {
            self.draw.below(60_000)
        };
        let came = !self.draw.per_mille(self.rates.item_fails);
        Some((Duration::from_micros(micros.into()), came))
    }

    /// A tier that goes out now, what it refuses, and for how long.
    pub(super) fn outage(&mut self) -> Option<Outage> {
        if self.rates.outage == 0 || !self.draw.per_mille(self.rates.outage) {
            return None;
        }
        let tier = [Tier::Nvme, Tier::Nvme, Tier::Object][self.draw.index(3)];
        let refuses =
            [Refuses::ALL, Refuses::ALL, Refuses::READS, Refuses::WRITES][self.draw.index(4)];
        let lasts = Duration::from_millis(u64::from(500 + self.draw.below(10_000)));
        Some(Outage { tier, refuses, lasts })
    }

    /// For choices that are faults' to make.
    pub(super) fn draw_mut(&mut self) -> &mut Draw {
        &mut self.draw
    }

    /// Any number, for such choices.
    pub(super) fn any(&mut self) -> u32 {
        self.draw.below(u32::MAX)
    }
}
