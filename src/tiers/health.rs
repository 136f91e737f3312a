//! How a store is, as far as it can tell.

use std::fmt;
use std::time::Duration;

/// Whether a store does what it is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Well,
    /// It refuses for now, answers at once, and comes back by itself.
    Out {
        refuses: Refuses,
        /// The next write goes through, to see whether more may: somebody has to try.
        on_trial: bool,
        lasting: Duration,
        why: String,
    },
}

/// What a store refuses for now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refuses {
    pub reads: bool,
    /// Erasing and changing records as well.
    pub writes: bool,
}

impl Refuses {
    pub const NOTHING: Self = Self { reads: false, writes: false };
    pub const READS: Self = Self { reads: true, writes: false };
    pub const WRITES: Self = Self { reads: false, writes: true };
    pub const ALL: Self = Self { reads: true, writes: true };
}

impl fmt::Display for Refuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.reads, self.writes) {
            (true, true) => "reads and writes",
            (true, false) => "reads",
            (false, true) => "writes",
            (false, false) => "nothing",
        })
    }
}

impl Health {
    #[must_use]
    pub const fn is_out(&self) -> bool {
        matches!(self, Self::Out { .. })
    }

    /// What need not be asked now.
    #[must_use]
    pub const fn refuses(&self) -> Refuses {
        match self {
            Self::Well => Refuses::NOTHING,
            Self::Out { refuses, on_trial, .. } => {
                Refuses { reads: refuses.reads, writes: refuses.writes && !*on_trial }
            }
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => f.write_str("well"),
            Self::Out { refuses, lasting, why, on_trial } => {
                let next = if *on_trial { "tried with the next" } else { "asked again by itself" };
                write!(f, "OUT for {refuses} since {} s, {next}: {why}", lasting.as_secs())
            }
        }
    }
}
