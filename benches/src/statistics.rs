//! Median, range and ratio over the rounds.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Median of the ratios to the baseline in the same round. A machine that is slow for a while slows
    /// both servers of a round, and leaves their ratio unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
}

/// Summarises the values of all rounds, where `None` is a round without a value. Returns `None` without
/// any value.
pub(crate) fn summary(values: &[Option<f64>], baseline: &[Option<f64>]) -> Option<Summary> {
    let measured: Vec<f64> = values.iter().copied().flatten().collect();
    Some(Summary {
        median: median(&measured)?,
        min: measured.iter().copied().fold(f64::INFINITY, f64::min),
        max: measured.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ratio: median(&ratios(values, baseline)),
    })
}

/// Returns the ratios of the rounds that have both values.
fn ratios(values: &[Option<f64>], baseline: &[Option<f64>]) -> Vec<f64> {
    let pairs = values.iter().zip(baseline);
    let ratio = |(value, base): (&Option<f64>, &Option<f64>)| {
        let base = base.filter(|base| *base > 0.0)?;
        value.map(|value| value / base)
    };
    pairs.filter_map(ratio).collect()
}

fn median(values: &[f64]) -> Option<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some(f64::midpoint(values[middle - 1], upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn ratio_compares_values_of_the_same_round() {
        // Each round is twice as fast as the baseline, though the medians are the same.
        let values = [2.0, 4.0, 20.0].map(Some);
        let baseline = [1.0, 2.0, 10.0].map(Some);
        assert_eq!(summary(&values, &baseline).unwrap().ratio, Some(2.0));
        let baseline = [10.0, 1.0, 4.0].map(Some);
        let summary = summary(&values, &baseline).unwrap();
        assert_eq!(summary.ratio, Some(4.0));
        assert_eq!((summary.median, summary.min, summary.max), (4.0, 2.0, 20.0));
    }

    #[test]
    fn round_without_both_values_has_no_ratio() {
        let values = [Some(2.0), None, Some(9.0), Some(5.0)];
        let baseline = [Some(1.0), Some(1.0), None, Some(0.0)];
        let summary = summary(&values, &baseline).unwrap();
        assert_eq!((summary.ratio, summary.median), (Some(2.0), 5.0));
    }

    #[test]
    fn summary_without_baseline_or_without_values() {
        assert_eq!(summary(&[Some(1.0)], &[]).unwrap().ratio, None);
        assert_eq!(summary(&[None], &[Some(1.0)]), None);
    }
}
