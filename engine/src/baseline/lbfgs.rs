//! Limited-memory BFGS for smooth functions of many variables, in f64.
//!
//! # Source
//! Nocedal & Wright, algorithm 7.5 (two-loop recursion); step lengths, skipped updates and stopping rules as in
//! L-BFGS-B without bounds, so that a loose tolerance stops at the point at which SciPy would.

use super::line_search::search;
use super::{add_scaled, dot};
use std::collections::VecDeque;

/// Pairs of steps kept.
const MEMORY: usize = 10;
/// Stop when an iteration lowers the value by less than this share of it.
const STALLED: f64 = 64.0 * f64::EPSILON;

/// Where the minimiser stopped.
#[derive(Debug, Clone)]
pub(super) struct Minimum {
    pub(super) point: Vec<f64>,
    pub(super) iterations: usize,
    /// False if `max_iterations` ended it or no step lowered the value.
    pub(super) converged: bool,
}

/// A step taken, the change of the gradient over it, and one over their product.
struct Pair {
    step: Vec<f64>,
    change: Vec<f64>,
    inverse: f64,
}

/// Minimises `evaluate(point, gradient) -> value` from `point` until no entry of the gradient exceeds `tolerance`.
/// Memory: 24 vectors.
pub(super) fn minimize(
    mut point: Vec<f64>,
    tolerance: f64,
    max_iterations: usize,
    mut evaluate: impl FnMut(&[f64], &mut [f64]) -> f64,
) -> Minimum {
    let mut gradient = vec![0.0; point.len()];
    let mut value = evaluate(&point, &mut gradient);
    let mut pairs: VecDeque<Pair> = VecDeque::with_capacity(MEMORY);
    let mut iterations = 0;
    let mut converged = largest(&gradient) <= tolerance;

    while !converged && iterations < max_iterations {
        let direction = descend(&pairs, &gradient);
        let first = if iterations == 0 { 1.0 / dot(&direction, &direction).sqrt() } else { 1.0 };
        let slope = dot(&gradient, &direction);
        let (mut next, mut next_gradient) = (point.clone(), vec![0.0; point.len()]);
        let mut next_value = value;
        let step = search(value, slope, first, |step| {
            next.copy_from_slice(&point);
            add_scaled(&mut next, step, &direction);
            next_value = evaluate(&next, &mut next_gradient);
            (next_value, dot(&next_gradient, &direction))
        });
        let Some(step) = step else {
            if pairs.is_empty() {
                break;
            }
            pairs.clear(); // start again along the gradient
            continue;
        };
        iterations += 1;

        let mut change = next_gradient.clone();
        add_scaled(&mut change, -1.0, &gradient);
        let curvature = step * (dot(&next_gradient, &direction) - slope);
        if curvature > f64::EPSILON * -slope * step {
            if pairs.len() == MEMORY {
                pairs.pop_front();
            }
            let step = direction.iter().map(|direction| step * direction).collect();
            pairs.push_back(Pair { step, change, inverse: 1.0 / curvature });
        }
        let stalled = value - next_value <= STALLED * value.abs().max(next_value.abs()).max(1.0);
        (point, gradient, value) = (next, next_gradient, next_value);
        converged = largest(&gradient) <= tolerance || stalled;
    }
    Minimum { point, iterations, converged }
}

/// Minus the approximate inverse Hessian times the gradient.
fn descend(pairs: &VecDeque<Pair>, gradient: &[f64]) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|gradient| -gradient).collect();
    let mut weights = Vec::with_capacity(pairs.len());
    for pair in pairs.iter().rev() {
        let weight = pair.inverse * dot(&pair.step, &direction);
        add_scaled(&mut direction, -weight, &pair.change);
        weights.push(weight);
    }
    if let Some(last) = pairs.back() {
        let scale = 1.0 / (last.inverse * dot(&last.change, &last.change));
        direction.iter_mut().for_each(|entry| *entry *= scale);
    }
    for (pair, weight) in pairs.iter().zip(weights.into_iter().rev()) {
        let correction = pair.inverse * dot(&pair.change, &direction);
        add_scaled(&mut direction, weight - correction, &pair.step);
    }
    direction
}

fn largest(gradient: &[f64]) -> f64 {
    gradient.iter().fold(0.0, |largest, entry| entry.abs().max(largest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rosenbrock's valley, minimum 0 at (1, .., 1).
    fn rosenbrock(x: &[f64], gradient: &mut [f64]) -> f64 {
        gradient.fill(0.0);
        let mut value = 0.0;
        for at in 0..x.len() - 1 {
            let (bend, left) = (x[at + 1] - x[at] * x[at], 1.0 - x[at]);
            value += 100.0 * bend * bend + left * left;
            gradient[at] -= 400.0 * x[at] * bend + 2.0 * left;
            gradient[at + 1] += 200.0 * bend;
        }
        value
    }

    #[test]
    fn finds_the_bottom_of_the_valley() {
        let start: Vec<f64> = (0..12).map(|at| if at % 2 == 0 { -1.2 } else { 1.0 }).collect();
        let minimum = minimize(start.clone(), 1e-8, 1000, rosenbrock);
        assert!(minimum.converged && minimum.iterations < 120, "{minimum:?}");
        assert!(minimum.point.iter().all(|entry| (entry - 1.0).abs() < 1e-7), "{minimum:?}");
        assert!(!minimize(start, 1e-8, 3, rosenbrock).converged);
    }

    #[test]
    fn stays_at_a_minimum() {
        let minimum = minimize(vec![1.0; 3], 1e-8, 10, rosenbrock);
        assert_eq!((minimum.iterations, minimum.converged, minimum.point), (0, true, vec![1.0; 3]));
    }
}
