//! One column of `obs` or `var`.

/// A column of `obs` or `var`, one entry a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Labels from a short list (pandas categorical). Also what a nullable string column with
    /// missing entries is read as.
    Categorical {
        /// Index into `categories`, -1 where missing.
        codes: Vec<i32>,
        /// The labels, in the file's order.
        categories: Vec<String>,
    },
    /// Free text.
    Text(Vec<String>),
    /// Integers and floats; NaN where missing. Integers beyond 2^53 are rounded.
    Number(Vec<f64>),
    /// Booleans; `None` where missing.
    Boolean(Vec<Option<bool>>),
}

impl Column {
    /// Rows.
    pub fn len(&self) -> usize {
        match self {
            Column::Categorical { codes, .. } => codes.len(),
            Column::Text(texts) => texts.len(),
            Column::Number(numbers) => numbers.len(),
            Column::Boolean(flags) => flags.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One label a row, `None` where missing. Numbers are written in their shortest form (`3`,
    /// `0.5`), booleans as Python does (`True`, `False`).
    pub fn labels(&self) -> Vec<Option<String>> {
        match self {
            Column::Categorical { codes, categories } => {
                codes.iter().map(|&code| usize::try_from(code).ok().and_then(|c| categories.get(c).cloned())).collect()
            }
            Column::Text(texts) => texts.iter().cloned().map(Some).collect(),
            Column::Number(numbers) => numbers.iter().map(|n| (!n.is_nan()).then(|| n.to_string())).collect(),
            Column::Boolean(flags) => flags.iter().map(|flag| flag.map(|f| String::from(python_bool(f)))).collect(),
        }
    }

    /// Texts with gaps as a categorical: categories in order of first appearance.
    pub(super) fn from_optional_texts(texts: Vec<Option<String>>) -> Column {
        if texts.iter().all(Option::is_some) {
            return Column::Text(texts.into_iter().flatten().collect());
        }
        let mut place = std::collections::HashMap::new();
        let mut categories = Vec::new();
        let codes = texts.into_iter().map(|text| {
            let Some(text) = text else { return -1 };
            *place.entry(text).or_insert_with_key(|text| {
                categories.push(text.clone());
                categories.len() as i32 - 1
            })
        });
        let codes = codes.collect();
        Column::Categorical { codes, categories }
    }
}

/// `True` or `False`.
pub(super) fn python_bool(flag: bool) -> &'static str {
    if flag { "True" } else { "False" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|t| (!t.is_empty()).then(|| t.to_string())).collect()
    }

    #[test]
    fn labels_of_every_kind() {
        let codes = vec![1, -1, 0];
        let categories = vec!["b".into(), "a".into()];
        assert_eq!(Column::Categorical { codes, categories }.labels(), some(&["a", "", "b"]));
        assert_eq!(Column::Number(vec![3.0, f64::NAN, 0.5]).labels(), some(&["3", "", "0.5"]));
        let flags = vec![Some(true), None, Some(false)];
        assert_eq!(Column::Boolean(flags).labels(), some(&["True", "", "False"]));
        assert_eq!(Column::Text(vec!["x".into()]).labels(), some(&["x"]));
    }

    #[test]
    fn texts_with_gaps_become_a_categorical() {
        let column = Column::from_optional_texts(some(&["b", "", "a", "b"]));
        let (codes, categories) = (vec![0, -1, 1, 0], vec!["b".into(), "a".into()]);
        assert_eq!(column, Column::Categorical { codes, categories });
        assert_eq!(Column::from_optional_texts(some(&["b"])), Column::Text(vec!["b".into()]));
    }
}
