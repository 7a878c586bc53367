//! The run's log: one JSON object a line. It holds no times, so that two runs with one seed write the same bytes.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result};

/// Appends to `log.jsonl` of an output folder.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens the log, keeping the lines up to `step`: what was written after the checkpoint that a run resumes from is written again.
    pub(super) fn open(folder: &Path, step: u64) -> Result<Log> {
        let path = folder.join("log.jsonl");
        let io = |action: &'static str| {
            let path = path.clone();
            move |source| Error::Io { action, path, source }
        };
        let text = if path.exists() { std::fs::read_to_string(&path).map_err(io("read"))? } else { String::new() };
        let keeps = |line: &&str| {
            let value: Option<Value> = serde_json::from_str(line).ok();
            value.and_then(|value| value["step"].as_u64()).is_some_and(|at| at <= step)
        };
        let kept: String = text.lines().filter(keeps).flat_map(|line| [line, "\n"]).collect();
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(io("open"))?;
        file.write_all(kept.as_bytes()).map_err(io("write"))?;
        Ok(Log { path, file })
    }

    /// Appends one object.
    pub(super) fn write(&mut self, value: &Value) -> Result<()> {
        writeln!(self.file, "{value}").map_err(|source| Error::Io { action: "write", path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn resuming_drops_later_and_torn_lines() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::open(folder.path(), 0).unwrap();
        (1..=3).for_each(|step| log.write(&json!({"step": step})).unwrap());
        drop(log);
        let path = folder.path().join("log.jsonl");
        let torn = std::fs::read_to_string(&path).unwrap() + "{\"step\": 4, \"lo";
        std::fs::write(&path, torn).unwrap();
        Log::open(folder.path(), 2).unwrap().write(&json!({"step": 3, "again": true})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":1}\n{\"step\":2}\n{\"step\":3,\"again\":true}\n");
    }
}
