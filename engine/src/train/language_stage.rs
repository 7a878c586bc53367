//! Stage 2: cells and language.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scmmgpt_kernels::runtime::{Device, Stream};
use scmmgpt_loader::batch::{CellBatch, CollateConfig, Collator, Objective, SampleKey};
use scmmgpt_loader::batch_order::BatchOrder;
use scmmgpt_loader::dataset::CellDataset;
use scmmgpt_loader::language::{Direction, LanguageBatch, PairCollator};
use scmmgpt_loader::prefetch::Prefetcher;
use scmmgpt_loader::text::{CellTexts, TextBatch, TextCollator};

use super::evaluate::HeldOutLosses;
use super::held_out;
use super::joint::Joint;
use super::language::Language;
use super::neighbours::{self, Barred, Finder};
use super::stage::{BatchLoss, Run, Session, Stage, Validation};
use super::trainer::{Outcome, Progress, STAGE0, Trainer};
use super::written_threshold;
use crate::bundle::{self, Bundle, BundleConfig, write_json};
use crate::config::TrainConfig;
use crate::model::cell_language::{CellLanguage, ExpressionTargets, LANGUAGE, Losses, Neighbours, Pairs, Purpose, Workspace};
use crate::model::cell_model::Heads;
use crate::model::cell_text::Draw;
use crate::neighbours::NeighbourIndex;
use crate::predict::PREFETCH;
use crate::{Error, Result};

/// Number of this stage in log and checkpoints.
pub(super) const NUMBER: u32 = 2;

/// Cells with their texts, and what the decoder is to say of them.
struct PairBatch {
    cells: CellBatch,
    sequences: LanguageBatch,
    expression: ExpressionTargets,
    /// Texts that cells are to be made of, as stage 1 reads them, where neighbours are looked for.
    texts: Option<TextBatch>,
    neighbours: Option<Neighbours>,
}

impl PairBatch {
    fn pairs(&self) -> Pairs<'_> {
        let PairBatch { cells, sequences, expression, neighbours, .. } = self;
        Pairs { cells, sequences, expression, neighbours: neighbours.as_ref() }
    }
}

/// Makes batches.
#[derive(Clone)]
struct Maker {
    dataset: Arc<CellDataset>,
    texts: Arc<CellTexts>,
    pairs: PairCollator,
    cells: Collator,
    expression: Collator,
    /// Counts in place of values, of cells normalised to this.
    counts: Option<f64>,
    /// Where neighbours are looked for.
    texts_of_made: Option<TextCollator>,
}

impl Maker {
    fn make(&self, rows: &[usize], key: SampleKey, direction: Direction) -> scmmgpt_loader::Result<PairBatch> {
        let sequences = self.pairs.collate(&self.texts, rows, key, direction)?;
        let asked = self.expression.collate(&self.dataset, rows, key)?;
        let made: Vec<usize> = rows.iter().zip(&sequences.cell_first).filter(|(_, first)| !**first).map(|(row, _)| *row).collect();
        let texts = self.texts_of_made.as_ref().filter(|_| !made.is_empty());
        Ok(PairBatch {
            cells: self.cells.collate(&self.dataset, rows, key)?,
            expression: match self.counts {
                Some(target_sum) => ExpressionTargets::counts_of(&asked, &self.dataset, target_sum)?,
                None => ExpressionTargets::of(&asked),
            },
            texts: texts.map(|collator| self.texts.collate(collator, &made, key)).transpose()?,
            neighbours: None,
            sequences,
        })
    }
}

struct LanguageStage<'a> {
    config: &'a TrainConfig,
    language: &'a Language,
    validation: &'a [usize],
    model: &'a CellLanguage<f32>,
    maker: Maker,
    order: BatchOrder,
    batches: Option<Prefetcher<PairBatch>>,
    /// The batch that forward has seen.
    current: Option<PairBatch>,
    finder: Option<Finder<'a>>,
    workspace: Workspace<f32>,
    training: Purpose,
    evaluation: Purpose,
}

/// Trains the stage, writes the model to `folder` and measures it on the test cells. `first` is the model folder of stage 1.
pub(super) fn train(
    trainer: &Trainer,
    joint: &Joint,
    language: &Language,
    device: &Device,
    first: &Path,
    folder: &Path,
    session: &mut Session<'_>,
) -> Result<Outcome> {
    let (config, data, settings) = (trainer.config(), &joint.data, &language.settings);
    let (plan, model) = language.declare(data.dataset.vocab().pad());
    let parameters = plan.allocate(device)?;
    let order = BatchOrder::new(data.split.train.clone(), settings.train.batch_size, config.seed)?;
    let plain = CollateConfig { objective: Objective::None, ..config.data.tokens.clone() };
    let cells = Collator::new(data.dataset.vocab(), plain)?;
    let (training, evaluation) = (language.purpose(true), language.purpose(false));
    let mut workspace = model.workspace(device, language.sizes(trainer, settings.train.batch_size), training)?;
    let stream = Stream::new(device, 0)?;
    let near = match settings.neighbors.k {
        0 => None,
        _ => {
            language.initialise(config, joint, &model, &parameters, &stream, first)?;
            model.refresh(&stream)?;
            session.note("looking up the training cells' places, for neighbours");
            create(folder)?;
            workspace.turn_to(&model, evaluation)?;
            let space = bundle::hash(&first.join(bundle::WEIGHTS))?;
            neighbours::write_index(config, joint, &model, &mut workspace, &cells, folder, &space)?;
            let files: Vec<PathBuf> = config.data.train.iter().chain(&config.data.test).cloned().collect();
            Some((NeighbourIndex::open(folder)?, Barred::read(data, &files, &settings.neighbors.exclude_key)?))
        }
    };
    let finder = |(index, barred)| Finder::new(&model, device, index, barred, &settings.neighbors);
    let stage = LanguageStage {
        config,
        language,
        validation: &data.split.validation,
        model: &model,
        maker: Maker {
            dataset: Arc::clone(&data.dataset),
            texts: Arc::clone(&joint.cell_texts),
            pairs: language.pairs.clone(),
            cells,
            expression: language.expression_collator(config, joint)?,
            counts: language.counts().then_some(config.data.tokens.target_sum),
            texts_of_made: near.is_some().then(|| joint.texts.collator.clone()),
        },
        finder: near.as_ref().map(|(index, barred)| finder((index, barred))).transpose()?,
        order: if settings.train.bucket_by_length { order.bucket_by_length(&data.dataset.lengths())? } else { order },
        batches: None,
        current: None,
        workspace,
        training,
        evaluation,
    };
    let mut run = Run::new(stage, NUMBER, &parameters, &settings.train);
    (session.observe)(Progress::Stage { stage: NUMBER, about: "cells and language" });
    run.train(session, |stage| language.initialise(config, joint, &model, &parameters, &stage.workspace.stream, first))?;
    let stream = &run.stage.workspace.stream;
    let description = language.description(data)?.save(folder, language.pairs.tokenizer(), &model, stream, &parameters)?;
    joint.texts.save(folder)?;
    let former = Bundle::describe(first)?;
    let description = BundleConfig { text: former.text, language: Some(description), ..BundleConfig::new(config, data, Heads::default()) };
    Bundle::write(folder, &description, data.dataset.vocab(), stream, &parameters)?;
    written_threshold::calibrate(folder, device, joint)?;
    let steps = run.steps_done();
    if data.split.test.is_empty() {
        return Ok(Outcome { steps, evaluation: None, held_out: None });
    }
    let losses = run.stage.measure(&data.split.test)?;
    drop(run);
    session.note("labelling, describing and making the test cells");
    let held_out = held_out::on_test_cells(folder, device, joint, losses, &[first, &folder.join(STAGE0)])?;
    write_json(&folder.join("evaluation.json"), &held_out)?;
    Ok(Outcome { steps, evaluation: None, held_out: Some(held_out) })
}

fn create(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { action: "create", path: folder.into(), source })
}

impl Stage for LanguageStage<'_> {
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
        let (maker, batches) = (self.maker.clone(), self.order.epoch(epoch));
        let left = batches.len().saturating_sub(start);
        let make = move |position: usize| maker.make(&batches[position], key, Direction::Drawn);
        self.batches = Some(Prefetcher::spawn(make, start, left, PREFETCH)?);
        Ok(())
    }

    fn forward(&mut self, step: u64) -> Result<Option<BatchLoss>> {
        let Some(batch) = self.batches.as_mut().and_then(Iterator::next) else { return Ok(None) };
        let mut batch = batch?;
        self.find_neighbours(&mut batch, Some(self.draw(step)))?;
        self.workspace.turn_to(self.model, self.training)?;
        let losses = self.workspace.forward(self.model, &batch.pairs(), self.draw(step))?;
        let loss = BatchLoss {
            total: losses.total(&self.language.settings.loss),
            parts: vec![("language", losses.language), ("reconstruction", losses.reconstruction), ("expression", losses.expression)],
            cells: batch.cells.rows.clone(),
            sources: batch.sequences.sources.iter().flatten().cloned().collect(),
        };
        self.current = Some(batch);
        Ok(Some(loss))
    }

    fn backward(&self, step: u64, scale: f64) -> Result<()> {
        let Some(batch) = &self.current else { return Ok(()) };
        self.workspace.backward(self.model, &batch.pairs(), self.draw(step), scale)
    }

    fn validate(&mut self) -> Result<Option<Validation>> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        let losses = self.losses(self.validation, Direction::Drawn)?;
        Ok(Some(Validation { loss: losses.total(&self.language.settings.loss), accuracy: None }))
    }

    /// What a cell passes through learns from descriptions alone, and there may be none in the first batch; A of an adapter learns once B
    /// is not zero.
    fn reaches(&self, parameter: &str) -> bool {
        let weights = &self.language.settings.loss;
        let describes = self.current.as_ref().is_some_and(|batch| batch.sequences.cell_first.contains(&true));
        let generates = self.current.as_ref().is_some_and(|batch| batch.sequences.cell_first.contains(&false));
        if parameter.starts_with("expr_decoder.") {
            weights.expression > 0.0
        } else if let Some(name) = parameter.strip_prefix(LANGUAGE) {
            // Without words only what is made from text passes through the layers, and nothing the product back to the vocabulary.
            let learns = weights.language > 0.0 || (generates && !name.starts_with(".lm_head."));
            learns && !name.ends_with("lora_A.weight")
        } else {
            describes && weights.language > 0.0 && !parameter.ends_with(".key.bias") && parameter != "flag_encoder.weight"
        }
    }
}

impl LanguageStage<'_> {
    fn draw(&self, step: u64) -> Draw {
        Draw { dropout: true, seed: self.config.seed, step }
    }

    /// Cells like those that are to be made, where they are looked for; in training, with `draw`, some get none.
    fn find_neighbours(&mut self, batch: &mut PairBatch, draw: Option<Draw>) -> Result<()> {
        let (Some(finder), Some(texts)) = (&mut self.finder, &batch.texts) else { return Ok(()) };
        let rows = batch.cells.rows.iter().zip(&batch.sequences.cell_first);
        let rows: Vec<usize> = rows.filter(|(_, first)| !**first).map(|(row, _)| *row).collect();
        batch.neighbours = Some(finder.find(self.model, texts, &rows, draw)?);
        Ok(())
    }

    /// The mean losses of these cells, each as often as it has sequences.
    fn losses(&mut self, rows: &[usize], direction: Direction) -> Result<Losses> {
        let key = SampleKey { seed: self.config.seed, epoch: 0, training: false };
        let order = BatchOrder::new(rows.to_vec(), self.language.settings.train.batch_size, 0)?.sequential();
        self.workspace.turn_to(self.model, self.evaluation)?;
        let (mut losses, mut made) = (Losses::default(), 0);
        for (step, batch) in order.epoch(0).iter().enumerate() {
            let mut batch = self.maker.make(batch, key, direction)?;
            self.find_neighbours(&mut batch, None)?;
            let draw = Draw { dropout: false, seed: self.config.seed, step: step as u64 };
            let mut of_batch = self.workspace.forward(self.model, &batch.pairs(), draw)?;
            let generated = batch.sequences.cell_first.iter().filter(|first| !**first).count();
            // A mean over the sequences that begin with text, of which a batch may have few.
            losses.reconstruction += of_batch.reconstruction * generated as f64;
            made += generated;
            of_batch.reconstruction = 0.0;
            losses.add(&of_batch, batch.cells.batch as f64 / rows.len() as f64);
        }
        losses.reconstruction /= made.max(1) as f64;
        Ok(losses)
    }

    /// Figures on cells that were held out.
    fn measure(&mut self, test: &[usize]) -> Result<HeldOutLosses> {
        let described = self.losses(test, Direction::CellFirst)?;
        let made = self.losses(test, Direction::TextFirst)?;
        Ok(HeldOutLosses {
            cells: test.len(),
            language: described.language,
            reconstruction: made.reconstruction,
            expression: made.expression,
            head: self.language.settings.expression.head,
        })
    }
}
