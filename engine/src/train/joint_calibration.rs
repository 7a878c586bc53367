//! What becomes of similarity, matching score and linear expert, chosen on validation cells.
//!
//! Validation cells are few, and the setting that suits them best is partly luck. So it is chosen on many resamples of them, and what
//! counts is the mean of the choices: settings between which the cells cannot decide meet in the middle.
//!
//! # Source
//! Breiman 1996, "Bagging predictors", section 4 (bagging what is chosen by the data).

use crate::metric::bootstrap::draws;
use crate::task::pair_scores::{Mixing, PairScores};
use crate::train::calibration::temperatures;

/// Resamples of the validation cells.
const RESAMPLES: u32 = 100;

/// A setting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Setting {
    /// Of the expert's probabilities.
    pub(super) power: f64,
    /// Of similarity and matching score.
    pub(super) mixing: Mixing,
}

/// Experts that agree are no surer together than each alone: where temperatures are sought at this power.
pub(super) fn around(middle: f64, power: f64) -> f64 {
    middle * (1.0 + power)
}

/// The mean over resamples of the setting under which the cells' classes are most likely; none without a cell. Powers and temperatures
/// have their geometric mean.
///
/// # Shapes
/// `candidates`: a power of the expert, and the scores of all cells under it. `truth`: `[cells]`. `middle`: what similarities are divided
/// by without an expert.
pub(super) fn choose(
    candidates: &[(f64, PairScores)],
    truth: &[Option<usize>],
    weights: &[f64],
    middle: f64,
    seed: u64,
) -> Option<Setting> {
    let known: Vec<(usize, usize)> = truth.iter().enumerate().filter_map(|(cell, class)| Some((cell, (*class)?))).collect();
    if known.is_empty() {
        return None;
    }
    let resamples: Vec<Vec<usize>> = (0..RESAMPLES).map(|resample| draws(seed, resample, known.len()).collect()).collect();
    let mut best: Vec<Option<(f64, Setting)>> = vec![None; resamples.len()];
    for (power, scores) in candidates {
        for &similarity in weights {
            for temperature in temperatures(around(middle, *power)) {
                let setting = Setting { power: *power, mixing: Mixing { similarity, temperature } };
                let cost = |&(cell, class): &(usize, usize)| -scores.probabilities(cell, setting.mixing)[class].max(1e-12).ln();
                let costs: Vec<f64> = known.iter().map(cost).collect();
                for (best, resample) in best.iter_mut().zip(&resamples) {
                    let cost: f64 = resample.iter().map(|&cell| costs[cell]).sum();
                    if best.is_none_or(|(lowest, _)| cost < lowest) {
                        *best = Some((cost, setting));
                    }
                }
            }
        }
    }
    let chosen: Vec<Setting> = best.into_iter().flatten().map(|(_, setting)| setting).collect();
    let mean = |value: &dyn Fn(&Setting) -> f64| chosen.iter().map(value).sum::<f64>() / chosen.len() as f64;
    let similarity = mean(&|setting| setting.mixing.similarity);
    let temperature = mean(&|setting| setting.mixing.temperature.ln()).exp();
    (!chosen.is_empty()).then(|| Setting { power: mean(&|setting| setting.power.ln()).exp(), mixing: Mixing { similarity, temperature } })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cells whose similarity is right so often, and whose matching score is right so often.
    fn scores(cells: usize, similar: usize, matched: usize) -> PairScores {
        let pair = |right: bool| if right { [0.3, 0.0] } else { [0.0, 0.3] };
        let odds = |right: bool| if right { [0.9, 0.1] } else { [0.1, 0.9] };
        let similarity = (0..cells).flat_map(|cell| pair(cell < similar)).collect();
        PairScores::of_values(2, similarity, (0..cells).flat_map(|cell| odds(cell >= cells - matched)).collect())
    }

    #[test]
    fn what_is_right_more_often_wins_and_what_is_undecided_meets_in_the_middle() {
        let truth = vec![Some(0); 40];
        let choose = |candidates: &[(f64, PairScores)]| choose(candidates, &truth, &[0.0, 0.5, 1.0], 0.1, 3).unwrap();
        let better = choose(&[(1.0, scores(40, 20, 20)), (16.0, scores(40, 40, 20))]);
        assert!((better.power - 16.0).abs() < 1e-9 && better.mixing.similarity == 1.0, "{better:?}");
        let worse = choose(&[(1.0, scores(40, 20, 40)), (16.0, scores(40, 22, 40))]);
        assert_eq!(worse.mixing.similarity, 0.0);
        // Each is right where the other is wrong.
        let level = choose(&[(1.0, scores(40, 30, 30))]);
        assert!(level.power == 1.0 && (0.3..0.7).contains(&level.mixing.similarity), "{level:?}");
        assert_eq!(level, choose(&[(1.0, scores(40, 30, 30))]));
        assert_eq!(super::choose(&[(1.0, scores(2, 1, 1))], &[None, None], &[1.0], 0.1, 3), None);
    }
}
