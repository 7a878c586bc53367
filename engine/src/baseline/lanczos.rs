//! The largest eigenpairs of a symmetric matrix that is known only by its products with vectors.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use super::tridiagonal::diagonalize;
use super::{add_scaled, dot};

/// A pair has converged when its residual is below this share of the largest eigenvalue.
const TOLERANCE: f64 = 1e-9;
/// Steps between two looks at the residuals.
const LOOK_EVERY: usize = 10;
/// Entries of a vector that one task takes.
const CHUNK: usize = 512;

/// Eigenvalues, descending, and their unit eigenvectors.
#[derive(Debug)]
pub(super) struct Eigenpairs {
    /// `[wanted]`
    pub(super) values: Vec<f64>,
    /// `[wanted]` vectors of `[size]`
    pub(super) vectors: Vec<Vec<f64>>,
}

/// The `wanted <= size` largest eigenpairs of the positive semidefinite matrix behind `multiply(x) -> A x`; fewer if
/// the others have eigenvalue 0.
///
/// Lanczos without restart and with full reorthogonalisation: memory `steps x size` f64, where `steps` is about
/// three to six times `wanted` and at most `size` (then the result is exact). Steps that find an invariant subspace
/// go on from a fresh random vector, so that repeated eigenvalues are found too.
///
/// # Source
/// Golub & Van Loan, section 10.1 and 10.3; random start from `seed`.
pub(super) fn largest(size: usize, wanted: usize, seed: u64, mut multiply: impl FnMut(&[f64]) -> Vec<f64>) -> Eigenpairs {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
    let mut scale = 0.0_f64; // of the matrix: the largest entry seen of its tridiagonal form
    let mut next = fresh(size, &basis, &mut random);
    let mut is_fresh = true;
    while let Some(vector) = next.take() {
        let mut product = multiply(&vector);
        diagonal.push(dot(&product, &vector));
        basis.push(vector);
        orthogonalize(&mut product, &basis);
        let length = dot(&product, &product).sqrt();
        scale = scale.max(length).max(diagonal[diagonal.len() - 1].abs());
        let steps = basis.len();
        if steps == size {
            break;
        }
        let negligible = size as f64 * f64::EPSILON * scale;
        let ended = length <= negligible;
        // A random vector has a part along every eigenvector left: if its product vanishes, so do they all.
        if ended && is_fresh && diagonal[steps - 1].abs() <= negligible {
            break;
        }
        is_fresh = ended;
        beside.push(if ended { 0.0 } else { length });
        let look = steps >= 2 * wanted && steps.is_multiple_of(LOOK_EVERY);
        if look && converged(&diagonal, &beside, wanted) {
            break;
        }
        next = if ended {
            fresh(size, &basis, &mut random)
        } else {
            product.iter_mut().for_each(|entry| *entry /= length);
            Some(product)
        };
    }
    beside.truncate(basis.len().saturating_sub(1));
    assemble(diagonal, &beside, &basis, wanted)
}

/// Whether the residual of every wanted pair, `length of the next step x last entry of its vector`, is small.
fn converged(diagonal: &[f64], beside: &[f64], wanted: usize) -> bool {
    let steps = diagonal.len();
    let mut values = diagonal.to_vec();
    let mut last = vec![vec![0.0; steps]];
    last[0][steps - 1] = 1.0;
    diagonalize(&mut values, &beside[..steps - 1], &mut last);
    let order = descending(&values);
    let limit = TOLERANCE * values[order[0]].abs();
    // An invariant subspace (length 0) proves nothing about what lies outside it.
    beside[steps - 1] > 0.0 && order.iter().take(wanted).all(|&at| (beside[steps - 1] * last[0][at]).abs() <= limit)
}

/// Eigenpairs of the tridiagonal matrix, carried back through the basis.
fn assemble(mut values: Vec<f64>, beside: &[f64], basis: &[Vec<f64>], wanted: usize) -> Eigenpairs {
    let steps = values.len();
    let mut rotated: Vec<Vec<f64>> = (0..steps).map(|row| (0..steps).map(|column| f64::from(row == column)).collect()).collect();
    diagonalize(&mut values, beside, &mut rotated);
    let order: Vec<usize> = descending(&values).into_iter().take(wanted).collect();
    let vectors = order.par_iter().map(|&at| {
        let mut vector = vec![0.0; basis.first().map_or(0, Vec::len)];
        for (step, row) in basis.iter().zip(&rotated) {
            add_scaled(&mut vector, row[at], step);
        }
        vector
    });
    Eigenpairs { vectors: vectors.collect(), values: order.iter().map(|&at| values[at]).collect() }
}

fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

/// A random unit vector orthogonal to the basis; `None` if the basis leaves no room for one.
fn fresh(size: usize, basis: &[Vec<f64>], random: &mut ChaCha8Rng) -> Option<Vec<f64>> {
    (0..3).find_map(|_| {
        let mut vector: Vec<f64> = (0..size).map(|_| f64::from(random.next_u32()) / f64::from(u32::MAX) - 0.5).collect();
        orthogonalize(&mut vector, basis);
        let length = dot(&vector, &vector).sqrt();
        vector.iter_mut().for_each(|entry| *entry /= length);
        (length > 1e-8).then_some(vector)
    })
}

/// Removes from `vector` what lies in the basis; twice, which is enough (Giraud et al. 2005).
fn orthogonalize(vector: &mut [f64], basis: &[Vec<f64>]) {
    for _ in 0..2 {
        let parts: Vec<f64> = basis.par_iter().map(|step| dot(step, vector)).collect();
        vector.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, entries)| {
            for (step, part) in basis.iter().zip(&parts) {
                add_scaled(entries, -part, &step[chunk * CHUNK..]);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(eigenvalues: &[f64], wanted: usize) {
        let multiply = |x: &[f64]| x.iter().zip(eigenvalues).map(|(x, value)| x * value).collect();
        let pairs = largest(eigenvalues.len(), wanted, 1, multiply);
        let mut expected = eigenvalues.to_vec();
        expected.sort_by(|a, b| b.total_cmp(a));
        assert!(pairs.values.len() <= wanted);
        assert!(expected[pairs.values.len()..wanted].iter().all(|&left_out| left_out == 0.0));
        for ((value, vector), expected) in pairs.values.iter().zip(&pairs.vectors).zip(expected) {
            assert!((value - expected).abs() < 1e-8, "{value} {expected}");
            for (x, eigenvalue) in vector.iter().zip(eigenvalues) {
                assert!((x * eigenvalue - value * x).abs() < 1e-7);
            }
        }
    }

    #[test]
    fn spread_repeated_and_vanishing_eigenvalues() {
        check(&(0..400).map(|i| 1.0 - (f64::from(i) / 400.0).sqrt()).collect::<Vec<_>>(), 20);
        check(&[3.0, 1.0, 3.0, 0.0, 3.0, 1.0, 0.0], 7);
        check(&[0.0; 5], 3);
        check(&[2.0], 1);
        check(&(0..3000).map(|i| f64::from(i % 1000 == 7)).collect::<Vec<_>>(), 50);
    }
}
