//! The linear expert of the joint space: its formula, and that cells which it alone can tell apart are found by text.

use scmmgpt_engine::config::CellTextConfig;
use scmmgpt_engine::layer::Dims;
use scmmgpt_engine::model::cell_model::Heads;
use scmmgpt_engine::model::cell_text::{CellText, Contrast, LossWeights, Purpose, Sizes};
use scmmgpt_engine::train::Trainer;
use scmmgpt_engine::weights::ParameterPlan;
use scmmgpt_kernels::runtime::{Device, Stream};
use scmmgpt_loader::batch::{CollateConfig, Collator, Objective, SampleKey};

use crate::setup::{config, train};

/// `u_q + bias + sum_i value_i * weight[gene_i]`, in f64 on the host, from the vectors without the expert.
#[test]
fn cells_move_by_what_their_genes_say() {
    let trainer = Trainer::prepare(config()).unwrap();
    let dataset = &trainer.data().dataset;
    let plain = CollateConfig { objective: Objective::None, ..config().data.tokens };
    let collator = Collator::new(dataset.vocab(), plain).unwrap();
    // Cells of different lengths, so that there is padding.
    let cells = collator.collate(dataset, &[3, 50, 400], SampleKey { seed: 0, epoch: 0, training: false }).unwrap();
    let device = Device::cpu(2).unwrap();
    let mut sizes = CellTextConfig { model: trainer.config().model.clone(), qformer: trainer.config().qformer.clone() };
    sizes.qformer.vocab_size = 40;
    let width = sizes.qformer.projection_dim;
    let mut expert = Vec::new();
    let mut embed = |weight: f32| -> Vec<f32> {
        sizes.qformer.gene_linear_weight = weight;
        let mut plan = ParameterPlan::<f32>::new(false);
        let model = CellText::declare(&mut plan, &sizes, Heads::default(), false, dataset.vocab().pad());
        let parameters = plan.allocate(&device).unwrap();
        let stream = Stream::new(&device, 0).unwrap();
        parameters.initialise(&stream, 1).unwrap();
        for (name, scale) in [("cell_proj.gene_linear.weight", 0.02), ("cell_proj.gene_linear.bias", 0.3)] {
            let Ok(declared) = parameters.named(name) else { continue };
            let values: Vec<f32> = (0..declared.parameter.value.len()).map(|at| scale * ((at * at % 37) as f32 - 18.0) / 18.0).collect();
            stream.upload(declared.parameter.value, &values).unwrap();
            expert.push(values);
        }
        model.refresh(&stream).unwrap();
        let one = Dims { batch: 1, seq_len: 8 };
        let purpose = Purpose {
            training: false,
            dropout: false,
            weights: LossWeights { contrastive: 0.0, matching: 0.0, captioning: 0.0 },
            contrast: Contrast::default(),
            label_smoothing: 0.0,
        };
        let mut workspace = model.workspace(&device, Sizes { cells: one, texts: one }, purpose).unwrap();
        workspace.embed_cells(&model, &cells).unwrap()
    };
    let (with, without) = (embed(4.0), embed(0.0));
    let [weight, bias] = &expert[..] else { panic!("weight and bias, of one model") };
    assert_eq!((with.len(), without.len(), bias.len()), (3 * 3 * width, 3 * 3 * width, width));
    for (at, (with, without)) in with.chunks(width).zip(without.chunks(width)).enumerate() {
        let cell = at / 3;
        let tokens = cell * cells.seq_len + 1..cell * cells.seq_len + cells.lengths[cell] as usize;
        let mut sum: Vec<f64> = without.iter().zip(bias).map(|(unit, bias)| f64::from(*unit) + f64::from(*bias)).collect();
        for token in tokens {
            let row = &weight[cells.gene_ids[token] as usize * width..][..width];
            sum.iter_mut().zip(row).for_each(|(sum, weight)| *sum += f64::from(cells.values[token]) * f64::from(*weight));
        }
        let far = with.iter().zip(without).map(|(with, without)| (with - without).abs()).fold(0.0, f32::max);
        assert!(far > 0.05, "cell {cell} has hardly moved");
        for (with, sum) in with.iter().zip(&sum) {
            assert!((f64::from(*with) - sum).abs() < 1e-5 * (1.0 + sum.abs()), "cell {cell}: {with} instead of {sum}");
        }
    }
}

/// An encoder that has learned next to nothing leaves the labels to the expert, who has them from a logistic regression.
#[test]
fn a_fitted_expert_labels_as_the_regression_does() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config();
    (config.data.test_fraction, config.data.validation_fraction) = (0.3, 0.1);
    config.train.epochs = 0;
    // Directions for ten classes, and all genes of every cell.
    (config.qformer.projection_dim, config.data.tokens.max_seq_len) = (16, 800);
    let stage1 = config.stage1.as_mut().unwrap();
    (stage1.masked, stage1.loss.captioning, stage1.train.epochs) = (0.0, 0.0, 1);
    let mut score = |weight: f32| -> (f64, f64) {
        config.qformer.gene_linear_weight = weight;
        let outcome = train(&config, &folder.path().join(weight.to_string()), 2, false, None).unwrap();
        let reports = outcome.evaluation.unwrap().reports;
        let accuracy = |part: &str| reports.iter().find(|(name, _)| name.contains(part)).unwrap().1.accuracy.value;
        (accuracy("similarity weight 1.00"), accuracy("logistic regression"))
    };
    let ((without, _), (with, regression)) = (score(0.0), score(20.0));
    assert!(without < 0.6, "{without}: the encoder knows too much for this test");
    // Texts lie close together after one epoch, and the ridge holds back where they hardly differ.
    assert!(with > regression - 0.1, "{with} with the expert, {regression} by the regression");
}
