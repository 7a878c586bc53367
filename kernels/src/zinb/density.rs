//! Logarithm of the distribution at one entry, and its derivatives.

use super::gamma::{HALF_LN_TAU, residual, slope};
use super::{LARGEST_LOG_MEAN, LARGEST_LOG_THETA};
use crate::runtime::Real;

/// Parameters of one entry, in the forms that keep their digits.
#[derive(Clone, Copy)]
pub(super) struct Entry<A> {
    /// `ln mu`.
    m: A,
    zero_logit: A,
    log_theta: A,
    mu: A,
    theta: A,
    y: A,
}

impl<A: Real> Entry<A> {
    pub(super) fn new(m: A, zero_logit: A, log_theta: A, y: A) -> Self {
        let limit = A::of(LARGEST_LOG_MEAN);
        // NaN must come through, which `min` and `max` would swallow.
        let clamp = |value: A, low: A, high: A| {
            if value > high {
                high
            } else if value < low {
                low
            } else {
                value
            }
        };
        let log_theta = clamp(log_theta, A::NEG_INFINITY, A::of(LARGEST_LOG_THETA));
        Entry { m, zero_logit, log_theta, mu: clamp(m, -limit, limit).exp(), theta: log_theta.exp(), y }
    }

    /// `-ln P(y)`.
    pub(super) fn loss(self) -> A {
        let z = self.zero_logit;
        if self.y == A::ZERO {
            // ln(1 + e^z) - ln(e^NB + e^z), with the larger parts taken out of both.
            let none = self.none();
            let larger = if none > z { none } else { z };
            return positive(z) - larger + log1p_exp(-z.abs()) - log1p_exp(-(z - none).abs());
        }
        positive(z) + log1p_exp(-z.abs()) - self.some()
    }

    /// Derivatives of `ln P(y)` by `log_mean`, `zero_logit` and `log_theta`.
    pub(super) fn derivatives(self) -> [A; 3] {
        let Entry { m, zero_logit, log_theta, mu, theta, y } = self;
        let inflated = sigmoid(zero_logit);
        if y == A::ZERO {
            let (none, share) = (self.none(), sigmoid(m - log_theta));
            let counted = sigmoid(none - zero_logit);
            let inflation = sigmoid(zero_logit - none) - inflated;
            return [-counted * theta * share, inflation, counted * (none + theta * share)];
        }
        let sum = theta + y;
        let gammas = theta / sum * slope(sum, sum.ln()) - slope(theta, log_theta);
        let dlog_mean = theta / (theta + mu) * (y - mu);
        [dlog_mean, -inflated, gammas - dlog_mean - theta * self.log_ratio()]
    }

    /// `ln NB(0)`.
    fn none(self) -> A {
        let apart = self.m - self.log_theta;
        -self.theta * (positive(apart) + log1p_exp(-apart.abs()))
    }

    /// `ln NB(y)` for y > 0.
    fn some(self) -> A {
        let Entry { log_theta, theta, y, .. } = self;
        let sum = theta + y;
        let gammas = residual(sum, sum.ln()) - residual(theta, log_theta) - residual(y, y.ln()) - y.ln() - A::of(HALF_LN_TAU);
        gammas - theta * self.log_ratio() + y * self.log_shares()
    }

    /// `ln(mu / (theta + mu)) - ln(y / (theta + y))`.
    fn log_shares(self) -> A {
        let Entry { m, log_theta, mu, theta, y, .. } = self;
        let off = theta / (theta + mu) * (mu - y) / y;
        if off.abs() < A::of(0.5) {
            return off.ln_1p();
        }
        let apart = log_theta - m;
        ((theta + y) / y).ln() - positive(apart) - log1p_exp(-apart.abs())
    }

    /// `ln((theta + mu) / (theta + y))`.
    fn log_ratio(self) -> A {
        let Entry { m, mu, theta, y, .. } = self;
        let limit = A::of(LARGEST_LOG_MEAN);
        let beyond = if m > limit { m - limit } else { A::ZERO };
        let off = (mu - y) / (theta + y);
        beyond + if off.abs() < A::of(0.5) { off.ln_1p() } else { ((theta + mu) / (theta + y)).ln() }
    }
}

/// The larger of x and 0; NaN stays.
fn positive<A: Real>(x: A) -> A {
    if x < A::ZERO { A::ZERO } else { x }
}

/// `ln(1 + e^x)` for x <= 0.
fn log1p_exp<A: Real>(x: A) -> A {
    x.exp().ln_1p()
}

fn sigmoid<A: Real>(x: A) -> A {
    A::ONE / (A::ONE + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// y, mu, theta, zero logit, and -ln P of scipy 1.17.1 (`nbinom.logpmf` with n = theta, p = theta / (theta + mu)).
    const KNOWN: [([f64; 4], f64); 7] = [
        ([0.0, 1.5, 2.0, -1.0], 0.6779543254129106),
        ([3.0, 2.5, 0.7, 0.5], 3.4030896346901067),
        ([40.0, 33.0, 12.0, -2.0], 3.8075501991182876),
        ([1.0, 0.01, 0.05, 2.0], 6.923535831664715),
        ([0.0, 0.2, 1e5, -6.0], 0.19945250480246862),
        ([900.0, 870.0, 4.0, -3.0], 7.102096154072901),
        ([2.0, 1e-6, 3.0, 0.0], 28.729635071116995),
    ];

    fn loss<A: Real>(m: f64, zero_logit: f64, log_theta: f64, y: f64) -> f64 {
        Entry::new(A::of(m), A::of(zero_logit), A::of(log_theta), A::of(y)).loss().f64()
    }

    #[test]
    fn values_are_those_of_scipy() {
        for ([y, mu, theta, zero_logit], expected) in KNOWN {
            let wide = loss::<f64>(mu.ln(), zero_logit, theta.ln(), y);
            assert!((wide - expected).abs() < 1e-10 * expected, "{y} {mu} {theta}: {wide} {expected}");
            let narrow = loss::<f32>(mu.ln(), zero_logit, theta.ln(), y);
            assert!((narrow - expected).abs() < 1e-5 * expected.max(1.0), "{y} {mu} {theta}: {narrow} {expected}");
        }
    }

    #[test]
    fn probabilities_sum_to_one() {
        for [m, zero_logit, log_theta] in [[0.5, -1.0, 0.3], [2.0, 0.7, -1.0], [1.0, -3.0, 9.0], [-2.0, -0.2, 2.0]] {
            let sum: f64 = (0..3000).map(|y| (-loss::<f64>(m, zero_logit, log_theta, f64::from(y))).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-9, "{m} {zero_logit} {log_theta}: {sum}");
        }
    }

    /// f32 beside f64 where a plain formula overflows, underflows or cancels.
    #[test]
    fn extremes_keep_their_digits() {
        for m in [-120.0, -20.0, 0.0, 7.0, 95.0] {
            for log_theta in [-60.0, -30.0, -3.0, 2.0, 12.0, 39.0, 60.0] {
                for y in [0.0, 1.0, 7.0, 1100.0, 20_000.0] {
                    for z in [-90.0, 0.0, 90.0] {
                        let (wide, narrow) = (loss::<f64>(m, z, log_theta, y), loss::<f32>(m, z, log_theta, y));
                        let close = (wide - narrow).abs() <= 3e-5 * wide.abs().max(1.0);
                        assert!(wide.is_finite() && close, "m {m}, log_theta {log_theta}, y {y}, z {z}: {wide} {narrow}");
                        let all = |[m, z, t, y]: [f64; 4]| Entry::<f64>::new(m, z, t, y).derivatives();
                        let exact = all([m, z, log_theta, y]);
                        let ours = Entry::<f32>::new(m as f32, z as f32, log_theta as f32, y as f32).derivatives();
                        // They are differences of what has this size.
                        let size = y.max(m.exp().min(log_theta.exp())).max(1.0);
                        for (exact, ours) in exact.iter().zip(ours) {
                            let close = (exact - f64::from(ours)).abs() <= 1e-5 * size;
                            assert!(exact.is_finite() && close, "m {m}, log_theta {log_theta}, y {y}, z {z}: {exact} {ours}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_count_is_not_a_number() {
        assert!(loss::<f32>(0.0, 0.0, 0.0, -1.0).is_nan());
        for at in 0..4 {
            let mut values = [0.3, -0.5, 0.1, 2.0];
            values[at] = f64::NAN;
            let [m, z, t, y] = values;
            assert!(loss::<f32>(m, z, t, y).is_nan(), "{at}");
        }
    }
}
