//! Aligned text tables, and the one that puts a model beside its baselines.

use std::fmt;

use super::report::ClassificationReport;

/// Models and baselines scored on the same samples, in the order they are to be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComparisonTable {
    /// (name, report) of each line.
    pub rows: Vec<(String, ClassificationReport)>,
}

impl ComparisonTable {
    /// A table with no lines yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line below the others.
    #[must_use]
    pub fn row(mut self, name: impl Into<String>, report: ClassificationReport) -> Self {
        self.rows.push((name.into(), report));
        self
    }
}

impl fmt::Display for ComparisonTable {
    /// One line a model: accuracy and macro-F1 with intervals, balanced accuracy, Matthews, coverage.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![["", "accuracy", "macro-F1", "balanced", "MCC", "coverage"].map(str::to_owned).to_vec()];
        for (name, report) in &self.rows {
            let mut row = vec![name.clone(), report.accuracy.to_string(), report.macro_f1.to_string()];
            let plain = [report.balanced_accuracy.value, report.matthews.value, report.coverage];
            row.extend(plain.map(|score| format!("{score:.3}")));
            rows.push(row);
        }
        let (left, right) = (Align::Left, Align::Right);
        columns(f, &[left, left, left, right, right, right], &rows)?;
        match self.rows.first() {
            None => Ok(()),
            Some((_, first)) => {
                writeln!(f, "{} cells; [..] 95 % interval over {} bootstrap resamples of the cells", first.n, first.resamples)
            }
        }
    }
}

/// Side of a column on which its entries line up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::metric) enum Align {
    Left,
    Right,
}

/// Writes rows of cells, each column as wide as its widest entry, two spaces apart. Width is counted in
/// characters, which is right for Latin and Greek names.
pub(in crate::metric) fn columns(f: &mut fmt::Formatter<'_>, align: &[Align], rows: &[Vec<String>]) -> fmt::Result {
    let length = |cell: &String| cell.chars().count();
    let width = |at| rows.iter().filter_map(|row| row.get(at)).map(length).max().unwrap_or(0);
    let widths: Vec<usize> = (0..align.len()).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for ((cell, &width), align) in row.iter().zip(&widths).zip(align) {
            let cell = match align {
                Align::Left => format!("{cell:<width$}  "),
                Align::Right => format!("{cell:>width$}  "),
            };
            line.push_str(&cell);
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_up() {
        let classes = ["a", "b"].map(str::to_owned);
        let report = |predicted: [Option<u32>; 2]| ClassificationReport::new(&[0, 1], &predicted, None, &classes, 3).unwrap();
        let table = ComparisonTable::new().row("scMMGPT", report([Some(0), Some(1)])).row("majority", report([Some(0), Some(0)]));
        let shown = table.to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "          accuracy              macro-F1              balanced    MCC  coverage");
        assert!(lines[1].starts_with("scMMGPT   1.000 [1.000, 1.000]  1.000 ["), "{shown}");
        assert!(lines[2].ends_with("     0.500  0.000     1.000"), "{shown}");
        assert!(lines[3].starts_with("2 cells; "), "{shown}");
    }
}
