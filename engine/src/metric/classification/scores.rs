//! The formulas: every score is a function of the margins of the confusion matrix.

use serde::{Deserialize, Serialize};

/// Precision, recall and F1 of one class; a ratio with denominator zero is 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Share of the samples predicted as this class that belong to it.
    pub precision: f64,
    /// Share of this class's samples that were predicted as it.
    pub recall: f64,
    /// `2 correct / (support + predicted)`, the harmonic mean of the two.
    pub f1: f64,
    /// Samples whose truth is this class.
    pub support: u64,
}

/// Row sums, column sums and diagonal of a confusion matrix: all that the scores need, and cheap enough to
/// be rebuilt for every bootstrap resample.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Margins {
    /// Samples whose truth is the class, `[classes]`.
    pub(super) truth: Vec<u64>,
    /// Samples predicted as the class, `[classes]`.
    pub(super) predicted: Vec<u64>,
    /// Samples of the class predicted as it, `[classes]`.
    pub(super) correct: Vec<u64>,
    /// Samples without a prediction.
    pub(super) unknown: u64,
}

impl Margins {
    pub(super) fn new(classes: usize) -> Self {
        Self { truth: vec![0; classes], predicted: vec![0; classes], correct: vec![0; classes], unknown: 0 }
    }

    /// Sets everything to zero, keeping the allocations.
    pub(super) fn clear(&mut self) {
        self.truth.fill(0);
        self.predicted.fill(0);
        self.correct.fill(0);
        self.unknown = 0;
    }

    /// Counts one sample. Both labels must be below the number of classes.
    pub(super) fn add(&mut self, truth: u32, predicted: Option<u32>) {
        self.truth[truth as usize] += 1;
        match predicted {
            None => self.unknown += 1,
            Some(class) => {
                self.predicted[class as usize] += 1;
                self.correct[class as usize] += u64::from(class == truth);
            }
        }
    }

    pub(super) fn samples(&self) -> u64 {
        self.truth.iter().sum()
    }

    fn hits(&self) -> u64 {
        self.correct.iter().sum()
    }

    pub(super) fn accuracy(&self) -> f64 {
        ratio(self.hits(), self.samples())
    }

    pub(super) fn coverage(&self) -> f64 {
        ratio(self.samples() - self.unknown, self.samples())
    }

    pub(super) fn accuracy_answered(&self) -> Option<f64> {
        let answered = self.samples() - self.unknown;
        (answered > 0).then(|| ratio(self.hits(), answered))
    }

    pub(super) fn class(&self, class: usize) -> ClassScores {
        let (truth, predicted, correct) = (self.truth[class], self.predicted[class], self.correct[class]);
        ClassScores {
            precision: ratio(correct, predicted),
            recall: ratio(correct, truth),
            f1: ratio(2 * correct, truth + predicted),
            support: truth,
        }
    }

    pub(super) fn macro_f1(&self) -> f64 {
        let present = (0..self.truth.len()).filter(|&class| self.truth[class] + self.predicted[class] > 0);
        mean(present.map(|class| self.class(class).f1))
    }

    pub(super) fn balanced_accuracy(&self) -> f64 {
        let present = (0..self.truth.len()).filter(|&class| self.truth[class] > 0);
        mean(present.map(|class| self.class(class).recall))
    }

    /// Gorodkin's R_K from the margins. Products are taken in `f64`: `n^2` of u64 counts may overflow.
    pub(super) fn matthews(&self) -> f64 {
        let n = self.samples() as f64;
        let dot = |a: &[u64], b: &[u64]| a.iter().zip(b).map(|(&a, &b)| a as f64 * b as f64).sum::<f64>();
        let unknown = self.unknown as f64;
        let both = self.hits() as f64 * n - dot(&self.truth, &self.predicted);
        let truth = n * n - dot(&self.truth, &self.truth);
        let predicted = n * n - dot(&self.predicted, &self.predicted) - unknown * unknown;
        if truth == 0.0 || predicted == 0.0 { 0.0 } else { both / (truth * predicted).sqrt() }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0_u64, 0.0), |(count, sum), value| (count + 1, sum + value));
    if count == 0 { 0.0 } else { sum / count as f64 }
}
