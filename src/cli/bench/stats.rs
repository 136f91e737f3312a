//! Medians and percentiles of what was measured. Numbers only.

/// The value below which `percent` of the values lie, by nearest rank; sorts the values.
///
/// # Panics
/// There are no values, or `percent` is not 1 to 100.
pub(super) fn percentile(values: &mut [f64], percent: usize) -> f64 {
    assert!(!values.is_empty() && (1..=100).contains(&percent), "a percentile of something");
    values.sort_unstable_by(f64::total_cmp);
    values[(values.len() * percent).div_ceil(100) - 1]
}

/// The value in the middle; sorts the values.
///
/// # Panics
/// There are no values.
pub(super) fn median(values: &mut [f64]) -> f64 {
    percentile(values, 50)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_the_nearest() {
        let hundred = || (1..=100).rev().map(f64::from).collect::<Vec<_>>();
        assert!((percentile(&mut hundred(), 50) - 50.0).abs() < f64::EPSILON);
        assert!((percentile(&mut hundred(), 99) - 99.0).abs() < f64::EPSILON);
        assert!((percentile(&mut [3.0, 1.0, 2.0], 99) - 3.0).abs() < f64::EPSILON);
        assert!((median(&mut [5.0, 1.0, 3.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(&mut [7.0]) - 7.0).abs() < f64::EPSILON);
    }
}
