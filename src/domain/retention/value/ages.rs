//! Ages on a logarithmic scale: each bin is 1.3 times as wide as the one before, so that a gap of a
//! second and one of an hour are known equally well.

use std::time::Duration;

/// From 50 ms to 9 hours; the last bin has no end.
pub(super) const BINS: usize = 52;

/// Where each bin begins, in microseconds, and where the last one would end.
const EDGES: [u64; BINS + 1] = edges();

const fn edges() -> [u64; BINS + 1] {
    let mut edges = [0; BINS + 1];
    let (mut nanos, mut bin) = (50_000_000_u64, 1);
    while bin <= BINS {
        edges[bin] = nanos / 1000;
        nanos = nanos / 10 * 13;
        bin += 1;
    }
    edges
}

/// The bin that an age falls into.
pub(super) fn bin_of(age: Duration) -> usize {
    let micros = u64::try_from(age.as_micros()).unwrap_or(u64::MAX);
    EDGES[1..BINS].partition_point(|edge| *edge <= micros)
}

/// The age at which a bin ends; none for the last one.
pub(super) fn end_of(bin: usize) -> Option<Duration> {
    (bin + 1 < BINS).then(|| Duration::from_micros(EDGES[bin + 1]))
}

/// A bin's width in seconds.
#[expect(clippy::cast_precision_loss, reason = "a rate needs few digits")]
pub(super) fn width_s(bin: usize) -> f32 {
    (EDGES[bin + 1] - EDGES[bin]) as f32 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_meet_and_cover_every_age() {
        assert_eq!(bin_of(Duration::ZERO), 0);
        assert_eq!(bin_of(Duration::MAX), BINS - 1);
        for bin in 0..BINS - 1 {
            let end = end_of(bin).unwrap();
            let before = end.saturating_sub(Duration::from_micros(1));
            assert_eq!((bin_of(before), bin_of(end)), (bin, bin + 1));
        }
        assert_eq!(end_of(BINS - 1), None);
        let hours = Duration::from_micros(EDGES[BINS]).as_secs_f64() / 3600.0;
        assert!((8.0..10.0).contains(&hours), "{hours}");
    }
}
