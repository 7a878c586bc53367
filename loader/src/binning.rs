//! Expression as rank bins within a cell, bit for bit as scGPT computes them with numpy.
//!
//! The values that are not zero are cut at `n_bins - 1` quantiles, edge `i` at the share
//! `i / (n_bins - 2)`. A value strictly between two edges has one bin; a value that equals several edges
//! (a frequent count) is spread over their bins at random:
//!
//! ```text
//! left  = number of edges <= value          right = number of edges < value
//! bin   = ceil(U * (right - left) + left)   U uniform in [0, 1)
//! ```
//!
//! Bins are 1..n_bins-1; zeros are bin 0.
//!
//! # Source
//! scGPT `scgpt/preprocess.py`, `binning` and `_digitize`; numpy `quantile` (method `linear`), `_lerp`.

/// scGPT's number of bins, bin 0 included.
pub const DEFAULT_BINS: usize = 51;

/// The `n_bins - 1` edges: `numpy.quantile(values, numpy.linspace(0, 1, n_bins - 1))` of `f32` values.
///
/// numpy subtracts neighbouring values in `f32` and interpolates in `f64`; so do we. `n_bins` is at least
/// 3 (two edges: the least and the largest value). Empty for no values.
pub fn edges(values: &[f32], n_bins: usize) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return Vec::new();
    };
    let steps = n_bins.saturating_sub(2).max(1);
    let edge = |step: usize| {
        // numpy.linspace multiplies by the step and sets the end exactly.
        let share = if step == steps { 1.0 } else { step as f64 * (1.0 / steps as f64) };
        let place = last as f64 * share;
        let previous = (place.floor() as usize).min(last);
        let next = (previous + 1).min(last);
        let (a, b, t) = (sorted[previous], sorted[next], place - previous as f64);
        let difference = f64::from(b - a);
        if t >= 0.5 { f64::from(b) - difference * (1.0 - t) } else { f64::from(a) + difference * t }
    };
    (0..=steps).map(edge).collect()
}

/// Replaces each value by its bin: 0 stays 0, every other value becomes one of `1..=n_bins - 1`.
///
/// `uniforms` gives U in `[0, 1)`, called once for each value that is not zero, in order.
pub fn bin(values: &mut [f32], n_bins: usize, mut uniforms: impl FnMut() -> f64) {
    let non_zero: Vec<f32> = values.iter().copied().filter(|&value| value != 0.0).collect();
    let edges = edges(&non_zero, n_bins);
    for value in values.iter_mut().filter(|value| **value != 0.0) {
        let exact = f64::from(*value);
        let left = edges.partition_point(|&edge| edge <= exact) as f64;
        let right = edges.partition_point(|&edge| edge < exact) as f64;
        *value = (uniforms() * (right - left) + left).ceil() as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_stay_and_the_rest_is_in_range() {
        let mut values = [0.0, 3.0, 1.0, 0.0, 2.0];
        bin(&mut values, 51, || 0.5);
        assert_eq!(values[0], 0.0);
        assert_eq!((values[1], values[2]), (50.0, 1.0), "largest and least");
        assert!((2.0..50.0).contains(&values[4]));
    }

    #[test]
    fn equal_values_spread_over_all_bins() {
        for (uniform, expected) in [(0.0, 50.0), (0.5, 25.0), (0.999_999, 1.0)] {
            let mut values = [1.0, 1.0];
            bin(&mut values, 51, || uniform);
            assert_eq!(values, [expected, expected]);
        }
        let mut one = [4.0];
        bin(&mut one, 51, || 0.3);
        assert_eq!(one, [35.0]);
    }

    #[test]
    fn nothing_to_bin() {
        bin(&mut [], 51, || 0.5);
        let mut zeros = [0.0; 3];
        bin(&mut zeros, 51, || 0.5);
        assert_eq!(zeros, [0.0; 3]);
    }
}
