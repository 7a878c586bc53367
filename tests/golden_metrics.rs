//! Metrics of texts and of cells against nltk, rouge-score, Levenshtein, scikit-learn and scipy, and what their intervals cover.
//!
//! The file comes from `tools/golden/make_metric_golden.py`; it names the versions.

use scmmgpt_engine::baseline::SparseMatrix;
use scmmgpt_engine::metric::Score;
use scmmgpt_engine::metric::generation::{self, Cells, NEIGHBOURS, nearest_labels};
use scmmgpt_engine::metric::text::{self, Embeddings, Options, Tokens, Types};
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/metrics.json")).unwrap()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("no {key}"))
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn labels(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|value| value.as_u64().unwrap() as u32).collect()
}

fn score(scores: &[Score], metric: &str) -> f64 {
    scores.iter().find(|score| score.metric == metric).unwrap_or_else(|| panic!("no {metric}")).estimate.value
}

fn strings(pairs: &[&Value], key: &str) -> Vec<String> {
    pairs.iter().map(|pair| pair[key].as_str().unwrap().to_owned()).collect()
}

#[test]
fn texts_score_as_with_nltk_rouge_score_and_levenshtein() {
    let golden = golden();
    for pair in golden["texts"]["pairs"].as_array().unwrap() {
        let scores = text::scores(&strings(&[pair], "predicted"), &strings(&[pair], "reference"), &Options::default()).unwrap();
        for metric in ["METEOR (exact, stem)", "ROUGE-1", "ROUGE-2", "ROUGE-L", "Levenshtein ratio"] {
            let (ours, theirs) = (score(&scores, metric), number(pair, metric));
            assert!((ours - theirs).abs() < 1e-14, "{metric} of {pair}: {ours}");
        }
    }
}

#[test]
fn corpora_score_as_with_nltk() {
    let golden = golden();
    let pairs = golden["texts"]["pairs"].as_array().unwrap();
    for corpus in golden["texts"]["corpora"].as_array().unwrap() {
        let chosen: Vec<&Value> = labels(&corpus["pairs"]).into_iter().map(|at| &pairs[at as usize]).collect();
        let scores = text::scores(&strings(&chosen, "predicted"), &strings(&chosen, "reference"), &Options::default()).unwrap();
        for metric in ["BLEU-2", "BLEU-4"] {
            let (ours, theirs) = (score(&scores, metric), number(corpus, metric));
            assert!((ours - theirs).abs() <= 1e-12 * theirs, "{metric}: {ours}, nltk {theirs}");
        }
    }
}

#[test]
fn words_have_the_stems_of_nltk() {
    let golden = golden();
    let stems = golden["texts"]["stems"].as_object().unwrap();
    assert!(stems.len() > 300);
    for (word, stem) in stems {
        assert_eq!(text::stem(word), stem.as_str().unwrap(), "{word}");
    }
}

struct Owned {
    matrix: SparseMatrix,
    labels: Vec<u32>,
}

impl Owned {
    fn open(golden: &Value, which: &str) -> Owned {
        let mut matrix = SparseMatrix::new(golden["genes"].as_u64().unwrap() as usize);
        for row in golden[which]["values"].as_array().unwrap() {
            matrix.push((0..).zip(numbers(row)).filter(|(_, value)| *value != 0.0));
        }
        Owned { matrix, labels: labels(&golden[which]["labels"]) }
    }

    fn cells(&self) -> Cells<'_> {
        Cells { rows: self.matrix.rows(), labels: &self.labels }
    }
}

#[test]
fn cells_score_as_with_scikit_learn_and_scipy() {
    let golden = &golden()["cells"];
    let (generated, reference) = (Owned::open(golden, "generated"), Owned::open(golden, "reference"));
    let votes = nearest_labels(&reference.cells(), generated.matrix.rows(), &NEIGHBOURS);
    for (k, votes) in NEIGHBOURS.iter().zip(votes) {
        assert_eq!(votes, labels(&golden["votes"][k.to_string()]), "k = {k}");
    }
    let mut scores = generation::scores(&generated.cells(), &reference.cells(), None, 0).unwrap();
    let pairs: Vec<usize> = (0..generated.labels.len()).collect();
    scores.extend(generation::scores(&generated.cells(), &reference.cells(), Some(&pairs), 0).unwrap());
    for (metric, theirs) in golden["scores"].as_object().unwrap() {
        let (ours, theirs) = (score(&scores, metric), theirs.as_f64().unwrap());
        // Values are f32 here.
        assert!((ours - theirs).abs() < 1e-6, "{metric}: {ours}, expected {theirs}");
    }
    let definitions = generation::definitions();
    for found in &scores {
        assert!(definitions.iter().any(|(name, _)| *name == found.metric), "{} is not defined", found.metric);
        let (low, high) = (found.estimate.low, found.estimate.high);
        assert!(low <= high && high - low < 2.0 && found.n == 24, "{found:?}");
    }
}

#[test]
fn distances_on_a_line_are_those_of_an_assignment() {
    let line = &golden()["cells"]["line"];
    // The sets of texts and of cells share the code; sets of different sizes come as cells only.
    let set = |key: &str| {
        let mut matrix = SparseMatrix::new(1);
        numbers(&line[key]).into_iter().for_each(|value| matrix.push([(0, value)]));
        matrix
    };
    let (first, second) = (set("first"), set("second"));
    let labels = [0; 16];
    let first = Cells { rows: first.rows(), labels: &labels[..first.rows().rows()] };
    let second = Cells { rows: second.rows(), labels: &labels[..second.rows().rows()] };
    let scores = generation::scores(&first, &second, None, 3).unwrap();
    let (ours, theirs) = (score(&scores, "sliced Wasserstein"), number(line, "wasserstein"));
    assert!((ours - theirs).abs() < 1e-6, "{ours} {theirs}");
}

/// A shift by `c` in `d` dimensions moves the projections by `|c| / sqrt(d)` in the mean square.
#[test]
fn sliced_distances_are_about_those_of_a_shift() {
    let width = 6;
    let predicted: Vec<f32> = (0..40 * width).map(|at| ((at * 73) % 101) as f32 / 50.0).collect();
    let reference: Vec<f32> = predicted.iter().map(|x| x + 2.0).collect();
    let texts = vec!["B cell".to_owned(); 40];
    let embeddings = Some(Embeddings { predicted: &predicted, reference: &reference, width });
    let scores = text::scores(&texts, &texts, &Options { embeddings, ..Options::default() }).unwrap();
    let found = score(&scores, "sliced Wasserstein of embeddings");
    assert!((found - 2.0).abs() < 0.25, "{found}");
    assert!(score(&scores, "MMD^2 of embeddings") > 0.1);
}

/// Intervals of half the pairs hold the value of all pairs, and seeds do not decide values.
#[test]
fn intervals_hold_what_they_should() {
    let pairs: Vec<(String, String)> =
        (0..200).map(|at| (format!("cell {} of kind {}", at % 7, at % 3), format!("cell {} of kind {}", at % 5, at % 2))).collect();
    let part = |range: std::ops::Range<usize>, seed| {
        let (predicted, reference): (Vec<String>, Vec<String>) = pairs[range].iter().cloned().unzip();
        let names = ["kind 0", "kind 1", "kind 2"].map(str::to_owned);
        let of: Vec<u32> = (0..predicted.len()).map(|at| (at % 2) as u32).collect();
        let types = Some(Types { names: &names, of: &of });
        text::scores(&predicted, &reference, &Options { types, seed, tokens: Tokens::default(), embeddings: None }).unwrap()
    };
    let (all, half, other) = (part(0..200, 1), part(0..100, 1), part(0..200, 2));
    for ((all, half), other) in all.iter().zip(&half).zip(&other) {
        assert!(half.estimate.low <= all.estimate.value && all.estimate.value <= half.estimate.high, "{all:?} {half:?}");
        assert_eq!((all.estimate.value, all.n), (other.estimate.value, 200));
    }
    assert_ne!(all, other);
}
