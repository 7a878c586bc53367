//! Scores of predictions, one file a family.
//!
//! [`classification`] holds what is printed for cell annotation: accuracy, macro-F1 and their relatives, and the table that puts a model
//! beside its baselines. [`retrieval`] scores rankings: recall at k, mean reciprocal rank, median rank, beside their values at chance.
//! Every score has a bootstrap interval.

pub(crate) mod bootstrap;
pub mod classification;
pub mod error;
pub mod retrieval;

pub use bootstrap::{Estimate, RESAMPLES};
pub use classification::{ClassScores, ClassificationReport, ComparisonTable, Confusion, Difference, compare};
pub use error::{MetricError, Result};
pub use retrieval::RetrievalReport;
