//! Means, variances and marker genes of labels.

use rayon::prelude::*;

use super::top_genes::{TOP_GENES, highest, overlap};
use super::{CENTRED, Cells};
use crate::baseline::SparseRows;
use crate::metric::bootstrap::{Estimate, RESAMPLES, draws};

/// Genes by which labels are told from the rest.
pub const DIFFERENTIAL_GENES: usize = 50;

/// The scores that come from sums over the cells of a label.
pub(super) const METRICS: [&str; 5] =
    ["mean correlation", "variance correlation", "mean correlation by label", "variance correlation by label", "differential genes"];

/// Those of [`METRICS`], in words.
pub(super) fn definitions() -> [String; 5] {
    let labels = "mean over the labels of which both sets have two cells or more";
    [
        format!("Pearson correlation over the genes between the generated and the reference cells' mean expression; {CENTRED}"),
        format!("Pearson correlation over the genes between the generated and the reference cells' variance (n - 1); {CENTRED}"),
        format!("the correlation of means for each label, {labels}; {CENTRED}"),
        format!("the correlation of variances for each label, {labels}; {CENTRED}"),
        format!(
            "share of the {DIFFERENTIAL_GENES} genes of largest Welch t statistic of a label against all other cells that generated and \
             reference cells have in common, {labels} and two others; {CENTRED}"
        ),
    ]
}

/// Number, sum and sum of squares of every gene in the cells of every label.
#[derive(Debug, Clone)]
pub struct Profiles {
    genes: usize,
    /// `[labels]`.
    cells: Vec<f64>,
    /// `[labels, genes]`.
    sums: Vec<f64>,
    /// `[labels, genes]`.
    squares: Vec<f64>,
}

impl Profiles {
    /// Of some rows, which may repeat. Labels are below `labels`.
    pub fn new(rows: SparseRows<'_>, of: &[u32], labels: usize, drawn: impl Iterator<Item = usize>) -> Profiles {
        let genes = rows.columns;
        let [cells, sums, squares] = [labels, labels * genes, labels * genes].map(|len| vec![0.0; len]);
        let mut profiles = Profiles { genes, cells, sums, squares };
        for row in drawn {
            let label = of[row] as usize;
            profiles.cells[label] += 1.0;
            for (gene, value) in rows.row(row) {
                profiles.sums[label * genes + gene] += value;
                profiles.squares[label * genes + gene] += value * value;
            }
        }
        profiles
    }

    /// Mean of each gene over the cells of a label; none without cells.
    pub fn mean(&self, label: usize) -> Option<Vec<f64>> {
        let part = self.label(label);
        (part.cells > 0.0).then(|| part.mean().collect())
    }

    fn label(&self, label: usize) -> Part<'_> {
        let range = label * self.genes..(label + 1) * self.genes;
        Part { cells: self.cells[label], sums: &self.sums[range.clone()], squares: &self.squares[range] }
    }

    /// All labels as one.
    fn all(&self) -> Profiles {
        let total = |values: &[f64]| {
            let mut total = vec![0.0; self.genes];
            for row in values.chunks(self.genes.max(1)) {
                total.iter_mut().zip(row).for_each(|(total, value)| *total += value);
            }
            total
        };
        Profiles { genes: self.genes, cells: vec![self.cells.iter().sum()], sums: total(&self.sums), squares: total(&self.squares) }
    }
}

/// Sums over some cells.
#[derive(Clone, Copy)]
struct Part<'a> {
    cells: f64,
    sums: &'a [f64],
    squares: &'a [f64],
}

impl<'a> Part<'a> {
    fn mean(self) -> impl Iterator<Item = f64> + 'a {
        self.sums.iter().map(move |sum| sum / self.cells)
    }

    fn variance(self) -> impl Iterator<Item = f64> + 'a {
        let variance = move |(sum, square): (&f64, &f64)| ((square - sum * sum / self.cells) / (self.cells - 1.0)).max(0.0);
        self.sums.iter().zip(self.squares).map(variance)
    }

    /// The genes of largest Welch t against the other cells; none where either side has fewer than two cells.
    fn differential(self, all: Part<'_>) -> Option<Vec<usize>> {
        let others = all.cells - self.cells;
        if self.cells < 2.0 || others < 2.0 {
            return None;
        }
        let less = |all: &[f64], own: &[f64]| all.iter().zip(own).map(|(all, own)| all - own).collect::<Vec<f64>>();
        let (sums, squares) = (less(all.sums, self.sums), less(all.squares, self.squares));
        let rest = Part { cells: others, sums: &sums, squares: &squares };
        let sides = self.mean().zip(self.variance()).zip(rest.mean().zip(rest.variance()));
        let statistic = |((mean, variance), (other, spread)): ((f64, f64), (f64, f64))| {
            let error = (variance / self.cells + spread / others).sqrt();
            if error > 0.0 { (mean - other) / error } else { 0.0 }
        };
        Some(highest(&sides.map(statistic).collect::<Vec<f64>>(), DIFFERENTIAL_GENES))
    }
}

/// Pearson correlation; none where either is constant.
pub(super) fn pearson(first: &[f64], second: &[f64]) -> Option<f64> {
    let n = first.len() as f64;
    let (mean, other) = (first.iter().sum::<f64>() / n, second.iter().sum::<f64>() / n);
    let (mut covariance, mut spread, mut others) = (0.0, 0.0, 0.0);
    for (a, b) in first.iter().zip(second) {
        covariance += (a - mean) * (b - other);
        spread += (a - mean) * (a - mean);
        others += (b - other) * (b - other);
    }
    (spread > 0.0 && others > 0.0).then(|| covariance / (spread * others).sqrt())
}

/// Values of [`METRICS`] and of the overlap of top genes, where there is a label to compute them for.
struct Values {
    moments: [Option<f64>; METRICS.len()],
    top_genes: [Option<f64>; TOP_GENES.len()],
}

fn values(generated: &Profiles, reference: &Profiles) -> Values {
    let (all, all_reference) = (generated.all(), reference.all());
    let parts = [all.label(0), all_reference.label(0)];
    let labels: Vec<[Part<'_>; 2]> = (0..generated.cells.len()).map(|label| [generated.label(label), reference.label(label)]).collect();
    let least = |cells: f64| labels.iter().filter(move |parts| parts.iter().all(|part| part.cells >= cells));
    let means = |[ours, theirs]: &[Part<'_>; 2]| pearson(&ours.mean().collect::<Vec<_>>(), &theirs.mean().collect::<Vec<_>>());
    let variances = |[ours, theirs]: &[Part<'_>; 2]| pearson(&ours.variance().collect::<Vec<_>>(), &theirs.variance().collect::<Vec<_>>());
    let differential = |[ours, theirs]: &[Part<'_>; 2]| {
        let (ours, theirs) = (ours.differential(parts[0])?, theirs.differential(parts[1])?);
        Some(overlap(&ours, &theirs, ours.len()))
    };
    let top = |top: usize| {
        let of = |part: &Part<'_>| highest(&part.mean().collect::<Vec<_>>(), top);
        mean(least(1.0).map(|[ours, theirs]| overlap(&of(ours), &of(theirs), top)))
    };
    Values {
        moments: [
            means(&parts),
            if parts.iter().all(|part| part.cells >= 2.0) { variances(&parts) } else { None },
            mean(least(2.0).filter_map(means)),
            mean(least(2.0).filter_map(variances)),
            mean(least(2.0).filter_map(differential)),
        ],
        top_genes: TOP_GENES.map(top),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// What [`estimates`] found; none: no label has the cells that it takes.
pub(super) struct Estimates {
    pub(super) moments: [Option<Estimate>; METRICS.len()],
    pub(super) top_genes: [Option<Estimate>; TOP_GENES.len()],
}

/// Values and intervals; both sets are resampled.
pub(super) fn estimates(generated: &Cells<'_>, reference: &Cells<'_>, seed: u64) -> Estimates {
    let labels = generated.labels.iter().chain(reference.labels).max().map_or(0, |label| *label as usize + 1);
    let profiles = |cells: &Cells<'_>, drawn: &mut dyn Iterator<Item = usize>| Profiles::new(cells.rows, cells.labels, labels, drawn);
    let sizes = [generated.labels.len(), reference.labels.len()];
    let observed = values(&profiles(generated, &mut (0..sizes[0])), &profiles(reference, &mut (0..sizes[1])));
    let resampled: Vec<Values> = (0..RESAMPLES)
        .into_par_iter()
        .map(|resample| {
            let ours = profiles(generated, &mut draws(seed, 2 * resample, sizes[0]));
            values(&ours, &profiles(reference, &mut draws(seed, 2 * resample + 1, sizes[1])))
        })
        .collect();
    let estimate = |value: Option<f64>, of: &dyn Fn(&Values) -> Option<f64>| {
        let resampled: Vec<f64> = resampled.iter().filter_map(of).collect();
        value.filter(|_| !resampled.is_empty()).map(|value| Estimate::centred(value, resampled, -1.0..=1.0))
    };
    Estimates {
        moments: std::array::from_fn(|at| estimate(observed.moments[at], &|values| values.moments[at])),
        top_genes: std::array::from_fn(|at| estimate(observed.top_genes[at], &|values| values.top_genes[at])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_and_markers_by_hand() {
        assert_eq!(pearson(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]), Some(1.0));
        assert_eq!(pearson(&[1.0, 1.0], &[2.0, 4.0]), None);
        // Four cells of two labels, three genes: gene 0 marks label 0, gene 2 marks label 1.
        let rows = SparseRows {
            indptr: &[0, 2, 4, 6, 8],
            indices: &[0, 1, 0, 1, 1, 2, 1, 2],
            values: &[2.0, 1.0, 3.0, 1.0, 1.0, 2.0, 1.0, 4.0],
            columns: 3,
        };
        let profiles = Profiles::new(rows, &[0, 0, 1, 1], 3, 0..4);
        assert_eq!(profiles.mean(0), Some(vec![2.5, 1.0, 0.0]));
        assert_eq!(profiles.mean(2), None);
        assert_eq!(profiles.label(1).variance().collect::<Vec<_>>(), [0.0, 0.0, 2.0]);
        let found = values(&profiles, &profiles);
        assert_eq!(found.moments, [Some(1.0); 5]);
        assert_eq!(found.top_genes[0], Some(1.0));
    }
}
