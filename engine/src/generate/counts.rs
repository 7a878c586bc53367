//! Counts drawn from the zero-inflated negative binomial of [`scmmgpt_kernels::zinb`].

use scmmgpt_kernels::runtime::philox::Site;
use scmmgpt_kernels::zinb::gamma::{HALF_LN_TAU, residual};

use crate::model::cell_language;

/// The numbers of a sequence of tokens end here, those of counts begin.
const FIRST_BLOCK: u64 = 1 << 63;

/// Distribution of one gene's count in one cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CountDistribution {
    /// ln of the mean of the negative binomial part, size of the cell included.
    pub log_mean: f32,
    /// Logit of the probability of a zero that is no count.
    pub zero_logit: f32,
    /// ln of the inverse dispersion.
    pub log_theta: f32,
}

impl CountDistribution {
    /// Gene number `at` of what the decoder says, in a cell of ln size `log_size`.
    pub fn of(said: &cell_language::CountDistribution, at: usize, log_size: f32) -> Self {
        let log_mean = said.log_mean[at] + log_size;
        CountDistribution { log_mean, zero_logit: said.zero_logit[at], log_theta: said.log_theta[at] }
    }

    /// `(1 - pi) mu`.
    pub fn mean(&self) -> f64 {
        f64::from(self.log_mean).exp() * sigmoid(-f64::from(self.zero_logit))
    }

    /// Probability of 0: `pi + (1 - pi) (theta / (theta + mu))^theta`.
    pub fn zero_share(&self) -> f64 {
        let (mu, theta) = (f64::from(self.log_mean).exp(), f64::from(self.log_theta).exp());
        let inflated = sigmoid(f64::from(self.zero_logit));
        inflated + (1.0 - inflated) * (-theta * (mu / theta).ln_1p()).exp()
    }

    /// A count, by (seed, cell, gene) alone: a Poisson number whose rate is gamma distributed, or 0.
    pub fn sample(&self, seed: u64, cell: u64, gene: u32) -> u32 {
        let mut draws = Draws { site: Site { seed, step: cell, site: gene }, block: FIRST_BLOCK, left: [0; 4], count: 0 };
        if draws.uniform() < sigmoid(f64::from(self.zero_logit)) {
            return 0;
        }
        let (log_mean, log_theta) = (f64::from(self.log_mean), f64::from(self.log_theta).min(40.0));
        let log_rate = draws.log_gamma(log_theta.exp(), log_theta) + log_mean - log_theta;
        draws.poisson(log_rate.exp())
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Numbers of one count, in order.
struct Draws {
    site: Site,
    block: u64,
    left: [u32; 4],
    count: usize,
}

impl Draws {
    fn word(&mut self) -> u32 {
        if self.count == 0 {
            self.left = self.site.words(self.block);
            self.block += 1;
            self.count = 4;
        }
        self.count -= 1;
        self.left[self.count]
    }

    /// In (0, 1), with 53 bits.
    fn uniform(&mut self) -> f64 {
        let bits = (u64::from(self.word()) << 21) ^ u64::from(self.word() >> 11);
        (bits as f64 + 0.5) / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// ln of a gamma distributed number of this shape and scale 1, given the shape's logarithm too.
    ///
    /// # Source
    /// Marsaglia & Tsang 2000; of a shape below 1 one more, times a power of a uniform number.
    fn log_gamma(&mut self, shape: f64, log_shape: f64) -> f64 {
        if shape < 1.0 {
            let power = self.uniform().ln() * (-log_shape).exp();
            return self.log_gamma(shape + 1.0, (shape + 1.0).ln()) + power;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let root = 1.0 + c * x;
            if root > 0.0 {
                let v = root * root * root;
                if self.uniform().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                    return d.ln() + v.ln();
                }
            }
        }
    }

    /// # Source
    /// Below 10 by multiplication (Knuth 1969); above, Hoermann 1993, "The transformed rejection method for generating Poisson random
    /// variables", algorithm PTRS. Rates that u32 cannot count give its largest number.
    fn poisson(&mut self, rate: f64) -> u32 {
        if rate.is_nan() || rate > 4e9 {
            return u32::MAX;
        }
        if rate < 10.0 {
            let (limit, mut product, mut count) = ((-rate).exp(), self.uniform(), 0);
            while product > limit {
                product *= self.uniform();
                count += 1;
            }
            return count;
        }
        let b = 0.931 + 2.53 * rate.sqrt();
        let a = -0.059 + 0.024_83 * b;
        let inverse = 1.1239 + 1.1328 / (b - 3.4);
        let accept = 0.9277 - 3.6224 / (b - 2.0);
        loop {
            let (u, v) = (self.uniform() - 0.5, self.uniform());
            let reach = 0.5 - u.abs();
            let k = ((2.0 * a / reach + b) * u + rate + 0.43).floor();
            if reach >= 0.07 && v <= accept {
                return k as u32;
            }
            if k < 0.0 || (reach < 0.013 && v > reach) {
                continue;
            }
            let next = k + 1.0;
            let factorial = residual(next, next.ln()) + next * next.ln() - next + HALF_LN_TAU;
            if (v * inverse / (a / (reach * reach) + b)).ln() <= k * rate.ln() - rate - factorial {
                return k as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean, share of zeros and variance of many draws, within five standard errors.
    #[test]
    fn counts_have_the_distribution_that_was_asked_for() {
        const CELLS: u64 = 40_000;
        for [mu, theta, zero_logit] in
            [[0.3, 0.2, -2.0f64], [4.0, 1.5, -0.5], [35.0, 8.0, -4.0], [2.0, 1e6, 0.8], [300.0, 0.7, -1.0], [6.0, 1e-2, -9.0]]
        {
            let distribution =
                CountDistribution { log_mean: f64::ln(mu) as f32, zero_logit: zero_logit as f32, log_theta: f64::ln(theta) as f32 };
            let counts: Vec<f64> = (0..CELLS).map(|cell| f64::from(distribution.sample(5, cell, 3))).collect();
            let n = CELLS as f64;
            let mean = counts.iter().sum::<f64>() / n;
            let zeros = counts.iter().filter(|count| **count == 0.0).count() as f64 / n;
            let spread = counts.iter().map(|count| (count - mean) * (count - mean)).sum::<f64>() / n;
            let inflated = sigmoid(zero_logit);
            let variance = (1.0 - inflated) * (mu + mu * mu / theta + inflated * mu * mu);
            assert!((mean - distribution.mean()).abs() < 5.0 * (variance / n).sqrt(), "{mu} {theta} {zero_logit}: mean {mean}");
            let share = distribution.zero_share();
            assert!((zeros - share).abs() < 5.0 * (share * (1.0 - share) / n).sqrt(), "{mu} {theta} {zero_logit}: zeros {zeros} {share}");
            let fourth = counts.iter().map(|count| (count - mean).powi(4)).sum::<f64>() / n;
            assert!(
                (spread - variance).abs() < 5.0 * ((fourth - spread * spread) / n).sqrt(),
                "{mu} {theta}: variance {spread} {variance}"
            );
        }
    }

    #[test]
    fn counts_depend_on_seed_cell_and_gene_alone() {
        let distribution = CountDistribution { log_mean: 4.0, zero_logit: -5.0, log_theta: 1.0 };
        let counts = |seed, gene| (0..50).map(|cell| distribution.sample(seed, cell, gene)).collect::<Vec<_>>();
        assert_eq!(counts(1, 2), counts(1, 2));
        assert_ne!(counts(1, 2), counts(1, 3));
        assert_ne!(counts(1, 2), counts(2, 2));
        let extreme = CountDistribution { log_mean: 80.0, zero_logit: -90.0, log_theta: 60.0 };
        assert_eq!(extreme.sample(0, 0, 0), u32::MAX);
        assert_eq!(CountDistribution { log_mean: -90.0, zero_logit: 0.0, log_theta: -90.0 }.sample(0, 0, 0), 0);
    }
}
