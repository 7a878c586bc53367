//! Results into an `.h5ad`, with the record of how they came about.

use std::path::Path;

use scmmgpt_loader::h5ad::{Additions, UnsValue, write_with};

use crate::Result;
use crate::bundle::Bundle;

/// How a result came about; written to `uns["scmmgpt"]`.
#[derive(Clone, Debug)]
pub struct Provenance {
    entries: Vec<(String, UnsValue)>,
}

impl Provenance {
    /// Version, command, model hash and preprocessing.
    pub fn new(bundle: &Bundle, command: &str) -> Self {
        let text = |text: &str| UnsValue::Text(text.into());
        let tokens = &bundle.config.tokens;
        let preprocessing = UnsValue::Map(vec![
            ("value_mode".into(), text(&tokens.value_mode.to_string())),
            ("target_sum".into(), UnsValue::Number(tokens.target_sum)),
            ("n_bins".into(), UnsValue::Integer(tokens.n_bins as i64)),
            ("max_seq_len".into(), UnsValue::Integer(tokens.max_seq_len as i64)),
        ]);
        let entries = vec![
            ("version".into(), text(env!("CARGO_PKG_VERSION"))),
            ("command".into(), text(command)),
            ("model_sha256".into(), text(&bundle.hash)),
            ("preprocessing".into(), preprocessing),
        ];
        Provenance { entries }
    }

    /// Adds an entry.
    #[must_use]
    pub fn with(mut self, name: &str, value: UnsValue) -> Self {
        self.entries.push((name.into(), value));
        self
    }

    /// Puts the record among what is written.
    pub(super) fn record(self, additions: &mut Additions) {
        additions.uns.push(("scmmgpt".into(), UnsValue::Map(self.entries)));
    }
}

/// Copies `input` to `output` with results added; `output` appears whole or not at all.
///
/// # Errors
/// Those of the files; an existing `output` is kept unless `overwrite`.
pub fn write_result(input: &Path, output: &Path, mut additions: Additions, provenance: Provenance, overwrite: bool) -> Result<()> {
    provenance.record(&mut additions);
    Ok(write_with(input, output, &additions, overwrite)?)
}
