//! Does a confidence of 0.8 mean right four times in five?

use crate::metric::error::{MetricError, Result, same_length};

/// Number of equal bins over 0 to 1.
pub const CALIBRATION_BINS: usize = 15;

/// Expected calibration error: `sum_b |B_b| / n * |accuracy(B_b) - mean confidence(B_b)|` over
/// [`CALIBRATION_BINS`] equal bins `(lower, upper]`; a confidence of 0 falls into the first.
///
/// Unknown samples make no claim and are left out, their confidence too; `None` if no sample remains.
///
/// # Shapes
/// `truth`, `predicted`, `confidence`: `[samples]`; `confidence` of the predicted class, 0 to 1.
/// # Errors
/// `LengthMismatch`; `BadValue` for a confidence of an answered sample outside 0 to 1, or NaN.
/// # Source
/// Guo et al. 2017, eq. 3.
pub fn expected_calibration_error(truth: &[u32], predicted: &[Option<u32>], confidence: &[f32]) -> Result<Option<f64>> {
    same_length("predicted", truth.len(), predicted.len())?;
    same_length("confidence", truth.len(), confidence.len())?;
    let mut gap = [0.0_f64; CALIBRATION_BINS]; // sum over the bin of (correct - confidence)
    let mut answered = 0_u64;
    for (position, ((&truth, &class), &value)) in truth.iter().zip(predicted).zip(confidence).enumerate() {
        let Some(class) = class else { continue };
        if !(0.0..=1.0).contains(&value) {
            return Err(MetricError::BadValue { what: "confidence", position, value, expected: "0 to 1" });
        }
        let bin = (f64::from(value) * CALIBRATION_BINS as f64).ceil() as usize;
        gap[bin.saturating_sub(1).min(CALIBRATION_BINS - 1)] += f64::from(class == truth) - f64::from(value);
        answered += 1;
    }
    Ok((answered > 0).then(|| gap.iter().map(|gap| gap.abs()).sum::<f64>() / answered as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Bin 12, (0.7333, 0.8]: one right, one wrong at 0.75; bin 15: right at 1.0; bin 1: wrong at 0.
        let truth = [0, 0, 1, 1, 0];
        let predicted = [Some(0), Some(1), Some(1), Some(0), None];
        let error = expected_calibration_error(&truth, &predicted, &[0.75, 0.75, 1.0, 0.0, f32::NAN]).unwrap();
        assert_eq!(error, Some((0.25_f64 - 0.75).abs() / 4.0));
        assert_eq!(expected_calibration_error(&[0], &[None], &[0.5]).unwrap(), None);
        assert!(expected_calibration_error(&[0], &[Some(0)], &[1.5]).is_err());
        assert!(expected_calibration_error(&[0], &[Some(0)], &[f32::NAN]).is_err());
    }
}
