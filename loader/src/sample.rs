//! One cell as the model will see it: augmented, valued, cut to length and divided by the objective.
//!
//! Everything random here comes from streams keyed by (seed, epoch, dataset row), one for each purpose:
//! a cell's sample depends neither on its neighbours in the batch nor on threads, and switching one
//! option on does not change what another draws.

use crate::batch::{CollateConfig, Objective, SampleKey, Sampling};
use crate::binning;
use crate::dataset::{Cell, CellDataset};
use crate::expression::{self, MAX_RAW_VALUE, ValueMode};
use crate::random::{Purpose, Random};
use crate::scale::InputScale;
use crate::{Error, Result};

/// Above this count, thinning takes the expected value: its relative deviation is below a thousandth.
const MAX_THINNED_EXACTLY: u64 = 1 << 22;

/// The genes of one cell without `<cls>`; known genes first, then those to be predicted, if the objective
/// is generative.
#[derive(Debug, Default)]
pub(crate) struct Sample {
    pub(crate) genes: Vec<u32>,
    /// The model's value of each gene.
    pub(crate) values: Vec<f32>,
    /// Whether the objective hides and predicts the value.
    pub(crate) hidden: Vec<bool>,
    /// Genes in the known prefix.
    pub(crate) known: usize,
}

/// Draws the sample of a dataset row.
pub(crate) fn draw(config: &CollateConfig, dataset: &CellDataset, row: usize, key: SampleKey) -> Result<Sample> {
    let cell = dataset.cell(row)?;
    let report = &dataset.reports()[cell.source];
    if !config.value_mode.accepts(report.scale) {
        let (source_name, scale) = (report.name.clone(), report.scale);
        return Err(Error::Scale { source_name, mode: config.value_mode, scale });
    }
    // Outside training every epoch sees the same sample.
    let epoch = if key.training { key.epoch } else { 0 };
    let stream = |purpose| Random::new(key.seed, purpose, epoch, row as u64);

    let mut augment = stream(Purpose::Augment);
    let mut expressed = Expressed::of(&cell);
    if let (true, Some(range)) = (key.training, config.count_thinning) {
        expressed.thin(range, report.scale, &mut augment)?;
    }
    let inputs = expressed.inputs(config, report.scale, &mut stream(Purpose::Bin));

    let keeps = |random: &mut Random| random.uniform() >= f64::from(config.gene_dropout);
    let kept: Vec<usize> = (0..inputs.len()).filter(|_| !key.training || config.gene_dropout == 0.0 || keeps(&mut augment)).collect();

    let mut select = stream(Purpose::Select);
    let zeros = zero_genes(config, dataset.panel(cell.source), &expressed.genes, &mut select);
    let room = config.max_seq_len - 1 - zeros.len();
    let chosen = if key.training && config.sampling == Sampling::Random {
        select.choose(kept.len(), room)
    } else {
        // By counts, not by inputs: bins of equal counts were drawn at random.
        let counts: Vec<f32> = kept.iter().map(|&place| expressed.values[place]).collect();
        expression::top_k_by_value(&counts, room)
    };
    let mut tokens: Vec<(u32, f32)> = chosen
        .iter()
        .map(|&choice| kept[choice])
        .map(|place| (expressed.genes[place], inputs[place]))
        .chain(zeros.into_iter().map(|gene| (gene, 0.0)))
        .collect();
    tokens.sort_unstable_by_key(|&(gene, _)| gene);
    Ok(divide(tokens, &config.objective, &mut stream(Purpose::Objective)))
}

/// A cell's expressed genes, as counts (or whatever the file holds).
struct Expressed {
    genes: Vec<u32>,
    values: Vec<f32>,
    total: f64,
}

impl Expressed {
    fn of(cell: &Cell) -> Expressed {
        Expressed { genes: cell.genes.to_vec(), values: cell.values.to_vec(), total: cell.total }
    }

    /// Keeps each molecule with one probability, drawn from the range: a cell sequenced less deeply.
    fn thin(&mut self, range: (f32, f32), scale: InputScale, random: &mut Random) -> Result<()> {
        if scale != InputScale::Counts {
            let (setting, got) = ("count_thinning", scale.to_string());
            return Err(Error::Setting { setting, got, expected: "counts in every source" });
        }
        let (low, high) = (f64::from(range.0), f64::from(range.1));
        let share = low + random.uniform() * (high - low);
        let mut thinned = |count: f64| {
            if count > MAX_THINNED_EXACTLY as f64 { (count * share).round() } else { random.binomial(count as u64, share) as f64 }
        };
        let known: f64 = self.values.iter().map(|&value| f64::from(value)).sum();
        // Unknown genes count in the total, so their molecules are thinned as well.
        let mut total = thinned((self.total - known).max(0.0));
        for value in &mut self.values {
            let left = thinned(f64::from(*value));
            *value = left as f32;
            total += left;
        }
        self.total = total;
        let positive: Vec<bool> = self.values.iter().map(|&value| value > 0.0).collect();
        let mut keep = positive.iter();
        self.genes.retain(|_| *keep.next().unwrap_or(&false));
        self.values.retain(|&value| value > 0.0);
        Ok(())
    }

    /// `[genes]`: what the model sees.
    fn inputs(&self, config: &CollateConfig, scale: InputScale, random: &mut Random) -> Vec<f32> {
        let mut inputs = self.values.clone();
        match config.value_mode {
            ValueMode::Raw => inputs.iter_mut().for_each(|value| *value = value.min(MAX_RAW_VALUE)),
            ValueMode::Log1p if scale == InputScale::Log1p => {}
            ValueMode::Log1p => {
                expression::normalize_total(&mut inputs, self.total, config.target_sum);
                expression::log1p(&mut inputs);
            }
            ValueMode::Binned => binning::bin(&mut inputs, config.n_bins, || random.uniform()),
        }
        inputs
    }
}

/// Some genes that were measured as 0, ascending.
fn zero_genes(config: &CollateConfig, panel: &[u32], expressed: &[u32], random: &mut Random) -> Vec<u32> {
    if config.include_zero_genes == 0 {
        return Vec::new();
    }
    let mut expressed = expressed.iter().peekable();
    let is_zero = |gene: &&u32| {
        while expressed.next_if(|other| other < gene).is_some() {}
        expressed.peek() != Some(gene)
    };
    let zeros: Vec<u32> = panel.iter().filter(is_zero).copied().collect();
    let chosen = random.choose(zeros.len(), config.include_zero_genes);
    chosen.into_iter().map(|place| zeros[place]).collect()
}

/// Decides which genes the objective predicts, and orders them.
fn divide(tokens: Vec<(u32, f32)>, objective: &Objective, random: &mut Random) -> Sample {
    let len = tokens.len();
    let hidden_places = match objective {
        Objective::None => Vec::new(),
        Objective::Masked { ratio } => random.choose(len, share_of(len, *ratio)),
        Objective::Generative { ratios } => {
            let ratio = ratios.get(random.below(ratios.len())).copied().unwrap_or(0.0);
            random.choose(len, share_of(len, ratio))
        }
    };
    let mut hidden = vec![false; len];
    hidden_places.iter().for_each(|&place| hidden[place] = true);
    let mut order: Vec<usize> = (0..len).collect();
    let mut known = len;
    if let Objective::Generative { .. } = objective {
        order.sort_by_key(|&place| hidden[place]);
        known -= hidden_places.len();
    }
    Sample {
        genes: order.iter().map(|&place| tokens[place].0).collect(),
        values: order.iter().map(|&place| tokens[place].1).collect(),
        hidden: order.iter().map(|&place| hidden[place]).collect(),
        known,
    }
}

/// `int(len * ratio)` as in Python, where the ratio is a decimal fraction and not its `f32` neighbour
/// (10 genes at 0.7 give 7, not 6).
fn share_of(len: usize, ratio: f32) -> usize {
    let decimal = (f64::from(ratio) * 1e6).round() / 1e6;
    (len as f64 * decimal) as usize
}
