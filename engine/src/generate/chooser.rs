//! The choice of a batch's next tokens where their logits lie, and memory for it.

use scmmgpt_kernels::runtime::philox::Site;
use scmmgpt_kernels::runtime::{Arena, Class, Device, Float, Plan, Real, Stream, Tensor};
use scmmgpt_kernels::sample;

use super::sampler::SamplerConfig;
use crate::Result;

/// What may be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// How.
    pub sampler: &'a SamplerConfig,
    /// Tokens that do not exist for the sequences.
    pub suppress: &'a [u32],
    /// Tokens that end a sequence.
    pub eos: &'a [u32],
    /// Whether one may be chosen now.
    pub may_end: bool,
    /// What random numbers depend on, with each sequence's number and length.
    pub seed: u64,
}

/// A sequence whose next token is to be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// Its tokens so far.
    pub history: &'a [u32],
    /// Its number.
    pub number: u64,
}

/// A token, and what the model thinks of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability among all that are not suppressed, whatever the sampler made of it.
    pub log_probability: f64,
}

/// Memory of the choice; the lists lie on the device until others are wanted.
#[derive(Debug)]
pub(super) struct Chooser<T: Float> {
    lists: [Vec<u32>; 2],
    tokens: Tensor<u32>,
    log_probabilities: Tensor<T::Acc>,
    random: Tensor<u32>,
    hidden: Option<Tensor<u32>>,
    barred: Option<Tensor<u32>>,
    seen: Tensor<u32>,
    _arena: Arena,
}

impl<T: Float> Chooser<T> {
    /// For so many sequences of at most `capacity` tokens.
    fn new(device: &Device, stream: &Stream, (batch, capacity): (usize, usize), lists: [&[u32]; 2]) -> Result<Self> {
        let mut plan = Plan::new(Class::Activations);
        let [hidden, barred] = [("hidden", lists[0]), ("barred", lists[1])]
            .map(|(name, list)| (!list.is_empty()).then(|| plan.tensor::<u32>(name, [list.len()])));
        let (tokens, log_probabilities) = (plan.tensor("tokens", [batch]), plan.tensor("log_probabilities", [batch]));
        let (random, seen) = (plan.tensor("random", [batch, 2]), plan.tensor("seen", [batch, capacity]));
        let arena = Arena::allocate(device, plan)?;
        for (tensor, list) in [hidden, barred].into_iter().zip(lists) {
            tensor.map_or(Ok(()), |tensor| stream.upload(tensor, list))?;
        }
        Ok(Chooser { lists: lists.map(<[u32]>::to_vec), tokens, log_probabilities, random, hidden, barred, seen, _arena: arena })
    }

    /// The one that is there, if it is for these lists.
    pub(super) fn fit<'c>(
        kept: &'c mut Option<Chooser<T>>,
        device: &Device,
        stream: &Stream,
        sizes: (usize, usize),
        choice: &Choice<'_>,
    ) -> Result<&'c Self> {
        let lists = [choice.suppress, choice.eos];
        match kept.take().filter(|kept| kept.lists == lists) {
            Some(chooser) => Ok(kept.insert(chooser)),
            None => Ok(kept.insert(Chooser::new(device, stream, sizes, lists)?)),
        }
    }

    /// A token behind each sequence, whose logits are `[sequences, vocabulary]`. A sequence's random number depends on the seed, its number
    /// and its length alone, so that a batch gives what each of its sequences gives alone.
    pub(super) fn choose(&self, stream: &Stream, logits: Tensor<T>, choice: &Choice<'_>, draws: &[Draw<'_>]) -> Result<Vec<Chosen>> {
        let (rows, sampler) = (draws.len(), choice.sampler);
        let (random, seen) = (self.random.row_range(0, rows), self.seen.row_range(0, rows));
        if sampler.temperature > 0.0 {
            let site = |draw: &Draw<'_>| Site { seed: choice.seed, step: draw.number, site: draw.history.len() as u32 };
            let words = draws.iter().flat_map(|draw| site(draw).words(0).into_iter().take(2));
            stream.upload(random, &words.collect::<Vec<_>>())?;
        }
        let penalised = sampler.repetition_penalty != 1.0;
        if penalised {
            let places = seen.width();
            let padded = |draw: &Draw<'_>| {
                let mut tokens = draw.history.to_vec();
                tokens.sort_unstable();
                tokens.dedup();
                tokens.resize(places, sample::NOTHING);
                tokens
            };
            stream.upload(seen, &draws.iter().flat_map(padded).collect::<Vec<_>>())?;
        }
        let (tokens, log_probabilities) = (self.tokens.columns(0, rows), self.log_probabilities.columns(0, rows));
        let args = sample::Choose {
            tokens,
            log_probabilities,
            logits,
            hidden: self.hidden,
            barred: self.barred.filter(|_| !choice.may_end),
            seen: penalised.then_some(seen),
            repetition_penalty: sampler.repetition_penalty as f32,
            random,
            temperature: sampler.temperature,
            top_k: sampler.top_k,
            min_p: sampler.min_p,
            top_p: sampler.top_p,
        };
        sample::choose(stream, args)?;
        let chosen = stream.fetch(tokens)?.into_iter().zip(stream.fetch(log_probabilities)?);
        Ok(chosen.map(|(token, value)| Chosen { token, log_probability: value.f64() }).collect())
    }
}
