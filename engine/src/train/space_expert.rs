//! The weights of the joint space's linear expert ([`crate::model::space_expert`]).

use scmmgpt_kernels::runtime::Stream;

use super::linear_expert::{Lesson, fit};
use crate::Result;
use crate::model::{gene_linear, space_expert};
use crate::weights::Parameters;

/// Added to the diagonal of the texts' Gram matrix, as a share of its mean: differences between texts that are small beside it hardly
/// move a cell, whatever they mean.
const RIDGE: f64 = 0.01;

/// A fitted expert: what one power of its probabilities adds to a cell's vectors.
pub(super) struct Fitted {
    /// `[genes, projection_dim]`.
    weight: Vec<f32>,
    /// `[projection_dim]`.
    bias: Vec<f32>,
}

/// Fits the expert to the cells of a lesson, whose classes are numbers of rows of `texts`, `[classes, projection_dim]`; `temperature` is
/// what similarities are divided by.
///
/// # Errors
/// Those of the fit.
pub(super) fn fit_space_expert(lesson: &Lesson<'_>, texts: &[f32], width: usize, temperature: f64) -> Result<Fitted> {
    // Of classes without a cell nothing can be learned, not even that they are rare.
    let mut present: Vec<u32> = lesson.rows.iter().filter_map(|&row| (lesson.class_of)(row)).collect();
    present.sort_unstable();
    present.dedup();
    let place = |class: u32| present.binary_search(&class).ok().map(|at| at as u32);
    let class_of = |row: usize| (lesson.class_of)(row).and_then(place);
    let (weights, intercepts) = fit(&Lesson { class_of: &class_of, ..*lesson })?.coefficients(present.len());
    let of_class = |class: &u32| texts[*class as usize * width..][..width].iter().copied().map(f64::from);
    let texts: Vec<f64> = present.iter().flat_map(of_class).collect();
    let dual: Vec<f64> = dual(&texts, present.len()).into_iter().map(|value| value * temperature).collect();
    Ok(Fitted { weight: directions(&weights, &dual, present.len()), bias: directions(&intercepts, &dual, present.len()) })
}

impl Fitted {
    /// Copies the expert into `cell_proj.gene_linear`, its probabilities to this power.
    ///
    /// # Errors
    /// Those of the copies.
    pub(super) fn place(&self, stream: &Stream, parameters: &Parameters<f32>, power: f64) -> Result<()> {
        for (name, values) in [(gene_linear::WEIGHT, &self.weight), (gene_linear::BIAS, &self.bias)] {
            let scaled: Vec<f32> = values.iter().map(|&value| (f64::from(value) * power) as f32).collect();
            stream.upload(parameters.named(&format!("{}.{name}", space_expert::PATH))?.parameter.value, &scaled)?;
        }
        Ok(())
    }
}

/// Logits, `[n, classes]`, to vectors, `[n, width]`, whose products with the texts they are, up to a constant for each row.
fn directions(logits: &[f32], dual: &[f64], classes: usize) -> Vec<f32> {
    let width = dual.len() / classes;
    let mut directions = Vec::with_capacity(logits.len() / classes * width);
    for logits in logits.chunks_exact(classes) {
        let mean = logits.iter().copied().map(f64::from).sum::<f64>() / classes as f64;
        let mut direction = vec![0.0; width];
        for (&logit, text) in logits.iter().zip(dual.chunks_exact(width)) {
            direction.iter_mut().zip(text).for_each(|(sum, value)| *sum += (f64::from(logit) - mean) * value);
        }
        directions.extend(direction.into_iter().map(|value| value as f32));
    }
    directions
}

/// `(T T^T + ridge)^-1 T` of texts `T`, `[classes, width]`: without the ridge, vectors whose products with their own text are 1 and
/// with the others 0. By the square root of the matrix on the left (Cholesky).
fn dual(texts: &[f64], classes: usize) -> Vec<f64> {
    let width = texts.len() / classes;
    let row = |at: usize| &texts[at * width..][..width];
    let product = |left: &[f64], right: &[f64]| -> f64 { left.iter().zip(right).map(|(left, right)| left * right).sum() };
    let ridge = RIDGE * (0..classes).map(|at| product(row(at), row(at))).sum::<f64>() / classes as f64;
    let mut root = vec![0.0; classes * classes];
    let mut dual = texts.to_vec();
    for at in 0..classes {
        for column in 0..=at {
            let known: f64 = product(&root[at * classes..][..column], &root[column * classes..][..column]);
            let gram = product(row(at), row(column)) + if at == column { ridge } else { 0.0 };
            root[at * classes + column] =
                if at == column { (gram - known).max(f64::MIN_POSITIVE).sqrt() } else { (gram - known) / root[column * classes + column] };
        }
        for before in 0..at {
            eliminate(&mut dual, width, at, before, root[at * classes + before]);
        }
        dual[at * width..][..width].iter_mut().for_each(|value| *value /= root[at * classes + at]);
    }
    for at in (0..classes).rev() {
        for behind in at + 1..classes {
            eliminate(&mut dual, width, at, behind, root[behind * classes + at]);
        }
        dual[at * width..][..width].iter_mut().for_each(|value| *value /= root[at * classes + at]);
    }
    dual
}

/// `matrix[to] -= factor * matrix[from]`.
fn eliminate(matrix: &mut [f64], width: usize, to: usize, from: usize, factor: f64) {
    let from: Vec<f64> = matrix[from * width..][..width].to_vec();
    matrix[to * width..][..width].iter_mut().zip(&from).for_each(|(value, other)| *value -= factor * other);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(left: &[f64], right: &[f64]) -> f64 {
        left.iter().zip(right).map(|(left, right)| left * right).sum()
    }

    #[test]
    fn the_dual_solves_its_equations() {
        let texts = [1.0, 0.0, 0.0, 0.2, 0.8, 0.6, 0.0, 0.2, 0.0, 0.6, 0.8, -0.2];
        let dual = dual(&texts, 3);
        let ridge = RIDGE * texts.iter().map(|value| value * value).sum::<f64>() / 3.0;
        for at in 0..3 {
            // (T T^T + ridge) dual = T
            let text = &texts[at * 4..][..4];
            for column in 0..4 {
                let sum: f64 = (0..3).map(|other| product(text, &texts[other * 4..][..4]) * dual[other * 4 + column]).sum();
                assert!((sum + ridge * dual[at * 4 + column] - text[column]).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn directions_give_the_logits_back_and_alike_texts_alike_logits() {
        let texts = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
        let direction = directions(&[4.0, 1.0, 1.0], &dual(&texts, 3), 3);
        let logits: Vec<f64> =
            texts.chunks_exact(3).map(|text| text.iter().zip(&direction).map(|(a, b)| a * f64::from(*b)).sum()).collect();
        assert!((logits[0] - logits[1] - 3.0 / (1.0 + RIDGE)).abs() < 1e-6 && (logits[1] - logits[2]).abs() < 1e-6, "{logits:?}");
        // Two texts of the same words: no direction can tell them apart, and none is made up.
        let twins = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0];
        let direction = directions(&[3.0, -3.0, 0.0], &dual(&twins, 3), 3);
        assert!(direction.iter().all(|value| value.abs() < 1e-6), "{direction:?}");
    }
}
