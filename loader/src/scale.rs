//! What kind of numbers a matrix holds: counts, log1p values, or something else.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The scale of a source's values, as far as the values tell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputScale {
    /// Whole numbers from 0: counts (also when stored as floats). A matrix without any value counts as this.
    Counts,
    /// For the most part not whole, at least 0 and at most [`MAX_LOGGED`]: `log1p` of normalised counts. That no value is
    /// below 1 is no sign against it: in a cell of fewer than 5,820 molecules one molecule is already
    /// `ln(1 + 10,000 / 5,820) = 1`.
    Log1p,
    /// Neither.
    Other {
        /// Why.
        reason: ScaleReason,
    },
}

/// Why values are neither counts nor log1p values.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleReason {
    /// Some value is negative: scaled, centred or corrected data.
    Negative {
        /// The least value.
        min: f32,
    },
    /// Some value is not finite.
    NotFinite,
    /// Not all whole, and too large for logarithms or whole for the most part: normalised but not logged
    /// (CPM), or fractional counts.
    Linear {
        /// The largest value.
        max: f32,
    },
    /// No value between 0 and 1: counts, by scGPT's test ([`ScaleDetector::check_logged`] only).
    NoSmallValue {
        /// The least value that is not 0.
        min: f32,
    },
}

impl fmt::Display for InputScale {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            InputScale::Counts => formatter.write_str("counts"),
            InputScale::Log1p => formatter.write_str("log1p values"),
            InputScale::Other { reason } => reason.fmt(formatter),
        }
    }
}

impl fmt::Display for ScaleReason {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ScaleReason::Negative { min } => {
                write!(formatter, "values below 0 (down to {min}): scaled or corrected data")
            }
            ScaleReason::NotFinite => formatter.write_str("values that are not finite"),
            ScaleReason::Linear { max } => write!(formatter, "fractions up to {max}: normalised but not logged, or fractional counts"),
            ScaleReason::NoSmallValue { min } => {
                write!(formatter, "no value between 0 and 1 (the least is {min}): not logged")
            }
        }
    }
}

/// Largest value that still passes for a logarithm.
///
/// # Source
/// scGPT `scgpt/preprocess.py`, `check_logged`.
pub const MAX_LOGGED: f32 = 30.0;

/// Gathers what is needed to tell the scale, block by block.
#[derive(Debug, Clone, PartialEq)]
pub struct ScaleDetector {
    min: f32,
    max: f32,
    min_non_zero: f32,
    /// Values that are not 0, and how many of them are whole.
    observed: usize,
    whole: usize,
    finite: bool,
}

impl Default for ScaleDetector {
    fn default() -> ScaleDetector {
        ScaleDetector { min: 0.0, max: 0.0, min_non_zero: f32::INFINITY, observed: 0, whole: 0, finite: true }
    }
}

impl ScaleDetector {
    /// Takes more values into account. Zeros that are not stored need not be given.
    pub fn observe(&mut self, values: &[f32]) {
        for &value in values {
            if !value.is_finite() {
                self.finite = false;
                continue;
            }
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            if value > 0.0 {
                self.min_non_zero = self.min_non_zero.min(value);
            }
            if value != 0.0 {
                self.observed += 1;
                self.whole += usize::from(value.fract() == 0.0);
            }
        }
    }

    /// The verdict over all values observed.
    pub fn scale(&self) -> InputScale {
        let reason = if !self.finite {
            ScaleReason::NotFinite
        } else if self.min < 0.0 {
            ScaleReason::Negative { min: self.min }
        } else if self.whole == self.observed {
            return InputScale::Counts;
        } else if self.max > MAX_LOGGED || 2 * self.whole >= self.observed {
            ScaleReason::Linear { max: self.max }
        } else {
            return InputScale::Log1p;
        };
        InputScale::Other { reason }
    }

    /// scGPT's test for logged data. It looks at the range only: at most 30, nothing negative, and the
    /// least non-zero value below 1 (which tells counts apart, but also takes log1p values of shallow cells
    /// for counts: [`scale`](Self::scale) does better).
    ///
    /// # Errors
    /// The reason why the values are not logged.
    ///
    /// # Source
    /// scGPT `scgpt/preprocess.py`, `check_logged`.
    pub fn check_logged(&self) -> Result<(), ScaleReason> {
        if !self.finite {
            Err(ScaleReason::NotFinite)
        } else if self.max > MAX_LOGGED {
            Err(ScaleReason::Linear { max: self.max })
        } else if self.min < 0.0 {
            Err(ScaleReason::Negative { min: self.min })
        } else if self.min_non_zero >= 1.0 {
            Err(ScaleReason::NoSmallValue { min: self.min_non_zero })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(values: &[f32]) -> InputScale {
        let mut detector = ScaleDetector::default();
        detector.observe(values);
        detector.scale()
    }

    #[test]
    fn verdicts_of_the_usual_matrices() {
        assert_eq!(scale(&[0.0, 1.0, 3.0, 700.0]), InputScale::Counts);
        assert_eq!(scale(&[1.0, 2.0]), InputScale::Counts, "float counts without zeros");
        assert_eq!(scale(&[]), InputScale::Counts);
        assert_eq!(scale(&[0.0, 0.69, 3.2]), InputScale::Log1p, "log1p of 1e4 or of the median");
        let other = |reason| InputScale::Other { reason };
        assert_eq!(scale(&[-0.4, 0.1]), other(ScaleReason::Negative { min: -0.4 }));
        assert_eq!(scale(&[0.5, 812.7]), other(ScaleReason::Linear { max: 812.7 }), "CPM");
        assert_eq!(scale(&[1.5, 4.2]), InputScale::Log1p, "log1p of 1e4 in shallow cells");
        assert_eq!(scale(&[1.0, 2.0, 1.5, 4.0]), other(ScaleReason::Linear { max: 4.0 }), "expected counts");
        assert_eq!(scale(&[f32::NAN, 1.0]), other(ScaleReason::NotFinite));
    }

    #[test]
    fn check_logged_follows_scgpt() {
        let check = |values: &[f32]| {
            let mut detector = ScaleDetector::default();
            detector.observe(values);
            detector.check_logged()
        };
        assert_eq!(check(&[0.0, 0.5, 29.9]), Ok(()));
        assert_eq!(check(&[0.5, 30.5]), Err(ScaleReason::Linear { max: 30.5 }));
        assert_eq!(check(&[-1.0, 0.5]), Err(ScaleReason::Negative { min: -1.0 }));
        assert_eq!(check(&[0.0, 1.0, 2.0]), Err(ScaleReason::NoSmallValue { min: 1.0 }));
    }
}
