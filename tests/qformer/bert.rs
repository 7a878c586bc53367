//! A Q-Former that starts from a BERT: its text half computes what the BERT computes.
//!
//! The files come from `tools/golden/make_bert_golden.py`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use scmmgpt_engine::config::{CellTextConfig, ModelConfig, QFormerConfig};
use scmmgpt_engine::layer::Dims;
use scmmgpt_engine::model::bert::{self, BertImport, load_bert};
use scmmgpt_engine::model::cell_model::Heads;
use scmmgpt_engine::model::cell_text::{CellText, Contrast, LossWeights, Purpose, Side, Sizes};
use scmmgpt_engine::model::sentence_encoder::SentenceEncoder;
use scmmgpt_engine::weights::{ParameterPlan, Values};
use scmmgpt_kernels::runtime::Device;
use scmmgpt_kernels::testing::{Tolerance, compare};
use scmmgpt_loader::checkpoint::{self, Checkpoint};
use scmmgpt_loader::text::{TextBatch, TextCollator};
use scmmgpt_loader::tokenizer::TextTokenizer;

/// A golden file.
fn open(name: &str) -> Checkpoint {
    Checkpoint::open(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)).unwrap()
}

/// The texts of a golden file.
fn texts(golden: &Checkpoint) -> TextBatch {
    let unsigned = |name: &str| -> Vec<u32> {
        golden.view(name).unwrap().bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    };
    let shape = golden.view("input.token_ids").unwrap().shape;
    TextBatch {
        batch: shape[0],
        seq_len: shape[1],
        token_ids: unsigned("input.token_ids"),
        lengths: unsigned("input.lengths"),
        classes: (0..shape[0] as u32).collect(),
        sources: vec![None; shape[0]],
        truncated: 0,
    }
}

/// The small BERT as a folder, its tensors renamed.
fn folder(golden: &Checkpoint, rename: impl Fn(&str) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<(String, String)> =
        golden.names().filter_map(|name| Some((name.to_string(), rename(name.strip_prefix("param.")?)))).collect();
    let views = names.iter().map(|(old, new)| {
        let view = golden.view(old).unwrap();
        (new.as_str(), view.dtype, view.shape, view.bytes)
    });
    checkpoint::write(folder.path().join("model.safetensors"), views, &Default::default()).unwrap();
    std::fs::write(folder.path().join("config.json"), &golden.metadata()["config"]).unwrap();
    folder
}

/// What a Q-Former of BERT's sizes has after the import, and what its text pass gives.
struct Imported {
    import: BertImport,
    before: Vec<Values>,
    after: Vec<Values>,
    hidden: Vec<f32>,
}

fn import(folder: &Path, texts: &TextBatch) -> Result<Imported, String> {
    let base = QFormerConfig { num_query_tokens: 3, projection_dim: 8, captioning: true, ..QFormerConfig::default() };
    let qformer = bert::with_sizes(folder, base).map_err(|error| error.to_string())?;
    import_as(folder, texts, qformer)
}

fn import_as(folder: &Path, texts: &TextBatch, qformer: QFormerConfig) -> Result<Imported, String> {
    let device = Device::cpu(2).unwrap();
    let model = ModelConfig { hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 1, vocab_size: 5, ..ModelConfig::default() };
    let config = CellTextConfig { model, qformer };
    config.check().unwrap();
    let mut plan = ParameterPlan::<f32>::new(false);
    let model = CellText::declare(&mut plan, &config, Heads::default(), false, 0);
    let parameters = plan.allocate(&device).unwrap();
    let weights = LossWeights::default();
    let purpose = Purpose { training: false, dropout: false, weights, contrast: Contrast::default(), label_smoothing: 0.0 };
    let small = Dims { batch: 1, seq_len: 8 };
    let mut workspace = model.workspace(&device, Sizes { cells: small, texts: small }, purpose).unwrap();
    parameters.initialise(&workspace.stream, 3).unwrap();
    let before = parameters.fetch(&workspace.stream).unwrap();
    let import = load_bert(&workspace.stream, &parameters, &config.qformer, folder).map_err(|error| error.to_string())?;
    let after = parameters.fetch(&workspace.stream).unwrap();
    model.refresh(&workspace.stream).unwrap();
    workspace.embed_texts(&model, texts).unwrap();
    let hidden = workspace.hidden(Side::Texts).unwrap();
    Ok(Imported { import, before, after, hidden })
}

impl Imported {
    fn values(&self, name: &str) -> &[f32] {
        &self.after.iter().find(|values| values.name == format!("Qformer.{name}")).unwrap().values
    }
}

/// Rows that hold text.
fn real_rows(hidden: &[f32], texts: &TextBatch) -> Vec<f64> {
    let width = hidden.len() / texts.token_ids.len();
    let is_real = |row: usize| row % texts.seq_len < texts.lengths[row / texts.seq_len] as usize;
    hidden.iter().enumerate().map(|(at, &value)| if is_real(at / width) { f64::from(value) } else { 0.0 }).collect()
}

fn check(what: &str, expected: &[f32], got: &[f64], tolerance: f64) {
    let expected: Vec<f64> = expected.iter().map(|&value| f64::from(value)).collect();
    compare(what, &expected, got, Tolerance::new(tolerance, tolerance)).unwrap();
}

#[test]
fn the_text_pass_is_the_bert() {
    let golden = open("bert_tiny.safetensors");
    let texts = texts(&golden);
    let plain = folder(&golden, str::to_string);
    let wrapped = folder(&golden, |name| {
        format!("bert.{}", name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"))
    });
    for folder in [plain, wrapped] {
        let imported = import(folder.path(), &texts).unwrap();
        check("hidden", &golden.to_f32("output.hidden").unwrap(), &real_rows(&imported.hidden, &texts), 1e-5);
    }
}

#[test]
fn what_bert_has_is_copied_and_the_rest_kept() {
    let golden = open("bert_tiny.safetensors");
    let folder = folder(&golden, str::to_string);
    let imported = import(folder.path(), &texts(&golden)).unwrap();
    for (text, queries) in [("intermediate", "intermediate_query"), ("output", "output_query")] {
        for end in ["dense.weight", "dense.bias"] {
            let layer = "bert.encoder.layer.1";
            assert_eq!(imported.values(&format!("{layer}.{text}.{end}")), imported.values(&format!("{layer}.{queries}.{end}")));
        }
    }
    let words = golden.to_f32("param.embeddings.word_embeddings.weight").unwrap();
    let table = imported.values("bert.embeddings.word_embeddings.weight");
    assert_eq!(table.len(), words.len() + 16);
    assert_eq!(table[..words.len()], words);
    let changed: Vec<&str> =
        imported.before.iter().zip(&imported.after).filter(|(a, b)| a.values != b.values).map(|(a, _)| a.name.as_str()).collect();
    assert_eq!(changed.len(), imported.import.loaded);
    let untouched = |values: &Values| !changed.contains(&values.name.as_str());
    for name in imported.before.iter().filter(|values| untouched(values)).map(|values| &values.name) {
        let is_kept = imported.import.kept.contains(name);
        assert!(
            is_kept == name.starts_with("Qformer.") && (!is_kept || name.contains("crossattention") || name.contains(".cls.")),
            "{name}"
        );
    }
    let old = imported.before.iter().find(|values| values.name == "Qformer.bert.embeddings.word_embeddings.weight").unwrap();
    assert_eq!(table[words.len()..], old.values[words.len()..], "the row of [DEC]");
}

#[test]
fn what_does_not_fit_is_refused_with_both_sizes() {
    let golden = open("bert_tiny.safetensors");
    let (folder, texts) = (folder(&golden, str::to_string), texts(&golden));
    let sizes = bert::with_sizes(folder.path(), QFormerConfig::default()).unwrap();
    let cases = [
        (QFormerConfig { hidden_size: 32, ..sizes.clone() }, "hidden_size is 16 there and 32 here"),
        (QFormerConfig { intermediate_size: 64, ..sizes.clone() }, "intermediate_size is 28 there and 64 here"),
        (QFormerConfig { num_hidden_layers: 3, ..sizes.clone() }, "num_hidden_layers is 2 there and 3 here"),
        (QFormerConfig { max_position_embeddings: 16, ..sizes.clone() }, "max_position_embeddings is 12 there and 16 here"),
        (QFormerConfig { vocab_size: 22, ..sizes.clone() }, "vocab_size is 20 there and 22 here"),
        (QFormerConfig { layer_norm_eps: 1e-5, ..sizes.clone() }, "layer_norm_eps is"),
    ];
    for (config, expected) in cases {
        let error = import_as(folder.path(), &texts, config).err().unwrap();
        assert!(error.contains(expected), "{error}");
    }
    // Fewer layers and positions are a part of the BERT.
    let shorter = QFormerConfig { num_hidden_layers: 1, max_position_embeddings: 8, ..sizes };
    assert!(import_as(folder.path(), &texts, shorter).is_ok());
    let lacking = self::folder(&golden, |name| name.replace("layer.1.output.dense", "layer.1.gone"));
    let error = import(lacking.path(), &texts).err().unwrap();
    assert!(error.contains("encoder.layer.1.output.dense.weight") && error.contains("encoder.layer.1.output.dense.bias"), "{error}");
}

/// With the weights of all-MiniLM-L6-v2 (`tools/fetch_minilm.sh`): its sentence embeddings. Without them only what the golden file says
/// of itself is looked at, and a line says so.
#[test]
fn sentence_embeddings_of_a_real_bert() {
    let golden = open("minilm.safetensors");
    let (texts, expected) = (texts(&golden), golden.to_f32("output.sentences").unwrap());
    let width = expected.len() / texts.batch;
    let alike = |a: usize, b: usize| -> f32 { (0..width).map(|at| expected[a * width + at] * expected[b * width + at]).sum() };
    assert!((alike(0, 0) - 1.0).abs() < 1e-5 && alike(0, 1) > 0.6 && alike(0, 3) < 0.1, "two sentences on B cells, one on the weather");
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../.models/minilm");
    if !folder.join("config.json").is_file() {
        println!("NOT RUN: no weights of all-MiniLM-L6-v2 here; tools/fetch_minilm.sh downloads them");
        return;
    }
    let tokenizer = TextTokenizer::open(folder.join("vocab.txt")).unwrap();
    let sentences: Vec<String> = serde_json::from_str(&golden.metadata()["sentences"]).unwrap();
    for (sentence, (ids, &length)) in sentences.iter().zip(texts.token_ids.chunks_exact(texts.seq_len).zip(&texts.lengths)) {
        assert_eq!(tokenizer.encode(sentence, 128).unwrap().ids, ids[..length as usize], "{sentence}");
    }
    let encoder = SentenceEncoder::open(&folder, &Device::cpu(2).unwrap()).unwrap();
    let found: Vec<f64> = encoder.encode(&sentences).unwrap().into_iter().map(f64::from).collect();
    check("sentences", &expected, &found, 1e-4);
}

/// Sentences are the means of the text pass over their tokens, whichever batch they come in.
#[test]
fn sentences_are_means_of_tokens() {
    let golden = open("bert_tiny.safetensors");
    let folder = folder(&golden, str::to_string);
    let words = (4..20).map(|word| format!("w{word}"));
    let vocabulary: Vec<String> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(String::from).into_iter().chain(words).collect();
    std::fs::write(folder.path().join("vocab.txt"), vocabulary.join("\n")).unwrap();
    let encoder = SentenceEncoder::open(folder.path(), &Device::cpu(2).unwrap()).unwrap();
    assert_eq!(encoder.tokens("W5 zz, w6"), ["w5", "[UNK]", "[UNK]", "w6"]);
    assert!(encoder.tokens(" ").is_empty());

    let texts = ["w5 w6 w9", "", "w7", "w4 w4 w8 w10 w11 w12 w13 w14 w15", "w5 w6 w9"].map(str::to_string);
    let found = encoder.encode(&texts).unwrap();
    let width = encoder.width();
    assert_eq!(found.len(), 5 * width);
    assert!(found[width..2 * width].iter().all(|value| *value == 0.0), "a text without tokens is 0");
    let collator = TextCollator::new(Arc::new(TextTokenizer::open(folder.path()).unwrap()), 8).unwrap();
    for (at, text) in texts.iter().enumerate().filter(|(_, text)| !text.is_empty()) {
        let batch = collator.collate(&[text], None).unwrap();
        let hidden = real_rows(&import(folder.path(), &batch).unwrap().hidden, &batch);
        let sum: Vec<f64> = (0..width).map(|column| hidden.iter().skip(column).step_by(width).sum()).collect();
        let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt();
        let mean: Vec<f64> = sum.iter().map(|value| value / length).collect();
        check(text, &found[at * width..][..width], &mean, 1e-5);
    }
}
