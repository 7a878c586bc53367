//! The loss that logistic regression minimises, and its gradient.
//!
//! The z-scores are never formed, since they are dense. With column mean `mu` and deviation `sigma`,
//! `w . (x - mu) / sigma = x . (w / sigma) - mu . (w / sigma)`: scaled weights and a shifted intercept make both
//! products sparse. Weights lie gene by gene, all classes of a gene together and padded with zeros to a multiple of
//! [`LANE`], which is what the vector unit wants.

use rayon::prelude::*;

use super::dot;
use super::selected::Selected;

/// Weights of a gene are padded to a multiple of this.
pub(super) const LANE: usize = 4;
/// Lines (rows or columns) that one task takes.
const CHUNK: usize = 64;

/// The training data and the loss on it.
pub(super) struct Problem {
    pub(super) genes: Selected,
    /// `[genes]`
    pub(super) mean: Vec<f64>,
    /// What each gene is divided by, `[genes]`, above 0.
    pub(super) deviation: Vec<f64>,
    /// Position of each row's label among the classes, `[rows]`.
    pub(super) targets: Vec<usize>,
    /// Weight of each class's rows, with mean 1 over the rows.
    pub(super) class_weights: Vec<f64>,
    /// Two classes share one logit.
    pub(super) binary: bool,
    /// 1 for two classes, else the number of classes.
    pub(super) logits: usize,
    pub(super) lanes: usize,
    /// `1 / (C n)`
    pub(super) penalty: f64,
}

impl Problem {
    /// Weights and intercepts for unscaled values from those for z-scores: `w / sigma` and `b - mu . w / sigma`.
    pub(super) fn unscaled(&self, point: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let (weights, intercepts) = point.split_at(self.genes.columns * self.lanes);
        let (mut weights, mut intercepts) = (weights.to_vec(), intercepts.to_vec());
        let genes = weights.chunks_exact_mut(self.lanes).zip(self.mean.iter().zip(&self.deviation));
        for (weights, (mean, deviation)) in genes {
            for (weight, intercept) in weights.iter_mut().zip(&mut intercepts) {
                *weight /= deviation;
                *intercept -= mean * *weight;
            }
        }
        (weights, intercepts)
    }

    /// Loss at `point`, `[genes + 1, lanes]` with the intercepts last, and its gradient.
    pub(super) fn evaluate(&self, point: &[f64], gradient: &mut [f64]) -> f64 {
        let lanes = self.lanes;
        let count = self.genes.rows as f64;
        let (weights, intercepts) = self.unscaled(point);

        // Row by row: logits, loss, and the derivative of the loss by the logits in their place.
        let mut residuals = vec![0.0; self.genes.rows * lanes];
        let mut losses = vec![0.0; self.genes.rows];
        let chunks = residuals.par_chunks_mut(CHUNK * lanes).zip(losses.par_chunks_mut(CHUNK)).enumerate();
        chunks.for_each(|(chunk, (residuals, losses))| {
            for (at, (residual, loss)) in residuals.chunks_exact_mut(lanes).zip(losses).enumerate() {
                let row = chunk * CHUNK + at;
                residual.copy_from_slice(&intercepts);
                accumulate(residual, &weights, self.genes.by_row.line(row));
                let weight = self.class_weights[self.targets[row]];
                *loss = weight * self.derive(residual, self.targets[row]);
                residual.iter_mut().for_each(|residual| *residual *= weight);
            }
        });
        let mut total = vec![0.0; lanes];
        for residual in residuals.chunks_exact(lanes) {
            total.iter_mut().zip(residual).for_each(|(total, residual)| *total += residual);
        }

        // Gene by gene: (sum_i x_i r_i - mean sum_i r_i) / sigma / n + penalty w.
        let (weights, _) = point.split_at(self.genes.columns * lanes);
        let (by_gene, by_intercept) = gradient.split_at_mut(self.genes.columns * lanes);
        by_gene.par_chunks_mut(CHUNK * lanes).enumerate().for_each(|(chunk, gradients)| {
            for (at, gradient) in gradients.chunks_exact_mut(lanes).enumerate() {
                let gene = chunk * CHUNK + at;
                let (mean, scale) = (self.mean[gene], 1.0 / (self.deviation[gene] * count));
                gradient.fill(0.0);
                accumulate(gradient, &residuals, self.genes.by_column.line(gene));
                let weights = &weights[gene * lanes..][..lanes];
                for ((gradient, total), weight) in gradient.iter_mut().zip(&total).zip(weights) {
                    *gradient = (*gradient - mean * total) * scale + self.penalty * weight;
                }
            }
        });
        by_intercept.iter_mut().zip(&total).for_each(|(gradient, total)| *gradient = total / count);
        losses.iter().sum::<f64>() / count + 0.5 * self.penalty * dot(weights, weights)
    }

    /// Turns the logits of a row of class `target` into probabilities minus the truth, and returns the row's loss
    /// in nats.
    fn derive(&self, logits: &mut [f64], target: usize) -> f64 {
        if self.binary {
            return derive_binary(logits, target);
        }
        let (logits, padding) = logits.split_at_mut(self.logits);
        padding.fill(0.0);
        let largest = logits.iter().fold(f64::NEG_INFINITY, |largest, &logit| largest.max(logit));
        let of_target = logits[target] - largest;
        logits.iter_mut().for_each(|logit| *logit = (*logit - largest).exp());
        let total: f64 = logits.iter().sum();
        logits.iter_mut().for_each(|probability| *probability /= total);
        logits[target] -= 1.0;
        total.ln() - of_target
    }
}

/// [`Problem::derive`] for one logit that speaks for the second of two classes: the loss is `log(1 + exp(-logit))`
/// if that is the target, else `log(1 + exp(logit))`.
fn derive_binary(logits: &mut [f64], target: usize) -> f64 {
    let logit = logits[0];
    let towards = if target == 1 { logit } else { -logit };
    logits.fill(0.0);
    logits[0] = 1.0 / (1.0 + (-logit).exp()) - target as f64;
    (-towards.abs()).exp().ln_1p() + (-towards).max(0.0)
}

/// `sums[..] += value * table[line, ..]` for every (line, value), four lanes at a time held in registers.
pub(super) fn accumulate(sums: &mut [f64], table: &[f64], lines: impl Iterator<Item = (usize, f64)> + Clone) {
    let lanes = sums.len();
    for (block, sums) in sums.chunks_exact_mut(LANE).enumerate() {
        let mut held = [0.0; LANE];
        held.copy_from_slice(sums);
        for (line, value) in lines.clone() {
            let start = line * lanes + block * LANE;
            for (held, entry) in held.iter_mut().zip(&table[start..start + LANE]) {
                *held += value * entry;
            }
        }
        sums.copy_from_slice(&held);
    }
}
