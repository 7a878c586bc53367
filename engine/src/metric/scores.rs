//! A table of any scores: each with its definition, its number of samples and its interval.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::bootstrap::{Estimate, RESAMPLES};
use super::classification::{Align, columns};

/// One number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Its name in [`ScoreTable::definitions`].
    pub metric: String,
    /// Samples behind it.
    pub n: u64,
    /// Value and interval.
    #[serde(flatten)]
    pub estimate: Estimate,
}

/// Scores of a model and of what stands beside it, and what they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoreTable {
    /// (model or baseline, its scores).
    pub rows: Vec<(String, Vec<Score>)>,
    /// Each metric in words.
    pub definitions: BTreeMap<String, String>,
    /// What the reader should know besides: what was left out, and why.
    pub notes: Vec<String>,
    /// Resamples behind the intervals.
    pub resamples: u32,
    /// Seed of the resamples.
    pub seed: u64,
}

impl ScoreTable {
    /// A table without rows.
    pub fn new(definitions: impl IntoIterator<Item = (String, String)>, seed: u64) -> ScoreTable {
        let mut definitions: BTreeMap<String, String> = definitions.into_iter().collect();
        definitions.insert("low, high".into(), "95 % percentile interval over bootstrap resamples of the samples".into());
        ScoreTable { rows: Vec::new(), definitions, notes: Vec::new(), resamples: RESAMPLES, seed }
    }

    /// The score of a row, by both names.
    pub fn get(&self, row: &str, metric: &str) -> Option<Estimate> {
        let (_, scores) = self.rows.iter().find(|(name, _)| name == row)?;
        scores.iter().find(|score| score.metric == metric).map(|score| score.estimate)
    }
}

impl fmt::Display for ScoreTable {
    /// A metric a line, a column for the model and each of what stands beside it; then what each metric is, and the notes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut metrics: Vec<&str> = Vec::new();
        for score in self.rows.iter().flat_map(|(_, scores)| scores) {
            if !metrics.contains(&score.metric.as_str()) {
                metrics.push(&score.metric);
            }
        }
        let mut head = vec![String::new(), "n".to_owned()];
        head.extend(self.rows.iter().map(|(name, _)| name.clone()));
        let mut lines = vec![head];
        for metric in &metrics {
            let found = |scores: &[Score]| scores.iter().find(|score| score.metric == *metric).cloned();
            let n = self.rows.iter().find_map(|(_, scores)| found(scores)).map_or(0, |score| score.n);
            let mut line = vec![(*metric).to_owned(), n.to_string()];
            line.extend(self.rows.iter().map(|(_, scores)| found(scores).map_or("-".into(), |score| score.estimate.to_string())));
            lines.push(line);
        }
        let mut align = vec![Align::Left, Align::Right];
        align.resize(2 + self.rows.len(), Align::Left);
        columns(f, &align, &lines)?;
        writeln!(f, "[..] 95 % interval over {} bootstrap resamples, seed {}\n", self.resamples, self.seed)?;
        let rows = self.rows.iter().map(|(name, _)| name.as_str());
        let mut defined: Vec<(Vec<&str>, &str)> = Vec::new();
        for name in metrics.into_iter().chain(rows) {
            match (self.definitions.get(name), defined.last_mut()) {
                (Some(definition), Some((names, last))) if last == definition => names.push(name),
                (Some(definition), _) => defined.push((vec![name], definition)),
                (None, _) => {}
            }
        }
        for (names, definition) in defined {
            writeln!(f, "{}: {definition}", names.join("; "))?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_up_and_survives_json() {
        let score = |metric: &str, value: f64| Score {
            metric: metric.into(),
            n: 12,
            estimate: Estimate { value, low: value - 0.1, high: value + 0.1 },
        };
        let definitions = [("BLEU-2", "of words"), ("BLEU-4", "of words"), ("majority", "the usual")];
        let mut table = ScoreTable::new(definitions.map(|(name, text)| (name.to_owned(), text.to_owned())), 7);
        table.rows.push(("model".into(), vec![score("BLEU-2", 0.5), score("BLEU-4", 0.5), score("W", 1.25)]));
        table.rows.push(("majority".into(), vec![score("BLEU-2", 0.25)]));
        table.notes.push("W was left out".into());
        let shown = table.to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "         n  model                 majority");
        assert_eq!(lines[1], "BLEU-2  12  0.500 [0.400, 0.600]  0.250 [0.150, 0.350]");
        assert_eq!(lines[3], "W       12  1.250 [1.150, 1.350]  -");
        assert!(shown.ends_with("\n\nBLEU-2; BLEU-4: of words\nmajority: the usual\nnote: W was left out\n"), "{shown}");
        assert_eq!(table.get("majority", "BLEU-2").unwrap().value, 0.25);
        assert_eq!(table.get("majority", "W"), None);
        let text = serde_json::to_string(&table).unwrap();
        assert!(text.contains(r#"{"metric":"BLEU-2","n":12,"value":0.5,"#), "{text}");
        assert_eq!(serde_json::from_str::<ScoreTable>(&text).unwrap(), table);
    }
}
