//! Which other text each cell is shown in matching: one that is easily mistaken for its own.

use scmmgpt_kernels::runtime::philox::{Site, uniform};

/// Added to every probability, so that no text is out of reach.
const FLOOR: f64 = 1e-4;

/// For every cell one text `j`, drawn with weight `softmax(logits[i])[j] + 1e-4` among those of other classes than the cell's own; none
/// where there is no other class. Without `classes` every item is a class by itself. A cell's draw has its own random number: block
/// `i` of the site.
///
/// # Shapes
/// `logits`: `[items, items]`; `classes`: `[items]`.
/// # Source
/// scMMGPT `blip2qformer.py`, after Li et al. 2021, "ALBEF", section 3.2. The reference excludes the own text alone, and so takes texts
/// of the same cell type for negatives.
pub fn draw(logits: &[f64], items: usize, classes: Option<&[u32]>, site: Site) -> Vec<Option<usize>> {
    let row = |(item, logits): (usize, &[f64])| {
        let is_negative = |other: usize| classes.map_or(other != item, |classes| classes[other] != classes[item]);
        let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exponentials: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
        let total: f64 = exponentials.iter().sum();
        let weighted = exponentials.iter().enumerate().filter(|&(other, _)| is_negative(other));
        let negatives: Vec<(usize, f64)> = weighted.map(|(other, exponential)| (other, exponential / total + FLOOR)).collect();
        let sum: f64 = negatives.iter().map(|(_, weight)| weight).sum();
        let mut left = f64::from(uniform(site.words(item as u64)[0])) * sum;
        let chosen = negatives.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        // Rounding may leave a rest behind the last.
        chosen.or(negatives.last()).map(|&(other, _)| other)
    };
    logits.chunks_exact(items).enumerate().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(step: u64) -> Site {
        Site { seed: 7, step, site: 3 }
    }

    #[test]
    fn neither_the_own_text_nor_one_of_its_class_is_drawn() {
        let logits = vec![0.5; 16];
        for step in 0..200 {
            let drawn = draw(&logits, 4, None, site(step));
            assert!(drawn.iter().enumerate().all(|(item, other)| other.is_some_and(|other| other != item && other < 4)));
            assert_eq!(draw(&logits, 4, Some(&[5, 9, 5, 5]), site(step)), [Some(1), drawn_among(&[0, 2, 3], step), Some(1), Some(1)]);
            assert_eq!(draw(&logits, 4, Some(&[1; 4]), site(step)), [None; 4]);
        }
        assert_eq!(draw(&[3.0], 1, None, site(0)), [None]);
    }

    /// What item 1 draws among equals.
    fn drawn_among(others: &[usize], step: u64) -> Option<usize> {
        let at = f64::from(uniform(site(step).words(1)[0])) * others.len() as f64;
        Some(others[at as usize])
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        // Item 0: weights 2 : 1 for texts 1 and 2, and text 3 out of reach but for the floor.
        let row = [5.0, 2.0f64.ln(), 0.0, -50.0];
        let logits: Vec<f64> = row.repeat(4);
        let total: f64 = row.iter().map(|logit| logit.exp()).sum();
        let weights = row.map(|logit| logit.exp() / total + FLOOR);
        let sum: f64 = weights[1..].iter().sum();
        let mut counts = [0.0; 4];
        let steps = 20_000;
        for step in 0..steps {
            counts[draw(&logits, 4, None, site(step))[0].unwrap()] += 1.0 / steps as f64;
        }
        assert_eq!(counts[0], 0.0);
        for other in 1..4 {
            assert!((counts[other] - weights[other] / sum).abs() < 0.012, "{other}: {} of {}", counts[other], weights[other] / sum);
        }
    }

    #[test]
    fn a_cell_draws_alike_whatever_the_others_look_like() {
        let mut logits = vec![0.1, 0.7, 0.3, 0.2, 0.9, 0.4, 0.8, 0.5, 0.6];
        let before = draw(&logits, 3, None, site(1));
        logits[3..].reverse();
        assert_eq!(draw(&logits, 3, None, site(1))[0], before[0]);
    }
}
