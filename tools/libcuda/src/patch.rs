//! One line of a text, replaced as it is loaded.

/// `ENTRY:LINE:TEXT`: in the text that defines `ENTRY`, line `LINE` (from 1) becomes `TEXT`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    entry: String,
    line: usize,
    text: String,
}

impl Patch {
    /// None for what is no patch.
    pub(crate) fn parse(patch: &str) -> Option<Patch> {
        let mut parts = patch.splitn(3, ':');
        let (entry, line, text) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        Some(Patch { entry: entry.into(), line, text: text.into() })
    }

    /// The changed text; none for a text of other entries.
    pub(crate) fn apply(&self, text: &str) -> Option<String> {
        let mut entries = text.split(".entry").skip(1).filter_map(|after| after.split('(').next());
        entries.find(|entry| entry.trim() == self.entry)?;
        let lines = text.lines().enumerate();
        Some(lines.map(|(at, line)| if at + 1 == self.line { &self.text } else { line }).collect::<Vec<_>>().join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_one_text_changes() {
        let patch = Patch::parse("a:2:add.u64 %x, %x, 8; // 1:2").unwrap();
        assert_eq!(patch.apply(".entry a(\nadd.u64 %x, %x, 4;\nret;").unwrap(), ".entry a(\nadd.u64 %x, %x, 8; // 1:2\nret;");
        assert_eq!(patch.apply(".entry ab(\nret;"), None);
        assert_eq!(Patch::parse("a:two:ret;"), None);
    }
}
