//! Times whole workloads that another library can run too, and prints one JSON line for each.
//!
//! `cargo bench -p scmmgpt-benches --bench peers -- encoder_f32_b8_s1200 --threads 2 --repeats 5` times one; a name that is only the
//! beginning of a workload's stands for all of the standard list that begin so, and no name for the whole list. With `--stdin` the
//! names are read from the standard input, one a line, and each is answered before the next is read; the last workload stays in
//! memory, so that asking for it again costs only the runs. [`workload`] says which names there are. `--device cuda` computes on a GPU,
//! with `--allow-tf32` products of f32 there on tensor cores.
//!
//! A line holds `workload`, `seconds` (`minimum` and `median`), `repeats`, `flops` of one run, `bytes` that one run has to fetch from
//! memory (null where that is not what bounds it), `threads`, `checks`: numbers computed before the timing, which whoever computes the
//! same from the same values gets too, and `memory`: by how many bytes the process grew at most in a first run, beyond the tensors that
//! were allocated before it: inputs and results (null where that is not known). What cannot be run has an `error` instead.

mod workload;

use std::io::{BufRead, Write};

use anyhow::{Context, Result, bail};
use scmmgpt_kernels::runtime::Device;
use serde_json::{Value, json};

use workload::{STANDARD, Workload};

/// What is run once when benches are only tried.
const TRIAL: [&str; 9] = [
    "peak_f32",
    "gemm_f32_40x33x17",
    "gemm_bf16_40x33x17",
    "attention_f32_b2_s9_h2_d8",
    "encoder_f32_b1_s16",
    "qformer_f32_b1_s16",
    "train_f32_b1_s16",
    "search_f32_n300_w7_q3_k5",
    "contrastive_f32_40x3x17",
];

/// A short workload is repeated until this much time has passed, though not more often than [`MOST`] times the repeats asked for.
const SECONDS: f64 = 0.3;
const MOST: usize = 20;

#[derive(Debug, Default)]
struct Options {
    names: Vec<String>,
    device: String,
    threads: usize,
    allow_tf32: bool,
    repeats: usize,
    stdin: bool,
    trial: bool,
}

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options { device: "cpu".into(), repeats: 5, trial: true, ..Options::default() };
        let mut arguments = arguments.peekable();
        let (mut bench, mut test) = (false, false);
        while let Some(argument) = arguments.next() {
            let mut text = || arguments.next().with_context(|| format!("{argument} needs a value"));
            let mut number = || -> Result<usize> {
                let text = text()?;
                text.parse().with_context(|| format!("{argument} {text}: not a number"))
            };
            match argument.as_str() {
                "--device" => options.device = text()?,
                "--allow-tf32" => options.allow_tf32 = true,
                "--threads" => options.threads = number()?,
                "--repeats" => options.repeats = number()?.max(1),
                "--stdin" => options.stdin = true,
                // Cargo's own: given under `cargo bench`, absent under `cargo test`.
                "--bench" => bench = true,
                "--test" => test = true,
                flag if flag.starts_with('-') => {
                    bail!("unknown option {flag}; there are --device, --allow-tf32, --threads, --repeats, --stdin and --test")
                }
                _ => options.names.push(argument),
            }
        }
        options.trial = test || !(bench || options.stdin);
        Ok(options)
    }
}

/// The device and the workload that was asked for last.
struct Session {
    device: Device,
    repeats: usize,
    open: Option<Open>,
}

struct Open {
    name: String,
    workload: Box<dyn Workload>,
    checks: Vec<f64>,
    memory: Option<u64>,
}

/// Resident bytes of this process now, after its highest number has been set back to it.
fn mark_resident() -> Option<u64> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    resident("VmRSS:")
}

/// `VmRSS:` or `VmHWM:` of this process, in bytes.
fn resident(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

impl Session {
    fn answer(&mut self, name: &str) -> Value {
        match self.time(name) {
            Ok(line) => line,
            Err(error) => {
                self.open = None;
                json!({ "workload": name, "error": format!("{error:#}") })
            }
        }
    }

    fn time(&mut self, name: &str) -> Result<Value> {
        if self.open.as_ref().is_none_or(|open| open.name != name) {
            // The memory of the last one is given back first.
            self.open = None;
            let mut workload = workload::open(name, &self.device)?;
            let before = mark_resident();
            workload.run()?;
            let memory = before.and_then(|before| Some(resident("VmHWM:")?.saturating_sub(before)));
            let checks = workload.check()?;
            self.open = Some(Open { name: name.to_string(), workload, checks, memory });
        }
        let Some(Open { workload, checks, memory, .. }) = &mut self.open else { bail!("no workload is open") };
        let mut seconds: Vec<f64> = Vec::new();
        while seconds.len() < self.repeats || (seconds.iter().sum::<f64>() < SECONDS && seconds.len() < MOST * self.repeats) {
            seconds.push(workload.run()?);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(json!({
            "workload": name,
            "seconds": { "minimum": seconds[0], "median": seconds[seconds.len() / 2] },
            "repeats": seconds.len(),
            "flops": workload.flops(),
            "bytes": workload.bytes(),
            "threads": self.device.threads(),
            "checks": checks,
            "memory": memory,
        }))
    }
}

/// A workload's own name, or those of the standard list that begin with it.
fn chosen(name: &str) -> Vec<&str> {
    let listed: Vec<&str> = STANDARD.into_iter().filter(|listed| listed.starts_with(name)).collect();
    if listed.is_empty() { vec![name] } else { listed }
}

fn main() -> Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    let device = Device::open(&options.device, options.threads)?.allow_tf32(options.allow_tf32);
    let repeats = if options.trial { 1 } else { options.repeats };
    let mut session = Session { device, repeats, open: None };
    let mut output = std::io::stdout().lock();
    if options.stdin {
        for line in std::io::stdin().lock().lines() {
            writeln!(output, "{}", session.answer(line?.trim()))?;
            output.flush()?;
        }
        return Ok(());
    }
    let names: Vec<&str> = match &options.names[..] {
        _ if options.trial => TRIAL.to_vec(),
        [] => STANDARD.to_vec(),
        names => names.iter().flat_map(|name| chosen(name)).collect(),
    };
    for name in names {
        let line = session.answer(name);
        writeln!(output, "{line}")?;
        if options.trial && line.get("error").is_some() {
            bail!("{name} failed");
        }
    }
    Ok(())
}
