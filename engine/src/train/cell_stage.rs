//! Stage 0: the cell encoder and its heads, on cells alone.

use std::path::Path;

use scmmgpt_kernels::runtime::{Device, Stream};
use scmmgpt_loader::batch::{CellBatch, CollateConfig, Collator, NO_LABEL, Objective, SampleKey};
use scmmgpt_loader::batch_order::BatchOrder;
use scmmgpt_loader::checkpoint::Checkpoint;
use scmmgpt_loader::prefetch::Prefetcher;

use super::calibration;
use super::data::TrainingData;
use super::evaluate::{self, Evaluation};
use super::linear_expert::fit_expert;
use super::stage::{BatchLoss, Run, Session, Stage, Validation};
use super::trainer::{Outcome, Trainer};
use crate::bundle::{Bundle, BundleConfig, write_json};
use crate::config::TrainConfig;
use crate::layer::Dropout;
use crate::model::cell_model::{CellModel, LossWeights, Purpose, Workspace};
use crate::novelty::Novelty;
use crate::predict::{PREFETCH, Predictions, Request, argmax, predict, probabilities};
use crate::weights::Parameters;
use crate::{Error, Result};

/// Number of this stage in log and checkpoints.
pub(super) const NUMBER: u32 = 0;

struct CellStage<'a> {
    config: &'a TrainConfig,
    data: &'a TrainingData,
    model: &'a CellModel<f32>,
    collator: Collator,
    order: BatchOrder,
    batches: Option<Prefetcher>,
    /// The batch that is on its way to the device.
    next: Option<CellBatch>,
    workspace: Workspace<f32>,
    training: Purpose,
    evaluation: Purpose,
}

/// Trains the stage, writes its model to `folder` and evaluates it on the test cells.
pub(super) fn train(trainer: &Trainer, device: &Device, folder: &Path, session: &mut Session<'_>) -> Result<Outcome> {
    let (config, data) = (trainer.config(), trainer.data());
    let (plan, model) = trainer.declare();
    let parameters = plan.allocate(device)?;
    let settings = &config.train;
    let lengths = data.dataset.lengths();
    let order = BatchOrder::new(data.split.train.clone(), settings.batch_size, config.seed)?;
    let stage = CellStage {
        config,
        data,
        model: &model,
        collator: Collator::new(data.dataset.vocab(), config.data.tokens.clone())?,
        order: if settings.bucket_by_length { order.bucket_by_length(&lengths)? } else { order },
        batches: None,
        next: None,
        workspace: model.workspace(device, trainer.largest(settings.batch_size), trainer.purpose(true))?,
        training: trainer.purpose(true),
        evaluation: trainer.purpose(false),
    };
    let mut run = Run::new(stage, NUMBER, &parameters, settings);
    let expert =
        |rows: &[usize], stream: &Stream| fit_expert(stream, &parameters, data, &config.data.tokens, rows, config.model.gene_linear_weight);
    run.train(session, |stage| {
        let stream = &stage.workspace.stream;
        parameters.initialise(stream, config.seed)?;
        if trainer.heads().gene_linear {
            expert(&data.split.train, stream)?;
        }
        load_initial(config, &parameters, stream)
    })?;
    let stage = &mut run.stage;
    let mut description = BundleConfig::new(config, data, trainer.heads());
    // Experts that agree are no surer together than each alone.
    description.temperature = 1.0 + f64::from(config.model.gene_linear_weight);
    let judged = trainer.heads().classes > 0 && !data.split.validation.is_empty();
    if let Some(calibrated) = if judged { stage.calibrate()? } else { None } {
        (description.temperature, description.unknown_threshold) = calibrated;
    }
    let stream = &stage.workspace.stream;
    if trainer.heads().gene_linear {
        // The expert stops nowhere early: once the calibration is done, the validation cells teach it too.
        expert(&data.learned(), stream)?;
    }
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { action: "create", path: folder.into(), source })?;
    if trainer.heads().classes > 0
        && let Some(novelty) = Novelty::fit(data)?
    {
        novelty.write(folder)?;
    }
    Bundle::write(folder, &description, data.dataset.vocab(), stream, &parameters)?;
    let steps = run.steps_done();
    drop(run);
    let evaluation = evaluate_on_test_cells(trainer, device, folder, session)?;
    Ok(Outcome { steps, evaluation, held_out: None })
}

/// Overlays the random start with the weights of `init`.
fn load_initial(config: &TrainConfig, parameters: &Parameters<f32>, stream: &Stream) -> Result<()> {
    let Some(path) = &config.init else { return Ok(()) };
    let checkpoint = Checkpoint::open(path)?;
    parameters.load_matching(stream, &checkpoint, &|name| !name.starts_with("cls_decoder.") && !name.starts_with("gene_linear."))
}

fn evaluate_on_test_cells(trainer: &Trainer, device: &Device, folder: &Path, session: &mut Session<'_>) -> Result<Option<Evaluation>> {
    let data = trainer.data();
    if trainer.heads().classes == 0 || data.split.test.is_empty() {
        return Ok(None);
    }
    session.note("computing the baselines on the same cells");
    let bundle = Bundle::open(folder, device)?;
    let evaluation = evaluate::on_test_cells(&bundle, data, trainer.config().seed)?;
    write_json(&folder.join("evaluation.json"), &evaluation)?;
    Ok(Some(evaluation))
}

impl Stage for CellStage<'_> {
    fn stream(&self) -> &Stream {
        &self.workspace.stream
    }

    fn refresh(&self) -> Result<()> {
        self.model.refresh(&self.workspace.stream)
    }

    fn batches_per_epoch(&self) -> usize {
        self.order.batches_per_epoch()
    }

    fn begin(&mut self, epoch: u64, start: usize) -> Result<()> {
        let key = SampleKey { seed: self.config.seed, epoch, training: true };
        let (dataset, batches) = (self.data.dataset.clone(), self.order.epoch(epoch));
        self.batches = Some(Prefetcher::new(dataset, self.collator.clone(), batches, key, start, PREFETCH)?);
        self.next = self.prepared()?;
        self.next.iter().try_for_each(|first| self.workspace.stage(first))
    }

    fn forward(&mut self, step: u64) -> Result<Option<BatchLoss>> {
        let Some(batch) = self.next.take() else { return Ok(None) };
        self.next = self.prepared()?;
        let dropout = self.dropout(step);
        self.workspace.turn_to(self.model, self.training)?;
        let losses = self.workspace.forward_staged(self.model, self.next.as_ref(), dropout)?;
        let parts = vec![("classification", losses.classification), ("expression", losses.expression), ("mvc", losses.mvc)];
        Ok(Some(BatchLoss { total: losses.total(&self.weights()), parts, cells: batch.rows, sources: Vec::new() }))
    }

    fn backward(&self, step: u64, scale: f64) -> Result<()> {
        self.workspace.backward(self.model, self.dropout(step), scale)
    }

    fn validate(&mut self) -> Result<Option<Validation>> {
        if self.data.split.validation.is_empty() {
            return Ok(None);
        }
        let collator = self.collator.clone();
        let predictions = self.predict_validation(&collator)?;
        let loss = predictions.losses.total(&self.weights());
        let truth = self.validation_labels();
        let classes = predictions.logits.len() / truth.len();
        if classes == 0 {
            return Ok(Some(Validation { loss, accuracy: None }));
        }
        let right = predictions.logits.chunks_exact(classes).zip(&truth).filter(|(logits, truth)| Some(argmax(logits)) == **truth);
        Ok(Some(Validation { loss, accuracy: Some(right.count() as f64 / truth.len() as f64) }))
    }

    /// Without generated tokens the flag embedding takes no part.
    fn reaches(&self, parameter: &str) -> bool {
        self.workspace.is_generative() || parameter != "flag_encoder.weight"
    }
}

impl CellStage<'_> {
    fn weights(&self) -> LossWeights {
        let loss = &self.config.loss;
        LossWeights { classification: loss.classification, expression: loss.expression, mvc: loss.mvc }
    }

    /// The epoch's next batch, from the thread that collates; none when it is over.
    fn prepared(&mut self) -> Result<Option<CellBatch>> {
        let Some(batch) = self.batches.as_mut().and_then(Iterator::next) else { return Ok(None) };
        let mut batch = batch?;
        batch.labels.iter_mut().for_each(|label| *label = relabel(self.data, *label));
        Ok(Some(batch))
    }

    fn dropout(&self, step: u64) -> Option<Dropout> {
        let probability = self.config.model.hidden_dropout_prob;
        (probability > 0.0).then_some(Dropout::new(probability, self.config.seed, step))
    }

    fn predict_validation(&mut self, collator: &Collator) -> Result<Predictions> {
        let data = self.data;
        let relabel = |label: i32| relabel(data, label);
        let (rows, batch_size) = (&data.split.validation, self.config.train.batch_size);
        let request = Request { dataset: &data.dataset, collator, rows, batch_size, relabel: &relabel };
        self.workspace.turn_to(self.model, self.evaluation)?;
        predict(self.model, &mut self.workspace, &request, &mut |_| {})
    }

    fn validation_labels(&self) -> Vec<Option<usize>> {
        let labels = self.data.dataset.labels();
        let head = |&row: &usize| labels[row].and_then(|class| self.data.head_classes[class as usize]).map(|class| class as usize);
        self.data.split.validation.iter().map(head).collect()
    }

    /// The temperature of the head's probabilities, and the probability below which a label is withheld.
    fn calibrate(&mut self) -> Result<Option<(f64, f64)>> {
        // As inference will see the cells: nothing hidden.
        let tokens = CollateConfig { objective: Objective::None, ..self.collator.config().clone() };
        let predictions = self.predict_validation(&Collator::new(self.data.dataset.vocab(), tokens)?)?;
        let truth = self.validation_labels();
        let classes = predictions.logits.len() / truth.len();
        let cells: Vec<(&[f32], usize)> =
            predictions.logits.chunks_exact(classes).zip(&truth).filter_map(|(logits, truth)| Some((logits, (*truth)?))).collect();
        let at = |temperature: f64| cells.iter().map(|(logits, truth)| (probabilities(logits, temperature), *truth)).collect();
        Ok(calibration::best(calibration::temperatures(1.0), at))
    }
}

/// A class of the dataset as one of the head's, or no label.
fn relabel(data: &TrainingData, label: i32) -> i32 {
    let head = |class: usize| data.head_classes[class].map_or(NO_LABEL, |class| class as i32);
    usize::try_from(label).map_or(NO_LABEL, head)
}
