//! How large made cells are: totals of counts, drawn from those of training cells.

use std::collections::BTreeMap;

use scmmgpt_kernels::runtime::philox::{Site, uniform};
use serde::{Deserialize, Serialize};

/// Quantiles that are kept: the smallest, the largest, and 19 between them at equal distances.
const QUANTILES: usize = 21;

/// Total counts of training cells, as quantiles.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CellSizes {
    all: Vec<f32>,
    by_label: BTreeMap<String, Vec<f32>>,
}

impl CellSizes {
    /// Those of cells by (label, total).
    pub fn of<'a>(cells: impl IntoIterator<Item = (Option<&'a str>, f64)>) -> Self {
        let (mut all, mut by_label) = (Vec::new(), BTreeMap::<String, Vec<f64>>::new());
        for (label, total) in cells {
            all.push(total);
            if let Some(label) = label {
                by_label.entry(label.to_owned()).or_default().push(total);
            }
        }
        CellSizes { all: quantiles(all), by_label: by_label.into_iter().map(|(label, totals)| (label, quantiles(totals))).collect() }
    }

    /// The total of made cell number `cell`, by (seed, cell) alone: as those of training cells of this label, or of all where none had
    /// it. None without training cells.
    pub fn draw(&self, label: Option<&str>, seed: u64, cell: u64) -> Option<f64> {
        let site = Site { seed, step: cell, site: u32::MAX };
        self.quantile(label, f64::from(uniform(site.words(0)[0])))
    }

    /// The middle one.
    pub fn median(&self, label: Option<&str>) -> Option<f64> {
        self.quantile(label, 0.5)
    }

    fn quantile(&self, label: Option<&str>, share: f64) -> Option<f64> {
        let known = label.and_then(|label| self.by_label.get(label)).unwrap_or(&self.all);
        at(&known.iter().map(|&total| f64::from(total)).collect::<Vec<_>>(), share)
    }
}

fn quantiles(mut totals: Vec<f64>) -> Vec<f32> {
    totals.sort_by(f64::total_cmp);
    (0..QUANTILES).filter_map(|index| at(&totals, index as f64 / (QUANTILES - 1) as f64)).map(|total| total as f32).collect()
}

/// Linear between sorted values, as numpy's default.
fn at(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (sorted.get(place.floor() as usize)?, sorted.get(place.ceil() as usize)?);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_cells_of_the_label() {
        let cells = (0..1000).map(|cell| if cell % 4 == 0 { (Some("large"), 5000.0 + f64::from(cell)) } else { (None, f64::from(cell)) });
        let sizes = CellSizes::of(cells);
        let drawn = |label: Option<&str>| (0..2000).map(|cell| sizes.draw(label, 3, cell).unwrap()).collect::<Vec<f64>>();
        assert!(drawn(Some("large")).iter().all(|&total| (5000.0..=5996.0).contains(&total)));
        let share = drawn(None).iter().filter(|&&total| total >= 5000.0).count() as f64 / 2000.0;
        assert!((share - 0.25).abs() < 0.06, "{share}");
        assert_eq!(drawn(Some("large")), drawn(Some("large")));
        assert_eq!(drawn(Some("never seen")), drawn(None));
        assert!((sizes.median(Some("large")).unwrap() - 5498.0).abs() < 1.0);
    }

    #[test]
    fn one_cell_and_none() {
        let one = CellSizes::of([(Some("a"), 7.0)]);
        assert_eq!((one.draw(Some("a"), 0, 0), one.median(None)), (Some(7.0), Some(7.0)));
        assert_eq!(CellSizes::default().draw(None, 0, 0), None);
    }
}
