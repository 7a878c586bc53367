//! Counts of (truth, prediction) pairs, and the scores read off them.

use super::scores::{ClassScores, Margins};
use crate::metric::error::{MetricError, Result, in_range, same_length};

/// Confusion matrix with one extra column for the samples left unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `[classes, classes + 1]`, the last column is unknown.
    counts: Vec<u64>,
    margins: Margins,
}

impl Confusion {
    /// Counts `truth[i]` against `predicted[i]`; `None` is "unknown".
    ///
    /// # Shapes
    /// `truth`, `predicted`: `[samples]`, labels in `0..classes`. Holds `classes * (classes + 1)` counters.
    /// # Errors
    /// `LengthMismatch`; `Empty` without samples; `OutOfRange` for a label at or above `classes`.
    pub fn new(truth: &[u32], predicted: &[Option<u32>], classes: usize) -> Result<Self> {
        check_labels(truth, predicted, classes)?;
        let mut margins = Margins::new(classes);
        let mut counts = vec![0; classes * (classes + 1)];
        for (&truth, &predicted) in truth.iter().zip(predicted) {
            margins.add(truth, predicted);
            let column = predicted.map_or(classes, |class| class as usize);
            counts[truth as usize * (classes + 1) + column] += 1;
        }
        Ok(Self { classes, counts, margins })
    }

    /// Number of classes, present or not.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.margins.samples()
    }

    /// Samples of class `truth` that were predicted as each class, `[classes]`; empty for no such class.
    pub fn row(&self, truth: usize) -> &[u64] {
        let start = truth.saturating_mul(self.classes + 1);
        self.counts.get(start..start.saturating_add(self.classes)).unwrap_or_default()
    }

    /// Samples of class `truth` left unknown; 0 for no such class.
    pub fn unknown(&self, truth: usize) -> u64 {
        let at = truth.saturating_mul(self.classes + 1).saturating_add(self.classes);
        self.counts.get(at).copied().unwrap_or_default()
    }

    /// Samples left unknown, of all classes.
    pub fn unknown_total(&self) -> u64 {
        self.margins.unknown
    }

    /// `correct / n`; an unknown is wrong. scikit-learn `accuracy_score`.
    pub fn accuracy(&self) -> f64 {
        self.margins.accuracy()
    }

    /// Unweighted mean of F1 over the classes that occur in truth or prediction.
    /// scikit-learn `f1_score(average="macro", zero_division=0)`.
    pub fn macro_f1(&self) -> f64 {
        self.margins.macro_f1()
    }

    /// Precision, recall, F1 and support of every class, `[classes]`.
    /// scikit-learn `precision_recall_fscore_support(zero_division=0)`.
    pub fn per_class(&self) -> Vec<ClassScores> {
        (0..self.classes).map(|class| self.margins.class(class)).collect()
    }

    /// Unweighted mean of recall over the classes that occur in truth. scikit-learn `balanced_accuracy_score`.
    pub fn balanced_accuracy(&self) -> f64 {
        self.margins.balanced_accuracy()
    }

    /// Matthews correlation for many classes, -1 to 1, 0 when truth or prediction is constant:
    /// `(c n - sum t_k p_k) / sqrt((n^2 - sum p_k^2)(n^2 - sum t_k^2))`, where `c` are the correct samples and
    /// the unknown count as one more predicted label `p_k` (with `t_k = 0`).
    ///
    /// # Source
    /// Gorodkin 2004, R_K; scikit-learn `matthews_corrcoef`.
    pub fn matthews(&self) -> f64 {
        self.margins.matthews()
    }

    /// Share of the samples that are not unknown.
    pub fn coverage(&self) -> f64 {
        self.margins.coverage()
    }

    /// Accuracy among the samples that are not unknown; `None` if all are.
    pub fn accuracy_answered(&self) -> Option<f64> {
        self.margins.accuracy_answered()
    }
}

/// The conditions that every score of labels shares.
pub(super) fn check_labels(truth: &[u32], predicted: &[Option<u32>], classes: usize) -> Result<()> {
    same_length("predicted", truth.len(), predicted.len())?;
    if truth.is_empty() {
        return Err(MetricError::Empty { what: "truth" });
    }
    in_range("truth", truth.iter().map(|&label| label as usize), classes)?;
    in_range("predicted", predicted.iter().map(|label| label.map_or(0, |label| label as usize)), classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels as scikit-learn sees them: -1 is unknown.
    fn confusion(truth: &[u32], predicted: &[i32], classes: usize) -> Confusion {
        let predicted: Vec<_> = predicted.iter().map(|&label| u32::try_from(label).ok()).collect();
        Confusion::new(truth, &predicted, classes).unwrap()
    }

    fn close(got: f64, expected: f64) {
        assert!((got - expected).abs() < 1e-15, "{got} != {expected}");
    }

    // All expected numbers: scikit-learn 1.9.1, zero_division=0, labels= every label but -1.
    #[test]
    fn agrees_with_scikit_learn() {
        let truth = [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3];
        let all = confusion(&truth, &[0, 0, 1, 1, 1, 1, 2, 2, 0, 3, 3, 3, 1, 3], 4);
        close(all.accuracy(), 0.7142857142857143);
        close(all.macro_f1(), 0.6805555555555556);
        close(all.balanced_accuracy(), 0.6791666666666667);
        close(all.matthews(), 0.6126760563380281);
        let expected = [
            (0.6666666666666666, 0.6666666666666666, 0.6666666666666666, 3),
            (0.6, 0.75, 0.6666666666666666, 4),
            (0.5, 0.5, 0.5, 2),
            (1.0, 0.8, 0.8888888888888888, 5),
        ];
        for (got, (precision, recall, f1, support)) in all.per_class().iter().zip(expected) {
            close(got.precision, precision);
            close(got.recall, recall);
            close(got.f1, f1);
            assert_eq!(got.support, support);
        }
        assert_eq!(all.row(1), [0, 3, 1, 0]);
        assert_eq!((all.coverage(), all.accuracy_answered()), (1.0, Some(all.accuracy())));
    }

    #[test]
    fn unknown_is_wrong_but_no_class() {
        // Class 2 is never predicted rightly, class 4 is only predicted, class 5 does not occur.
        let truth = [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3];
        let some = confusion(&truth, &[0, -1, 0, 1, 1, -1, 0, 1, 3, 4, 3, -1], 6);
        close(some.accuracy(), 0.5);
        close(some.macro_f1(), 0.4);
        close(some.balanced_accuracy(), 0.4583333333333333);
        close(some.matthews(), 0.4221782814732526);
        close(some.coverage(), 0.75);
        close(some.accuracy_answered().unwrap(), 6.0 / 9.0);
        assert_eq!((some.unknown(0), some.unknown(3), some.unknown_total()), (1, 1, 3));
    }

    #[test]
    fn degenerate_cases_score_zero_not_nan() {
        let perfect = confusion(&[0, 0, 0], &[0, 0, 0], 2);
        assert_eq!((perfect.accuracy(), perfect.macro_f1(), perfect.matthews()), (1.0, 1.0, 0.0));
        let constant = confusion(&[0, 0, 1], &[1, 1, 1], 2);
        assert_eq!((constant.macro_f1(), constant.balanced_accuracy(), constant.matthews()), (0.25, 0.5, 0.0));
        let silent = confusion(&[0, 1], &[-1, -1], 2);
        assert_eq!((silent.accuracy(), silent.macro_f1(), silent.matthews()), (0.0, 0.0, 0.0));
        assert_eq!((silent.coverage(), silent.accuracy_answered()), (0.0, None));
    }

    #[test]
    fn bad_input_is_named() {
        let error = Confusion::new(&[0, 1], &[Some(0)], 2).unwrap_err();
        assert_eq!(error.to_string(), "predicted: expected 2 entries, got 1");
        assert!(matches!(Confusion::new(&[], &[], 2), Err(MetricError::Empty { what: "truth" })));
        let error = Confusion::new(&[0, 1], &[None, Some(2)], 2).unwrap_err();
        assert_eq!(error.to_string(), "predicted: entry 1 is 2, expected less than 2");
        assert!(Confusion::new(&[5], &[None], 2).is_err());
    }
}
