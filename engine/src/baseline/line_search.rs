//! A step along a descent direction that satisfies the strong Wolfe conditions.
//!
//! # Source
//! Moré & Thuente 1994, "Line search algorithms with guaranteed sufficient decrease", with the constants that
//! L-BFGS-B uses, so that the minimiser follows the same path as SciPy's.

/// Sufficient decrease: `f(step) <= f(0) + DECREASE * step * f'(0)`.
const DECREASE: f64 = 1e-3;
/// Curvature: `|f'(step)| <= CURVATURE * |f'(0)|`.
const CURVATURE: f64 = 0.9;
/// The bracket is narrow enough when its width is this share of its upper end.
const NARROW: f64 = 0.1;
const MAX_STEP: f64 = 1e10;
const MAX_EVALUATIONS: usize = 50;

/// Value and slope at one step length.
#[derive(Debug, Clone, Copy)]
struct Point {
    step: f64,
    value: f64,
    slope: f64,
}

impl Point {
    /// The point on the auxiliary function `f(step) - step * slope`.
    fn tilted(self, slope: f64) -> Self {
        Self { step: self.step, value: self.value - self.step * slope, slope: self.slope - slope }
    }
}

/// Ends of the interval that holds the step: `best` has the least value so far. While `closed` is false nothing
/// bounds the step from above.
#[derive(Debug, Clone, Copy)]
struct Bracket {
    best: Point,
    other: Point,
    closed: bool,
}

/// Looks for a step from `first` on. `evaluate(step)` gives (value, slope) and is last called with the step
/// returned. `None` if the direction does not descend or no step is found.
pub(super) fn search(value: f64, slope: f64, first: f64, mut evaluate: impl FnMut(f64) -> (f64, f64)) -> Option<f64> {
    if slope >= 0.0 || !slope.is_finite() {
        return None;
    }
    let start = Point { step: 0.0, value, slope };
    let decrease = DECREASE * slope;
    let mut bracket = Bracket { best: start, other: start, closed: false };
    let (mut width, mut previous_width) = (MAX_STEP, 2.0 * MAX_STEP);
    let (mut low, mut high) = (0.0, 5.0 * first);
    let (mut step, mut auxiliary) = (first, true);

    for _ in 0..MAX_EVALUATIONS {
        let (value, slope) = evaluate(step);
        let trial = Point { step, value, slope };
        let enough = start.value + step * decrease;
        auxiliary &= !(value <= enough && slope >= 0.0);
        let exhausted = bracket.closed && (step <= low || step >= high || high - low <= NARROW * high);
        let at_end = step >= MAX_STEP && value <= enough && slope <= decrease;
        if exhausted || at_end || (value <= enough && slope.abs() <= CURVATURE * -start.slope) {
            return Some(step);
        }

        if auxiliary && value <= bracket.best.value && value > enough {
            let mut tilted = Bracket { best: bracket.best.tilted(decrease), other: bracket.other.tilted(decrease), closed: bracket.closed };
            step = narrow(&mut tilted, trial.tilted(decrease), low, high);
            bracket = Bracket { best: tilted.best.tilted(-decrease), other: tilted.other.tilted(-decrease), closed: tilted.closed };
        } else {
            step = narrow(&mut bracket, trial, low, high);
        }

        let (best, other) = (bracket.best.step, bracket.other.step);
        if bracket.closed {
            if (other - best).abs() >= 0.66 * previous_width {
                step = best + 0.5 * (other - best);
            }
            previous_width = width;
            width = (other - best).abs();
            (low, high) = (best.min(other), best.max(other));
        } else {
            (low, high) = (step + 1.1 * (step - best), step + 4.0 * (step - best));
        }
        step = step.clamp(0.0, MAX_STEP);
        if bracket.closed && (step <= low || step >= high || high - low <= NARROW * high) {
            step = best;
        }
    }
    None
}

/// Puts `trial` into the bracket and returns the next step to try, by cubic and quadratic interpolation.
/// The four cases are those of section 4 of the paper.
fn narrow(bracket: &mut Bracket, trial: Point, low: f64, high: f64) -> f64 {
    let Bracket { best, other, closed } = *bracket;
    let opposite = trial.slope * best.slope.signum() < 0.0;
    let outward = if trial.step > best.step { high } else { low };
    // The minimiser of the parabola through both slopes.
    let secant = || trial.step + trial.slope / (trial.slope - best.slope) * (best.step - trial.step);
    let next;
    if trial.value > best.value {
        // 1: higher value; a minimum lies between.
        let (theta, gamma) = cubic(best, trial, if trial.step < best.step { -1.0 } else { 1.0 });
        let share = (gamma - best.slope + theta) / (gamma - best.slope + gamma + trial.slope);
        let by_cubic = best.step + share * (trial.step - best.step);
        let rise = (best.value - trial.value) / (trial.step - best.step) + best.slope;
        let by_parabola = best.step + best.slope / rise / 2.0 * (trial.step - best.step);
        next = if (by_cubic - best.step).abs() < (by_parabola - best.step).abs() {
            by_cubic
        } else {
            by_cubic + (by_parabola - by_cubic) / 2.0
        };
        bracket.closed = true;
    } else if opposite {
        // 2: lower value, slopes of opposite sign; a minimum lies between.
        let (theta, gamma) = cubic(best, trial, if trial.step > best.step { -1.0 } else { 1.0 });
        let share = (gamma - trial.slope + theta) / (gamma - trial.slope + gamma + best.slope);
        let by_cubic = trial.step + share * (best.step - trial.step);
        let by_parabola = secant();
        let cubic_is_farther = (by_cubic - trial.step).abs() > (by_parabola - trial.step).abs();
        next = if cubic_is_farther { by_cubic } else { by_parabola };
        bracket.closed = true;
    } else if trial.slope.abs() < best.slope.abs() {
        // 3: lower value, same sign, flatter; the cubic may have no minimum this way.
        let (theta, gamma) = cubic(best, trial, if trial.step > best.step { -1.0 } else { 1.0 });
        let share = (gamma - trial.slope + theta) / (gamma + (best.slope - trial.slope) + gamma);
        let by_cubic = if share < 0.0 && gamma != 0.0 { trial.step + share * (best.step - trial.step) } else { outward };
        let by_parabola = secant();
        let cubic_is_closer = (by_cubic - trial.step).abs() < (by_parabola - trial.step).abs();
        if closed {
            let closer = if cubic_is_closer { by_cubic } else { by_parabola };
            let limit = trial.step + 0.66 * (other.step - trial.step);
            next = if trial.step > best.step { closer.min(limit) } else { closer.max(limit) };
        } else {
            let cubic_is_farther = (by_cubic - trial.step).abs() > (by_parabola - trial.step).abs();
            next = if cubic_is_farther { by_cubic } else { by_parabola }.min(high).max(low);
        }
    } else if closed {
        // 4: lower value, same sign, not flatter; go on towards the other end.
        let (theta, gamma) = cubic(other, trial, if trial.step > other.step { -1.0 } else { 1.0 });
        let share = (gamma - trial.slope + theta) / (gamma - trial.slope + gamma + other.slope);
        next = trial.step + share * (other.step - trial.step);
    } else {
        next = outward;
    }

    if trial.value > best.value {
        bracket.other = trial;
    } else {
        if opposite {
            bracket.other = best;
        }
        bracket.best = trial;
    }
    next
}

/// The two quantities from which the minimiser of the cubic through both points is read; scaled against overflow.
fn cubic(end: Point, trial: Point, sign: f64) -> (f64, f64) {
    let theta = 3.0 * (end.value - trial.value) / (trial.step - end.step) + end.slope + trial.slope;
    let scale = theta.abs().max(end.slope.abs()).max(trial.slope.abs());
    let root = (theta / scale).powi(2) - (end.slope / scale) * (trial.slope / scale);
    (theta, sign * scale * root.max(0.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strong_wolfe_from_any_first_step() {
        // Moré & Thuente's first test function, minimum at 2 for beta = 4: -a / (a^2 + 4).
        let function = |a: f64| (-a / (a * a + 4.0), (a * a - 4.0) / (a * a + 4.0).powi(2));
        for first in [1e-3, 1e-1, 10.0, 1e3] {
            let (value, slope) = function(0.0);
            let mut last = 0.0;
            let step = search(value, slope, first, |step| {
                last = step;
                function(step)
            });
            let step = step.unwrap();
            assert_eq!(step, last);
            let (found, found_slope) = function(step);
            assert!(found <= value + DECREASE * step * slope, "{first}: {step}");
            assert!(found_slope.abs() <= CURVATURE * slope.abs(), "{first}: {step}");
        }
    }

    #[test]
    fn ascent_is_refused() {
        assert_eq!(search(0.0, 1.0, 1.0, |_| (0.0, 0.0)), None);
    }
}
