//! Scores of predictions, one file a family.
//!
//! [`classification`] holds what is printed for cell annotation: accuracy, macro-F1 and their relatives, and the table that puts a model
//! beside its baselines. [`retrieval`] scores rankings: recall at k, mean reciprocal rank, median rank, beside their values at chance.
//! [`text`] compares descriptions with references, [`generation`] generated cells with real ones, both in a [`ScoreTable`] that says what
//! each number is. Every score has a bootstrap interval.

pub(crate) mod bootstrap;
pub mod classification;
mod distance;
pub mod error;
pub mod generation;
pub mod retrieval;
mod scores;
pub mod text;

pub use bootstrap::{Estimate, RESAMPLES};
pub use classification::{ClassScores, ClassificationReport, ComparisonTable, Confusion, Difference, compare};
pub use error::{MetricError, Result};
pub use retrieval::RetrievalReport;
pub use scores::{Score, ScoreTable};
