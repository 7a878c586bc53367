//! What can be wrong with the input of a metric or a baseline.

/// `Result` with [`MetricError`].
pub type Result<T> = std::result::Result<T, MetricError>;

/// Input that a metric or a baseline refuses. Nothing here depends on the values that were scored.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetricError {
    /// Two inputs that go together differ in length.
    #[error("{what}: expected {expected} entries, got {got}")]
    LengthMismatch {
        /// The input of the wrong length.
        what: &'static str,
        /// The length that the other input asks for.
        expected: usize,
        /// The length found.
        got: usize,
    },
    /// An input that needs at least one entry has none.
    #[error("{what}: expected at least one entry, got none")]
    Empty {
        /// The empty input.
        what: &'static str,
    },
    /// An index at or beyond the end of what it points into.
    #[error("{what}: entry {position} is {index}, expected less than {limit}")]
    OutOfRange {
        /// The input that holds the index.
        what: &'static str,
        /// Where in that input.
        position: usize,
        /// The index found.
        index: usize,
        /// The first index that does not exist.
        limit: usize,
    },
    /// A value that is not finite, or a confidence outside 0 to 1.
    #[error("{what}: entry {position} is {value}, expected {expected}")]
    BadValue {
        /// The input that holds the value.
        what: &'static str,
        /// Where in that input.
        position: usize,
        /// The value found.
        value: f32,
        /// The values allowed, in words.
        expected: &'static str,
    },
    /// A query to which no candidate is relevant has no rank.
    #[error("query {query} has no relevant candidate; leave it out, or add one")]
    NoRelevant {
        /// The query.
        query: usize,
    },
    /// A sparse row names the same column twice.
    #[error("sparse row {row} names column {column} twice; sum duplicates before")]
    DuplicateColumn {
        /// The row.
        row: usize,
        /// The column.
        column: u32,
    },
    /// Sparse row pointers that decrease.
    #[error("sparse row {row} ends before it begins")]
    RowPointers {
        /// The first such row.
        row: usize,
    },
    /// A setting outside its domain.
    #[error("{option}: expected {expected}, got {got}")]
    Option {
        /// The setting.
        option: &'static str,
        /// The values allowed, in words.
        expected: &'static str,
        /// The value found.
        got: f64,
    },
}

/// `LengthMismatch` unless `got == expected`.
pub(crate) fn same_length(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(MetricError::LengthMismatch { what, expected, got }) }
}

/// `OutOfRange` for the first of `indices` that is not below `limit`.
pub(crate) fn in_range(what: &'static str, indices: impl IntoIterator<Item = usize>, limit: usize) -> Result<()> {
    match indices.into_iter().enumerate().find(|&(_, index)| index >= limit) {
        None => Ok(()),
        Some((position, index)) => Err(MetricError::OutOfRange { what, position, index, limit }),
    }
}
