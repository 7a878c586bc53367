//! Answers to prompts.

use scmmgpt_kernels::runtime::{Float, Real};
use scmmgpt_loader::language::LanguageTokenizer;

use super::beam::{Beams, Complete};
use super::chooser::{Choice, Chosen, Draw};
use super::config::GenerationConfig;
use super::generator::{Generator, Prompt};
use super::text::TextStream;
use crate::model::language_model::LanguageModel;
use crate::{Error, Result};

/// What tokens mean.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// Tokens to text.
    pub tokenizer: &'a LanguageTokenizer,
    /// Tokens that end an answer.
    pub eos: &'a [u32],
    /// Tokens that no answer has.
    pub suppress: &'a [u32],
}

/// A prompt to answer.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The prompt.
    pub prompt: Prompt<'a>,
    /// Its number, which its random numbers depend on.
    pub number: u64,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// By a token that ends a sequence.
    End,
    /// By a text of `stop`.
    Stop,
    /// It was as long as it may become.
    Length,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its tokens, without the end.
    pub tokens: Vec<u32>,
    /// Their text, up to where a text of `stop` begins.
    pub text: String,
    /// Natural logarithm of the model's probability of the tokens, the end included.
    pub log_probability: f64,
    /// `log_probability / length^length_penalty`, the end counted.
    pub score: f64,
    /// Why it ended.
    pub finish: Finish,
}

/// Answers each request. A batch gives what each of its prompts gives alone. `on_text` is told the number of the request and further
/// text of its answer, in whole characters as they come; with beams, all of it at the end.
///
/// # Errors
/// `Setting` for a prompt that fills the generator's memory or is empty, for more beams than it has sequences, and as
/// [`GenerationConfig::check`]; those of model and tokenizer, and of `on_text`.
pub fn answer<T: Float>(
    model: &LanguageModel<T>,
    generator: &mut Generator<T>,
    words: Words<'_>,
    requests: &[Request<'_>],
    config: &GenerationConfig,
    on_text: &mut dyn FnMut(usize, &str) -> Result<()>,
) -> Result<Vec<Answer>> {
    config.check()?;
    let (batch, capacity) = generator.size();
    let at_once = batch / config.num_beams;
    if at_once == 0 {
        return Err(refuse("num_beams", config.num_beams, format!("at most {batch}, the sequences there is memory for")));
    }
    let mut answers = Vec::with_capacity(requests.len());
    for (part, requests) in requests.chunks(at_once).enumerate() {
        if let Some(long) = requests.iter().find(|request| request.prompt.tokens.len() >= capacity) {
            let expected = format!("less than {capacity}, the tokens of prompt and answer together");
            return Err(refuse("prompt", format!("{} tokens long", long.prompt.tokens.len()), expected));
        }
        let prompts: Vec<Prompt<'_>> = requests.iter().map(|request| request.prompt).collect();
        generator.prefill(model, &prompts)?;
        let mut on_text = |index: usize, text: &str| on_text(part * at_once + index, text);
        if config.num_beams > 1 {
            answers.extend(by_beams(model, generator, words, &prompts, config, &mut on_text)?);
        } else {
            let begun: Vec<Begun<'_>> =
                requests.iter().map(|request| Begun { history: request.prompt.tokens, number: request.number }).collect();
            answers.extend(go_on(model, generator, words, &begun, config, &mut on_text)?);
        }
    }
    Ok(answers)
}

fn refuse(key: &str, value: impl ToString, expected: String) -> Error {
    Error::Setting { key: format!("generate.{key}"), value: value.to_string(), expected }
}

/// A sequence of the generator that is to be gone on with.
#[derive(Clone, Copy, Debug)]
pub struct Begun<'a> {
    /// Its tokens.
    pub history: &'a [u32],
    /// What its random numbers depend on, besides the token's place.
    pub number: u64,
}

/// Goes on with all sequences of the generator, by one token a step, from the logits that its last pass left. Sequences that have ended
/// leave the generator, but for the last one, which stays up to the token before its last.
///
/// # Errors
/// As [`answer`].
pub fn go_on<T: Float>(
    model: &LanguageModel<T>,
    generator: &mut Generator<T>,
    words: Words<'_>,
    begun: &[Begun<'_>],
    config: &GenerationConfig,
    on_text: &mut dyn FnMut(usize, &str) -> Result<()>,
) -> Result<Vec<Answer>> {
    let (sampler, capacity) = (config.sampler(), generator.size().1);
    let begin = |(index, begun): (usize, &Begun<'_>)| Writing {
        index,
        limit: config.max_new_tokens.min(capacity.saturating_sub(begun.history.len())),
        number: begun.number,
        history: begun.history.to_vec(),
        log_probability: 0.0,
        length: 0,
        text: TextStream::new(words.tokenizer, &config.stop),
    };
    let mut running: Vec<Writing<'_>> = begun.iter().enumerate().map(begin).collect();
    let mut answers: Vec<Option<Answer>> = vec![None; begun.len()];
    while !running.is_empty() {
        let (mut going, mut sources, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        // All of them have written as much.
        let may_end = running[0].length >= config.min_length;
        let choice = Choice { sampler: &sampler, suppress: words.suppress, eos: words.eos, may_end, seed: config.seed };
        let draws: Vec<Draw<'_>> = running.iter().map(|writing| Draw { history: &writing.history, number: writing.number }).collect();
        let chosen = generator.choose(&choice, &draws)?;
        for (row, (mut writing, Chosen { token, log_probability })) in running.into_iter().zip(chosen).enumerate() {
            writing.log_probability += log_probability;
            writing.length += 1;
            let mut finish = None;
            if words.eos.contains(&token) {
                finish = Some(Finish::End);
            } else {
                writing.history.push(token);
                on_text(writing.index, writing.text.push(token)?)?;
                if writing.text.stopped() {
                    finish = Some(Finish::Stop);
                } else if writing.length >= writing.limit {
                    finish = Some(Finish::Length);
                }
            }
            match finish {
                Some(finish) => {
                    on_text(writing.index, writing.text.finish()?)?;
                    let score = config.score(writing.log_probability, writing.length);
                    let (tokens, text) = writing.text.into_parts();
                    answers[writing.index] = Some(Answer { tokens, text, log_probability: writing.log_probability, score, finish });
                }
                None => {
                    sources.push(row);
                    tokens.push(token);
                    going.push(writing);
                }
            }
        }
        running = going;
        if !running.is_empty() {
            generator.select(&sources)?;
            generator.decode(model, &tokens)?;
        }
    }
    Ok(answers.into_iter().flatten().collect())
}

/// An answer that is being written.
struct Writing<'a> {
    index: usize,
    limit: usize,
    number: u64,
    history: Vec<u32>,
    log_probability: f64,
    length: usize,
    text: TextStream<'a>,
}

fn by_beams<'a, T: Float>(
    model: &LanguageModel<T>,
    generator: &mut Generator<T>,
    words: Words<'a>,
    prompts: &[Prompt<'a>],
    config: &'a GenerationConfig,
    on_text: &mut dyn FnMut(usize, &str) -> Result<()>,
) -> Result<Vec<Answer>> {
    let capacity = generator.size().1;
    let begin =
        |prompt: &Prompt<'a>| Beams::new(config, words.eos, config.max_new_tokens.min(capacity - prompt.tokens.len()), prompt.tokens);
    let mut searches: Vec<Beams<'a>> = prompts.iter().map(begin).collect();
    let stops = |tokens: &[u32]| {
        let decoded = || words.tokenizer.decode(tokens).unwrap_or_default();
        !config.stop.is_empty() && config.stop.iter().any(|stop| decoded().contains(stop.as_str()))
    };
    loop {
        let running: usize = searches.iter().map(Beams::width).sum();
        if running == 0 {
            break;
        }
        let logits = generator.logits()?;
        let width = logits.len() / running;
        let mut rows = logits.chunks_exact(width);
        let (mut sources, mut tokens, mut first) = (Vec::new(), Vec::new(), 0);
        for search in &mut searches {
            let count = search.width();
            let scores = rows.by_ref().take(count).map(|logits| {
                let mut scores: Vec<f32> = logits.iter().map(|logit| logit.to_acc().f64() as f32).collect();
                hide(&mut scores, words.suppress);
                log_probabilities(&scores)
            });
            for (beam, token) in search.advance(scores.collect(), &stops) {
                sources.push(first + beam);
                tokens.push(token);
            }
            first += count;
        }
        if !tokens.is_empty() {
            generator.select(&sources)?;
            generator.decode(model, &tokens)?;
        }
    }
    let mut answers = Vec::with_capacity(prompts.len());
    for (index, search) in searches.into_iter().enumerate() {
        let answer = finished(search.best(), words, config)?;
        on_text(index, &answer.text)?;
        answers.push(answer);
    }
    Ok(answers)
}

/// The text of a beam. Without one (the model gave no number as a probability) the answer is empty.
fn finished(complete: Option<Complete>, words: Words<'_>, config: &GenerationConfig) -> Result<Answer> {
    let nothing = Complete { tokens: Vec::new(), log_probability: f64::NEG_INFINITY, score: f64::NEG_INFINITY, finish: Finish::Length };
    let Complete { mut tokens, log_probability, score, finish } = complete.unwrap_or(nothing);
    if finish == Finish::End {
        tokens.pop();
    }
    let mut text = TextStream::new(words.tokenizer, &config.stop);
    for &token in &tokens {
        text.push(token)?;
    }
    text.finish()?;
    Ok(Answer { text: text.into_parts().1, tokens, log_probability, score, finish })
}

/// Makes tokens impossible.
fn hide(scores: &mut [f32], tokens: &[u32]) {
    for &token in tokens {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// `ln softmax(logits)`; a NaN counts as impossible.
pub(super) fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let scores: Vec<f64> = logits.iter().map(|&logit| if logit.is_nan() { f64::NEG_INFINITY } else { f64::from(logit) }).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() {
        return vec![f64::NEG_INFINITY; scores.len()];
    }
    let sum: f64 = scores.iter().map(|score| (score - top).exp()).sum();
    scores.into_iter().map(|score| score - top - sum.ln()).collect()
}
