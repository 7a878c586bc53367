//! The cached sequences of one batch, and memory for their next tokens.

use scmmgpt_kernels::runtime::{Arena, Class, Device, Float, Plan, Real, Stream, Tensor};

use super::chooser::{Choice, Chooser, Chosen, Draw};
use crate::layer::Dims;
use crate::layer::causal_attention::{Behind, Cache, Places};
use crate::model::language_model::{self, LanguageModel};
use crate::{Error, Result};

/// The beginning of a sequence, or a further part of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prompt<'a> {
    /// Its tokens.
    pub tokens: &'a [u32],
    /// `[rows, hidden_size]`: what the model reads in place of the tokens from this one on; a cell in its slots.
    pub rows: Option<(usize, &'a [f32])>,
}

impl<'a> From<&'a [u32]> for Prompt<'a> {
    fn from(tokens: &'a [u32]) -> Self {
        Prompt { tokens, rows: None }
    }
}

/// Sequences behind cached keys and values.
///
/// A sequence's logits depend on its own tokens alone, to the bit, and on how they came in pieces: neither neighbours nor the batch's size
/// change them.
#[derive(Debug)]
pub struct Generator<T: Float> {
    stream: Stream,
    _cache: Arena,
    caches: Vec<Cache<T>>,
    arena: Arena,
    planned: Option<(Dims, usize, Handles<T>)>,
    /// `[rows, vocabulary]`, of the last pass.
    logits: Option<Tensor<T>>,
    chooser: Option<Chooser<T>>,
    capacity: usize,
    lengths: Vec<usize>,
    /// `[batch]`: sequences of one origin begin with the same tokens, so many.
    origins: Vec<(u64, usize)>,
    next_origin: u64,
}

/// Memory of one pass.
#[derive(Clone, Debug)]
struct Handles<T: Float> {
    ids: Tensor<u32>,
    places: Places<T>,
    saved: language_model::Saved<T>,
    /// `[rows, hidden_size]`: the rows whose logits are wanted.
    read: Tensor<T>,
    logits: Tensor<T>,
}

fn handles<T: Float>(model: &LanguageModel<T>, plan: &mut Plan, dims: Dims, rows: usize) -> Handles<T> {
    let tokens = dims.tokens();
    let (ids, positions) = (plan.tensor("ids", [tokens]), plan.tensor("positions", [tokens]));
    let places = Places { dims, lengths: plan.tensor("lengths", [dims.batch]), positions, table: model.rotation(), dropout: None };
    let saved = model.plan(plan, dims, false);
    let read = plan.tensor("read", [rows, model.config().hidden_size]);
    Handles { ids, places, saved, read, logits: plan.tensor("logits", [rows, model.vocab_size()]) }
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
        handles(model, &mut plan, Dims { batch, seq_len: 1 }, batch);
        let stream = Stream::new(device, plan.scratch_bytes().max(cache.scratch_bytes()))?;
        let (cache, arena) = (Arena::allocate(device, cache)?, Arena::allocate(device, plan)?);
        let (lengths, origins) = (Vec::new(), vec![(0, 0); batch]);
        let (planned, logits, chooser) = (None, None, None);
        Ok(Generator { stream, _cache: cache, caches, arena, planned, logits, chooser, capacity, lengths, origins, next_origin: 1 })
    }

    /// Tokens that each sequence has by now.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Most sequences, and most tokens of one.
    pub fn size(&self) -> (usize, usize) {
        (self.origins.len(), self.capacity)
    }

    /// The last pass's logits, `[rows, vocabulary]`.
    ///
    /// # Errors
    /// `Setting` when there was none, or it failed.
    pub fn logits(&self) -> Result<Vec<T>> {
        Ok(self.stream.fetch(self.last_logits()?)?)
    }

    fn last_logits(&self) -> Result<Tensor<T>> {
        self.logits.ok_or_else(|| {
            let (value, expected) = ("no logits".into(), "a prompt or tokens that were read before".into());
            Error::Setting { key: "generate".into(), value, expected }
        })
    }

    /// A token behind each sequence, by the last pass's logits, which stay where they are.
    ///
    /// # Errors
    /// `Setting` when there are none, or not one a draw; those of the device.
    pub fn choose(&mut self, choice: &Choice<'_>, draws: &[Draw<'_>]) -> Result<Vec<Chosen>> {
        let logits = self.last_logits()?;
        if logits.rows() != draws.len() {
            let expected = format!("{}, a sequence each", logits.rows());
            return Err(Error::Setting { key: "generate.choose".into(), value: format!("{} draws", draws.len()), expected });
        }
        let (device, sizes) = (self.stream.device().clone(), self.size());
        let chooser = Chooser::fit(&mut self.chooser, &device, &self.stream, sizes, choice)?;
        device.enter_awake(|| chooser.choose(&self.stream, logits, choice, draws))
    }

    /// Starts one sequence a prompt; what was cached before is forgotten. Leaves the logits of each sequence's next token, `[prompts,
    /// vocabulary]`. Equal prompts are computed once.
    ///
    /// # Errors
    /// `Setting` for an empty prompt, for more prompts or longer ones than there is memory for, or rows that leave their prompt; `Index`
    /// for an unknown token.
    pub fn prefill(&mut self, model: &LanguageModel<T>, prompts: &[Prompt<'_>]) -> Result<()> {
        self.lengths = vec![0; prompts.len()];
        self.check(model, prompts)?;
        let mut distinct: Vec<Prompt<'_>> = Vec::new();
        let mut sources = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let known = distinct.iter().position(|known| known == prompt);
            sources.push(known.unwrap_or(distinct.len()));
            if known.is_none() {
                distinct.push(*prompt);
            }
        }
        self.lengths = vec![0; distinct.len()];
        self.pass(model, &distinct, Wanted::Last(&sources), |generator, handles, _| {
            model.prefill(&generator.stream, &handles.places, &handles.saved, &generator.caches, &generator.lengths)
        })?;
        for (row, &length) in self.lengths.iter().enumerate() {
            self.origins[row] = (self.next_origin, length);
            self.next_origin += 1;
        }
        self.place(&sources)
    }

    /// Appends one token to each sequence. Leaves the logits of the tokens after them, `[sequences, vocabulary]`.
    ///
    /// # Errors
    /// `Setting` when there is no sequence, not one token a sequence, or no room; `Index` for an unknown token.
    pub fn decode(&mut self, model: &LanguageModel<T>, tokens: &[u32]) -> Result<()> {
        let parts: Vec<Prompt<'_>> = tokens.chunks(1).map(Prompt::from).collect();
        self.check(model, &parts)?;
        self.pass(model, &parts, Wanted::Last(&(0..tokens.len()).collect::<Vec<_>>()), |generator, handles, behind| {
            model.decode(&generator.stream, &handles.places, &handles.saved, &generator.caches, behind.cached)
        })
    }

    /// Appends several tokens to each sequence. Leaves the logits of the tokens after them, `[sequences, vocabulary]`.
    ///
    /// # Errors
    /// As [`Generator::prefill`].
    pub fn extend(&mut self, model: &LanguageModel<T>, parts: &[Prompt<'_>]) -> Result<()> {
        self.extend_by(model, parts, Wanted::Last(&(0..parts.len()).collect::<Vec<_>>()))
    }

    /// As [`Generator::extend`]; leaves the logits behind each of the new tokens, sequence by sequence, `[new tokens, vocabulary]`.
    ///
    /// # Errors
    /// As [`Generator::prefill`].
    pub fn extend_all(&mut self, model: &LanguageModel<T>, parts: &[Prompt<'_>]) -> Result<()> {
        self.extend_by(model, parts, Wanted::All)
    }

    fn extend_by(&mut self, model: &LanguageModel<T>, parts: &[Prompt<'_>], wanted: Wanted<'_>) -> Result<()> {
        self.check(model, parts)?;
        self.pass(model, parts, wanted, |generator, handles, behind| {
            model.extend(&generator.stream, &handles.places, &handles.saved, &generator.caches, behind)
        })
    }

    /// Replaces the sequences: the new number `i` is a copy of the old number `sources[i]`. Sources ascend; one may occur several times.
    ///
    /// # Errors
    /// `Setting` when they do not, name no sequence, or are more than there is memory for.
    pub fn select(&mut self, sources: &[usize]) -> Result<()> {
        let known = sources.last().is_some_and(|&last| last < self.lengths.len());
        if !known || !sources.is_sorted() || sources.len() > self.origins.len() {
            let expected = format!("up to {} ascending numbers below {}", self.origins.len(), self.lengths.len());
            return Err(Error::Setting { key: "generate.select".into(), value: format!("{sources:?}"), expected });
        }
        self.place(sources)
    }

    /// Cuts the last tokens of the sequences off: each keeps so many.
    pub fn truncate(&mut self, lengths: &[usize]) {
        self.lengths.iter_mut().zip(lengths).for_each(|(length, &kept)| *length = kept.min(*length));
        for (origin, &length) in self.origins.iter_mut().zip(&self.lengths) {
            origin.1 = origin.1.min(length);
        }
    }

    /// Copies in an order in which no source is overwritten before it is read: first those that move to a smaller number, ascending, then
    /// the others, descending. That holds where sources ascend, and where none is above its own place.
    fn place(&mut self, sources: &[usize]) -> Result<()> {
        let left = (0..sources.len()).filter(|&target| sources[target] > target);
        let right = (0..sources.len()).rev().filter(|&target| sources[target] < target);
        for target in left.chain(right) {
            let source = sources[target];
            let ((theirs, shared), (ours, also)) = (self.origins[source], self.origins[target]);
            let from = if theirs == ours { shared.min(also) } else { 0 };
            for cache in &self.caches {
                cache.copy(&self.stream, source, target, from, self.lengths[source])?;
            }
            self.origins[target] = self.origins[source];
        }
        self.lengths = sources.iter().map(|&source| self.lengths[source]).collect();
        Ok(())
    }

    /// That the parts can be appended to the sequences.
    fn check(&self, model: &LanguageModel<T>, parts: &[Prompt<'_>]) -> Result<()> {
        let (batch, capacity) = self.size();
        let width = model.config().hidden_size;
        let fits = |(part, &cached): (&Prompt<'_>, &usize)| {
            let rows_fit =
                part.rows.is_none_or(|(at, rows)| rows.len().is_multiple_of(width) && at + rows.len() / width <= part.tokens.len());
            !part.tokens.is_empty() && cached + part.tokens.len() <= capacity && rows_fit
        };
        if !parts.is_empty() && parts.len() == self.lengths.len() && parts.len() <= batch && parts.iter().zip(&self.lengths).all(fits) {
            return Ok(());
        }
        let found = parts.iter().zip(&self.lengths).map(|(part, cached)| format!("{} behind {cached}", part.tokens.len()));
        let value = format!("[{}] tokens", found.collect::<Vec<_>>().join(", "));
        let expected = format!("1 to {batch} prompts of 1 to {capacity} tokens each; one part for each of the sequences, rows inside it");
        Err(Error::Setting { key: "generate.prompt".into(), value, expected })
    }

    /// Appends the parts: embeds, runs the layers by `run`, and leaves the logits that are wanted. On an error the sequences are as before.
    fn pass(
        &mut self,
        model: &LanguageModel<T>,
        parts: &[Prompt<'_>],
        wanted: Wanted<'_>,
        run: impl FnOnce(&Self, &Handles<T>, Behind<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        self.logits = None;
        let cached = self.lengths.clone();
        let new: Vec<usize> = parts.iter().map(|part| part.tokens.len()).collect();
        self.lengths.iter_mut().zip(&new).for_each(|(length, new)| *length += new);
        let device = self.stream.device().clone();
        let behind = Behind { cached: &cached, new: &new };
        let result = device.enter_awake(|| self.pass_behind(model, parts, wanted, behind, run));
        if result.is_err() {
            self.lengths = cached;
        }
        result
    }

    fn pass_behind(
        &mut self,
        model: &LanguageModel<T>,
        parts: &[Prompt<'_>],
        wanted: Wanted<'_>,
        behind: Behind<'_>,
        run: impl FnOnce(&Self, &Handles<T>, Behind<'_>) -> Result<()> + Send,
    ) -> Result<()> {
        let (dims, rows) = layout(parts, wanted);
        let handles = self.fit(model, dims, rows.len())?;
        let (stream, seq_len) = (&self.stream, dims.seq_len);
        let padding = |part: &Prompt<'_>| std::iter::repeat_n(0, seq_len - part.tokens.len());
        let ids: Vec<u32> = parts.iter().flat_map(|part| part.tokens.iter().copied().chain(padding(part))).collect();
        let bound = model.vocab_size();
        if let Some(position) = ids.iter().position(|&id| id as usize >= bound) {
            // A CUDA device would make NaN of it.
            let index = u64::from(ids[position]);
            return Err(scmmgpt_kernels::Error::Index { op: "generate", tensor: "ids", position, index, bound }.into());
        }
        // Padding behind the last position reads the last: its result is nobody's.
        let last = model.positions() as u32 - 1;
        let positions = |&first: &usize| (first as u32..).take(seq_len).map(move |place| place.min(last));
        let lengths: Vec<u32> = self.lengths.iter().map(|length| *length as u32).collect();
        stream.upload(handles.ids, &ids)?;
        stream.upload(handles.places.positions, &behind.cached.iter().flat_map(positions).collect::<Vec<_>>())?;
        stream.upload(handles.places.lengths, &lengths)?;
        model.embed(stream, &handles.saved, handles.ids)?;
        for (item, part) in parts.iter().enumerate() {
            if let Some((at, values)) = part.rows.filter(|(_, values)| !values.is_empty()) {
                let values: Vec<T> = values.iter().map(|&value| T::from_acc(T::Acc::of(f64::from(value)))).collect();
                let count = values.len() / model.config().hidden_size;
                stream.upload(handles.saved.embedded.row_range(item * seq_len + at, count), &values)?;
            }
        }
        run(self, &handles, behind)?;
        let stream = &self.stream;
        for (item, &row) in rows.iter().enumerate() {
            stream.copy(handles.read.row_range(item, 1), handles.saved.hidden.row_range(row, 1))?;
        }
        model.logits(stream, handles.logits, handles.read)?;
        self.logits = Some(handles.logits);
        Ok(())
    }

    /// The memory of a pass of these sizes; that of the last one where they are the same.
    fn fit(&mut self, model: &LanguageModel<T>, dims: Dims, rows: usize) -> Result<Handles<T>> {
        if let Some((known, known_rows, handles)) = &self.planned
            && (*known, *known_rows) == (dims, rows)
        {
            return Ok(handles.clone());
        }
        let mut plan = Plan::new(Class::Activations);
        let handles = handles(model, &mut plan, dims, rows);
        self.stream.provide_scratch(plan.scratch_bytes())?;
        self.arena.replan(plan)?;
        self.planned = Some((dims, rows, handles.clone()));
        Ok(handles)
    }
}

/// Behind which tokens of the parts logits are wanted.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    /// The last ones of these parts.
    Last(&'a [usize]),
    /// All of all parts.
    All,
}

/// The padded sizes of these parts, and the rows whose logits are wanted.
fn layout(parts: &[Prompt<'_>], wanted: Wanted<'_>) -> (Dims, Vec<usize>) {
    let longest = parts.iter().map(|part| part.tokens.len()).max().unwrap_or(0);
    let rows = match wanted {
        Wanted::Last(sources) => sources.iter().map(|&source| source * longest + parts[source].tokens.len() - 1).collect(),
        Wanted::All => parts.iter().enumerate().flat_map(|(item, part)| (item * longest..).take(part.tokens.len())).collect(),
    };
    (Dims { batch: parts.len(), seq_len: longest }, rows)
}
