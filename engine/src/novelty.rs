//! How far a cell lies from every class that a model was trained on, so that a foreign cell is not given the least unlikely label.
//!
//! Genes are z-scored log1p-CP10k values, `z`. With `P` the first principal axes of the training cells, a cell is the point
//! `q = (P z, ln(|z - P^T P z|^2 / genes))`: its place among them, and how much of it they do not explain. With `m_c` the mean of class `c` and
//! `S` the covariance within classes, its novelty is
//!
//! ```text
//! min_c (q - m_c)^T S^-1 (q - m_c) / (99 % quantile of the same over held-out cells of known classes)
//! ```
//!
//! About 1 % of the cells of the training cells' own kind are above 1. Of a file that did not measure all genes, `P z` is fitted to those
//! that it did, and the distance is multiplied by their share: fewer genes show less.
//!
//! # Source
//! Lee, Lee, Lee & Shin 2018, "A simple unified framework for detecting out-of-distribution samples", section 2.1 (the distance); the
//! unexplained part beside it as in Wang, Li, Feng & Zhang 2022, "ViM". Ours is on genes instead of a network's features: the
//! classifier's own probabilities are as high for a type that it never saw.

use std::collections::BTreeMap;
use std::path::Path;

use rayon::prelude::*;
use safetensors::Dtype;
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use scmmgpt_loader::dataset::CellDataset;

use crate::baseline::{SparseMatrix, SparseRows, fit_pca};
use crate::task::baselines::expression;
use crate::train::TrainingData;
use crate::{Error, Result};

/// Novelty above which a label is withheld if nothing else is asked for: twice the square of the distance that 1 % of known cells
/// exceed. Cells of known types from another chemistry stay below.
pub const NOVELTY_THRESHOLD: f64 = 2.0;

const FILE: &str = "novelty.safetensors";
const COMPONENTS: usize = 30;
/// z-scores are cut here, as scanpy's tutorials do (`pp.scale(max_value=10)`).
const HIGHEST: f64 = 10.0;
/// Added to the axes' products over the genes of a file, which may not tell all axes apart.
const RIDGE: f64 = 1e-2;
/// Share of the mean variance that is added to each variance within classes.
const SHRINKAGE: f64 = 1e-3;
/// Cells below which no covariance is worth its name.
const FEWEST: usize = 50;
/// Without validation cells, every such training cell is held out.
const HELD_OUT: usize = 10;

/// Where a model's training cells lie.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Novelty {
    /// `[genes]`.
    mean: Vec<f32>,
    /// `[genes]`: one over the standard deviation; 0 for a gene that does not vary.
    weight: Vec<f32>,
    /// `[genes, components]`.
    axes: Vec<f32>,
    /// `[components + 1, components + 1]`: the inverse of the Cholesky factor of `S`, lower triangle.
    whitening: Vec<f32>,
    /// `[classes, components + 1]`: whitened means.
    centres: Vec<f32>,
    /// The quantile that distances are divided by.
    scale: f32,
}

/// The genes that a file measured.
struct Panel<'a> {
    genes: &'a [u32],
    /// Those that vary among the training cells: their number, at least 1, and their share of all that do.
    measured: f64,
    share: f64,
    /// `[components, components]`: the inverse Cholesky factor of the axes' products over these genes.
    factor: Vec<f64>,
}

impl Novelty {
    /// Fits the training cells; none where they are too few.
    pub(crate) fn fit(data: &TrainingData) -> Result<Option<Novelty>> {
        let dataset = &data.dataset;
        let class = |row: &usize| dataset.labels()[*row].and_then(|class| data.head_classes[class as usize]);
        let known = |rows: &[usize]| rows.iter().copied().filter(|row| class(row).is_some()).collect::<Vec<_>>();
        let (mut train, mut held_out) = (known(&data.split.train), known(&data.split.validation));
        if held_out.is_empty() {
            held_out = train.iter().copied().step_by(HELD_OUT).collect();
            train = train.into_iter().enumerate().filter(|(at, _)| at % HELD_OUT != 0).map(|(_, row)| row).collect();
        }
        if train.len() < FEWEST || held_out.is_empty() {
            return Ok(None);
        }
        let labels: Vec<usize> = train.iter().filter_map(class).map(|class| class as usize).collect();
        let Some(mut novelty) = Novelty::of_classes(&expression(dataset)?, &train, &labels)? else { return Ok(None) };
        let mut distances = novelty.scores(dataset, &held_out)?;
        distances.sort_by(f32::total_cmp);
        novelty.scale = distances[(distances.len() - 1) * 99 / 100].max(f32::MIN_POSITIVE);
        Ok(Some(novelty))
    }

    /// Everything but the scale, which is 1.
    fn of_classes(expression: &SparseMatrix, train: &[usize], labels: &[usize]) -> Result<Option<Novelty>> {
        let rows = expression.rows();
        let (mean, deviation) = rows.statistics(train);
        let weight: Vec<f32> = deviation.iter().map(|&deviation| if deviation > 0.0 { 1.0 / deviation as f32 } else { 0.0 }).collect();
        let mean: Vec<f32> = mean.iter().map(|&mean| mean as f32).collect();
        let cut = |(gene, value): (&u32, &f32)| {
            let gene = *gene as usize;
            value.min(mean[gene] + HIGHEST as f32 / weight[gene].max(f32::MIN_POSITIVE)) * weight[gene]
        };
        let values: Vec<f32> = rows.indices.iter().zip(rows.values).map(cut).collect();
        let pca = fit_pca(SparseRows { values: &values, ..rows }, train, COMPONENTS, 0)?;
        let components = pca.axes.len();
        if components == 0 {
            return Ok(None);
        }
        let axes = (0..rows.columns).flat_map(|gene| pca.axes.iter().map(move |axis| axis[gene] as f32)).collect();
        let mut novelty = Novelty { mean, weight, axes, whitening: Vec::new(), centres: Vec::new(), scale: 1.0 };
        let all: Vec<u32> = (0..rows.columns as u32).collect();
        let panel = novelty.panel(&all);
        let points: Vec<Vec<f64>> = train.par_iter().map(|&row| novelty.point(rows.entries(row), &panel)).collect();
        let size = components + 1;
        let classes = labels.iter().max().map_or(0, |class| class + 1);
        let mut means = vec![vec![0.0; size]; classes];
        let mut counts = vec![0.0f64; classes];
        for (point, &class) in points.iter().zip(labels) {
            counts[class] += 1.0;
            means[class].iter_mut().zip(point).for_each(|(sum, value)| *sum += value);
        }
        means.iter_mut().zip(&counts).for_each(|(mean, count)| mean.iter_mut().for_each(|sum| *sum /= count.max(1.0)));
        let mut covariance = vec![0.0; size * size];
        for (point, &class) in points.iter().zip(labels) {
            let away: Vec<f64> = point.iter().zip(&means[class]).map(|(value, mean)| value - mean).collect();
            for (row, left) in covariance.chunks_exact_mut(size).zip(&away) {
                row.iter_mut().zip(&away).for_each(|(sum, right)| *sum += left * right / points.len() as f64);
            }
        }
        let trace: f64 = (0..size).map(|at| covariance[at * size + at]).sum();
        (0..size).for_each(|at| covariance[at * size + at] += SHRINKAGE * trace / size as f64);
        let Some(whitening) = inverse_factor(&covariance, size) else { return Ok(None) };
        novelty.whitening = whitening.iter().map(|&entry| entry as f32).collect();
        let present = means.iter().zip(&counts).filter(|(_, count)| **count > 0.0);
        novelty.centres = present.flat_map(|(mean, _)| novelty.whitened(mean)).map(|value| value as f32).collect();
        Ok(Some(novelty))
    }

    fn components(&self) -> usize {
        self.axes.len() / self.mean.len().max(1)
    }

    /// What projecting cells asks of the genes that a file measured.
    fn panel<'a>(&self, genes: &'a [u32]) -> Panel<'a> {
        let components = self.components();
        let mut gram = vec![0.0; components * components];
        for &gene in genes {
            let axes = &self.axes[gene as usize * components..][..components];
            for (row, left) in gram.chunks_exact_mut(components).zip(axes) {
                row.iter_mut().zip(axes).for_each(|(sum, right)| *sum += f64::from(left * right));
            }
        }
        (0..components).for_each(|at| gram[at * components + at] += RIDGE);
        let varying = |genes: &mut dyn Iterator<Item = usize>| genes.filter(|gene| self.weight[*gene] > 0.0).count() as f64;
        let measured = varying(&mut genes.iter().map(|gene| *gene as usize));
        let share = measured / varying(&mut (0..self.weight.len())).max(1.0);
        let factor = inverse_factor(&gram, components).unwrap_or_default();
        Panel { genes, measured: measured.max(1.0), share, factor }
    }

    /// `q` of a cell, from its entries: axes are fitted to the genes that were measured, by least squares.
    fn point<'a>(&self, entries: impl Iterator<Item = (&'a u32, &'a f32)>, panel: &Panel<'_>) -> Vec<f64> {
        let components = self.components();
        let mut z = vec![0.0; self.mean.len()];
        for &gene in panel.genes {
            let gene = gene as usize;
            z[gene] = -f64::from(self.mean[gene] * self.weight[gene]);
        }
        for (gene, value) in entries {
            let gene = *gene as usize;
            z[gene] = f64::from((value - self.mean[gene]) * self.weight[gene]).min(HIGHEST);
        }
        let mut along = vec![0.0; components];
        for (z, axes) in z.iter().zip(self.axes.chunks_exact(components)).filter(|(z, _)| **z != 0.0) {
            along.iter_mut().zip(axes).for_each(|(sum, axis)| *sum += z * f64::from(*axis));
        }
        let times = |row: &[f64]| row.iter().zip(&along).map(|(entry, value)| entry * value).sum::<f64>();
        let half: Vec<f64> = panel.factor.chunks_exact(components).map(times).collect();
        let solved = |column: usize| half.iter().enumerate().map(|(row, value)| panel.factor[row * components + column] * value).sum();
        let mut point: Vec<f64> = (0..components).map(solved).collect();
        let explained: f64 = point.iter().zip(&along).map(|(left, right)| left * right).sum();
        let rest = z.iter().map(|z| z * z).sum::<f64>() - explained;
        point.push((rest / panel.measured).max(f64::MIN_POSITIVE).ln());
        point
    }

    fn whitened<'a>(&'a self, point: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        self.whitening.chunks_exact(point.len()).map(move |row| row.iter().zip(point).map(|(entry, value)| f64::from(*entry) * value).sum())
    }

    /// The novelty of each of these cells of a dataset on the model's vocabulary.
    pub(crate) fn scores(&self, dataset: &CellDataset, rows: &[usize]) -> Result<Vec<f32>> {
        let expression = expression(dataset)?;
        let matrix = expression.rows();
        let size = self.components() + 1;
        let panels = (0..dataset.reports().len()).map(|source| self.panel(dataset.panel(source)));
        let panels = panels.collect::<Vec<_>>();
        let score = |&row: &usize| {
            let panel = &panels[dataset.cell(row)?.source];
            let point = self.point(matrix.entries(row), panel);
            let point: Vec<f64> = self.whitened(&point).collect();
            let square = |centre: &[f32]| centre.iter().zip(&point).map(|(centre, value)| (value - f64::from(*centre)).powi(2)).sum();
            let nearest = self.centres.chunks_exact(size).map(square).fold(f64::INFINITY, f64::min);
            Ok((nearest * panel.share / f64::from(self.scale)) as f32)
        };
        rows.par_iter().map(score).collect()
    }

    fn tensors(&self) -> [(&'static str, Vec<usize>, &[f32]); 6] {
        let (genes, components) = (self.mean.len(), self.components());
        let classes = self.centres.len() / (components + 1);
        [
            ("mean", vec![genes], &self.mean),
            ("weight", vec![genes], &self.weight),
            ("axes", vec![genes, components], &self.axes),
            ("whitening", vec![components + 1, components + 1], &self.whitening),
            ("centres", vec![classes, components + 1], &self.centres),
            ("scale", vec![1], std::slice::from_ref(&self.scale)),
        ]
    }

    /// Writes it into a model folder.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let tensors = self.tensors();
        let views = tensors.iter().map(|(name, shape, values)| (*name, Dtype::F32, shape.as_slice(), bytemuck::cast_slice(values)));
        Ok(checkpoint::write(folder.join(FILE), views, &BTreeMap::new())?)
    }

    /// Reads it from a model folder; none where there is none.
    ///
    /// # Errors
    /// Those of the file; `ModelFolder` when it does not fit a vocabulary of `genes`.
    pub(crate) fn open(folder: &Path, genes: usize) -> Result<Option<Novelty>> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let file = Checkpoint::open(&path)?;
        let [mean, weight, axes, whitening, centres, scale] =
            ["mean", "weight", "axes", "whitening", "centres", "scale"].map(|name| file.to_f32(name));
        let scale = scale?.first().copied().unwrap_or(0.0);
        let read = Novelty { mean: mean?, weight: weight?, axes: axes?, whitening: whitening?, centres: centres?, scale };
        let size = read.components() + 1;
        let whole = read.axes.len() == genes * (size - 1) && read.whitening.len() == size * size;
        let fits = read.mean.len() == genes && read.weight.len() == genes && read.centres.len().is_multiple_of(size);
        if size > 1 && whole && fits && scale > 0.0 {
            return Ok(Some(read));
        }
        Err(Error::ModelFolder { folder: folder.into(), reason: format!("{FILE} does not belong to its other files") })
    }
}

/// The inverse of the lower Cholesky factor of a symmetric matrix, `[size, size]`; none if it is not positive.
fn inverse_factor(matrix: &[f64], size: usize) -> Option<Vec<f64>> {
    let mut factor = vec![0.0; size * size];
    for i in 0..size {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| factor[i * size + k] * factor[j * size + k]).sum();
            let rest = matrix[i * size + j] - known;
            factor[i * size + j] = if i != j {
                rest / factor[j * size + j]
            } else if rest > 0.0 {
                rest.sqrt()
            } else {
                return None;
            };
        }
    }
    let mut inverse = vec![0.0; size * size];
    for column in 0..size {
        for row in column..size {
            let known: f64 = (column..row).map(|k| factor[row * size + k] * inverse[k * size + column]).sum();
            inverse[row * size + column] = (f64::from(u8::from(row == column)) - known) / factor[row * size + row];
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use scmmgpt_loader::dataset::CellDatasetBuilder;
    use scmmgpt_loader::h5ad::{AnnData, Slot};

    use super::*;
    use crate::config::DataConfig;

    const CELLS: &str = "../tests/data/pbmc68k_700.h5ad";

    /// The blood cells with their genes' names turned around a circle by `by` places; every `step`-th gene alone was measured.
    fn renamed(data: &TrainingData, by: usize, step: usize) -> CellDataset {
        let file = AnnData::open(CELLS.as_ref()).unwrap();
        let mut names = file.var_names(&Slot::X).unwrap();
        names.rotate_left(by);
        let names = names.into_iter().enumerate().map(|(at, name)| if at % step == 0 { name } else { format!("unheard of {at}") });
        let mut builder = CellDatasetBuilder::new(data.dataset.vocab().clone().into()).min_matched_share(0.0);
        builder.add_source(CELLS, &names.collect::<Vec<_>>(), file.matrix(&Slot::X).unwrap().blocks(512), None).unwrap();
        builder.build()
    }

    #[test]
    fn known_cells_are_familiar_and_foreign_cells_are_not() {
        let config = DataConfig { train: vec![CELLS.into()], label_key: "cell_type".into(), ..DataConfig::default() };
        let data = TrainingData::read(&config, 0, true).unwrap();
        let novelty = Novelty::fit(&data).unwrap().unwrap();
        let above = |scores: &[f32]| scores.iter().filter(|score| f64::from(**score) > NOVELTY_THRESHOLD).count();
        let own = novelty.scores(&data.dataset, &data.split.test).unwrap();
        assert!(above(&own) * 50 <= own.len(), "{} of {} known cells", above(&own), own.len());
        let all: Vec<usize> = (0..data.dataset.len()).collect();
        let foreign = novelty.scores(&renamed(&data, 1, 1), &all).unwrap();
        assert!(above(&foreign) * 100 >= 99 * foreign.len(), "{} of {} foreign cells", above(&foreign), foreign.len());
        let few = novelty.scores(&renamed(&data, 0, 4), &all).unwrap();
        assert!(above(&few) * 50 <= few.len(), "{} of {} cells of a quarter of the genes", above(&few), few.len());

        let folder = tempfile::tempdir().unwrap();
        novelty.write(folder.path()).unwrap();
        assert_eq!(Novelty::open(folder.path(), data.dataset.vocab().len()).unwrap(), Some(novelty));
        assert!(Novelty::open(folder.path(), 7).is_err());
    }

    #[test]
    fn the_inverse_factor_whitens() {
        let matrix = [4.0, 2.0, 0.4, 2.0, 5.0, 1.0, 0.4, 1.0, 3.0];
        let inverse = inverse_factor(&matrix, 3).unwrap();
        for i in 0..3 {
            for j in 0..3 {
                let sum: f64 = (0..9).map(|at| inverse[i * 3 + at / 3] * matrix[at] * inverse[j * 3 + at % 3]).sum();
                assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-12, "{i} {j} {sum}");
            }
        }
        assert!(inverse_factor(&[1.0, 2.0, 2.0, 1.0], 2).is_none());
    }
}
