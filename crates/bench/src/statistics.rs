//! Medians and percentiles.

/// The middle of the values: of an even number of them, the upper one of the two.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    percentile(values, 50)
}

/// The smallest value that more than `percent` of the values are not above.
pub(crate) fn percentile(values: impl IntoIterator<Item = f64>, percent: usize) -> Option<f64> {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(rank).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_values_does_not_matter() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 3.0, 1.0, 2.0]), Some(3.0));
        assert_eq!(median([]), None);
        assert_eq!(percentile((0..1000).map(f64::from), 99), Some(990.0));
        assert_eq!(percentile([7.0], 99), Some(7.0));
    }
}
