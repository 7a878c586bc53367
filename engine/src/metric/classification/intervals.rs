//! Bootstrap intervals of classification scores, of one model or of the difference of two.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::confusion::check_labels;
use super::scores::Margins;
use crate::metric::bootstrap::{Estimate, RESAMPLES, draws};
use crate::metric::error::{Result, same_length};

/// Score of one model minus score of another on the same samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Difference of accuracies.
    pub accuracy: Estimate,
    /// Difference of macro-F1.
    pub macro_f1: Estimate,
    /// Difference of balanced accuracies.
    pub balanced_accuracy: Estimate,
    /// Difference of Matthews correlations.
    pub matthews: Estimate,
}

/// The scores that get an interval, in the order accuracy, macro-F1, balanced accuracy, Matthews.
pub(super) const SCORES: usize = 4;

fn scores(margins: &Margins) -> [f64; SCORES] {
    [margins.accuracy(), margins.macro_f1(), margins.balanced_accuracy(), margins.matthews()]
}

/// Paired comparison `first - second` of two predictions for the same samples: the difference of each score and
/// the 95 % percentile interval of that difference over resamples drawn once for both.
///
/// An interval that holds 0 means that these samples do not tell the two apart.
///
/// # Shapes
/// `truth`, `first`, `second`: `[samples]`, labels in `0..classes`.
/// # Errors
/// As [`Confusion::new`](super::Confusion::new).
pub fn compare(truth: &[u32], first: &[Option<u32>], second: &[Option<u32>], classes: usize, seed: u64) -> Result<Difference> {
    check_labels(truth, first, classes)?;
    check_labels(truth, second, classes)?;
    same_length("second", first.len(), second.len())?;
    let [accuracy, macro_f1, balanced_accuracy, matthews] = estimates([first, second], truth, classes, seed);
    Ok(Difference { accuracy, macro_f1, balanced_accuracy, matthews })
}

/// Intervals of the scores of one prediction. Labels must have been checked.
pub(super) fn intervals(truth: &[u32], predicted: &[Option<u32>], classes: usize, seed: u64) -> [Estimate; SCORES] {
    estimates([predicted], truth, classes, seed)
}

/// The scores of the first model, less those of the second where there is one.
fn estimates<const MODELS: usize>(models: [&[Option<u32>]; MODELS], truth: &[u32], classes: usize, seed: u64) -> [Estimate; SCORES] {
    let score = |margins: &mut [Margins; MODELS], samples: &mut dyn Iterator<Item = usize>| {
        margins.iter_mut().for_each(Margins::clear);
        for sample in samples {
            for (margins, model) in margins.iter_mut().zip(models) {
                margins.add(truth[sample], model[sample]);
            }
        }
        let mut total = [0.0; SCORES];
        for (model, margins) in margins.iter().enumerate() {
            let sign = if model == 0 { 1.0 } else { -1.0 };
            total.iter_mut().zip(scores(margins)).for_each(|(total, score)| *total += sign * score);
        }
        total
    };
    let empty = || [(); MODELS].map(|()| Margins::new(classes));

    let observed = score(&mut empty(), &mut (0..truth.len()));
    let resampled: Vec<[f64; SCORES]> = (0..RESAMPLES)
        .into_par_iter()
        .map_init(empty, |margins, resample| score(margins, &mut draws(seed, resample, truth.len())))
        .collect();
    std::array::from_fn(|at| Estimate::new(observed[at], resampled.iter().map(|scores| scores[at]).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 200 samples of 4 classes, of which one in `wrong` is wrong.
    fn example(wrong: u32) -> (Vec<u32>, Vec<Option<u32>>) {
        let truth: Vec<u32> = (0..200).map(|i| i % 4).collect();
        let predicted = (0..200).map(|i| Some(if i % wrong == 0 { (i + 1) % 4 } else { i % 4 })).collect();
        (truth, predicted)
    }

    #[test]
    fn interval_of_accuracy_is_about_binomial() {
        let (truth, predicted) = example(5);
        let [accuracy, ..] = intervals(&truth, &predicted, 4, 7);
        assert_eq!(accuracy.value, 0.8);
        // 1.96 sqrt(.8 * .2 / 200) = 0.0554
        assert!((accuracy.low - 0.745).abs() < 0.015 && (accuracy.high - 0.855).abs() < 0.015, "{accuracy}");
    }

    #[test]
    fn seed_decides_threads_do_not() {
        let (truth, predicted) = example(5);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| intervals(&truth, &predicted, 4, 7))
        };
        assert_eq!(run(1), run(3));
        assert_ne!(run(1), intervals(&truth, &predicted, 4, 8));
    }

    #[test]
    fn pairing_narrows_the_difference() {
        // The second model repeats the first but for every 40th sample, which it alone gets wrong.
        let (truth, first) = example(5);
        let mut second = first.clone();
        (1..200).step_by(40).for_each(|i| second[i] = None);
        let paired = compare(&truth, &first, &second, 4, 7).unwrap().accuracy;
        assert!((paired.value - 0.025).abs() < 1e-12 && paired.low >= 0.0 && paired.high < 0.06, "{paired:+}");
        let same = compare(&truth, &first, &first, 4, 7).unwrap();
        assert_eq!((same.macro_f1.low, same.macro_f1.high), (0.0, 0.0));
    }
}
