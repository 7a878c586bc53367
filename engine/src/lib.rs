//! x
pub mod baseline;
pub mod metric;
