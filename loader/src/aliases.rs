//! Renamed genes: approved HGNC symbols with their former ones.
//!
//! The table (`aliases.tsv`) holds renames that are frequent between hg19- and GRCh38-era files and
//! unambiguous; it is not the whole of HGNC. Former symbols that were used for several genes are left out.

use std::collections::HashMap;
use std::sync::LazyLock;

/// Name in lower case -> its line.
static TABLE: LazyLock<HashMap<String, Vec<&'static str>>> = LazyLock::new(|| {
    let lines = include_str!("aliases.tsv").lines().filter(|line| !line.starts_with('#'));
    let mut table = HashMap::new();
    for line in lines {
        let names: Vec<_> = line.split('\t').collect();
        for name in &names {
            table.insert(name.to_ascii_lowercase(), names.clone());
        }
    }
    table
});

/// All symbols of a gene, the approved one first; empty for a gene without entry. Ignores case.
pub(crate) fn names_of(symbol: &str) -> &'static [&'static str] {
    TABLE.get(&symbol.to_ascii_lowercase()).map_or(&[], Vec::as_slice)
}

/// The approved symbol of a gene that was renamed; any other name unchanged.
pub(crate) fn current(symbol: &str) -> &str {
    names_of(symbol).first().copied().unwrap_or(symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_no_name_occurs_twice() {
        let lines: Vec<_> = include_str!("aliases.tsv").lines().skip(1).collect();
        assert!(lines.is_sorted());
        let names: Vec<_> = lines.iter().flat_map(|line| line.split('\t')).collect();
        assert_eq!(TABLE.len(), names.len(), "a name stands in two lines");
        assert!(lines.iter().all(|line| line.split('\t').count() >= 2));
    }

    #[test]
    fn works_in_both_directions() {
        assert_eq!(current("IGJ"), "JCHAIN");
        assert_eq!(current("JCHAIN"), "JCHAIN");
        assert_eq!(current("CD3E"), "CD3E");
        assert_eq!(names_of("C14orf2"), ["ATP5MJ", "ATP5MPL", "C14orf2"]);
        assert_eq!(current("SEPT7"), "SEPTIN7");
        assert!(names_of("CD3E").is_empty());
    }
}
