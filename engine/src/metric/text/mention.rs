//! Which types a text names.

use super::words::words;

/// Names of types, as words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeNames(Vec<Vec<String>>);

impl TypeNames {
    /// Splits the names into words.
    pub fn new(names: &[String]) -> TypeNames {
        TypeNames(names.iter().map(|name| words(name)).collect())
    }

    /// The types whose names stand in a text as whole words, in the order in which they begin. A name inside a longer one does not count
    /// there: "CD4-positive T cell" names no "T cell".
    pub fn in_text(&self, text: &str) -> Vec<usize> {
        let text = words(text);
        // Place, words, type.
        let mut found: Vec<(usize, usize, usize)> = Vec::new();
        for (kind, name) in self.0.iter().enumerate().filter(|(_, name)| !name.is_empty()) {
            let places = text.windows(name.len()).enumerate().filter(|(_, window)| window == name);
            found.extend(places.map(|(place, _)| (place, name.len(), kind)));
        }
        let inside = |(place, length, _): &(usize, usize, usize)| {
            found.iter().any(|(other, longer, _)| longer > length && other <= place && place + length <= other + longer)
        };
        let mut named: Vec<_> = found.iter().filter(|found| !inside(found)).collect();
        named.sort_unstable();
        named.into_iter().map(|found| found.2).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_names_hide_shorter_ones() {
        let names = TypeNames::new(&["T cell", "CD4-positive T cell", "B cell", "monocyte"].map(str::to_owned));
        assert_eq!(names.in_text("This is a CD4-positive, T cell."), [1]);
        assert_eq!(names.in_text("B cells are no B cell; a T cell and a CD4 positive T cell are"), [2, 0, 1]);
        assert_eq!(names.in_text("monocytes"), [0; 0]);
        assert_eq!(names.in_text(""), [0; 0]);
    }
}
