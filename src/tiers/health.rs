//! How a store is, as far as it can tell.

use std::fmt;
use std::time::Duration;

/// Whether a store does what it is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    #[default]
    Well,
    /// It refuses for now, answers at once, and comes back by itself.
    Out { what: &'static str, lasting: Duration, why: String },
}

impl Health {
    #[must_use]
    pub const fn is_out(&self) -> bool {
        matches!(self, Self::Out { .. })
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Well => f.write_str("well"),
            Self::Out { what, lasting, why } => {
                write!(
                    f,
                    "OUT for {what} since {} s, asked again by itself: {why}",
                    lasting.as_secs()
                )
            }
        }
    }
}
