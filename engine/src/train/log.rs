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
    /// Opens the log, keeping the lines up to `step` of `stage`: what was written after the checkpoint that a run resumes from is
    /// written again.
    pub(super) fn open(folder: &Path, stage: u32, step: u64) -> Result<Log> {
        let path = folder.join("log.jsonl");
        let io = |action: &'static str| {
            let path = path.clone();
            move |source| Error::Io { action, path, source }
        };
        let text = if path.exists() { std::fs::read_to_string(&path).map_err(io("read"))? } else { String::new() };
        let keeps = |line: &&str| {
            let value: Option<Value> = serde_json::from_str(line).ok();
            let place = value.and_then(|value| Some((value["stage"].as_u64()?, value["step"].as_u64()?)));
            place.is_some_and(|place| place <= (u64::from(stage), step))
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
        let mut log = Log::open(folder.path(), 0, 0).unwrap();
        (1..=3).for_each(|step| log.write(&json!({"stage": 0, "step": step})).unwrap());
        log.write(&json!({"stage": 1, "step": 1})).unwrap();
        drop(log);
        let path = folder.path().join("log.jsonl");
        let torn = std::fs::read_to_string(&path).unwrap() + "{\"stage\": 1, \"step\": 2, \"lo";
        std::fs::write(&path, torn).unwrap();
        drop(Log::open(folder.path(), 1, 1).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("{\"stage\":1,\"step\":1}\n"), "{text}");
        Log::open(folder.path(), 0, 2).unwrap().write(&json!({"stage": 0, "step": 3, "again": true})).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = ["{\"stage\":0,\"step\":1}", "{\"stage\":0,\"step\":2}", "{\"stage\":0,\"step\":3,\"again\":true}\n"];
        assert_eq!(text, lines.join("\n"));
    }
}
