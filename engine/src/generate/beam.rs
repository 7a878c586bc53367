//! Beam search behind one prompt.

use super::answer::Finish;
use super::config::GenerationConfig;

/// The beams of one prompt, and the answers that are complete.
#[derive(Debug)]
pub(super) struct Beams<'a> {
    config: &'a GenerationConfig,
    eos: &'a [u32],
    /// Most tokens of an answer.
    limit: usize,
    /// What a repetition penalty counts as seen before the answer.
    prompt: &'a [u32],
    running: Vec<Beam>,
    complete: Vec<Complete>,
}

#[derive(Clone, Debug, Default)]
struct Beam {
    tokens: Vec<u32>,
    log_probability: f64,
}

/// An answer that is not continued.
#[derive(Clone, Debug)]
pub(super) struct Complete {
    /// Its tokens, the end included.
    pub(super) tokens: Vec<u32>,
    pub(super) log_probability: f64,
    pub(super) score: f64,
    pub(super) finish: Finish,
}

/// A beam and one more token.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    beam: usize,
    token: u32,
    log_probability: f64,
}

impl<'a> Beams<'a> {
    /// One empty beam.
    pub(super) fn new(config: &'a GenerationConfig, eos: &'a [u32], limit: usize, prompt: &'a [u32]) -> Self {
        Beams { config, eos, limit, prompt, running: vec![Beam::default()], complete: Vec::new() }
    }

    /// Beams that go on; none when the search is over.
    pub(super) fn width(&self) -> usize {
        self.running.len()
    }

    /// One step. `log_probabilities` are those of the next token of each running beam; `stops` tells whether an answer ends with these
    /// tokens though the last of them is no end. Gives the beams that go on, each as (the beam that it was, its new token), the former
    /// ascending.
    ///
    /// # Source
    /// Hugging Face transformers 5.23, `GenerationMixin._beam_search` with `early_stopping = False`: of the `(1 + ends) * num_beams` best
    /// continuations the first `num_beams` may complete, the best that do not end go on; over when the best running beam's score at its
    /// present length is no better than the worst of `num_beams` complete answers.
    pub(super) fn advance(&mut self, log_probabilities: Vec<Vec<f64>>, stops: &dyn Fn(&[u32]) -> bool) -> Vec<(usize, u32)> {
        let (width, length) = (self.config.num_beams, self.running.first().map_or(0, |beam| beam.tokens.len()) + 1);
        let mut next = Vec::new();
        for (rank, candidate) in self.candidates(log_probabilities).into_iter().enumerate() {
            let tokens: Vec<u32> = self.running[candidate.beam].tokens.iter().copied().chain([candidate.token]).collect();
            let finish = if self.eos.contains(&candidate.token) {
                Some(Finish::End)
            } else if stops(&tokens) {
                Some(Finish::Stop)
            } else {
                (length == self.limit).then_some(Finish::Length)
            };
            let log_probability = candidate.log_probability;
            match finish {
                Some(finish) if rank < width => {
                    let score = self.config.score(log_probability, length);
                    self.complete.push(Complete { tokens, log_probability, score, finish });
                }
                None if next.len() < width => next.push((candidate.beam, Beam { tokens, log_probability })),
                _ => {}
            }
        }
        self.complete.sort_by(|left, right| right.score.total_cmp(&left.score));
        self.complete.truncate(width);
        let worst = if self.complete.len() == width { self.complete.last().map(|complete| complete.score) } else { None };
        let best = next.first().map(|(_, beam)| self.config.score(beam.log_probability, length));
        if worst.zip(best).is_some_and(|(worst, best)| best <= worst) {
            next.clear();
        }
        next.sort_by_key(|(former, _)| *former);
        let (steps, running) = next.into_iter().map(|(former, beam)| ((former, beam.tokens.last().copied().unwrap_or(0)), beam)).unzip();
        self.running = running;
        steps
    }

    /// The best continuations of all beams, best first; of equals those of the first beam, then of the smaller token.
    fn candidates(&self, log_probabilities: Vec<Vec<f64>>) -> Vec<Candidate> {
        let count = self.config.num_beams * (1 + self.eos.len()).max(2);
        let best = |left: &Candidate, right: &Candidate| {
            let by_place = (left.beam, left.token).cmp(&(right.beam, right.token));
            right.log_probability.total_cmp(&left.log_probability).then(by_place)
        };
        let mut all = Vec::new();
        for (beam, (row, running)) in log_probabilities.into_iter().zip(&self.running).enumerate() {
            let row = self.allowed(row, running);
            let candidates = row.into_iter().zip(0..).filter(|(score, _)| score.is_finite());
            all.extend(candidates.map(|(score, token)| Candidate { beam, token, log_probability: running.log_probability + score }));
            if all.len() > count {
                all.select_nth_unstable_by(count - 1, best);
                all.truncate(count);
            }
        }
        all.sort_unstable_by(best);
        all
    }

    /// No end before the shortest answer's length; repetitions penalised.
    fn allowed(&self, mut row: Vec<f64>, beam: &Beam) -> Vec<f64> {
        if self.config.repetition_penalty != 1.0 {
            penalise(&mut row, self.prompt.iter().chain(&beam.tokens).copied(), self.config.repetition_penalty);
        }
        if beam.tokens.len() < self.config.min_length {
            for &token in self.eos {
                if let Some(score) = row.get_mut(token as usize) {
                    *score = f64::NEG_INFINITY;
                }
            }
        }
        row
    }

    /// The best answer; none when no token had a probability.
    pub(super) fn best(self) -> Option<Complete> {
        self.complete.into_iter().next()
    }
}

/// Lowers the scores of tokens that have been seen, each once: positive ones are divided by `penalty`, negative ones multiplied.
fn penalise(scores: &mut [f64], seen: impl Iterator<Item = u32>, penalty: f64) {
    let seen: std::collections::BTreeSet<u32> = seen.collect();
    for token in seen {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = if *score > 0.0 { *score / penalty } else { *score * penalty };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 4;

    /// Log-probabilities of five tokens that depend on everything before them.
    fn toy(tokens: &[u32]) -> Vec<f64> {
        let seed = tokens.iter().fold(17u64, |seed, &token| seed.wrapping_mul(31).wrapping_add(u64::from(token) + 1));
        let weight = |token: u64| (1 + (seed.wrapping_mul(2 * token + 3) >> 3) % 19) as f64;
        let total: f64 = (0..5).map(weight).sum();
        (0..5).map(|token| (weight(token) / total).ln()).collect()
    }

    fn search(config: &GenerationConfig) -> Complete {
        let mut beams = Beams::new(config, &[END], config.max_new_tokens, &[]);
        while beams.width() > 0 {
            let rows = beams.running.iter().map(|beam| toy(&beam.tokens)).collect();
            beams.advance(rows, &|_| false);
        }
        beams.best().unwrap()
    }

    /// Every answer of at most `limit` tokens.
    fn all(config: &GenerationConfig, tokens: &mut Vec<u32>, log_probability: f64, best: &mut Option<(f64, Vec<u32>)>) {
        let ended = tokens.last() == Some(&END);
        if ended || tokens.len() == config.max_new_tokens {
            let score = config.score(log_probability, tokens.len());
            if best.as_ref().is_none_or(|(known, _)| score > *known) {
                *best = Some((score, tokens.clone()));
            }
            return;
        }
        let may_end = tokens.len() >= config.min_length;
        for (token, score) in (0..5).zip(toy(tokens)).filter(|(token, _)| *token != END || may_end) {
            tokens.push(token);
            all(config, tokens, log_probability + score, best);
            tokens.pop();
        }
    }

    #[test]
    fn as_many_beams_as_answers_find_the_best_answer() {
        for min_length in [0, 2] {
            for length_penalty in [0.0, 1.0, 1.7, -0.5] {
                let config =
                    GenerationConfig { num_beams: 400, max_new_tokens: 4, min_length, length_penalty, ..GenerationConfig::default() };
                let mut best = None;
                all(&config, &mut Vec::new(), 0.0, &mut best);
                let (score, tokens) = best.unwrap();
                let found = search(&config);
                assert_eq!(found.tokens, tokens, "length penalty {length_penalty}, at least {min_length}");
                assert!((found.score - score).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn one_beam_takes_the_most_probable_token_again_and_again() {
        let config = GenerationConfig { num_beams: 1, max_new_tokens: 7, min_length: 5, ..GenerationConfig::default() };
        let mut tokens = Vec::new();
        let mut sum = 0.0;
        while tokens.len() < 7 && tokens.last() != Some(&END) {
            let row = toy(&tokens);
            let open = (0..5).rev().filter(|&token| token != END || tokens.len() >= 5);
            let token = open.max_by(|&left, &right| row[left as usize].total_cmp(&row[right as usize])).unwrap();
            sum += row[token as usize];
            tokens.push(token);
        }
        let found = search(&config);
        // A single beam completes with the second best continuation only when that is among the first `num_beams`, so never.
        assert_eq!(found.tokens, tokens);
        assert!((found.log_probability - sum).abs() < 1e-12);
    }

    #[test]
    fn narrow_beams_are_no_better_than_wide_ones_and_stops_complete() {
        let score = |num_beams| {
            let config = GenerationConfig { num_beams, max_new_tokens: 4, min_length: 0, ..GenerationConfig::default() };
            search(&config).score
        };
        assert!(score(2) <= score(400) && score(5) <= score(400));
        let config = GenerationConfig { num_beams: 2, max_new_tokens: 9, min_length: 0, ..GenerationConfig::default() };
        let mut beams = Beams::new(&config, &[], 9, &[]);
        while beams.width() > 0 {
            let rows = beams.running.iter().map(|beam| toy(&beam.tokens)).collect();
            beams.advance(rows, &|tokens| tokens.ends_with(&[2]));
        }
        let best = beams.best().unwrap();
        assert!(best.finish == Finish::Stop && best.tokens.ends_with(&[2]) && !best.tokens[..best.tokens.len() - 1].contains(&2));
    }
}
