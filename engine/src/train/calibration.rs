//! Settings of the probabilities, chosen on validation cells.
//!
//! # Source
//! Guo, Pleiss, Sun & Weinberger 2017, "On calibration of modern neural networks", section 4.2 (temperature scaling).

/// Class probabilities of a validation cell, and its class.
pub(super) type Judged = (Vec<f64>, usize);

/// A grid from a quarter of `middle` to four times it.
pub(super) fn temperatures(middle: f64) -> impl Iterator<Item = f64> {
    (-20..=20).map(move |step| middle * 2f64.powf(f64::from(step) / 10.0))
}

/// The setting under which the cells' classes are most likely, and the probability below which a label is to be withheld then.
pub(super) fn best<S: Clone>(settings: impl Iterator<Item = S>, cells: impl Fn(S) -> Vec<Judged>) -> Option<(S, f64)> {
    let cost = |judged: &[Judged]| -> f64 { judged.iter().map(|(probabilities, class)| -probabilities[*class].max(1e-12).ln()).sum() };
    let judged = settings.map(|setting| (setting.clone(), cells(setting)));
    let (setting, judged) = judged.min_by(|left, right| cost(&left.1).total_cmp(&cost(&right.1)))?;
    Some((setting, threshold(&judged)))
}

/// The probability below which a label is to be withheld: the 1 % quantile of those that rightly labelled cells got, and at most one
/// half.
pub(super) fn threshold(judged: &[Judged]) -> f64 {
    let highest = |probabilities: &[f64]| probabilities.iter().copied().fold(0.0, f64::max);
    let right = judged.iter().filter(|(probabilities, class)| probabilities[*class] >= highest(probabilities));
    let mut right: Vec<f64> = right.map(|(probabilities, class)| probabilities[*class]).collect();
    right.sort_by(f64::total_cmp);
    right.get(right.len() / 100).copied().unwrap_or(0.0).min(0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_setting_wins_and_its_surest_failure_sets_the_threshold() {
        let judged = |sharpness: f64| vec![(vec![sharpness, 1.0 - sharpness], 0), (vec![0.9, 0.1], 0), (vec![0.4, 0.6], 0)];
        let (setting, threshold) = best([0.2, 0.45, 0.8].into_iter(), judged).unwrap();
        assert_eq!((setting, threshold), (0.8, 0.5));
        let alone = best([0.45].into_iter(), |sharpness| vec![(vec![sharpness, 0.3, 0.25], 0)]).unwrap();
        assert_eq!(alone.1, 0.45);
        assert!(best(std::iter::empty::<f64>(), judged).is_none());
        let grid: Vec<f64> = temperatures(0.1).collect();
        assert!((grid[0] - 0.025).abs() < 1e-12 && (grid[20] - 0.1).abs() < 1e-12 && (grid[40] - 0.4).abs() < 1e-12);
    }
}
