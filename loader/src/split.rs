//! Seeded splits of a dataset's rows: disjoint, complete, sorted, reproducible.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::random::{Purpose, Random};
use crate::{Error, Result};

/// Rows of each part, ascending. The parts are disjoint and together all rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Rows to learn from.
    pub train: Vec<usize>,
    /// Rows to choose settings by.
    pub validation: Vec<usize>,
    /// Rows to report on.
    pub test: Vec<usize>,
}

/// Shares of the parts that are not for training, each in `[0, 1)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Fractions {
    /// Share of the validation part.
    pub validation: f64,
    /// Share of the test part.
    pub test: f64,
}

/// Splits `rows` cells at random.
///
/// With `labels` (`[rows]`) the split is stratified: each label gives each part its share, up to one cell;
/// unlabelled cells are one more stratum. Without, all cells are one stratum.
///
/// # Errors
/// `Setting` for shares out of range, `ColumnLength` for the labels, `EmptySplit` when no cell is left
/// for training or for a part whose share is not 0.
pub fn random(rows: usize, labels: Option<&[Option<u32>]>, fractions: Fractions, seed: u64) -> Result<Split> {
    let Fractions { validation, test } = fractions;
    let in_range = |share: f64| (0.0..1.0).contains(&share);
    if !in_range(validation) || !in_range(test) || validation + test >= 1.0 {
        let (got, expected) = (format!("{validation} + {test}"), "shares >= 0 with a sum below 1");
        return Err(Error::Setting { setting: "validation + test fraction", got, expected });
    }
    let order = strata(rows, labels, seed)?;
    let (chosen, rest) = every_share(&order, test);
    let (held, train) = every_share(&rest, validation / (1.0 - test));
    let split = Split { train, validation: held, test: chosen }.sorted();
    split.check(rows, fractions)
}

/// Holds out whole groups: the test part is every cell whose value (donor, chemistry, ..) is listed; a
/// share of the others, stratified by `labels` if given, becomes the validation part.
///
/// # Errors
/// `HeldOutValue` when a value occurs in no cell; otherwise as [`random`].
pub fn hold_out_by(
    column: &[Option<String>],
    held: &[String],
    labels: Option<&[Option<u32>]>,
    validation: f64,
    seed: u64,
) -> Result<Split> {
    let present: BTreeSet<&String> = column.iter().flatten().collect();
    let absent: Vec<String> = held.iter().filter(|value| !present.contains(value)).cloned().collect();
    if !absent.is_empty() || held.is_empty() {
        let present = present.into_iter().cloned().collect();
        return Err(Error::HeldOutValue { absent, present });
    }
    let is_held = |value: &Option<String>| value.as_ref().is_some_and(|value| held.contains(value));
    let (test, others): (Vec<usize>, Vec<usize>) = (0..column.len()).partition(|&row| is_held(&column[row]));
    let labels: Option<Vec<_>> = match labels {
        Some(labels) => {
            check_length(labels, column.len())?;
            Some(others.iter().map(|&row| labels[row]).collect())
        }
        None => None,
    };
    let fractions = Fractions { validation, test: 0.0 };
    if others.is_empty() {
        return Err(Error::EmptySplit { part: "train", rows: column.len(), held: test.len() });
    }
    let inner = random(others.len(), labels.as_deref(), fractions, seed)?;
    let outer = |rows: Vec<usize>| rows.into_iter().map(|row| others[row]).collect();
    Ok(Split { train: outer(inner.train), validation: outer(inner.validation), test })
}

/// `k` splits without validation part; every row is in the test part of exactly one.
///
/// # Errors
/// `Setting` unless `2 <= k <= rows`; `ColumnLength` for the labels.
pub fn k_folds(rows: usize, k: usize, labels: Option<&[Option<u32>]>, seed: u64) -> Result<Vec<Split>> {
    if k < 2 || k > rows {
        let (got, expected) = (k.to_string(), "at least 2 and at most the number of cells");
        return Err(Error::Setting { setting: "folds", got, expected });
    }
    let order = strata(rows, labels, seed)?;
    let fold = |fold: usize| {
        let part = |inside: bool| {
            let chosen = order.iter().enumerate().filter(|(place, _)| (place % k == fold) == inside);
            chosen.map(|(_, &row)| row).collect()
        };
        Split { train: part(false), validation: Vec::new(), test: part(true) }.sorted()
    };
    Ok((0..k).map(fold).collect())
}

/// A few examples of every label, from the training part of a split: `per_label` of its rows of each label, or all where there are
/// fewer. Ascending; unlabelled rows are left out.
///
/// A fixed list for each seed: that for a smaller `per_label` is contained in that for a larger one, and a label's examples depend on
/// its own rows alone.
///
/// # Errors
/// `Setting` for 0 per label, `Row` when a row has no entry in `labels` (`[cells]`), `EmptySplit` when no row has a label.
/// # Source
/// MODEL.md §7.1, few-shot; scMMGPT `retrieval_dataset.py`, lines 573-590, which draws anew each time.
pub fn few_shot(train: &[usize], labels: &[Option<u32>], per_label: usize, seed: u64) -> Result<Vec<usize>> {
    if per_label == 0 {
        return Err(Error::Setting { setting: "cells per label", got: "0".to_owned(), expected: "at least 1" });
    }
    let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for &row in train {
        let label = labels.get(row).ok_or(Error::Row { row, rows: labels.len() })?;
        if let Some(label) = label {
            groups.entry(*label).or_default().push(row);
        }
    }
    if groups.is_empty() {
        return Err(Error::EmptySplit { part: "few-shot", rows: labels.len(), held: labels.len().saturating_sub(train.len()) });
    }
    let mut chosen = Vec::new();
    for (label, mut rows) in groups {
        rows.sort_unstable();
        Random::new(seed, Purpose::FewShot, 0, u64::from(label)).shuffle(&mut rows);
        chosen.extend(rows.into_iter().take(per_label));
    }
    chosen.sort_unstable();
    Ok(chosen)
}

/// All rows, stratum after stratum, shuffled within each.
fn strata(rows: usize, labels: Option<&[Option<u32>]>, seed: u64) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows).collect();
    Random::new(seed, Purpose::Split, 0, 0).shuffle(&mut order);
    let Some(labels) = labels else {
        return Ok(order);
    };
    check_length(labels, rows)?;
    let mut groups: BTreeMap<Option<u32>, Vec<usize>> = BTreeMap::new();
    for row in order {
        groups.entry(labels[row]).or_default().push(row);
    }
    Ok(groups.into_values().flatten().collect())
}

fn check_length(labels: &[Option<u32>], rows: usize) -> Result<()> {
    if labels.len() == rows {
        return Ok(());
    }
    let (source_name, got) = ("split".to_owned(), labels.len());
    Err(Error::ColumnLength { source_name, column: "label", expected: rows, got })
}

/// Takes evenly spaced rows, so that any stretch of the list gives its share up to one row.
fn every_share(order: &[usize], share: f64) -> (Vec<usize>, Vec<usize>) {
    // Steps over whole numbers, from the middle of a step, so that the count is the rounded share.
    let taken = |place: usize| (place as f64 * share + 0.5).floor();
    let (chosen, rest): (Vec<_>, Vec<_>) = order.iter().enumerate().partition(|(place, _)| taken(place + 1) > taken(*place));
    let rows = |pairs: Vec<(usize, &usize)>| pairs.into_iter().map(|(_, &row)| row).collect();
    (rows(chosen), rows(rest))
}

impl Split {
    fn sorted(mut self) -> Split {
        self.train.sort_unstable();
        self.validation.sort_unstable();
        self.test.sort_unstable();
        self
    }

    fn check(self, rows: usize, fractions: Fractions) -> Result<Split> {
        let held = rows - self.train.len();
        let empty = |part| Err(Error::EmptySplit { part, rows, held });
        if self.train.is_empty() {
            return empty("train");
        }
        if self.validation.is_empty() && fractions.validation > 0.0 {
            return empty("validation");
        }
        if self.test.is_empty() && fractions.test > 0.0 {
            return empty("test");
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_parts(split: &Split, rows: usize) {
        let mut all: Vec<usize> = [&split.train, &split.validation, &split.test].into_iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..rows).collect::<Vec<_>>(), "disjoint and complete");
        for part in [&split.train, &split.validation, &split.test] {
            assert!(part.is_sorted());
        }
    }

    #[test]
    fn random_is_stratified_and_seeded() {
        let labels: Vec<_> = (0..1000).map(|row| (row % 10 != 9).then_some((row % 7) as u32)).collect();
        let fractions = Fractions { validation: 0.1, test: 0.3 };
        let split = random(1000, Some(&labels), fractions, 1).unwrap();
        check_parts(&split, 1000);
        assert_eq!((split.test.len(), split.validation.len()), (300, 100));
        for label in (0..7).map(Some).chain([None]) {
            let of = |rows: &[usize]| rows.iter().filter(|&&row| labels[row] == label).count() as f64;
            let all: Vec<usize> = (0..1000).collect();
            assert!((of(&split.test) - 0.3 * of(&all)).abs() <= 1.0);
            assert!((of(&split.validation) - 0.1 * of(&all)).abs() <= 2.0);
        }
        assert_eq!(split, random(1000, Some(&labels), fractions, 1).unwrap());
        assert_ne!(split, random(1000, Some(&labels), fractions, 2).unwrap());
    }

    #[test]
    fn bad_shares_and_tiny_sets_are_errors() {
        let split = |rows, validation, test| random(rows, None, Fractions { validation, test }, 0);
        assert!(matches!(split(10, 0.5, 0.5), Err(Error::Setting { .. })));
        assert!(matches!(split(10, -0.1, 0.5), Err(Error::Setting { .. })));
        assert!(matches!(split(10, f64::NAN, 0.5), Err(Error::Setting { .. })));
        assert!(matches!(split(0, 0.0, 0.5), Err(Error::EmptySplit { part: "train", .. })));
        assert!(matches!(split(3, 0.01, 0.0), Err(Error::EmptySplit { part: "validation", .. })));
        assert!(split(2, 0.0, 0.5).is_ok());
        let wrong = random(3, Some(&[None]), Fractions { validation: 0.0, test: 0.4 }, 0);
        assert!(matches!(wrong, Err(Error::ColumnLength { .. })));
    }

    #[test]
    fn hold_out_takes_whole_groups() {
        let column: Vec<_> = (0..90).map(|row| ["a", "b", "c"].get(row % 4).map(|s| s.to_string())).collect();
        let split = hold_out_by(&column, &["b".to_owned()], None, 0.2, 3).unwrap();
        check_parts(&split, 90);
        assert!(split.test.iter().all(|&row| row % 4 == 1));
        assert_eq!(split.test.len(), 23);
        assert_eq!(split.validation.len(), 13);
        let missing = hold_out_by(&column, &["z".to_owned()], None, 0.2, 3).unwrap_err();
        assert!(missing.to_string().contains("value `z`;") && missing.to_string().contains("`a`, `b`, `c`"));
        let all: Vec<_> = vec![Some("a".to_owned()); 4];
        assert!(matches!(hold_out_by(&all, &["a".to_owned()], None, 0.0, 0), Err(Error::EmptySplit { .. })));
    }

    #[test]
    fn few_shot_lists_are_fixed_and_nested() {
        let labels: Vec<_> = (0..200).map(|row| (row % 5 != 4).then_some((row % 5) as u32)).collect();
        let train: Vec<usize> = (0..150).filter(|row| row % 5 != 3 || *row < 10).rev().collect();
        let few = few_shot(&train, &labels, 3, 7).unwrap();
        let of = |rows: &[usize], label| rows.iter().filter(|&&row| labels[row] == Some(label)).count();
        assert_eq!([0, 1, 2, 3].map(|label| of(&few, label)), [3, 3, 3, 2], "all two of the rare label");
        assert!(few.is_sorted() && few.iter().all(|row| train.contains(row)));
        let more = few_shot(&train, &labels, 8, 7).unwrap();
        assert!(few.iter().all(|row| more.contains(row)) && more.len() == 26);
        let without: Vec<usize> = train.iter().copied().filter(|row| labels[*row] != Some(0)).collect();
        let fewer = few_shot(&without, &labels, 3, 7).unwrap();
        assert!(fewer.iter().all(|row| few.contains(row)) && fewer.len() == 8, "other labels do not matter");
        assert_ne!(few, few_shot(&train, &labels, 3, 8).unwrap());
        assert!(matches!(few_shot(&train, &labels, 0, 7), Err(Error::Setting { .. })));
        assert!(matches!(few_shot(&[200], &labels, 1, 7), Err(Error::Row { row: 200, rows: 200 })));
        assert!(matches!(few_shot(&[4, 9], &labels, 1, 7), Err(Error::EmptySplit { .. })));
    }

    #[test]
    fn folds_partition_the_rows() {
        let labels: Vec<_> = (0..53).map(|row| Some((row / 26) as u32)).collect();
        let folds = k_folds(53, 5, Some(&labels), 9).unwrap();
        let mut tested: Vec<usize> = folds.iter().flat_map(|fold| fold.test.clone()).collect();
        tested.sort_unstable();
        assert_eq!(tested, (0..53).collect::<Vec<_>>());
        folds.iter().for_each(|fold| check_parts(fold, 53));
        assert!(k_folds(3, 4, None, 0).is_err() && k_folds(3, 1, None, 0).is_err());
    }
}
