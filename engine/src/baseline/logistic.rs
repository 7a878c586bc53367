//! Multinomial logistic regression on z-scored genes.

use rayon::prelude::*;

use super::lbfgs::minimize;
use super::logistic_loss::{LANE, Problem, accumulate};
use super::selected::{Selected, column_statistics};
use super::{Prediction, SparseRows, Split, check_input};
use crate::metric::error::{MetricError, Result, in_range, same_length};

/// Settings of [`logistic_regression`]; the defaults are scikit-learn's, but for `max_iterations` (100 there).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LogisticOptions {
    /// `C`, the inverse strength of the penalty, above 0.
    pub inverse_penalty: f64,
    /// Stop when no entry of the gradient of the mean loss exceeds this.
    pub tolerance: f64,
    /// Stop after this many L-BFGS iterations.
    pub max_iterations: usize,
    /// Genes are divided by their standard deviation to this power: 1 for z-scores, less to let variable genes weigh more.
    pub scale_exponent: f64,
    /// Rows of a class of n cells weigh `n^-exponent` (mean 1 over the rows): 0 for equal rows, 1 for equal classes.
    pub class_weight_exponent: f64,
}

impl Default for LogisticOptions {
    fn default() -> Self {
        Self { inverse_penalty: 1.0, tolerance: 1e-4, max_iterations: 1000, scale_exponent: 1.0, class_weight_exponent: 0.0 }
    }
}

/// A fitted model; predicts rows with the same columns.
#[derive(Debug, Clone)]
pub struct LogisticModel {
    /// L-BFGS iterations taken.
    pub iterations: usize,
    /// False if `max_iterations` ended the fit before the tolerance was met.
    pub converged: bool,
    /// Labels in training, ascending, `[classes]`.
    classes: Vec<u32>,
    /// Place of each column among the weights, `[columns]`; `None` where training was constant.
    places: Vec<Option<u32>>,
    /// `[places, lanes]`, divided by the column's deviation.
    weights: Vec<f64>,
    /// `[lanes]`, less the contribution of the column means.
    intercepts: Vec<f64>,
}

/// Fits on the training rows and predicts the test rows. See [`fit_logistic_regression`].
pub fn logistic_regression(rows: SparseRows, labels: &[u32], split: Split, options: LogisticOptions) -> Result<Prediction> {
    check_input(&rows, labels, &split)?;
    fit_logistic_regression(rows, labels, split.train, options)?.predict(rows, split.test)
}

/// Minimises `1/n sum_i -log p(y_i | z_i) + 1/(2 C n) |w|^2` over weights and (unpenalised) intercepts, with
/// `z = (x - mean) / std` over the training rows and `p` the softmax. Two classes share one logit, as in
/// scikit-learn, which penalises them differently from a softmax over two. Genes constant over training get no
/// weight.
///
/// Memory: 16 bytes an entry of the training rows, 200 bytes a weight (genes x classes), `n x classes` f64.
///
/// # Shapes
/// `labels`: `[rows]`, only those of `train` are read; any values, they need not be consecutive.
/// # Errors
/// `Empty` without training rows; `Option` for settings outside their domain; others for malformed input.
/// # Source
/// scikit-learn `LogisticRegression(solver="lbfgs")` after `StandardScaler`.
pub fn fit_logistic_regression(rows: SparseRows, labels: &[u32], train: &[usize], options: LogisticOptions) -> Result<LogisticModel> {
    check_input(&rows, labels, &Split { train, test: &[] })?;
    let positive = |option, got: f64| match got > 0.0 && got.is_finite() {
        true => Ok(()),
        false => Err(MetricError::Option { option, expected: "a number above 0", got }),
    };
    positive("inverse_penalty", options.inverse_penalty)?;
    positive("tolerance", options.tolerance)?;

    let mut classes: Vec<u32> = train.iter().map(|&row| labels[row]).collect();
    classes.sort_unstable();
    classes.dedup();
    let count = train.len() as f64;
    let (mean, variance) = column_statistics(&rows, train);
    // scikit-learn's bound on what rounding may leave of a constant column's variance.
    let constant = |mean: f64, variance: f64| variance <= count * f64::EPSILON * variance + (count * mean * f64::EPSILON).powi(2);
    let kept: Vec<usize> = (0..rows.columns).filter(|&column| !constant(mean[column], variance[column])).collect();
    let binary = classes.len() == 2;
    let logits = if binary { 1 } else { classes.len() };
    let targets: Vec<usize> = train.iter().map(|&row| classes.partition_point(|&class| class < labels[row])).collect();
    let problem = Problem {
        genes: Selected::new(&rows, train, &kept),
        mean: kept.iter().map(|&column| mean[column]).collect(),
        deviation: kept.iter().map(|&column| variance[column].sqrt().powf(options.scale_exponent)).collect(),
        class_weights: class_weights(&targets, classes.len(), options.class_weight_exponent),
        targets,
        binary,
        logits,
        lanes: logits.next_multiple_of(LANE),
        penalty: 1.0 / (options.inverse_penalty * count),
    };
    let start = vec![0.0; (kept.len() + 1) * problem.lanes];
    let minimum = minimize(start, options.tolerance, options.max_iterations, |point, gradient| problem.evaluate(point, gradient));

    let (weights, intercepts) = problem.unscaled(&minimum.point);
    let mut places = vec![None; rows.columns];
    (0..).zip(&kept).for_each(|(place, &column)| places[column] = Some(place));
    Ok(LogisticModel { iterations: minimum.iterations, converged: minimum.converged, classes, places, weights, intercepts })
}

/// `n^-exponent` for each class of n rows, scaled to a mean of 1 over the rows.
fn class_weights(targets: &[usize], classes: usize, exponent: f64) -> Vec<f64> {
    let mut weights = vec![0.0f64; classes];
    targets.iter().for_each(|&target| weights[target] += 1.0);
    weights.iter_mut().for_each(|weight| *weight = weight.powf(-exponent));
    let mean = targets.iter().map(|&target| weights[target]).sum::<f64>() / targets.len() as f64;
    weights.iter_mut().for_each(|weight| *weight /= mean);
    weights
}

impl LogisticModel {
    /// The most probable training label of each of `test`, row numbers of `rows`.
    ///
    /// # Errors
    /// `LengthMismatch` if `rows` has other columns than the training rows; others for malformed input.
    pub fn predict(&self, rows: SparseRows, test: &[usize]) -> Result<Prediction> {
        rows.check()?;
        same_length("columns", self.places.len(), rows.columns)?;
        in_range("test rows", test.iter().copied(), rows.rows())?;
        let choices: Vec<(u32, f32)> = test.par_iter().map(|&row| self.choose(&rows, row)).collect();
        let (classes, probabilities) = choices.into_iter().unzip();
        Ok(Prediction { classes, probabilities })
    }

    /// The model as one linear map: logits of class c are `intercepts[c] + sum_g x_g weights[g, c]`, up to a constant a cell.
    ///
    /// # Shapes
    /// Weights `[columns, classes]`, intercepts `[classes]`; a class that was not in training gets weights 0 and the lowest intercept.
    pub fn coefficients(&self, classes: usize) -> (Vec<f32>, Vec<f32>) {
        let binary = self.classes.len() == 2;
        let lanes = self.intercepts.len();
        // Two classes share one logit, that of the second.
        let lane = |class: usize| {
            let place = self.classes.iter().position(|&other| other as usize == class)?;
            if binary { Some(place.checked_sub(1)) } else { Some(Some(place)) }
        };
        let mut weights = vec![0.0; self.places.len() * classes];
        for (column, place) in self.places.iter().enumerate() {
            let Some(place) = place else { continue };
            for class in 0..classes {
                if let Some(Some(lane)) = lane(class) {
                    weights[column * classes + class] = self.weights[*place as usize * lanes + lane] as f32;
                }
            }
        }
        let lowest = self.intercepts.iter().copied().fold(0.0, f64::min);
        let intercept = |class| lane(class).map_or(lowest, |lane| lane.map_or(0.0, |lane| self.intercepts[lane]));
        (weights, (0..classes).map(|class| intercept(class) as f32).collect())
    }

    fn choose(&self, rows: &SparseRows, row: usize) -> (u32, f32) {
        let known = rows.row(row).filter_map(|(column, value)| Some((self.places[column]? as usize, value)));
        let mut logits = self.intercepts.clone();
        accumulate(&mut logits, &self.weights, known);
        if self.classes.len() == 2 {
            let positive = 1.0 / (1.0 + (-logits[0]).exp());
            return match logits[0] > 0.0 {
                true => (self.classes[1], positive as f32),
                false => (self.classes[0], (1.0 - positive) as f32),
            };
        }
        let logits = &logits[..self.classes.len()];
        let best = (0..logits.len()).fold(0, |best, at| if logits[at] > logits[best] { at } else { best });
        let total: f64 = logits.iter().map(|logit| (logit - logits[best]).exp()).sum();
        (self.classes[best], (1.0 / total) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Matrix;
    use super::*;

    /// 24 rows of 5 genes of which one is constant, and the labels 10, 13, 16, .. in turn.
    fn example(classes: usize) -> (Matrix, Vec<u32>) {
        let value = |i: usize, j: usize| match (i * 7 + j * 11 + i * j * 3 + (i % classes) * j) % 6 {
            _ if j == 3 => 2.0,
            0 | 1 => 0.0,
            other => other as f32,
        };
        let values: Vec<f32> = (0..24).flat_map(|i| (0..5).map(move |j| value(i, j))).collect();
        (Matrix::dense(5, &values), (0..24).map(|i| 10 + 3 * (i % classes) as u32).collect())
    }

    // scikit-learn 1.9.1: StandardScaler, LogisticRegression(C=0.5, tol=1e-10), rows 0..18 and 18..24.
    #[test]
    fn agrees_with_scikit_learn() {
        let three = [0.7052408945860702, 0.5662343965666015, 0.7052408945860702, 0.7621499547056525];
        let two = [0.5557426305978661, 0.6599529277077978, 0.5070914538650777, 0.5988169138902211];
        for (classes, expected, labels) in [(3, three, [10, 13, 16, 10]), (2, two, [10, 10, 13, 13])] {
            let (matrix, truth) = example(classes);
            let train: Vec<usize> = (0..18).collect();
            let split = Split { train: &train, test: &[18, 19, 20, 21] };
            let options = LogisticOptions { inverse_penalty: 0.5, tolerance: 1e-10, max_iterations: 5000, ..LogisticOptions::default() };
            let prediction = logistic_regression(matrix.rows(), &truth, split, options).unwrap();
            assert_eq!(prediction.classes, labels);
            for (got, expected) in prediction.probabilities.iter().zip(expected) {
                assert!((f64::from(*got) - expected).abs() < 1e-7, "{got} {expected}");
            }
        }
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        let (matrix, labels) = Matrix::clusters(300, 150, 7);
        let train: Vec<usize> = (0..200).collect();
        let test: Vec<usize> = (200..300).collect();
        let split = Split { train: &train, test: &test };
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| logistic_regression(matrix.rows(), &labels, split, Default::default()).unwrap())
        };
        let prediction = run(1);
        assert_eq!(prediction, run(3));
        assert!(prediction.classes.iter().zip(&test).all(|(&class, &row)| class == labels[row]));
    }

    #[test]
    fn one_class_and_no_genes() {
        let (matrix, _) = example(3);
        let split = Split { train: &[0, 1], test: &[2] };
        let one = logistic_regression(matrix.rows(), &[8; 24], split, Default::default()).unwrap();
        assert_eq!(one, Prediction { classes: vec![8], probabilities: vec![1.0] });

        let empty = Matrix::dense(1, &[0.0; 4]);
        let split = Split { train: &[0, 1, 2], test: &[3] };
        let prior = logistic_regression(empty.rows(), &[5, 6, 6, 0], split, Default::default()).unwrap();
        assert_eq!(prior.classes, [6]);
        assert!((prior.probabilities[0] - 2.0 / 3.0).abs() < 1e-3);

        let options = LogisticOptions { inverse_penalty: 0.0, ..Default::default() };
        assert!(logistic_regression(empty.rows(), &[0; 4], split, options).is_err());
    }
}
