//! A type for each kind of number, so that bytes, blocks and times don't mix.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

/// The page that frames, slots and direct IO are aligned to, in bytes.
pub const PAGE_BYTES: usize = 4096;

/// A chunk: the unit in which a tier's space is given to one size of slot, in bytes.
pub const CHUNK_BYTES: u64 = 64 << 20;

/// A point in time: microseconds since the UNIX epoch, never running backwards within one process.
///
/// Virtual time in the simulator starts at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    pub micros: u64,
}

impl Time {
    pub const ZERO: Self = Self { micros: 0 };
    pub const MAX: Self = Self { micros: u64::MAX };

    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self { micros: millis.saturating_mul(1000) }
    }

    #[must_use]
    pub const fn millis(self) -> u64 {
        self.micros / 1000
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros.saturating_sub(earlier.micros))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        Self { micros: self.micros.saturating_add(micros) }
    }
}

/// A byte count that prints as people read it: `64 KiB`, `1.5 GiB`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut unit = 0;
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let mut value = self.0 as f64;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if value.fract() == 0.0 || unit == 0 {
            write!(f, "{value:.0} {}", UNITS[unit])
        } else {
            write!(f, "{value:.1} {}", UNITS[unit])
        }
    }
}

/// `bytes` rounded up to whole pages.
#[must_use]
pub const fn page_align(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE_BYTES as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_print_as_people_read_them() {
        let shown: Vec<String> =
            [0, 512, 4096, 1536 << 10, 64 << 20].iter().map(|n| Bytes(*n).to_string()).collect();
        assert_eq!(shown, ["0 B", "512 B", "4 KiB", "1.5 MiB", "64 MiB"]);
    }

    #[test]
    fn time_saturates_at_both_ends() {
        assert_eq!(Time::ZERO.since(Time::MAX), Duration::ZERO);
        assert_eq!(Time::MAX + Duration::from_secs(1), Time::MAX);
    }
}
