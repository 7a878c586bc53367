//! From the gene names of a file to the indices of a vocabulary.

use std::collections::HashSet;

use crate::aliases;
use crate::vocab::{GeneVocab, is_special};

/// Where each column of a file goes.
///
/// Several columns may go to one gene (an old and a new symbol, two Ensembl versions, a repeated name):
/// their counts are **summed**.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GeneMap {
    /// `[genes of the file]`: index in the vocabulary, or `None` for an unknown gene.
    pub ids: Vec<Option<u32>>,
    /// Columns with a known gene, by whatever rule.
    pub matched: usize,
    /// Of these, by their name in another case.
    pub by_case: usize,
    /// Of these, by an Ensembl id of another version, or without the Ensembl id behind the symbol.
    pub by_version: usize,
    /// Of these, by the former or present symbol of a renamed gene.
    pub by_alias: usize,
    /// Columns without a known gene.
    pub unmatched: Vec<usize>,
    /// Columns whose gene an earlier column already has.
    pub duplicates: Vec<usize>,
}

impl GeneVocab {
    /// Finds each gene of a file: by its exact name; else by the only gene of that name in another case;
    /// else without an Ensembl version (`.N`) or an appended Ensembl id; else by the table of renamed genes.
    ///
    /// Names of special tokens are never genes. Species are not told apart: mouse symbols differ from
    /// human ones mostly by case and would match.
    pub fn map_genes<S: AsRef<str>>(&self, names: &[S]) -> GeneMap {
        let mut map = GeneMap::default();
        let mut seen = HashSet::new();
        for (column, name) in names.iter().enumerate() {
            let found = self.find(name.as_ref().trim());
            map.ids.push(found.map(|(id, _)| id));
            let Some((id, rule)) = found else {
                map.unmatched.push(column);
                continue;
            };
            map.matched += 1;
            match rule {
                Rule::Exact => {}
                Rule::Case => map.by_case += 1,
                Rule::Version => map.by_version += 1,
                Rule::Alias => map.by_alias += 1,
            }
            if !seen.insert(id) {
                map.duplicates.push(column);
            }
        }
        map
    }

    fn find(&self, name: &str) -> Option<(u32, Rule)> {
        if is_special(name) {
            return None;
        }
        if let Some(id) = self.id(name) {
            return Some((id, Rule::Exact));
        }
        if let Some(id) = self.folded_id(&fold(name)) {
            let versioned = without_version(name) != name || is_ensembl(name);
            let rule = if versioned { Rule::Version } else { Rule::Case };
            return Some((id, rule));
        }
        let mut names = aliases::names_of(without_version(name)).iter();
        names.find_map(|other| self.id(other)).map(|id| (id, Rule::Alias))
    }
}

#[derive(Clone, Copy)]
enum Rule {
    Exact,
    Case,
    Version,
    Alias,
}

/// A name without case and without Ensembl version.
pub(crate) fn fold(name: &str) -> String {
    without_version(name).to_lowercase()
}

/// The name under which a new vocabulary lists a gene.
pub(crate) fn current_name(name: &str) -> &str {
    aliases::current(without_version(name))
}

/// `ENSG00000000003.14` -> `ENSG00000000003`, and `PTPRC_ENSG00000081237` -> `PTPRC` (how some pipelines
/// make symbols unique). Other names keep their dots: in `AC004556.1` or `RP11-34P13.7` the number belongs
/// to the name.
fn without_version(name: &str) -> &str {
    if let Some((symbol, id)) = name.rsplit_once('_')
        && !symbol.is_empty()
        && is_ensembl(id.split_once('.').map_or(id, |(id, _)| id))
    {
        return symbol;
    }
    match name.rsplit_once('.') {
        Some((id, version)) if is_ensembl(id) && is_number(version) => id,
        _ => name,
    }
}

/// `ENS`, perhaps letters for a species and a feature, then 11 digits.
fn is_ensembl(id: &str) -> bool {
    let letters = id.bytes().take_while(u8::is_ascii_alphabetic).count();
    let digits = &id[letters..];
    let prefix = id.as_bytes().get(..3);
    prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"ENS")) && digits.len() == 11 && is_number(digits)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_in_its_order() {
        let pairs = ["JCHAIN", "CD3E", "ENSG00000000003.14", "IGJ2", "igj2", "SEPT7", "AC004556"];
        let pairs = pairs.iter().zip(0u64..).map(|(name, id)| (name.to_string(), id));
        let vocab = GeneVocab::from_pairs("test", pairs).unwrap();
        let names = [
            "CD3E",
            "Cd3e",
            "ENSG00000000003",
            "ENSG00000000003.2",
            "IGJ",
            "SEPTIN7",
            "Igj2",
            "IGJ2",
            "AC004556.1",
            "<pad>",
            "",
            "é.1",
            "XYZ",
        ];
        let map = vocab.map_genes(&names);
        let expected = [Some(1), Some(1), Some(2), Some(2), Some(0), Some(5), None, Some(3), None, None, None, None, None];
        assert_eq!(map.ids, expected);
        assert_eq!((map.matched, map.by_case, map.by_version, map.by_alias), (7, 1, 2, 2));
        assert_eq!(map.unmatched, [6, 8, 9, 10, 11, 12]);
        assert_eq!(map.duplicates, [1, 3]);
    }

    #[test]
    fn an_appended_ensembl_id_is_no_part_of_the_symbol() {
        let vocab = GeneVocab::from_genes(["PTPRC", "SEPT7_ENSG00000122545.18", "A_B"]).unwrap();
        assert_eq!(vocab.tokens()[..3], ["A_B", "PTPRC", "SEPTIN7"]);
        let map = vocab.map_genes(&["PTPRC_ENSG00000081237", "SEPT7", "A_B", "_ENSG00000081237"]);
        assert_eq!(map.ids, [Some(1), Some(2), Some(0), None]);
        assert_eq!((map.by_version, map.by_alias), (1, 1));
    }

    #[test]
    fn an_alias_is_found_in_any_case() {
        let vocab = GeneVocab::from_genes(["ATP5MJ"]).unwrap();
        assert_eq!(vocab.map_genes(&["C14ORF2"]).ids, [Some(0)]);
    }
}
