//! Several projections of one input in one product, `y = x W^T`, and low-rank adapters on some of them: an adapted projection's columns
//! of `y` get `lora_alpha / r * B (A (dropout(x)))` on top. With B = 0, as adapters start, no bit of `y` changes.

use scmmgpt_kernels::gemm::{self, Epilogue, Layout};
use scmmgpt_kernels::runtime::philox::Site;
use scmmgpt_kernels::runtime::{Float, Plan, Stream, Tensor};
use scmmgpt_kernels::{dropout, reduce};

use super::Dropout;
use super::int8_linear::{Base, Int8Linear};
use super::linear::Linear;
use crate::Result;
use crate::config::{LoraConfig, Tuning};
use crate::weights::{Init, Parameter, ParameterPlan};

/// Most projections of one product: queries, keys and values.
const MOST: usize = 3;

/// Weights of the projections and of their adapters.
#[derive(Clone, Copy, Debug)]
pub struct AdaptedLinear<T: Float> {
    /// `[outputs of all projections, input]`.
    pub base: Base<T>,
    lora: Option<Lora<T>>,
}

/// The adapters of one product.
#[derive(Clone, Copy, Debug)]
struct Lora<T: Float> {
    /// `[adapters * r, input]`.
    a: Parameter<T>,
    /// Each adapter's `[output, r]`, and the first of its columns of `y`.
    b: [Option<(Parameter<T>, usize)>; MOST],
    r: usize,
    scaling: f64,
    dropout: f32,
    site: u32,
    /// W holds the adapters' shares.
    merged: bool,
}

/// One adapter, to be merged into its projection.
#[derive(Clone, Copy, Debug)]
pub struct Adapter<T: Float> {
    /// `[output, input]`: the projection's rows of W.
    pub weight: Tensor<T>,
    /// `[r, input]`.
    pub a: Tensor<T>,
    /// `[output, r]`.
    pub b: Tensor<T>,
    /// `lora_alpha / r`.
    pub scaling: f64,
}

/// What backward needs from forward; none where there are no adapters.
#[derive(Clone, Copy, Debug)]
pub struct Saved<T: Float>(Option<Kept<T>>);

#[derive(Clone, Copy, Debug)]
struct Kept<T: Float> {
    /// `[tokens, input]`: the input after dropout.
    dropped: Option<Tensor<T>>,
    /// `[tokens, adapters * r]`: `lora_alpha / r * A (dropout(x))`.
    low: Tensor<T>,
    shared: Shared<T>,
}

/// Memory for what is used at once; one for all layers.
#[derive(Clone, Copy, Debug)]
pub struct Shared<T: Float> {
    /// The gradient of `low`.
    dlow: Option<Tensor<T>>,
    /// `[tokens * largest width]` each: the gradients of the input after dropout and before it.
    dinput: Option<[Tensor<T>; 2]>,
}

impl<T: Float> Shared<T> {
    /// Plans it for products with inputs and outputs of at most `width`; none where nothing is adapted.
    pub fn plan(plan: &mut Plan, tuning: &Tuning, tokens: usize, width: usize, training: bool) -> Option<Self> {
        let LoraConfig { r, lora_dropout, .. } = *tuning.adapters()?;
        Some(plan.under("lora", |plan| Shared {
            dlow: training.then(|| plan.tensor("dlow", [tokens * MOST * r])),
            dinput: (training && lora_dropout > 0.0).then(|| ["ddropped", "dinput"].map(|name| plan.tensor(name, [tokens * width]))),
        }))
    }
}

/// The beginning of shared memory as a matrix.
fn matrix<T: Float>(memory: Tensor<T>, rows: usize, width: usize) -> Tensor<T> {
    memory.columns(0, rows * width).reshape([rows, width])
}

impl<T: Float> AdaptedLinear<T> {
    /// Declares projections `NAME.weight`, `[output, input]` each, as one product without bias, and the adapters of those that `tuning`
    /// targets under PEFT's names. `site` numbers the product among those of the model.
    pub fn declare(plan: &mut ParameterPlan<T>, outputs: &[(&str, usize)], input: usize, tuning: &Tuning, site: u32) -> Self {
        let base = if tuning.load_in_8bit {
            let names: Vec<String> = outputs.iter().map(|(name, _)| format!("{name}.weight")).collect();
            let parts: Vec<(&str, usize)> = names.iter().zip(outputs).map(|(name, (_, output))| (name.as_str(), *output)).collect();
            Base::Int8(Int8Linear::declare(plan, &parts, input))
        } else {
            Base::Plain(plan.frozen_if(!tuning.trains_base(), |plan| Linear::declare_llama(plan, outputs, input)))
        };
        let lora = tuning.adapters().and_then(|config| Lora::declare(plan, outputs, input, config, site));
        AdaptedLinear { base, lora }
    }

    /// Plans what forward keeps of `tokens` rows, and states the scratch of backward.
    pub fn plan(&self, plan: &mut Plan, name: &str, tokens: usize, shared: Option<Shared<T>>) -> Saved<T> {
        self.base.plan(plan, tokens);
        Saved(self.lora.zip(shared).map(|(lora, shared)| plan.under(name, |plan| lora.plan(plan, tokens, shared))))
    }

    /// `y = epilogue(x W^T)` and the adapters' shares.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn forward(
        &self,
        stream: &Stream,
        saved: &Saved<T>,
        y: Tensor<T>,
        x: Tensor<T>,
        epilogue: Epilogue<T>,
        drawn: Option<Dropout>,
    ) -> Result<()> {
        self.base.forward_with(stream, y, x, epilogue)?;
        self.active(saved).map_or(Ok(()), |(lora, kept)| lora.forward(stream, &kept, y, x, drawn))
    }

    /// The gradients of all weights that learn, then `dx`.
    ///
    /// # Errors
    /// Those of the kernels.
    pub fn backward(
        &self,
        stream: &Stream,
        saved: &Saved<T>,
        dx: Tensor<T>,
        dy: Tensor<T>,
        x: Tensor<T>,
        drawn: Option<Dropout>,
    ) -> Result<()> {
        self.base.backward(stream, Some((dx, Epilogue::None)), dy, x)?;
        self.active(saved).map_or(Ok(()), |(lora, kept)| lora.backward(stream, &kept, dx, dy, x, drawn))
    }

    /// Whether forward adds shares of adapters, so that an epilogue that is more than a sum does not see all.
    pub fn is_adapted(&self, saved: &Saved<T>) -> bool {
        self.active(saved).is_some()
    }

    fn active(&self, saved: &Saved<T>) -> Option<(Lora<T>, Kept<T>)> {
        self.lora.filter(|lora| !lora.merged).zip(saved.0)
    }

    /// The adapters that can be merged: those of weights that are parameters.
    pub fn adapters(&self) -> impl Iterator<Item = Adapter<T>> {
        self.base.plain().zip(self.lora).into_iter().flat_map(move |(weight, lora)| {
            let adapter = move |(b, [at, output], [rank, r]): (Parameter<T>, [usize; 2], [usize; 2])| Adapter {
                weight: weight.row_range(at, output),
                a: lora.a.value.row_range(rank, r),
                b: b.value,
                scaling: lora.scaling,
            };
            lora.each().map(adapter)
        })
    }

    /// Says whether W holds the adapters' shares, so that passes leave them out.
    pub fn set_merged(&mut self, merged: bool) {
        if let Some(lora) = &mut self.lora {
            lora.merged = merged;
        }
    }
}

impl<T: Float> Lora<T> {
    fn declare(plan: &mut ParameterPlan<T>, outputs: &[(&str, usize)], input: usize, config: &LoraConfig, site: u32) -> Option<Self> {
        let LoraConfig { r, lora_dropout, ref target_modules, .. } = *config;
        let mut at = 0;
        let places = outputs.iter().map(|(name, output)| {
            at += output;
            (*name, *output, at - output)
        });
        let adapted: Vec<_> = places.filter(|(name, ..)| target_modules.iter().any(|target| target == name)).take(MOST).collect();
        if adapted.is_empty() {
            return None;
        }
        let parts: Vec<_> = adapted.iter().map(|(name, ..)| (format!("{name}.lora_A.weight"), [r, input].into())).collect();
        // Kaiming's uniform with a = sqrt(5), as PEFT draws A.
        let a = plan.packed(&parts, Init::linear(input));
        let mut b = [None; MOST];
        for (b, (name, output, at)) in b.iter_mut().zip(adapted) {
            *b = Some((plan.parameter(&format!("{name}.lora_B.weight"), [output, r], Init::Zeros), at));
        }
        Some(Lora { a, b, r, scaling: config.scaling(), dropout: lora_dropout, site, merged: false })
    }

    fn plan(&self, plan: &mut Plan, tokens: usize, shared: Shared<T>) -> Kept<T> {
        let (ranks, input) = (self.a.value.rows(), self.a.value.width());
        plan.scratch(gemm::scratch::<T>(ranks, input, tokens));
        for (b, _) in self.b.into_iter().flatten() {
            plan.scratch(gemm::scratch::<T>(b.value.rows(), self.r, tokens));
        }
        let dropped = shared.dinput.map(|_| plan.tensor("dropped", [tokens, input]));
        Kept { dropped, low: plan.tensor("low", [tokens, ranks]), shared }
    }

    /// Each adapter: B, its columns of `y`, and its columns of `low`.
    fn each(&self) -> impl Iterator<Item = (Parameter<T>, [usize; 2], [usize; 2])> + use<T> {
        let r = self.r;
        self.b.into_iter().flatten().enumerate().map(move |(index, (b, at))| (b, [at, b.value.rows()], [index * r, r]))
    }

    /// The input as A reads it: after dropout, if there is any.
    fn input(&self, kept: &Kept<T>, x: Tensor<T>, drawn: Option<Dropout>) -> (Tensor<T>, Option<(f32, Site)>) {
        match kept.dropped.zip(drawn.and_then(|drawn| drawn.at(self.dropout, self.site))) {
            Some((dropped, site)) => (dropped, Some(site)),
            None => (x, None),
        }
    }

    fn forward(&self, stream: &Stream, kept: &Kept<T>, y: Tensor<T>, x: Tensor<T>, drawn: Option<Dropout>) -> Result<()> {
        let (input, site) = self.input(kept, x, drawn);
        if let Some((probability, site)) = site {
            dropout::forward(stream, dropout::Forward { y: input, x, residual: None, probability, site })?;
        }
        let scaled = Epilogue::Scaled { factor: self.scaling };
        multiply(stream, kept.low, input, self.a.value, Layout::NT, scaled)?;
        for (b, [at, output], [rank, r]) in self.each() {
            multiply(stream, y.columns(at, output), kept.low.columns(rank, r), b.value, Layout::NT, Epilogue::Added)?;
        }
        Ok(())
    }

    fn backward(&self, stream: &Stream, kept: &Kept<T>, dx: Tensor<T>, dy: Tensor<T>, x: Tensor<T>, drawn: Option<Dropout>) -> Result<()> {
        let Some(dlow) = kept.shared.dlow else { return Ok(()) };
        let dlow = matrix(dlow, dy.rows(), kept.low.width());
        for (b, [at, output], [rank, r]) in self.each() {
            let dy = dy.columns(at, output);
            multiply(stream, dlow.columns(rank, r), dy, b.value, Layout::NN, Epilogue::Scaled { factor: self.scaling })?;
            if let Some(c) = b.gradient {
                gemm::accumulate(stream, gemm::Accumulate { c, a: dy, b: kept.low.columns(rank, r), layout: Layout::TN })?;
            }
        }
        let (input, site) = self.input(kept, x, drawn);
        if let Some(c) = self.a.gradient {
            gemm::accumulate(stream, gemm::Accumulate { c, a: dlow, b: input, layout: Layout::TN })?;
        }
        let Some(((probability, site), dinput)) = site.zip(kept.shared.dinput) else {
            return multiply(stream, dx, dlow, self.a.value, Layout::NN, Epilogue::Added);
        };
        let [ddropped, dinput] = dinput.map(|memory| matrix(memory, x.rows(), x.width()));
        multiply(stream, ddropped, dlow, self.a.value, Layout::NN, Epilogue::None)?;
        dropout::backward(stream, dropout::Backward { dx: dinput, dy: ddropped, probability, site })?;
        Ok(reduce::add_assign(stream, reduce::AddAssign { y: dx, x: dinput })?)
    }
}

fn multiply<T: Float>(stream: &Stream, c: Tensor<T>, a: Tensor<T>, b: Tensor<T>, layout: Layout, epilogue: Epilogue<T>) -> Result<()> {
    Ok(gemm::forward(stream, gemm::Forward { c, a, b, layout, epilogue })?)
}
