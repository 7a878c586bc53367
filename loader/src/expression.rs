//! One cell's values on their way to the model: normalise, log, pick the highest.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::scale::{InputScale, ScaleReason};

/// Largest raw count given to the model: scGPT's value encoder clamps there.
pub const MAX_RAW_VALUE: f32 = 512.0;

/// Which numbers the model sees.
///
/// # Source
/// scGPT `input_style`; MODEL.md §8 row 7.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ValueMode {
    /// Counts, at most [`MAX_RAW_VALUE`].
    Raw,
    /// `ln(1 + count * target_sum / total)`.
    Log1p,
    /// Rank bins 1..n_bins-1 of the cell's expressed genes (see [`crate::binning`]); 0 for the others.
    #[default]
    Binned,
}

impl fmt::Display for ValueMode {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            ValueMode::Raw => "raw",
            ValueMode::Log1p => "log1p",
            ValueMode::Binned => "binned",
        })
    }
}

impl ValueMode {
    /// Whether this mode can be computed from values of a scale.
    ///
    /// | | counts | log1p values | fractions, not logged | other |
    /// |---|---|---|---|---|
    /// | `Raw` | yes | no | no | no |
    /// | `Log1p` | yes | yes, as they are | yes, normalised again | no |
    /// | `Binned` | yes | yes (ranks are the same) | yes (ranks are the same) | no |
    pub fn accepts(self, scale: InputScale) -> bool {
        match scale {
            InputScale::Counts => true,
            InputScale::Log1p | InputScale::Other { reason: ScaleReason::Linear { .. } } => self != ValueMode::Raw,
            InputScale::Other { .. } => false,
        }
    }
}

/// Scales a cell's counts to a common total: `values * target_sum / total`; unchanged for a total of 0.
///
/// `total` is the cell's sum over **all** genes of its file, so that the result does not depend on how
/// many of them the vocabulary knows. Computed in `f64`, rounded once.
///
/// # Source
/// scanpy `pp.normalize_total(target_sum)`.
pub fn normalize_total(values: &mut [f32], total: f64, target_sum: f64) {
    if total > 0.0 {
        let factor = target_sum / total;
        values.iter_mut().for_each(|value| *value = (f64::from(*value) * factor) as f32);
    }
}

/// `ln(1 + value)` of each value.
pub fn log1p(values: &mut [f32]) {
    values.iter_mut().for_each(|value| *value = f64::from(*value).ln_1p() as f32);
}

/// Positions of the `k` largest values, ascending. Of equal values the earlier one is taken, so with
/// values in order of their genes the result does not depend on how a file stored them.
pub fn top_k_by_value(values: &[f32], k: usize) -> Vec<usize> {
    let mut positions: Vec<usize> = (0..values.len()).collect();
    if k < values.len() {
        if k > 0 {
            let order = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
            positions.select_nth_unstable_by(k - 1, order);
        }
        positions.truncate(k);
        positions.sort_unstable();
    }
    positions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_to_hand_values() {
        let mut values = [1.0, 3.0];
        normalize_total(&mut values, 8.0, 10_000.0);
        assert_eq!(values, [1250.0, 3750.0], "the total covers genes that are not listed");
        log1p(&mut values);
        assert_eq!(values, [7.131_698_6, 8.229_777]);
        let mut empty = [0.0];
        normalize_total(&mut empty, 0.0, 10_000.0);
        assert_eq!(empty, [0.0]);
    }

    #[test]
    fn top_k_breaks_ties_by_position() {
        let values = [2.0, 5.0, 2.0, 7.0, 2.0];
        assert_eq!(top_k_by_value(&values, 3), [0, 1, 3]);
        assert_eq!(top_k_by_value(&values, 4), [0, 1, 2, 3]);
        assert_eq!(top_k_by_value(&values, 9), [0, 1, 2, 3, 4]);
        assert_eq!(top_k_by_value(&values, 0), [0usize; 0]);
        assert_eq!(top_k_by_value(&[], 2), [0usize; 0]);
    }

    #[test]
    fn modes_refuse_what_they_can_not_use() {
        let linear = InputScale::Other { reason: ScaleReason::Linear { max: 99.5 } };
        let scaled = InputScale::Other { reason: ScaleReason::Negative { min: -1.0 } };
        assert!(ValueMode::Raw.accepts(InputScale::Counts));
        assert!(!ValueMode::Raw.accepts(InputScale::Log1p) && !ValueMode::Raw.accepts(linear));
        assert!(ValueMode::Log1p.accepts(InputScale::Log1p) && ValueMode::Log1p.accepts(linear));
        assert!(ValueMode::Binned.accepts(linear) && !ValueMode::Binned.accepts(scaled));
        assert_eq!(serde_json::to_string(&ValueMode::Log1p).unwrap(), r#""log1p""#);
    }
}
