//! Medians over the rounds, with confidence intervals, and ratios to the baseline.

use std::fmt;

use serde::Serialize;

/// Least confidence of an interval, if there are enough rounds.
const CONFIDENCE: f64 = 0.9;

/// A median, and an interval that contains the true median with a certain confidence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// From 0 to 1; less than `CONFIDENCE` only if there are fewer than 5 values.
    pub(crate) confidence: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    #[serde(flatten)]
    pub(crate) value: Estimate,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Of the ratios to the baseline in the same round. A machine that is slow for a while slows both
    /// servers of a round, and leaves their ratio unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<Estimate>,
}

/// What a ratio to the baseline says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Better,
    Worse,
    /// The interval contains 1: the rounds do not show a difference.
    Noise,
    TooFewRounds,
}

/// Summarises the values of all rounds, where `None` is a round without a value. Returns `None` without
/// any value.
pub(crate) fn summary(values: &[Option<f64>], baseline: &[Option<f64>]) -> Option<Summary> {
    let measured: Vec<f64> = values.iter().copied().flatten().collect();
    Some(Summary {
        value: estimate(&measured)?,
        min: measured.iter().copied().fold(f64::INFINITY, f64::min),
        max: measured.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ratio: estimate(&ratios(values, baseline)),
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

/// Returns `None` without values.
fn estimate(values: &[f64]) -> Option<Estimate> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let (first, last) = (values.len() / 2, values.len().checked_sub(1)?);
    let (cut, confidence) = interval(values.len());
    Some(Estimate {
        median: f64::midpoint(values[last - first], values[first]),
        low: values[cut],
        high: values[last - cut],
        confidence,
    })
}

/// Returns the confidence of an interval from this number of rounds.
pub(crate) fn confidence(rounds: usize) -> f64 {
    interval(rounds).1
}

/// Returns how many of `count` sorted values the interval leaves out at each end, and its confidence.
///
/// A value is below the true median with probability 1/2. So the interval misses it only if at most that
/// many values are on one side of it, which the binomial distribution tells.
fn interval(count: usize) -> (usize, f64) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    let mut exactly = 0.5_f64.powf(count.into());
    let mut at_most = exactly;
    let mut cut = 0;
    loop {
        exactly *= f64::from(count - cut) / f64::from(cut + 1);
        if 1.0 - 2.0 * (at_most + exactly) < CONFIDENCE {
            return (cut as usize, 1.0 - 2.0 * at_most);
        }
        at_most += exactly;
        cut += 1;
    }
}

impl Verdict {
    pub(crate) fn of(ratio: &Estimate, higher_is_better: bool) -> Self {
        match ratio {
            _ if ratio.confidence < CONFIDENCE => Verdict::TooFewRounds,
            _ if ratio.low <= 1.0 && ratio.high >= 1.0 => Verdict::Noise,
            _ if (ratio.low > 1.0) == higher_is_better => Verdict::Better,
            _ => Verdict::Worse,
        }
    }

    /// Returns whether the rounds show a difference.
    pub(crate) fn is_difference(self) -> bool {
        matches!(self, Verdict::Better | Verdict::Worse)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Noise => "noise",
            Verdict::TooFewRounds => "too few rounds",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn median(values: &[f64]) -> Option<f64> {
        estimate(values).map(|it| it.median)
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0]), Some(5.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    /// The values are those of tables of the binomial distribution: for 15 rounds, P(at most 3) is
    /// 0.0176 and P(at most 4) is 0.0592.
    #[test]
    fn interval_leaves_out_as_many_values_as_the_confidence_allows() {
        let rounded = |count| {
            let (cut, confidence) = interval(count);
            (cut, format!("{confidence:.3}"))
        };
        for (count, cut, confidence) in [
            (1, 0, "0.000"),
            (4, 0, "0.875"),
            (5, 0, "0.938"),
            (8, 1, "0.930"),
            (15, 3, "0.965"),
        ] {
            assert_eq!(rounded(count), (cut, confidence.to_owned()), "{count}");
        }
        assert!(interval(1000).1 >= CONFIDENCE);
    }

    #[test]
    fn outliers_are_outside_the_interval() {
        let mut values: Vec<f64> = (1..=13).map(f64::from).collect();
        values.extend([1000.0, 0.001]);
        let it = estimate(&values).unwrap();
        assert_eq!((it.low, it.median, it.high), (3.0, 7.0, 11.0));
    }

    /// Half of the rounds are three times as slow, for both servers.
    #[test]
    fn difference_is_found_on_a_noisy_machine() {
        let baseline: Vec<_> = [100.0, 33.0].repeat(8).into_iter().map(Some).collect();
        let faster: Vec<_> = baseline.iter().map(|it| it.map(|it| it * 1.05)).collect();
        let ratio = summary(&faster, &baseline).unwrap().ratio.unwrap();
        assert_eq!(Verdict::of(&ratio, true), Verdict::Better);
        assert_eq!(Verdict::of(&ratio, false), Verdict::Worse);
    }

    #[test]
    fn equal_servers_differ_by_noise() {
        let noise = [0.7, 1.2, 0.9, 1.1, 1.3, 0.8, 1.0];
        let it = estimate(&noise).unwrap();
        assert_eq!(Verdict::of(&it, true), Verdict::Noise);
        let all_better = estimate(&[1.1, 1.2, 1.3, 1.1]).unwrap();
        assert_eq!(Verdict::of(&all_better, true), Verdict::TooFewRounds);
    }

    #[test]
    fn ratio_compares_values_of_the_same_round() {
        let ratio = |values: [f64; 3], baseline: [f64; 3]| {
            let summary = summary(&values.map(Some), &baseline.map(Some)).unwrap();
            summary.ratio.map(|it| it.median)
        };
        assert_eq!(ratio([2.0, 4.0, 20.0], [1.0, 2.0, 10.0]), Some(2.0));
        // Each round is faster than the baseline, though the medians are the same.
        assert_eq!(ratio([2.0, 4.0, 20.0], [10.0, 1.0, 4.0]), Some(4.0));
    }

    #[test]
    fn round_without_both_values_has_no_ratio() {
        let values = [Some(2.0), None, Some(9.0), Some(5.0)];
        let baseline = [Some(1.0), Some(1.0), None, Some(0.0)];
        let summary = summary(&values, &baseline).unwrap();
        let ratio = summary.ratio.unwrap();
        assert_eq!((ratio.median, ratio.confidence), (2.0, 0.0));
        assert_eq!((summary.value.median, summary.max), (5.0, 9.0));
    }

    #[test]
    fn summary_without_baseline_or_without_values() {
        assert_eq!(summary(&[Some(1.0)], &[]).unwrap().ratio, None);
        assert_eq!(summary(&[None], &[Some(1.0)]), None);
    }
}
