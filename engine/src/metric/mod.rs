//! Scores of predictions, one file a family.
//!
//! [`classification`] holds what is printed for cell annotation: accuracy, macro-F1 and their relatives,
//! each with a bootstrap interval, and the table that puts a model beside its baselines.

pub mod classification;
pub mod error;

pub use classification::{ClassScores, ClassificationReport, ComparisonTable, Confusion, Difference, Estimate, compare};
pub use error::{MetricError, Result};
