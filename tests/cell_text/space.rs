//! The joint space: who is a negative of whom, and that company changes nothing.

use std::sync::Arc;

use scmmgpt_engine::config::CellTextConfig;
use scmmgpt_engine::layer::Dims;
use scmmgpt_engine::model::cell_model::Heads;
use scmmgpt_engine::model::cell_text::{CellText, Contrast, Draw, LossWeights, Purpose, Sizes};
use scmmgpt_engine::train::Trainer;
use scmmgpt_engine::weights::ParameterPlan;
use scmmgpt_kernels::runtime::{Device, Stream};
use scmmgpt_loader::batch::{CellBatch, CollateConfig, Collator, Objective, SampleKey};
use scmmgpt_loader::text::{CellTexts, DescriptionConfig, Descriptions, Metadata, Ontology, TextBatch, TextCollator};
use scmmgpt_loader::tokenizer::TextTokenizer;

use crate::setup::{config, data};

const KEY: SampleKey = SampleKey { seed: 3, epoch: 1, training: true };

/// Rows of cells of one type, of several, and everything that makes batches of them.
struct Cells {
    trainer: Trainer,
    texts: CellTexts,
    text_collator: TextCollator,
    collator: Collator,
}

impl Cells {
    fn read() -> Cells {
        let config = config();
        let trainer = Trainer::prepare(config.clone()).unwrap();
        let ontology = Ontology::open(data("cell_text.json")).unwrap();
        let templates = DescriptionConfig { template_pool: true, ..DescriptionConfig::default() };
        let descriptions = Arc::new(Descriptions::new(&templates, Some(ontology), None).unwrap());
        let dataset = &trainer.data().dataset;
        let texts = CellTexts::new(descriptions, dataset, Metadata::empty(dataset.len())).unwrap();
        let tokenizer = Arc::new(TextTokenizer::open(data("text_vocab.txt")).unwrap());
        let tokens = CollateConfig { objective: Objective::None, ..config.data.tokens };
        let collator = Collator::new(dataset.vocab(), tokens).unwrap();
        Cells { texts, text_collator: TextCollator::new(tokenizer, 20).unwrap(), collator, trainer }
    }

    fn pairs(&self, rows: &[usize]) -> (CellBatch, TextBatch) {
        let cells = self.collator.collate(&self.trainer.data().dataset, rows, SampleKey { training: false, ..KEY }).unwrap();
        (cells, self.texts.collate(&self.text_collator, rows, KEY).unwrap())
    }

    fn of_class(&self, class: u32, count: usize) -> Vec<usize> {
        self.texts.rows().filter(|&row| self.texts.class_of()[row] == Some(class)).take(count).collect()
    }
}

/// A contrastive loss and a matching loss without a single negative are 0: the softmax is over one text, and only true pairs are shown.
#[test]
fn texts_of_one_type_are_never_negatives() {
    let cells = Cells::read();
    let mut sizes = CellTextConfig { model: cells.trainer.config().model.clone(), qformer: cells.trainer.config().qformer.clone() };
    sizes.qformer.vocab_size = cells.text_collator.tokenizer().vocab_size();
    let device = Device::cpu(2).unwrap();
    let mut plan = ParameterPlan::<f32>::new(true);
    let model = CellText::declare(&mut plan, &sizes, Heads::default(), true, cells.trainer.data().dataset.vocab().pad());
    let parameters = plan.allocate(&device).unwrap();
    let stream = Stream::new(&device, 0).unwrap();
    parameters.initialise(&stream, 1).unwrap();
    model.refresh(&stream).unwrap();
    let draw = Draw { dropout: false, seed: 1, step: 4 };
    let one = cells.of_class(0, 6);
    let mixed = [cells.of_class(0, 3), cells.of_class(1, 3)].concat();
    let loss = |rows: &[usize], contrast: Contrast| {
        let purpose = Purpose { training: true, dropout: false, weights: LossWeights::default(), contrast, label_smoothing: 0.0 };
        let dims = Dims { batch: rows.len(), seq_len: 48 };
        let mut workspace = model.workspace(&device, Sizes { cells: dims, texts: dims }, purpose).unwrap();
        let (of_cells, of_texts) = cells.pairs(rows);
        let distinct: std::collections::BTreeSet<&[u32]> = of_texts.token_ids.chunks(of_texts.seq_len).collect();
        assert!(distinct.len() > 2, "the templates differ, so that the texts do");
        workspace.forward(&model, &of_cells, &of_texts, draw).unwrap()
    };
    let masked = Contrast::default();
    let alone = loss(&one, masked);
    assert!(alone.contrastive.abs() < 1e-6, "{alone:?}");
    let several = loss(&mixed, masked);
    assert!(several.contrastive > 0.1, "{several:?}");
    // With 3 of 6 texts masked, chance is ln 4; without the mask ln 6.
    assert!(loss(&one, Contrast { mask_same_class: false, ..masked }).contrastive > 1.0);
    let all = loss(&mixed, Contrast { mask_same_class: false, ..masked }).contrastive;
    assert!(all > several.contrastive, "{all} {several:?}");

    // Matching without negatives: the only pairs that count are true ones, whichever text is drawn.
    let other = loss(&one, Contrast { symmetric: false, ..masked });
    assert_eq!(other.matching, alone.matching);
    assert_eq!(other.contrastive, 0.0);
}
