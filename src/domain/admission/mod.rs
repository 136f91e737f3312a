//! Admission: whether a copy is worth what writing it wears off the `NVMe` drive.
//!
//! Decides on what it is told of a copy and counts what became of it; never looks at blocks, tiers
//! or clocks. What it refuses is somebody else's to send further down, or to let go.

pub mod budget;
pub mod rule;

use crate::domain::retention::Kind;
use crate::domain::units::Time;

pub use budget::Budget;
pub use rule::{Case, Rule};

/// When blocks are written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// When memory needs their room.
    #[default]
    Demote,
    /// As soon as they are in memory, so that their room there is free at once when it is needed.
    Through,
}

impl WriteMode {
    pub const ALL: [Self; 2] = [Self::Demote, Self::Through];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Demote => "demote",
            Self::Through => "through",
        }
    }
}

/// Why bytes were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Memory needed the room.
    Demoted,
    /// Written as soon as it was in memory.
    Through,
    /// Stores that found no room in memory, or no memory at all.
    Stored,
    /// Lifted from the object tier.
    Lifted,
    /// Stores that asked to be told when their blocks outlive the daemon.
    Durable,
    /// Headers of frames whose records changed.
    Record,
}

impl Reason {
    pub const COUNT: usize = 6;
    pub const ALL: [Self; Self::COUNT] =
        [Self::Demoted, Self::Through, Self::Stored, Self::Lifted, Self::Durable, Self::Record];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Demoted => "demoted",
            Self::Through => "through",
            Self::Stored => "stored",
            Self::Lifted => "lifted",
            Self::Durable => "durable",
            Self::Record => "record",
        }
    }

    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether the gate is asked before such bytes are written. The others are counted only.
    #[must_use]
    pub const fn is_judged(self) -> bool {
        matches!(self, Self::Demoted | Self::Through | Self::Stored)
    }
}

/// Why bytes were not written that would have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spared {
    /// No session reaches the block any more.
    Dead,
    /// Its owner, or its kind, keeps it higher.
    Floor,
    /// The rule holds that it will not be asked for again.
    Unlikely,
    /// The budget was spent.
    Budget,
}

impl Spared {
    pub const COUNT: usize = 4;
    pub const ALL: [Self; Self::COUNT] = [Self::Dead, Self::Floor, Self::Unlikely, Self::Budget];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Floor => "floor",
            Self::Unlikely => "unlikely",
            Self::Budget => "budget",
        }
    }

    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What is written, and how much of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteRules {
    pub mode: WriteMode,
    pub rule: Rule,
    /// Zero: no limit.
    pub bytes_per_s: u64,
    pub bytes_per_day: u64,
}

/// What was written and what was not, in bytes of whole frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteCounts {
    pub written_bytes: [u64; Reason::COUNT],
    pub spared_bytes: [u64; Spared::COUNT],
    /// What the budget has left, below zero by what it is overdrawn; none where nothing is limited.
    pub budget_left_bytes: Option<i64>,
}

impl WriteCounts {
    #[must_use]
    pub fn written_bytes_total(&self) -> u64 {
        self.written_bytes.iter().sum()
    }
}

/// Stands before every write that is not asked for by somebody who waits.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    rules: WriteRules,
    budget: Budget,
    counts: WriteCounts,
}

impl Gate {
    #[must_use]
    pub fn new(rules: WriteRules) -> Self {
        let budget = Budget::new(rules.bytes_per_s, rules.bytes_per_day);
        Self { rules, budget, counts: WriteCounts::default() }
    }

    #[must_use]
    pub const fn mode(&self) -> WriteMode {
        self.rules.mode
    }

    /// Whether the copy is written. Its bytes are charged then.
    pub fn admits(&mut self, now: Time, case: &Case, bytes: u64) -> bool {
        if case.forced {
            self.budget.owe(now, bytes);
            return true;
        }
        if !self.rules.rule.admits(case) {
            self.spare(Spared::Unlikely, bytes);
            return false;
        }
        let kind = if case.asked { Kind::System } else { case.kind };
        self.takes(now, kind, bytes)
    }

    /// Whether the budget has so many bytes for a block of this kind. They are charged then.
    pub fn takes(&mut self, now: Time, kind: Kind, bytes: u64) -> bool {
        let takes = self.budget.takes(now, kind, bytes);
        if !takes {
            self.spare(Spared::Budget, bytes);
        }
        takes
    }

    /// What was admitted did not start.
    pub fn refund(&mut self, bytes: u64) {
        self.budget.refund(bytes);
    }

    /// So many bytes are down. What nobody asked about before is charged now.
    pub fn written(&mut self, now: Time, reason: Reason, bytes: u64) {
        self.counts.written_bytes[reason.index()] += bytes;
        if !reason.is_judged() {
            self.budget.charge(now, bytes);
        }
    }

    pub fn spare(&mut self, why: Spared, bytes: u64) {
        self.counts.spared_bytes[why.index()] += bytes;
    }

    /// What became of all writes so far.
    #[must_use]
    pub fn counts(&self, now: Time) -> WriteCounts {
        WriteCounts { budget_left_bytes: self.budget.left_bytes(now), ..self.counts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(rule: Rule, bytes_per_s: u64) -> Gate {
        Gate::new(WriteRules { rule, bytes_per_s, ..WriteRules::default() })
    }

    fn doubtful() -> Case {
        Case { chance: Some(0.01), ..Case::default() }
    }

    #[test]
    fn what_is_refused_is_counted_by_its_reason_and_costs_nothing() {
        let mut gate = gate(Rule::Returning { percent: 10 }, 100);
        let likely = Case { chance: Some(0.9), ..Case::default() };
        assert!(!gate.admits(Time::ZERO, &doubtful(), 700));
        assert!(gate.admits(Time::ZERO, &likely, 700));
        assert!(!gate.admits(Time::ZERO, &likely, 700));
        let counts = gate.counts(Time::ZERO);
        assert_eq!(counts.spared_bytes, [0, 0, 700, 700]);
        assert_eq!(counts.budget_left_bytes, Some(300));
    }

    #[test]
    fn what_others_hang_on_is_written_whatever_is_left() {
        let mut gate = gate(Rule::Returning { percent: 10 }, 100);
        let forced = Case { forced: true, ..doubtful() };
        assert!((0..5).all(|_| gate.admits(Time::ZERO, &forced, 700)));
        assert_eq!(gate.counts(Time::ZERO).budget_left_bytes, Some(-2500));
    }

    #[test]
    fn what_was_not_judged_is_charged_when_it_is_down() {
        let mut gate = gate(Rule::All, 100);
        gate.written(Time::ZERO, Reason::Durable, 400);
        gate.written(Time::ZERO, Reason::Demoted, 400);
        let counts = gate.counts(Time::ZERO);
        assert_eq!((counts.written_bytes_total(), counts.budget_left_bytes), (800, Some(600)));
    }

    #[test]
    fn every_reason_has_an_index_of_its_own() {
        assert!(Reason::ALL.iter().map(|reason| reason.index()).eq(0..Reason::COUNT));
        assert!(Spared::ALL.iter().map(|spared| spared.index()).eq(0..Spared::COUNT));
    }
}
