//! Text from a language model: prompts go through it once, then one token at a time behind the cached keys and values.

pub mod counts;
pub mod sampler;

use scmmgpt_kernels::runtime::{Arena, Class, Device, Float, Plan, Stream, Tensor};

use crate::layer::Dims;
use crate::layer::causal_attention::{Cache, Places};
use crate::model::language_model::{self, LanguageModel};
use crate::{Error, Result};

/// The cached sequences of one batch, and memory for their next tokens.
///
/// A sequence's logits depend on its own tokens alone, to the bit: neither neighbours nor the batch's size change them.
#[derive(Debug)]
pub struct Generator<T: Float> {
    stream: Stream,
    _cache: Arena,
    caches: Vec<Cache<T>>,
    arena: Arena,
    batch: usize,
    capacity: usize,
    lengths: Vec<usize>,
}

/// Memory of one pass.
struct Handles<T: Float> {
    ids: Tensor<u32>,
    places: Places<T>,
    saved: language_model::Saved<T>,
    last: Tensor<T>,
    logits: Tensor<T>,
}

fn handles<T: Float>(model: &LanguageModel<T>, plan: &mut Plan, dims: Dims) -> Handles<T> {
    let tokens = dims.tokens();
    let (ids, positions) = (plan.tensor("ids", [tokens]), plan.tensor("positions", [tokens]));
    let places = Places { dims, lengths: plan.tensor("lengths", [dims.batch]), positions, table: model.rotation() };
    let saved = model.plan(plan, dims, false);
    let config = model.config();
    let last = plan.tensor("last", [dims.batch, config.hidden_size]);
    Handles { ids, places, saved, last, logits: plan.tensor("logits", [dims.batch, config.vocab_size]) }
}

impl<T: Float> Generator<T> {
    /// Memory for `batch` sequences of at most `capacity` tokens, prompts included.
    ///
    /// # Errors
    /// `Setting` when the model has fewer positions, `OutOfMemory`.
    pub fn new(model: &LanguageModel<T>, device: &Device, batch: usize, capacity: usize) -> Result<Self> {
        let positions = model.positions();
        if batch == 0 || capacity == 0 || capacity > positions {
            let expected = format!("1 to the {positions} positions of the model, for at least one sequence");
            return Err(Error::Setting { key: "generate.max_length".into(), value: format!("{capacity} for {batch} sequences"), expected });
        }
        let mut cache = Plan::new(Class::KvCache);
        let caches = model.plan_cache(&mut cache, batch, capacity);
        let mut plan = Plan::new(Class::Activations);
        handles(model, &mut plan, Dims { batch, seq_len: 1 });
        let stream = Stream::new(device, plan.scratch_bytes())?;
        let (cache, arena) = (Arena::allocate(device, cache)?, Arena::allocate(device, plan)?);
        Ok(Generator { stream, _cache: cache, caches, arena, batch, capacity, lengths: Vec::new() })
    }

    /// Tokens that each sequence has by now.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Starts one sequence a prompt; what was cached before is forgotten. The logits of each sequence's next token, `[prompts, vocabulary]`.
    ///
    /// # Errors
    /// `Setting` for an empty prompt, for more prompts or longer ones than there is memory for; `Index` for an unknown token.
    pub fn prefill(&mut self, model: &LanguageModel<T>, prompts: &[&[u32]]) -> Result<Vec<T>> {
        let longest = prompts.iter().map(|prompt| prompt.len()).max().unwrap_or(0);
        let fits = !prompts.is_empty() && prompts.len() <= self.batch && longest <= self.capacity;
        if !fits || prompts.iter().any(|prompt| prompt.is_empty()) {
            let lengths: Vec<String> = prompts.iter().map(|prompt| prompt.len().to_string()).collect();
            let expected = format!("1 to {} prompts of 1 to {} tokens each", self.batch, self.capacity);
            return Err(Error::Setting { key: "generate.prompt".into(), value: format!("[{}] tokens", lengths.join(", ")), expected });
        }
        let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        let dims = Dims { batch: prompts.len(), seq_len: longest };
        let padded = |prompt: &&[u32]| prompt.iter().copied().chain(std::iter::repeat_n(0, longest - prompt.len())).collect::<Vec<_>>();
        let ids: Vec<u32> = prompts.iter().flat_map(padded).collect();
        let positions: Vec<u32> = (0..prompts.len()).flat_map(|_| 0..longest as u32).collect();
        self.lengths.clone_from(&lengths);
        let rows: Vec<usize> = lengths.iter().enumerate().map(|(item, length)| item * longest + length - 1).collect();
        self.pass(model, dims, &ids, &positions, &rows, |generator, handles| {
            model.prefill(&generator.stream, &handles.places, &handles.saved, &generator.caches, &lengths)
        })
    }

    /// Appends one token to each sequence. The logits of the tokens after them, `[sequences, vocabulary]`.
    ///
    /// # Errors
    /// `Setting` when there is no sequence, not one token a sequence, or no room; `Index` for an unknown token.
    pub fn decode(&mut self, model: &LanguageModel<T>, tokens: &[u32]) -> Result<Vec<T>> {
        let cached = self.lengths.clone();
        if tokens.is_empty() || tokens.len() != cached.len() || cached.iter().any(|length| *length >= self.capacity) {
            let expected = format!("one token for each of {} sequences, none of which fills its {} places", cached.len(), self.capacity);
            return Err(Error::Setting { key: "generate.max_length".into(), value: format!("{} tokens", tokens.len()), expected });
        }
        let positions: Vec<u32> = cached.iter().map(|length| *length as u32).collect();
        let rows: Vec<usize> = (0..tokens.len()).collect();
        self.lengths.iter_mut().for_each(|length| *length += 1);
        self.pass(model, Dims { batch: tokens.len(), seq_len: 1 }, tokens, &positions, &rows, |generator, handles| {
            model.decode(&generator.stream, &handles.places, &handles.saved, &generator.caches, &cached)
        })
    }

    /// Embeds, runs the layers by `run`, and gives the logits of these rows.
    fn pass(
        &mut self,
        model: &LanguageModel<T>,
        dims: Dims,
        ids: &[u32],
        positions: &[u32],
        rows: &[usize],
        run: impl FnOnce(&Self, &Handles<T>) -> Result<()>,
    ) -> Result<Vec<T>> {
        let mut plan = Plan::new(Class::Activations);
        let handles = handles(model, &mut plan, dims);
        if plan.scratch_bytes() > self.stream.scratch_bytes() {
            self.stream = Stream::new(&self.stream.device().clone(), plan.scratch_bytes())?;
        }
        self.arena.replan(plan)?;
        let stream = &self.stream;
        let lengths: Vec<u32> = self.lengths.iter().map(|length| *length as u32).collect();
        stream.upload(handles.ids, ids)?;
        stream.upload(handles.places.positions, positions)?;
        stream.upload(handles.places.lengths, &lengths)?;
        model.embed(stream, &handles.saved, handles.ids)?;
        run(self, &handles)?;
        for (item, &row) in rows.iter().enumerate() {
            stream.copy(handles.last.row_range(item, 1), handles.saved.hidden.row_range(row, 1))?;
        }
        model.logits(stream, handles.logits, handles.last)?;
        Ok(stream.fetch(handles.logits)?)
    }
}
