//! Principal components of centred sparse rows; the centring is implicit, nothing becomes dense.

use rayon::prelude::*;

use super::lanczos::largest;
use super::selected::{Selected, column_statistics};
use super::{SparseRows, Split, check_input, dot};
use crate::metric::error::{MetricError, Result, in_range, same_length};

/// Axes of the largest variance among the training rows.
#[derive(Debug, Clone)]
pub struct Pca {
    /// Mean of each column over the training rows, `[columns]`.
    pub mean: Vec<f64>,
    /// Unit axes, `[components]` vectors of `[columns]`; the sign of an axis is arbitrary.
    pub axes: Vec<Vec<f64>>,
    /// Variance along each axis, descending, with denominator `train - 1`, `[components]`.
    pub variance: Vec<f64>,
}

/// The first `components` principal components of the rows `train`, not scaled and of all columns, as scanpy's
/// `pp.pca` without marked genes. Fewer if the rows do not have as many: at most `min(train, columns) - 1` (but 1),
/// and none of no variance.
///
/// Memory: 16 bytes an entry of the training rows, and about `5 x components x min(train, columns)` f64.
///
/// # Errors
/// `Empty` without rows or columns; `Option` for 0 components; others for malformed input.
pub fn fit_pca(rows: SparseRows, train: &[usize], components: usize, seed: u64) -> Result<Pca> {
    check_input(&rows, &vec![0; rows.rows()], &Split { train, test: &[] })?;
    if components == 0 {
        return Err(MetricError::Option { option: "components", expected: "at least 1", got: 0.0 });
    }
    let size = train.len().min(rows.columns);
    if size == 0 {
        return Err(MetricError::Empty { what: "columns" });
    }
    let (mean, _) = column_statistics(&rows, train);
    let all: Vec<usize> = (0..rows.columns).collect();
    let centred = Centred { matrix: Selected::new(&rows, train, &all), mean: &mean };
    let wanted = components.min(size - 1).max(1);
    // Of the two products of the matrix with its transpose, the smaller has the same eigenvalues.
    let by_columns = rows.columns <= train.len();
    let pairs = largest(size, wanted, seed, |x| match by_columns {
        true => centred.transposed_times(&centred.times(x)),
        false => centred.times(&centred.transposed_times(x)),
    });

    let floor = pairs.values.first().map_or(0.0, |largest| 1e-12 * largest);
    let freedom = train.len().saturating_sub(1).max(1) as f64;
    let (mut axes, mut variance) = (Vec::new(), Vec::new());
    for (value, vector) in pairs.values.into_iter().zip(pairs.vectors).filter(|(value, _)| *value > floor) {
        variance.push(value / freedom);
        axes.push(if by_columns {
            vector
        } else {
            let mut axis = centred.transposed_times(&vector);
            let length = dot(&axis, &axis).sqrt();
            axis.iter_mut().for_each(|entry| *entry /= length);
            axis
        });
    }
    Ok(Pca { mean, axes, variance })
}

impl Pca {
    /// Coordinates of the rows `chosen`, `[chosen, components]`.
    ///
    /// # Errors
    /// `LengthMismatch` if `rows` has other columns than the training rows; others for malformed input.
    pub fn transform(&self, rows: SparseRows, chosen: &[usize]) -> Result<Vec<f64>> {
        rows.check()?;
        same_length("columns", self.mean.len(), rows.columns)?;
        in_range("rows", chosen.iter().copied(), rows.rows())?;
        let components = self.axes.len();
        let centre: Vec<f64> = self.axes.iter().map(|axis| dot(axis, &self.mean)).collect();
        // Column by column, so that the entries of a row meet the axes in neighbouring memory.
        let mut by_column = vec![0.0; rows.columns * components];
        for (at, axis) in self.axes.iter().enumerate() {
            axis.iter().enumerate().for_each(|(column, &entry)| by_column[column * components + at] = entry);
        }
        let project = |&row: &usize| {
            let mut point: Vec<f64> = centre.iter().map(|centre| -centre).collect();
            for (column, value) in rows.row(row) {
                super::add_scaled(&mut point, value, &by_column[column * components..][..components]);
            }
            point
        };
        Ok(chosen.par_iter().flat_map_iter(project).collect())
    }
}

/// A sparse matrix less its column means.
struct Centred<'a> {
    matrix: Selected,
    mean: &'a [f64],
}

impl Centred<'_> {
    fn times(&self, x: &[f64]) -> Vec<f64> {
        let offset = dot(self.mean, x);
        let row = |row| self.matrix.by_row.line(row).map(|(at, value)| value * x[at]).sum::<f64>() - offset;
        (0..self.matrix.rows).into_par_iter().with_min_len(32).map(row).collect()
    }

    fn transposed_times(&self, x: &[f64]) -> Vec<f64> {
        let total: f64 = x.iter().sum();
        let column = |column: usize| {
            let sum: f64 = self.matrix.by_column.line(column).map(|(at, value)| value * x[at]).sum();
            sum - self.mean[column] * total
        };
        (0..self.matrix.columns).into_par_iter().with_min_len(32).map(column).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Matrix;
    use super::*;

    #[test]
    fn axes_are_orthonormal_and_hold_the_variance() {
        for (rows, columns) in [(60, 23), (23, 60)] {
            let (matrix, _) = Matrix::clusters(rows, columns, 3);
            let train: Vec<usize> = (0..rows).collect();
            let pca = fit_pca(matrix.rows(), &train, 50, 1).unwrap();
            assert_eq!(pca.axes.len(), 22);
            for (i, a) in pca.axes.iter().enumerate() {
                for (j, b) in pca.axes.iter().enumerate() {
                    assert!((dot(a, b) - f64::from(i == j)).abs() < 1e-10);
                }
            }
            let points = pca.transform(matrix.rows(), &train).unwrap();
            for (at, variance) in pca.variance.iter().enumerate() {
                let squares: f64 = points.chunks(22).map(|point| point[at] * point[at]).sum();
                assert!((squares / (rows - 1) as f64 - variance).abs() < 1e-10);
            }
            let (_, total) = column_statistics(&matrix.rows(), &train);
            let total = total.iter().sum::<f64>() * rows as f64 / (rows - 1) as f64;
            let held: f64 = pca.variance.iter().sum();
            assert!(held <= total + 1e-9 && held > 0.99 * total, "{held} {total}");
        }
    }

    #[test]
    fn identical_rows_have_no_axes() {
        let matrix = Matrix::dense(2, &[1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
        let pca = fit_pca(matrix.rows(), &[0, 1, 2], 2, 1).unwrap();
        assert_eq!(pca.axes.len(), 0);
        assert_eq!(pca.transform(matrix.rows(), &[0]).unwrap(), [0.0; 0]);
        assert!(fit_pca(matrix.rows(), &[0], 0, 1).is_err());
        assert!(fit_pca(Matrix::dense(1, &[]).rows(), &[], 1, 1).is_err());
    }
}
