//! Scores of single-label classification, defined as scikit-learn defines them.
//!
//! A prediction may be `None`, "unknown": the model declined to answer. An unknown is wrong wherever all
//! samples count (accuracy, recall, macro-F1), but it is no class: it has no row in the per-class table and
//! adds no term to the macro mean. In scikit-learn's words: predictions carry the extra label -1, and
//! `labels=` lists every label except -1.

mod calibration;
mod confusion;
mod intervals;
mod report;
mod scores;
mod table;

pub use calibration::{CALIBRATION_BINS, expected_calibration_error};
pub use confusion::Confusion;
pub use intervals::{Difference, compare};
pub use report::ClassificationReport;
pub use scores::ClassScores;
pub use table::ComparisonTable;
pub(super) use table::{Align, columns};
