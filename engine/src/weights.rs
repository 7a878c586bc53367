//! Parameters: checkpoint names to arena tensors, trainable or frozen.
//!
//! Layers declare their parameters once, under the names of the checkpoint, with [`ParameterPlan`]; [`Parameters`] owns the memory of
//! one model: weights and, when it is trained, gradients and the optimizer's moments, one allocation each.

use scmmgpt_kernels::int8_gemm::{self, Weight};
use scmmgpt_kernels::runtime::philox::{Site, normal, uniform};
use scmmgpt_kernels::runtime::{Arena, Class, Device, Element, Float, Plan, Real, Shape, Stream, Tensor};
use scmmgpt_loader::checkpoint::Checkpoint;

use crate::{Error, Result};

/// How a parameter starts when no checkpoint gives it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// This everywhere.
    Constant(f64),
    /// Uniform in [-bound, bound).
    Uniform(f64),
    /// Normal with this standard deviation.
    Normal(f64),
}

impl Init {
    /// PyTorch's default for the weight and bias of `Linear(fan_in, _)`: uniform within `1 / sqrt(fan_in)`.
    pub fn linear(fan_in: usize) -> Init {
        Init::Uniform(1.0 / (fan_in as f64).sqrt())
    }
}

/// A parameter as layers use it.
#[derive(Clone, Copy, Debug)]
pub struct Parameter<T: Float> {
    /// Its values.
    pub value: Tensor<T>,
    /// Its gradient, added to by backward; none when frozen or when nothing is trained.
    pub gradient: Option<Tensor<T::Acc>>,
}

/// A table of which the rows from some place on may learn.
#[derive(Clone, Copy, Debug)]
pub struct Table<T: Float> {
    /// `[rows, width]`.
    pub value: Tensor<T>,
    /// `[1 + rows - first, width]`: the gradient of the rows that learn, below a row for whatever has none.
    pub gradient: Option<Tensor<T::Acc>>,
    /// The first row that learns.
    pub first: usize,
}

/// The optimizer's view of one trainable parameter.
#[derive(Clone, Copy, Debug)]
pub struct Moments<T: Float> {
    /// First moment.
    pub first: Tensor<T::Acc>,
    /// Second moment.
    pub second: Tensor<T::Acc>,
}

/// A parameter's values on the host.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    /// Name in the checkpoint.
    pub name: String,
    /// Sizes.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// One declared parameter.
#[derive(Clone, Debug)]
pub struct Declared<T: Float> {
    /// Name in the checkpoint.
    pub name: String,
    /// Handles.
    pub parameter: Parameter<T>,
    /// Optimizer state; none when frozen.
    pub moments: Option<Moments<T>>,
    init: Init,
}

/// A frozen matrix of one byte a weight, made of checkpoint tensors that lie one below the other.
#[derive(Clone, Debug)]
struct Quantized<T: Float> {
    /// Name and `[rows, width]` of each.
    parts: Vec<(String, [usize; 2])>,
    weight: Weight<T>,
}

/// Collects parameters under checkpoint names.
#[derive(Debug)]
pub struct ParameterPlan<T: Float> {
    weights: Plan,
    gradients: Plan,
    optimizer: Plan,
    declared: Vec<Declared<T>>,
    quantized: Vec<Quantized<T>>,
    path: String,
    trainable: bool,
    /// Names that are frozen, inside [`ParameterPlan::frozen_where`].
    freezes: fn(&str) -> bool,
}

impl<T: Float> ParameterPlan<T> {
    /// An empty plan; `trainable` decides whether gradients and moments are planned.
    pub fn new(trainable: bool) -> Self {
        ParameterPlan {
            weights: Plan::new(Class::Weights),
            gradients: Plan::new(Class::Gradients),
            optimizer: Plan::new(Class::Optimizer),
            declared: Vec::new(),
            quantized: Vec::new(),
            path: String::new(),
            trainable,
            freezes: |_| false,
        }
    }

    /// Runs `body` with `name.` in front of the names.
    pub fn under<R>(&mut self, name: impl std::fmt::Display, body: impl FnOnce(&mut Self) -> R) -> R {
        let length = self.path.len();
        self.path.push_str(&format!("{name}."));
        let result = body(self);
        self.path.truncate(length);
        result
    }

    /// What stands in front of the names that are declared now.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Runs `body` with everything that it declares frozen: no gradient, no optimizer state.
    pub fn frozen<R>(&mut self, body: impl FnOnce(&mut Self) -> R) -> R {
        self.frozen_if(true, body)
    }

    /// Runs `body`, frozen or not.
    pub fn frozen_if<R>(&mut self, frozen: bool, body: impl FnOnce(&mut Self) -> R) -> R {
        let trainable = self.trainable;
        self.trainable &= !frozen;
        let result = body(self);
        self.trainable = trainable;
        result
    }

    /// Runs `body` with the parameters frozen whose names `freezes` accepts. Of packed ones the names stand behind each other.
    pub fn frozen_where<R>(&mut self, freezes: fn(&str) -> bool, body: impl FnOnce(&mut Self) -> R) -> R {
        let before = std::mem::replace(&mut self.freezes, freezes);
        let result = body(self);
        self.freezes = before;
        result
    }

    /// Declares a parameter.
    pub fn parameter(&mut self, name: &str, shape: impl Into<Shape>, init: Init) -> Parameter<T> {
        let name = format!("{}{name}", self.path);
        let (parameter, moments) = self.reserve(&name, shape.into());
        self.declared.push(Declared { name, parameter, moments, init });
        parameter
    }

    /// Declares checkpoint tensors that lie one below the other in memory: matrices of one width as one matrix, so that one product
    /// serves them all; vectors as the parts of one.
    pub fn packed(&mut self, parts: &[(String, Shape)], init: Init) -> Parameter<T> {
        let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
        let rows: usize = parts.iter().map(|(_, shape)| height(*shape)).sum();
        let vectors = parts.iter().all(|(_, shape)| shape.rank() == 1);
        let width = parts.first().map_or(0, |(_, shape)| shape.width());
        let whole: Shape = if vectors { [rows].into() } else { [rows, width].into() };
        let (all, all_moments) = self.reserve(&format!("{}{}", self.path, names.join(" + ")), whole);
        let mut at = 0;
        for (name, shape) in parts {
            let gradient = all.gradient.map(|gradient| part(gradient, *shape, at));
            let moments = all_moments.map(|all| Moments { first: part(all.first, *shape, at), second: part(all.second, *shape, at) });
            let parameter = Parameter { value: part(all.value, *shape, at), gradient };
            self.declared.push(Declared { name: format!("{}{name}", self.path), parameter, moments, init });
            at += height(*shape);
        }
        all
    }

    /// Declares a table `base` and, below it in memory, the rows `more` (none when there are 0), both as `(name, rows)`. The rows below
    /// learn whenever anything does, those of `base` unless it is `frozen`.
    pub fn table(&mut self, base: (&str, usize), more: (&str, usize), width: usize, init: Init, frozen: bool) -> Table<T> {
        let all = base.1 + more.1;
        let first = if frozen { base.1 } else { 0 };
        let path = format!("{}{}", self.path, base.0);
        let value = self.weights.tensor(&path, [all, width]);
        let trained = (self.trainable && first < all).then_some(all - first);
        let gradient = trained.map(|rows| self.gradients.tensor(&path, [1 + rows, width]));
        let moments = trained.map(|rows| Moments {
            first: self.optimizer.tensor(&format!("{path}.first_moment"), [rows, width]),
            second: self.optimizer.tensor(&format!("{path}.second_moment"), [rows, width]),
        });
        for (name, start, rows) in [(base.0, 0, base.1), (more.0, base.1, more.1)] {
            if rows == 0 {
                continue;
            }
            let at = start.checked_sub(first);
            let gradient = gradient.zip(at).map(|(gradient, at)| gradient.row_range(1 + at, rows));
            let part =
                |(all, at): (Moments<T>, usize)| Moments { first: all.first.row_range(at, rows), second: all.second.row_range(at, rows) };
            let parameter = Parameter { value: value.row_range(start, rows), gradient };
            let moments = moments.zip(at).map(part);
            self.declared.push(Declared { name: format!("{}{name}", self.path), parameter, moments, init });
        }
        Table { value, gradient, first }
    }

    /// Declares checkpoint tensors `(name, rows)` of one width as one frozen matrix in int8, which is no parameter:
    /// [`Parameters::quantize`] fills it.
    pub fn quantized(&mut self, parts: &[(&str, usize)], width: usize) -> Weight<T> {
        let parts: Vec<_> = parts.iter().map(|(name, rows)| (format!("{}{name}", self.path), [*rows, width])).collect();
        let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
        let (path, rows) = (names.join(" + "), parts.iter().map(|(_, [rows, _])| rows).sum());
        let words = self.weights.tensor(&format!("{path}.int8"), [rows, int8_gemm::words(width)]);
        let weight = Weight { words, scale: self.weights.tensor(&format!("{path}.scale"), [rows]) };
        self.quantized.push(Quantized { parts, weight });
        weight
    }

    /// Memory of one parameter.
    fn reserve(&mut self, name: &str, shape: Shape) -> (Parameter<T>, Option<Moments<T>>) {
        let value = self.weights.tensor(name, shape);
        let trainable = self.trainable && !(self.freezes)(name);
        let gradient = trainable.then(|| self.gradients.tensor(name, shape));
        let moments = trainable.then(|| Moments {
            first: self.optimizer.tensor(&format!("{name}.first_moment"), shape),
            second: self.optimizer.tensor(&format!("{name}.second_moment"), shape),
        });
        (Parameter { value, gradient }, moments)
    }

    /// The plan of the weights' memory, for values that are computed from weights and kept beside them.
    pub fn derived(&mut self) -> &mut Plan {
        &mut self.weights
    }

    /// The planned memory, class by class.
    pub fn plans(&self) -> [&Plan; 3] {
        [&self.weights, &self.gradients, &self.optimizer]
    }

    /// The planned memory, to keep.
    pub fn into_plans(self) -> [Plan; 3] {
        [self.weights, self.gradients, self.optimizer]
    }

    /// Names of the parameters, in the order of their declaration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().map(|declared| declared.name.as_str())
    }

    /// Number of scalar parameters, frozen ones in int8 included.
    pub fn count(&self) -> usize {
        let quantized = self.quantized.iter().flat_map(|quantized| &quantized.parts).map(|(_, [rows, width])| rows * width);
        self.declared.iter().map(|declared| declared.parameter.value.len()).chain(quantized).sum()
    }

    /// Allocates the memory, zeroed.
    ///
    /// # Errors
    /// `OutOfMemory`, by class.
    pub fn allocate(self, device: &Device) -> Result<Parameters<T>> {
        self.in_memory(|plan| Arena::allocate(device, plan))
    }

    /// [`ParameterPlan::allocate`], except that on a CPU parameters take up memory from when they are loaded.
    ///
    /// # Errors
    /// `OutOfMemory`, by class.
    pub fn allocate_unwritten(self, device: &Device) -> Result<Parameters<T>> {
        self.in_memory(|plan| Arena::allocate_unwritten(device, plan))
    }

    fn in_memory(self, memory: impl Fn(Plan) -> scmmgpt_kernels::Result<Arena>) -> Result<Parameters<T>> {
        let arenas = [memory(self.weights)?, memory(self.gradients)?, memory(self.optimizer)?];
        Ok(Parameters { declared: self.declared, quantized: self.quantized, _arenas: arenas })
    }
}

/// What a tensor takes of those that [`ParameterPlan::packed`] lays one below the other: elements of a vector, rows of a matrix.
fn height(shape: Shape) -> usize {
    if shape.rank() == 1 { shape.len() } else { shape.rows() }
}

/// The tensor of this shape that starts `at` such elements or rows.
fn part<E: Element>(whole: Tensor<E>, shape: Shape, at: usize) -> Tensor<E> {
    if shape.rank() == 1 { whole.columns(at, shape.len()) } else { whole.row_range(at, shape.rows()) }
}

/// The parameters of one model and their memory.
#[derive(Debug)]
pub struct Parameters<T: Float> {
    declared: Vec<Declared<T>>,
    quantized: Vec<Quantized<T>>,
    _arenas: [Arena; 3],
}

impl<T: Float> Parameters<T> {
    /// The parameters, in the order of their declaration.
    pub fn declared(&self) -> &[Declared<T>] {
        &self.declared
    }

    /// Those that learn, with their moments.
    pub fn trained(&self) -> impl Iterator<Item = (&Declared<T>, Moments<T>)> {
        self.declared.iter().filter_map(|declared| Some((declared, declared.moments?)))
    }

    /// Draws every parameter from its own stream of random numbers, keyed by the seed and its name: adding a parameter changes no other.
    ///
    /// # Errors
    /// Those of the upload.
    pub fn initialise(&self, stream: &Stream, seed: u64) -> Result<()> {
        self.initialise_matching(stream, seed, &|_| true)
    }

    /// Draws the parameters whose names `wanted` accepts; the others keep their values.
    ///
    /// # Errors
    /// Those of the upload.
    pub fn initialise_matching(&self, stream: &Stream, seed: u64, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        for declared in self.declared.iter().filter(|declared| wanted(&declared.name)) {
            let site = Site { seed, step: u64::from(name_hash(&declared.name)), site: u32::MAX };
            let value = |index: usize| -> f64 {
                match declared.init {
                    Init::Zeros => 0.0,
                    Init::Ones => 1.0,
                    Init::Constant(value) => value,
                    Init::Uniform(bound) => {
                        let word = site.words(index as u64 / 4)[index % 4];
                        bound * (2.0 * f64::from(uniform(word)) - 1.0)
                    }
                    Init::Normal(deviation) => {
                        let words = site.words(index as u64 / 2);
                        let (first, second) = normal(words[0], words[1]);
                        deviation * f64::from(if index.is_multiple_of(2) { first } else { second })
                    }
                }
            };
            let tensor = declared.parameter.value;
            let values: Vec<T> = (0..tensor.len()).map(|index| T::from_acc(T::Acc::of(value(index)))).collect();
            stream.upload(tensor, &values)?;
        }
        Ok(())
    }

    /// Reads every parameter from a checkpoint, under its own name or one of the other layouts' (module text of the checkpoint).
    ///
    /// # Errors
    /// One error that lists every missing and mis-shaped tensor; nothing is loaded then.
    pub fn load(&self, stream: &Stream, checkpoint: &Checkpoint) -> Result<()> {
        self.load_matching(stream, checkpoint, &|_| true)
    }

    /// Reads the parameters whose names `wanted` accepts; the others keep their values.
    ///
    /// # Errors
    /// As [`Parameters::load`].
    pub fn load_matching(&self, stream: &Stream, checkpoint: &Checkpoint, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let chosen: Vec<&Declared<T>> = self.declared.iter().filter(|declared| wanted(&declared.name)).collect();
        let named = |declared: &&Declared<T>| (resolve(checkpoint, &declared.name), declared.parameter.value.shape().to_vec());
        let names: Vec<(String, Vec<usize>)> = chosen.iter().map(named).collect();
        checkpoint.require(&names)?;
        for (declared, (name, _)) in chosen.iter().zip(&names) {
            set(stream, declared, checkpoint.to_f32(name)?)?;
        }
        Ok(())
    }

    /// Gives every parameter whose name `wanted` accepts the values that `read` finds for its name and shape.
    ///
    /// # Errors
    /// Those of `read` and of the upload.
    pub fn load_from(
        &self,
        stream: &Stream,
        wanted: &dyn Fn(&str) -> bool,
        mut read: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>,
    ) -> Result<()> {
        for declared in self.declared.iter().filter(|declared| wanted(&declared.name)) {
            set(stream, declared, read(&declared.name, &declared.parameter.value.shape())?)?;
        }
        Ok(())
    }

    /// Fills the matrices in int8 with what `read` finds for the names and shapes of their parts (see [`int8_gemm::quantize`]).
    ///
    /// # Errors
    /// Those of `read` and of the upload.
    pub fn quantize(&self, stream: &Stream, mut read: impl FnMut(&str, &[usize]) -> Result<Vec<f32>>) -> Result<()> {
        for Quantized { parts, weight } in &self.quantized {
            let mut values = Vec::new();
            for (name, shape) in parts {
                values.extend(read(name, shape)?);
            }
            let (words, scale) = int8_gemm::quantize(&values, parts.first().map_or(1, |(_, shape)| shape[1]));
            stream.upload(weight.words, &words)?;
            stream.upload(weight.scale, &scale.into_iter().map(|scale| T::Acc::of(f64::from(scale))).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// The values of every parameter in f32, by name.
    ///
    /// # Errors
    /// Those of the download.
    pub fn fetch(&self, stream: &Stream) -> Result<Vec<Values>> {
        self.fetch_matching(stream, &|_| true)
    }

    /// [`Parameters::fetch`] of those whose names `wanted` accepts.
    ///
    /// # Errors
    /// Those of the download.
    pub fn fetch_matching(&self, stream: &Stream, wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Values>> {
        let fetch = |declared: &Declared<T>| {
            let values = stream.fetch(declared.parameter.value)?;
            let values = values.into_iter().map(|value| value.to_acc().f64() as f32).collect();
            Ok(Values { name: declared.name.clone(), shape: declared.parameter.value.shape().to_vec(), values })
        };
        self.declared.iter().filter(|declared| wanted(&declared.name)).map(fetch).collect()
    }

    /// The handle of a parameter by its checkpoint name.
    ///
    /// # Errors
    /// `UnknownParameter`.
    pub fn named(&self, name: &str) -> Result<&Declared<T>> {
        self.declared.iter().find(|declared| declared.name == name).ok_or_else(|| Error::UnknownParameter { name: name.into() })
    }
}

fn set<T: Float>(stream: &Stream, declared: &Declared<T>, values: Vec<f32>) -> Result<()> {
    let values: Vec<T> = values.into_iter().map(|value| T::from_acc(T::Acc::of(f64::from(value)))).collect();
    Ok(stream.upload(declared.parameter.value, &values)?)
}

/// The other names under which checkpoints keep a parameter: scGPT's packed attention projection in PyTorch's own layer and in the
/// wrapper of later releases; the names that we have changed (module text of [`crate::model`]).
const LAYOUTS: [(&str, &str); 5] = [
    ("self_attn.Wqkv.weight", "self_attn.in_proj_weight"),
    ("self_attn.Wqkv.bias", "self_attn.in_proj_bias"),
    ("self_attn.Wqkv.", "self_attn._impl.Wqkv."),
    ("self_attn.out_proj.", "self_attn._impl.out_proj."),
    ("matching_head.", "gtm_head."),
];

/// What checkpoints put in front of a name: a distributed save, and scMMGPT's stage 1 around its own parts and around scGPT's.
const WRAPPERS: [&str; 4] = ["", "module.", "blip2qformer.", "blip2qformer.cell_encoder.model."];

/// The name under which this checkpoint keeps a parameter: as it is or inside one of [`WRAPPERS`], in any of [`LAYOUTS`].
fn resolve(checkpoint: &Checkpoint, name: &str) -> String {
    let plain = name.to_string();
    for wrapper in WRAPPERS {
        let candidates = std::iter::once(plain.clone()).chain(LAYOUTS.iter().map(|(ours, theirs)| plain.replace(ours, theirs)));
        for candidate in candidates.map(|candidate| format!("{wrapper}{candidate}")) {
            if checkpoint.contains(&candidate) {
                return candidate;
            }
        }
    }
    plain
}

/// FNV-1a: a fixed hash, so that a parameter's random numbers depend on its name and nothing else.
fn name_hash(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
