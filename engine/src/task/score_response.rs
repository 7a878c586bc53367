//! Responses of generated cells to a condition, beside those of training cells under it.

use std::path::Path;

use scmmgpt_loader::vocab::GeneVocab;

use crate::metric::ScoreTable;
use crate::metric::generation::{self, Cells, Responses, baselines, response_definitions, response_scores};
use crate::{Error, Result};

/// Which responses are compared.
#[derive(Clone, Copy, Debug)]
pub struct ScoreResponse<'a> {
    /// Column of the conditions, in all files.
    pub condition_key: &'a str,
    /// The condition that the others are compared with.
    pub control: &'a str,
    /// Genes whose response is reported.
    pub genes: &'a [String],
}

/// Cells and their conditions by number: generated, reference, and training where it is given.
pub(super) struct Conditions<'a> {
    cells: Vec<Cells<'a>>,
    /// `[sets]`: `[cells]`.
    numbers: Vec<Vec<u32>>,
    control: u32,
    count: u32,
    control_name: &'a str,
    genes: Vec<(String, usize)>,
}

impl<'a> Conditions<'a> {
    /// # Errors
    /// `Labels` when no cell of `reference` is under the control; `Setting` for a gene that no file has.
    pub(super) fn new(
        asked: &ScoreResponse<'a>,
        sets: &[(Cells<'a>, &[String])],
        vocabulary: &GeneVocab,
        reference: &Path,
    ) -> Result<Conditions<'a>> {
        let mut names: Vec<&String> = sets.iter().flat_map(|(_, conditions)| conditions.iter()).collect();
        names.sort_unstable();
        names.dedup();
        let place = |name: &str| names.binary_search_by(|known| known.as_str().cmp(name)).ok().map(|place| place as u32);
        let Some(control) = place(asked.control).filter(|_| sets[1].1.iter().any(|name| name == asked.control)) else {
            let found: std::collections::BTreeSet<&str> = sets[1].1.iter().map(String::as_str).collect();
            let found: Vec<&str> = found.into_iter().collect();
            let reason = format!("no cell is `{}`, the control; there are: {}", asked.control, found.join(", "));
            return Err(Error::Labels { key: asked.condition_key.into(), files: vec![reference.display().to_string()], reason });
        };
        let gene = |name: &String| {
            let column = vocabulary.tokens().iter().position(|token| token == name);
            let expected = || "genes of the generated or the real cells, by the names in their files".to_owned();
            column.map(|column| (name.clone(), column)).ok_or_else(|| Error::Setting {
                key: "genes".into(),
                value: name.clone(),
                expected: expected(),
            })
        };
        let number = |name: &String| place(name).unwrap_or_default();
        Ok(Conditions {
            cells: sets.iter().map(|(cells, _)| *cells).collect(),
            numbers: sets.iter().map(|(_, conditions)| conditions.iter().map(number).collect()).collect(),
            control,
            count: names.len() as u32,
            control_name: asked.control,
            genes: asked.genes.iter().map(gene).collect::<Result<_>>()?,
        })
    }

    /// Label and condition as one.
    fn groups(&self, set: usize) -> Vec<u32> {
        self.cells[set].labels.iter().zip(&self.numbers[set]).map(|(label, condition)| label * self.count + condition).collect()
    }
}

/// Adds responses to the row of the generated cells, a row with those of the real ones, and rows of what training cells under the same
/// conditions would score.
pub(super) fn add_responses(table: &mut ScoreTable, of: &Conditions<'_>, pairs: Option<&[usize]>, seed: u64) -> Result<()> {
    let (generated, reference) = (of.cells[0], of.cells[1]);
    let asked = |conditions| Responses { generated: conditions, reference: &of.numbers[1], control: of.control, genes: &of.genes };
    let own = response_scores(&generated, &reference, &asked(&of.numbers[0]), seed)?;
    if own.is_empty() {
        let needs = format!("generated and real cells of one label under a condition and under {}", of.control_name);
        table.notes.push(format!("responses were left out: they need {needs}"));
        return Ok(());
    }
    table.definitions.extend(response_definitions(of.control_name, &of.genes));
    if let Some((_, scores)) = table.rows.first_mut() {
        scores.extend(own);
    }
    if !of.genes.is_empty() {
        let mut real = response_scores(&reference, &reference, &asked(&of.numbers[1]), seed)?;
        let genes = real.len().saturating_sub(of.genes.len());
        table.rows.push(("real cells".into(), real.split_off(genes)));
        table.definitions.insert("real cells".into(), "the reference itself".into());
    }
    let Some(train) = of.cells.get(2) else { return Ok(()) };
    let (groups, learned) = (of.groups(0), of.groups(2));
    let by_group = Cells { rows: train.rows, labels: &learned };
    let made = [
        (
            "random cell, by condition",
            baselines::random_cell(&by_group, &groups, seed),
            "a training cell of the same label under the same condition, drawn by the seed",
        ),
        (
            "class mean, by condition",
            baselines::class_mean(&by_group, &groups),
            "the mean training cell of the label under the condition, the same for all",
        ),
        (
            "control + others' response",
            baselines::control_and_response(train, &of.numbers[2], generated.labels, &of.numbers[0], of.control),
            "the mean training cell of the label under the control, with the mean response of the other labels added: knows nothing of the \
             label under the condition",
        ),
    ];
    for (name, matrix, definition) in made {
        let Some(matrix) = matrix else {
            table.notes.push(format!("{name} was left out: training lacks cells for it"));
            continue;
        };
        let cells = Cells { rows: matrix.rows(), labels: generated.labels };
        let mut scores = generation::scores(&cells, &reference, pairs, seed)?;
        scores.extend(response_scores(&cells, &reference, &asked(&of.numbers[0]), seed)?);
        table.rows.push((name.into(), scores));
        table.definitions.insert(name.into(), definition.into());
    }
    Ok(())
}
