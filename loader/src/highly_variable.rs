//! Which genes vary more between cells than genes of their level do.

use serde::{Deserialize, Serialize};

use crate::dataset::CellDataset;
use crate::expression::ValueMode;
use crate::scale::InputScale;
use crate::{Error, Result};

/// Total of a cell after normalisation.
const TARGET_SUM: f64 = 1e4;
/// Level bins of the `seurat` flavour.
const SEURAT_BINS: usize = 20;
/// Median absolute deviation of a standard normal variable.
const NORMAL_MAD: f64 = 0.674_489_750_196_081_7;

/// How dispersions are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HvgFlavor {
    /// `ln(variance / mean)` of normalised counts; mean and standard deviation within 20 bins of equal
    /// width over `ln(1 + mean)`.
    #[default]
    Seurat,
    /// `variance / mean` of log1p values; median and median absolute deviation within bins of 5 % of
    /// the genes.
    CellRanger,
}

/// The `n_top` genes of the largest normalised dispersion among `rows`, as vocabulary indices, ascending.
///
/// Candidates are the genes that every source of these rows measured. Of equal dispersions the lower
/// index is taken (scanpy takes all of them). Genes without any variation are never chosen, so there may
/// be fewer than `n_top`.
///
/// ```text
/// normalised dispersion = (dispersion - centre of its bin) / spread of its bin
/// ```
///
/// # Errors
/// `EmptyBatch` for fewer than two rows; `Row`; `Scale` when a source holds neither counts nor log1p values.
///
/// # Source
/// scanpy 1.11 `pp.highly_variable_genes` after `normalize_total(1e4)` and `log1p`.
pub fn highly_variable(dataset: &CellDataset, rows: &[usize], n_top: usize, flavor: HvgFlavor) -> Result<Vec<u32>> {
    let genes = common_panel(dataset, rows)?;
    let (mut level, mut dispersion) = moments(dataset, rows, &genes, flavor)?;
    let bins = match flavor {
        HvgFlavor::Seurat => {
            // A gene without variation has no logarithm and takes no part.
            dispersion.iter_mut().for_each(|d| *d = if *d > 0.0 { d.ln() } else { f64::NAN });
            level.iter_mut().for_each(|mean| *mean = mean.ln_1p());
            cut(&level, &even_edges(&level))
        }
        HvgFlavor::CellRanger => cut(&level, &percentile_edges(&level)),
    };
    let mut members: Vec<Vec<f64>> = vec![Vec::new(); bins.iter().max().map_or(0, |last| last + 1)];
    for (&bin, &value) in bins.iter().zip(&dispersion).filter(|(_, value)| !value.is_nan()) {
        members[bin].push(value);
    }
    let scales: Vec<(f64, f64)> = members.iter().map(|bin| center_and_spread(bin, flavor)).collect();
    let normalized = bins.iter().zip(&dispersion).map(|(&bin, value)| (value - scales[bin].0) / scales[bin].1);
    let mut ranked: Vec<(f64, u32)> = normalized.zip(genes).filter(|(value, _)| !value.is_nan()).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    ranked.truncate(n_top);
    let mut chosen: Vec<u32> = ranked.into_iter().map(|(_, gene)| gene).collect();
    chosen.sort_unstable();
    Ok(chosen)
}

/// Genes that every source of the rows measured.
fn common_panel(dataset: &CellDataset, rows: &[usize]) -> Result<Vec<u32>> {
    if rows.len() < 2 {
        return Err(Error::EmptyBatch);
    }
    let mut sources = Vec::new();
    for &row in rows {
        let source = dataset.cell(row)?.source;
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    let mut genes = dataset.panel(sources[0]).to_vec();
    for &source in &sources[1..] {
        genes.retain(|gene| dataset.panel(source).binary_search(gene).is_ok());
    }
    Ok(genes)
}

/// `[genes]`: mean (at least 1e-12) and variance / mean over the rows, zeros included.
fn moments(dataset: &CellDataset, rows: &[usize], genes: &[u32], flavor: HvgFlavor) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut sums, mut squares) = (vec![0.0; genes.len()], vec![0.0; genes.len()]);
    for &row in rows {
        let cell = dataset.cell(row)?;
        let report = &dataset.reports()[cell.source];
        let factor = if cell.total > 0.0 { TARGET_SUM / cell.total } else { 1.0 };
        let mode = ValueMode::Log1p;
        if !mode.accepts(report.scale) {
            let (source_name, scale) = (report.name.clone(), report.scale);
            return Err(Error::Scale { source_name, mode, scale });
        }
        for (gene, &value) in cell.genes.iter().zip(cell.values) {
            let Ok(place) = genes.binary_search(gene) else {
                continue;
            };
            let value = f64::from(value);
            let value = match (report.scale == InputScale::Log1p, flavor) {
                (true, HvgFlavor::Seurat) => value.exp_m1(),
                (true, HvgFlavor::CellRanger) => value,
                (false, HvgFlavor::Seurat) => value * factor,
                (false, HvgFlavor::CellRanger) => (value * factor).ln_1p(),
            };
            sums[place] += value;
            squares[place] += value * value;
        }
    }
    let cells = rows.len() as f64;
    let moments = sums.iter().zip(&squares).map(|(sum, square)| {
        let mean = sum / cells;
        let variance = (square / cells - mean * mean).max(0.0) * cells / (cells - 1.0);
        let mean = if mean == 0.0 { 1e-12 } else { mean };
        (mean, variance / mean)
    });
    Ok(moments.unzip())
}

/// Edges of bins of equal width, the lowest a little below the least value: `pandas.cut(values, 20)`.
fn even_edges(values: &[f64]) -> Vec<f64> {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let step = (high - low) / SEURAT_BINS as f64;
    let mut edges: Vec<f64> = (0..=SEURAT_BINS).map(|edge| low + edge as f64 * step).collect();
    edges[SEURAT_BINS] = high;
    edges[0] = if high > low { low - (high - low) * 0.001 } else { f64::NEG_INFINITY };
    edges
}

/// Edges at the percentiles 10, 15, .. 100, open at both ends.
fn percentile_edges(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let mut edges = vec![f64::NEG_INFINITY];
    edges.extend((10..=100).step_by(5).map(|percent| quantile(&sorted, f64::from(percent) / 100.0)));
    edges.push(f64::INFINITY);
    edges
}

/// The bin `edges[bin] < value <= edges[bin + 1]` of each value.
fn cut(values: &[f64], edges: &[f64]) -> Vec<usize> {
    let bin = |value: &f64| edges.partition_point(|edge| edge < value).saturating_sub(1);
    values.iter().map(bin).collect()
}

/// Linear interpolation between sorted values; 0 for none.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = last as f64 * share;
    let previous = (place.floor() as usize).min(last);
    let (a, b) = (sorted[previous], sorted[(previous + 1).min(last)]);
    a + (b - a) * (place - previous as f64)
}

fn center_and_spread(values: &[f64], flavor: HvgFlavor) -> (f64, f64) {
    let count = values.len() as f64;
    match (flavor, values) {
        (_, []) => (f64::NAN, f64::NAN),
        // Seurat's rule for a gene alone in its bin: a normalised dispersion of 1.
        (HvgFlavor::Seurat, &[only]) => (0.0, only),
        (HvgFlavor::Seurat, _) => {
            let mean = values.iter().sum::<f64>() / count;
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            (mean, (squares / (count - 1.0)).sqrt())
        }
        (HvgFlavor::CellRanger, _) => {
            let center = median(values.to_vec());
            let away = values.iter().map(|value| (value - center).abs()).collect();
            (center, median(away) / NORMAL_MAD)
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    quantile(&values, 0.5)
}
