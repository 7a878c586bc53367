//! Descriptions that were written to a file, against what should have been said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use scmmgpt_kernels::runtime::Device;
use scmmgpt_loader::h5ad::AnnData;
use scmmgpt_loader::text::{DescriptionConfig, Descriptions, Ontology};

use super::describe::DESCRIPTION_KEY;
use crate::metric::ScoreTable;
use crate::metric::text::{self, Embeddings, Options, Tokens, Types};
use crate::model::sentence_encoder::SentenceEncoder;
use crate::{Error, Result};

/// What to compare.
#[derive(Clone, Copy, Debug)]
pub struct ScoreDescriptions<'a> {
    /// The file.
    pub predictions: &'a Path,
    /// Column of the predictions, if not `scmmgpt_description`.
    pub predicted_key: Option<&'a str>,
    /// Column of the reference texts; none: they are made from the cell types.
    pub reference_key: Option<&'a str>,
    /// Column of the cell types.
    pub label_key: Option<&'a str>,
    /// Ontology that says what the types are, for references that are made.
    pub ontology: Option<&'a Path>,
    /// Folder of a BERT, for the distances between sets of texts and for the tokens of BLEU and METEOR.
    pub text_model: Option<&'a Path>,
    /// Seed of intervals and directions.
    pub seed: u64,
}

/// Scores predicted against reference texts, beside the best constant text.
///
/// Cells without a reference are left out; a missing prediction counts as an empty text.
///
/// # Errors
/// `Labels` when nothing has a reference or neither column was named; those of the files.
pub fn score_descriptions(device: &Device, task: &ScoreDescriptions<'_>) -> Result<ScoreTable> {
    let file = AnnData::open(task.predictions)?;
    let predicted_key = task.predicted_key.unwrap_or(DESCRIPTION_KEY);
    let predicted = file.obs(predicted_key)?.labels();
    let labels = task.label_key.map(|key| Ok::<_, Error>(file.obs(key)?.labels())).transpose()?;
    let reference = match (task.reference_key, &labels) {
        (Some(key), _) => file.obs(key)?.labels(),
        (None, Some(labels)) => references(labels, task.ontology)?,
        (None, None) => {
            let reason = "there is nothing to compare with; name the column of the reference texts or that of the cell types".into();
            return Err(wrong(task, predicted_key, reason));
        }
    };
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let rows: Vec<usize> =
        (0..reference.len()).filter(|&row| given(&reference[row]) && labels.as_ref().is_none_or(|labels| given(&labels[row]))).collect();
    let key = task.reference_key.or(task.label_key).unwrap_or_default();
    if rows.is_empty() {
        return Err(wrong(task, key, "no cell has an entry".into()));
    }
    let texts = |column: &[Option<String>]| rows.iter().map(|&row| column[row].clone().unwrap_or_default()).collect::<Vec<_>>();
    let (predicted, reference, types) = (texts(&predicted), texts(&reference), labels.map(|labels| texts(&labels)));
    let encoder = task.text_model.map(|folder| SentenceEncoder::open(folder, device)).transpose()?;
    let pairs = Pairs { predicted: &predicted, reference: &reference, types: types.as_deref() };
    let mut table = score_texts(&pairs, encoder.as_ref(), task.seed)?;
    let missing = predicted.iter().filter(|text| text.is_empty()).count();
    let mut note = |cells: usize, what: &str| table.notes.extend((cells > 0).then(|| format!("{cells} cells {what}")));
    note(file.n_obs() - rows.len(), "have no reference and were left out");
    note(missing, "have no prediction, which counts as an empty text");
    Ok(table)
}

/// Texts to compare.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    /// `[cells]`.
    pub predicted: &'a [String],
    /// `[cells]`.
    pub reference: &'a [String],
    /// `[cells]`: each one's type.
    pub types: Option<&'a [String]>,
}

/// The table of `eval description`: predictions, and the reference text that most cells have in place of each. `encoder` adds the distances
/// between sets of texts and makes the tokens of BLEU and METEOR, as the authors have it; without it a note says so.
///
/// # Errors
/// Those of [`text::scores`] and of the encoder.
pub fn score_texts(pairs: &Pairs<'_>, encoder: Option<&SentenceEncoder>, seed: u64) -> Result<ScoreTable> {
    let split = |text: &str| encoder.map_or_else(Vec::new, |encoder| encoder.tokens(text));
    let tokens = match encoder {
        Some(_) => Tokens { name: "WordPiece tokens of the text model", split: &split },
        None => Tokens::default(),
    };
    let mut names: Vec<String> = pairs.types.unwrap_or_default().to_vec();
    names.sort_unstable();
    names.dedup();
    let number = |name: &String| names.binary_search(name).unwrap_or_default() as u32;
    let of: Option<Vec<u32>> = pairs.types.map(|types| types.iter().map(number).collect());
    let embed = |texts: &[String]| encoder.map(|encoder| encoder.encode(texts)).transpose();
    let vectors = embed(pairs.reference)?;
    let mut table = ScoreTable::new(text::definitions(tokens), seed);
    let majority = vec![most_frequent(pairs.reference); pairs.reference.len()];
    for (row, predicted) in [("predictions", pairs.predicted), ("majority text", &majority)] {
        let ours = embed(predicted)?;
        let embeddings = ours.as_deref().zip(vectors.as_deref()).zip(encoder);
        let options = Options {
            tokens,
            types: of.as_deref().map(|of| Types { names: &names, of }),
            embeddings: embeddings.map(|((predicted, reference), encoder)| Embeddings { predicted, reference, width: encoder.width() }),
            seed,
        };
        table.rows.push((row.to_owned(), text::scores(predicted, pairs.reference, &options)?));
    }
    table.definitions.insert("majority text".into(), "the most frequent reference text, in place of every prediction".into());
    if encoder.is_none() {
        table.notes.push("no text model was given: the distances between the sets of texts were left out".into());
    }
    if pairs.types.is_none() {
        table.notes.push("no cell types were given: the mention of types was left out".into());
    }
    Ok(table)
}

/// The most frequent text; of equally frequent ones the first by alphabet.
fn most_frequent(texts: &[String]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    texts.iter().for_each(|text| *counts.entry(text).or_default() += 1);
    counts.into_iter().fold(("", 0), |best, next| if next.1 > best.1 { next } else { best }).0.to_owned()
}

/// What the first template says of each type.
fn references(labels: &[Option<String>], ontology: Option<&Path>) -> Result<Vec<Option<String>>> {
    let ontology = ontology.map(|path| Ontology::open(PathBuf::from(path))).transpose()?;
    let descriptions = Descriptions::new(&DescriptionConfig::default(), ontology, None)?;
    let mut known: BTreeMap<&str, String> = BTreeMap::new();
    for label in labels.iter().flatten().filter(|label| !label.is_empty()) {
        if !known.contains_key(label.as_str()) {
            known.insert(label, descriptions.class_text(label, &BTreeMap::new())?);
        }
    }
    Ok(labels.iter().map(|label| known.get(label.as_deref()?).cloned()).collect())
}

fn wrong(task: &ScoreDescriptions<'_>, key: &str, reason: String) -> Error {
    Error::Labels { key: key.into(), files: vec![task.predictions.display().to_string()], reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_majority_is_a_reference() {
        let texts = ["b", "a", "b", "a", "c"].map(str::to_owned);
        assert_eq!(most_frequent(&texts), "a");
        let pairs = Pairs { predicted: &texts, reference: &texts, types: None };
        let table = score_texts(&pairs, None, 1).unwrap();
        assert_eq!(table.get("predictions", "ROUGE-1").unwrap().value, 1.0);
        assert_eq!(table.get("majority text", "ROUGE-1").unwrap().value, 0.4);
        assert_eq!(table.notes.len(), 2);
    }
}
