//! Everything about one prediction in one serialisable value.

use serde::{Deserialize, Serialize};
use std::fmt;

use super::calibration::expected_calibration_error;
use super::confusion::Confusion;
use super::intervals::intervals;
use super::scores::ClassScores;
use super::table::{Align, columns};
use crate::metric::bootstrap::{Estimate, RESAMPLES};
use crate::metric::error::Result;

/// Scores of one prediction, with 95 % bootstrap intervals where a single number decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassificationReport {
    /// Number of samples.
    pub n: u64,
    /// Share of correct samples; an unknown is wrong.
    pub accuracy: Estimate,
    /// Mean F1 over the classes that occur in truth or prediction.
    pub macro_f1: Estimate,
    /// Mean recall over the classes that occur in truth.
    pub balanced_accuracy: Estimate,
    /// Matthews correlation, -1 to 1.
    pub matthews: Estimate,
    /// Share of the samples that are not unknown.
    pub coverage: f64,
    /// Accuracy among those; `None` if all are unknown.
    pub accuracy_answered: Option<f64>,
    /// Expected calibration error among those (15 bins); `None` without confidences or answers.
    pub calibration_error: Option<f64>,
    /// Class names, `[classes]`, in the order of everything below.
    pub classes: Vec<String>,
    /// Scores of every class, `[classes]`.
    pub per_class: Vec<ClassScores>,
    /// Samples by truth (row) and prediction (column), `[classes, classes]`.
    pub confusion: Vec<Vec<u64>>,
    /// Samples of each class left unknown, `[classes]`.
    pub unknown: Vec<u64>,
    /// Resamples behind the intervals.
    pub resamples: u32,
    /// Seed of the resamples.
    pub seed: u64,
}

impl ClassificationReport {
    /// Scores `predicted` (`None` is "unknown") against `truth`; labels index `classes`.
    ///
    /// Intervals: percentiles over [`RESAMPLES`] resamples drawn from `seed`, see [`super::compare`] for two models.
    ///
    /// # Shapes
    /// `truth`, `predicted`: `[samples]`; `confidence`: `[samples]`, 0 to 1, of the predicted class.
    /// # Errors
    /// As [`Confusion::new`] and [`expected_calibration_error`].
    pub fn new(truth: &[u32], predicted: &[Option<u32>], confidence: Option<&[f32]>, classes: &[String], seed: u64) -> Result<Self> {
        let counts = Confusion::new(truth, predicted, classes.len())?;
        let calibration_error = match confidence {
            Some(confidence) => expected_calibration_error(truth, predicted, confidence)?,
            None => None,
        };
        let [accuracy, macro_f1, balanced_accuracy, matthews] = intervals(truth, predicted, classes.len(), seed);
        Ok(Self {
            n: counts.samples(),
            accuracy,
            macro_f1,
            balanced_accuracy,
            matthews,
            coverage: counts.coverage(),
            accuracy_answered: counts.accuracy_answered(),
            calibration_error,
            classes: classes.to_vec(),
            per_class: counts.per_class(),
            confusion: (0..classes.len()).map(|class| counts.row(class).to_vec()).collect(),
            unknown: (0..classes.len()).map(|class| counts.unknown(class)).collect(),
            resamples: RESAMPLES,
            seed,
        })
    }

    /// Whether class `at` occurs in truth or prediction.
    fn present(&self, at: usize) -> bool {
        self.per_class[at].support > 0 || self.confusion.iter().any(|row| row[at] > 0)
    }
}

impl fmt::Display for ClassificationReport {
    /// The summary, one score a line, then one line for each class that occurs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let optional = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        let summary = [
            ("cells", self.n.to_string()),
            ("accuracy", self.accuracy.to_string()),
            ("macro-F1", self.macro_f1.to_string()),
            ("balanced accuracy", self.balanced_accuracy.to_string()),
            ("Matthews correlation", self.matthews.to_string()),
            ("coverage", format!("{:.3}", self.coverage)),
            ("accuracy of answered", optional(self.accuracy_answered)),
            ("calibration error", optional(self.calibration_error)),
        ];
        let rows: Vec<_> = summary.map(|(name, value)| vec![name.to_owned(), value]).into();
        columns(f, &[Align::Left, Align::Left], &rows)?;
        writeln!(f, "[..] 95 % interval over {} bootstrap resamples of the cells\n", self.resamples)?;

        let mut rows = vec![["class", "precision", "recall", "F1", "support", "unknown"].map(str::to_owned).to_vec()];
        for at in (0..self.per_class.len().min(self.classes.len())).filter(|&at| self.present(at)) {
            let ClassScores { precision, recall, f1, support } = self.per_class[at];
            let mut row = vec![self.classes[at].clone()];
            row.extend([precision, recall, f1].map(|score| format!("{score:.3}")));
            row.extend([support, self.unknown[at]].map(|count| count.to_string()));
            rows.push(row);
        }
        let right = Align::Right;
        columns(f, &[Align::Left, right, right, right, right, right], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_prints_and_survives_json() {
        let classes = ["T cell", "B cell", "monocyte", "absent"].map(str::to_owned);
        let truth = [0, 0, 1, 1, 2, 2];
        let predicted = [Some(0), Some(0), Some(1), Some(0), Some(2), None];
        let confidence = [0.9, 0.8, 0.7, 0.6, 1.0, 0.1];
        let report = ClassificationReport::new(&truth, &predicted, Some(&confidence), &classes, 1).unwrap();
        assert_eq!((report.n, report.unknown.clone()), (6, vec![0, 0, 1, 0]));
        assert_eq!(report.confusion[1], [1, 1, 0, 0]);

        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<ClassificationReport>(&text).unwrap(), report);

        let shown = report.to_string();
        assert!(shown.contains("accuracy              0.667 ["), "{shown}");
        assert!(shown.contains("monocyte      1.000   0.500  0.667        2        1\n"), "{shown}");
        assert!(!shown.contains("absent"), "{shown}");
    }
}
