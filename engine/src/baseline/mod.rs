//! Classical baselines.
