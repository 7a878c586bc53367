//! Eigenvalues and eigenvectors of a symmetric tridiagonal matrix.

/// Overwrites `diagonal`, `[n]`, with the eigenvalues (in no order) of the matrix with that diagonal and the
/// off-diagonal `beside`, `[n - 1]`; every row of `rotated` (`[.., n]`) is multiplied by the matrix of
/// eigenvectors. Starting from the identity this gives all eigenvectors as columns, in `O(n^3)`; starting from one
/// of its rows it gives one entry of each eigenvector, in `O(n^2)`.
///
/// # Source
/// Implicit QL with Wilkinson's shift: Bowdler, Martin, Reinsch & Wilkinson 1968 (EISPACK `imtql2`).
pub(super) fn diagonalize(diagonal: &mut [f64], beside: &[f64], rotated: &mut [Vec<f64>]) {
    const MAX_SWEEPS: usize = 60; // two or three are the rule
    let n = diagonal.len();
    let mut beside = beside.to_vec();
    beside.resize(n, 0.0);
    for first in 0..n {
        for _ in 0..MAX_SWEEPS {
            let negligible = |at: usize| beside[at].abs() <= f64::EPSILON * (diagonal[at].abs() + diagonal[at + 1].abs());
            let last = (first..n - 1).find(|&at| negligible(at)).unwrap_or(n - 1);
            if last == first {
                break;
            }
            let half = (diagonal[first + 1] - diagonal[first]) / (2.0 * beside[first]);
            let mut g = diagonal[last] - diagonal[first] + beside[first] / (half + half.hypot(1.0).copysign(half));
            let (mut sine, mut cosine, mut moved) = (1.0, 1.0, 0.0);
            let mut split = false;
            for at in (first..last).rev() {
                let f = sine * beside[at];
                let b = cosine * beside[at];
                let r = f.hypot(g);
                beside[at + 1] = r;
                if r == 0.0 {
                    diagonal[at + 1] -= moved;
                    split = true;
                    break;
                }
                (sine, cosine) = (f / r, g / r);
                g = diagonal[at + 1] - moved;
                let change = (diagonal[at] - g) * sine + 2.0 * cosine * b;
                moved = sine * change;
                diagonal[at + 1] = g + moved;
                g = cosine * change - b;
                for row in rotated.iter_mut() {
                    let (left, right) = (row[at], row[at + 1]);
                    row[at + 1] = sine * left + cosine * right;
                    row[at] = cosine * left - sine * right;
                }
            }
            if !split {
                diagonal[first] -= moved;
                beside[first] = g;
            }
            beside[last] = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_difference_matrix() {
        // 2 on the diagonal, -1 beside it: eigenvalues 2 - 2 cos(k pi / (n + 1)).
        let n = 17;
        let mut values = vec![2.0; n];
        let mut vectors: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(i == j)).collect()).collect();
        diagonalize(&mut values, &vec![-1.0; n - 1], &mut vectors);
        for (at, &value) in values.iter().enumerate() {
            let column = |row: usize| vectors.get(row).map_or(0.0, |row| row[at]);
            for row in 0..n {
                let product = 2.0 * column(row) - column(row.wrapping_sub(1)) - column(row + 1);
                assert!((product - value * column(row)).abs() < 1e-13);
            }
        }
        values.sort_by(f64::total_cmp);
        for (k, value) in (1..).zip(values) {
            let expected = 2.0 - 2.0 * (f64::from(k) * std::f64::consts::PI / 18.0).cos();
            assert!((value - expected).abs() < 1e-13);
        }
    }
}
