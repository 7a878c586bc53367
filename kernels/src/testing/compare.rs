//! Comparison with a tolerance that means something.

/// Allowed error: `absolute + relative * |reference|`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Independent of the value.
    pub absolute: f64,
    /// Share of the reference's magnitude.
    pub relative: f64,
}

impl Tolerance {
    /// `absolute + relative * |reference|`.
    pub fn new(absolute: f64, relative: f64) -> Self {
        Tolerance { absolute, relative }
    }

    /// 1e-5 + 1e-5 |reference|: one f32 operation with room to spare.
    pub fn f32() -> Self {
        Tolerance::new(1e-5, 1e-5)
    }

    /// Rounding errors of a sum of `terms` numbers add up like a random walk.
    #[must_use]
    pub fn reduction(self, terms: usize) -> Self {
        self.scaled((terms as f64).sqrt().max(1.0))
    }

    /// Both parts times `factor`.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Tolerance::new(self.absolute * factor, self.relative * factor)
    }
}

/// Compares element by element; the message names the worst element. NaN in either side is a difference.
///
/// # Errors
/// What differs most, in words.
pub fn compare(what: &str, reference: &[f64], got: &[f64], tolerance: Tolerance) -> Result<(), String> {
    if reference.len() != got.len() {
        return Err(format!("{what}: expected {} elements, got {}", reference.len(), got.len()));
    }
    let excess = |(&expected, &found): (&f64, &f64)| {
        let same = expected == found;
        let error = if same { 0.0 } else { (expected - found).abs() };
        let allowed = tolerance.absolute + tolerance.relative * expected.abs();
        if error.is_nan() || expected.is_infinite() && !same { f64::INFINITY } else { error / allowed.max(f64::MIN_POSITIVE) }
    };
    let ratios = reference.iter().zip(got).map(excess);
    match ratios.enumerate().max_by(|left, right| left.1.total_cmp(&right.1)) {
        Some((index, ratio)) if ratio > 1.0 => Err(format!(
            "{what}: element {index} of {}: expected {:e}, got {:e}, {ratio:.1} times the tolerance {tolerance:?}",
            reference.len(),
            reference[index],
            got[index]
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_worst_and_nan() {
        let tolerance = Tolerance::new(0.1, 0.0);
        assert!(compare("x", &[1.0, 2.0, f64::NEG_INFINITY], &[1.05, 1.95, f64::NEG_INFINITY], tolerance).is_ok());
        let message = compare("x", &[1.0, 2.0, 3.0], &[1.2, 2.0, 3.5], tolerance).unwrap_err();
        assert!(message.contains("element 2"), "{message}");
        assert!(compare("x", &[1.0], &[f64::NAN], tolerance).is_err());
        assert!(compare("x", &[f64::NAN], &[f64::NAN], tolerance).is_err());
        assert!(compare("x", &[f64::INFINITY], &[1.0], tolerance).is_err());
    }
}
