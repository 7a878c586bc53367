//! Would a wrong kernel be noticed? Every text is spoilt line by line, and its kernel's cases run on the emulated device: a mutant is
//! caught when a check of the emulator speaks, when the driver refuses it, or when a result leaves the case's tolerance.
//!
//! Barriers, waits and commits are all dropped, one at a time, and all must be noticed; of the other mistakes a sample is drawn that stays
//! the same as long as the texts do. What changes nothing that a program could see stands in `equivalents.rs`, with its reason.
//! Needs the emulated driver, as tests/kernels.rs does. `SCMMGPT_MUTATION_SAMPLE` is the number of mutants a kernel, and
//! `SCMMGPT_MUTATION_KERNELS` names the kernels, for a longer look at a few.

mod cases;
mod equivalents;
mod statement;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cases::{End, Launched};
use scmmgpt_kernels::Error;
use scmmgpt_kernels::runtime::Device;
use statement::Kind;

/// Mutants a kernel that are drawn from the mistakes which do not concern the memory order.
const SAMPLE: usize = 10;
/// Texts of a template that are tried before a mutant counts as a survivor; where the memory order is concerned, all of them.
const VARIANTS: usize = 4;
/// Share of the mutants, equivalent ones left out, that must be caught.
const REQUIRED: f64 = 0.95;

/// A mistake in a line of a text. One in a template is in every text that the template makes.
struct Mutant {
    kernel: String,
    kind: Kind,
    original: String,
    changed: String,
    /// How often the text has that line up to here.
    repeat: usize,
    /// Entry and line, from 1, of each text that has it.
    places: Vec<(String, usize)>,
}

/// What makes two lines the same line of a template: the entries' name up to the element, the line, and how often the text had it before.
type Site = (String, Kind, String, String, usize);

/// The part of an entry's name that its variants share.
fn family(entry: &str) -> &str {
    ["_f32", "_tf32", "_bf16", "_f16"]
        .iter()
        .find_map(|element| entry.find(element).map(|at| &entry[..at + element.len()]))
        .unwrap_or(entry)
}

/// Whatever else changes in the texts, a mutant keeps its place in the draw.
fn draw(site: &Site) -> u64 {
    let hash =
        format!("{site:?}").bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The last letters reach the high bits, too.
    (hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

impl Mutant {
    fn describe(&self) -> String {
        let changed = if self.changed.is_empty() { "dropped" } else { &self.changed };
        let (entry, line) = &self.places[0];
        let others = if self.places.len() > 1 { format!(" and {} variants", self.places.len() - 1) } else { String::new() };
        format!("{entry} line {line}{others}, {:?}: `{}` -> `{changed}`", self.kind, self.original)
    }
}

/// Every text with the kernel that it belongs to.
fn texts() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let kernels: Vec<&str> = scmmgpt_kernels::registry().into_iter().map(|(kernel, _)| kernel).collect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/src");
    for kernel in &kernels {
        let mut files: Vec<_> = std::fs::read_dir(folder.join(kernel)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "ptx")) {
            found.push(((*kernel).to_string(), std::fs::read_to_string(file).unwrap()));
        }
    }
    for (entry, text) in scmmgpt_kernels::texts() {
        let kernel = kernels.iter().find(|kernel| entry.starts_with(**kernel)).expect("an entry begins with its kernel's name");
        found.push(((*kernel).to_string(), text));
    }
    found
}

/// Adds every mutant of a text to those of its template.
fn collect(kernel: &str, text: &str, all: &mut BTreeMap<Site, Mutant>) {
    let lines: Vec<&str> = text.lines().collect();
    for start in (0..lines.len()).filter(|&at| lines[at].contains(".entry ")) {
        let entry = lines[start].split(".entry ").nth(1).unwrap_or_default().split('(').next().unwrap_or_default().trim();
        let end = (start..lines.len()).find(|&at| lines[at].trim() == "}").unwrap_or(lines.len());
        let types = statement::registers(&lines[start..end]);
        let mut repeats = BTreeMap::new();
        for (at, line) in lines.iter().enumerate().take(end).skip(start) {
            let original = line.split("//").next().unwrap_or_default().trim().to_string();
            let repeat = repeats.entry(original.clone()).or_insert(0usize);
            *repeat += 1;
            for (kind, changed) in statement::mutants(line, &types) {
                let site = (family(entry).to_string(), kind, original.clone(), changed.clone(), *repeat);
                let (kernel, original) = (kernel.to_string(), original.clone());
                let mutant = all.entry(site).or_insert(Mutant { kernel, kind, original, changed, repeat: *repeat, places: Vec::new() });
                mutant.places.push((entry.to_string(), at + 1));
            }
        }
    }
}

/// All that touch the memory order, and of each kernel the first `sample` others in the draw.
fn chosen(all: BTreeMap<Site, Mutant>, sample: usize) -> Vec<Mutant> {
    let (mut chosen, mut drawn) = (Vec::new(), BTreeMap::<String, Vec<(u64, Mutant)>>::new());
    for (site, mutant) in all {
        if mutant.kind.orders() {
            chosen.push(mutant);
        } else {
            drawn.entry(mutant.kernel.clone()).or_default().push((draw(&site), mutant));
        }
    }
    for mut kernel in drawn.into_values() {
        kernel.sort_by_key(|(draw, _)| *draw);
        chosen.extend(kernel.into_iter().take(sample).map(|(_, mutant)| mutant));
    }
    chosen
}

/// How each mutant ends: as the first text that shows it.
fn run(mutants: &[Mutant], launches: &BTreeMap<String, Launched>) -> Vec<End> {
    let (next, ends) = (AtomicUsize::new(0), Mutex::new(vec![End::Well; mutants.len()]));
    let run = |mutant: &Mutant| {
        // A look at one text is enough to see that a mutant which is said to be equivalent does run well.
        let texts = match mutant.kind.orders() {
            _ if equivalents::reason(mutant).is_some() => 1,
            true => mutant.places.len(),
            false => VARIANTS,
        };
        let ends = mutant
            .places
            .iter()
            .take(texts)
            .map(|(entry, line)| cases::run(&launches[entry].cases, &format!("{entry}:{line}:{}", mutant.changed)));
        ends.into_iter().find(|end| *end != End::Well).unwrap_or(End::Well)
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((index, mutant)) = take(mutants, &next) {
                    let end = run(mutant);
                    ends.lock().unwrap()[index] = end;
                }
            });
        }
    });
    ends.into_inner().unwrap()
}

fn take<'a>(mutants: &'a [Mutant], next: &AtomicUsize) -> Option<(usize, &'a Mutant)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    mutants.get(index).map(|mutant| (index, mutant))
}

/// Counts by kernel, and by kind.
fn table(title: &str, rows: &BTreeMap<String, [usize; 5]>) {
    println!("{title:<16} {:>8} {:>8} {:>8} {:>8} {:>10} {:>9}", "mutants", "reported", "refused", "values", "equivalent", "survived");
    for (name, [reported, refused, values, equivalent, survived]) in rows {
        let all = reported + refused + values + equivalent + survived;
        println!("{name:<16} {all:>8} {reported:>8} {refused:>8} {values:>8} {equivalent:>10} {survived:>9}");
    }
}

fn main() -> ExitCode {
    if let Some(code) = cases::run_as_child() {
        return code;
    }
    match Device::cuda(0, 1) {
        Ok(device) if device.describe().contains("software device") => {}
        Ok(device) => {
            println!("{}: nothing is spoilt on hardware", device.describe());
            return ExitCode::SUCCESS;
        }
        Err(Error::DriverNotFound { tried }) => {
            assert!(std::env::var_os("SCMMGPT_REQUIRE_CUDA").is_none(), "no driver among {tried:?}: run tools/test.sh");
            println!("no CUDA driver: no mutant was run");
            return ExitCode::SUCCESS;
        }
        Err(error) => panic!("{error}"),
    }
    let sample = std::env::var("SCMMGPT_MUTATION_SAMPLE").ok().map_or(SAMPLE, |count| count.parse().expect("a number of mutants"));
    let only = std::env::var("SCMMGPT_MUTATION_KERNELS").ok();
    let wanted = |kernel: &str| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == kernel));
    let launches = cases::launches(&wanted);
    let mut all = BTreeMap::new();
    for (kernel, text) in texts().into_iter().filter(|(kernel, _)| wanted(kernel)) {
        collect(&kernel, &text, &mut all);
    }
    let mut idle = BTreeSet::new();
    for mutant in all.values_mut() {
        let (mut launched, unlaunched): (Vec<_>, Vec<_>) = mutant.places.drain(..).partition(|(entry, _)| launches.contains_key(entry));
        launched.sort_by_key(|(entry, _)| launches[entry].work);
        mutant.places = launched;
        idle.extend(unlaunched.into_iter().map(|(entry, _)| entry));
    }
    all.retain(|_, mutant| !mutant.places.is_empty());
    let possible = all.len();
    let mutants = chosen(all, sample);
    let ends = run(&mutants, &launches);
    report(&mutants, &ends, possible, idle)
}

fn report(mutants: &[Mutant], ends: &[End], possible: usize, idle: BTreeSet<String>) -> ExitCode {
    let (mut kernels, mut kinds): (BTreeMap<String, [usize; 5]>, BTreeMap<String, [usize; 5]>) = Default::default();
    let (mut caught, mut survivors, mut unordered) = (0, 0, 0);
    for (mutant, end) in mutants.iter().zip(ends) {
        let reason = equivalents::reason(mutant);
        let column = match (end, reason) {
            (End::Reported, _) => 0,
            (End::Refused, _) => 1,
            (End::Values, _) => 2,
            (End::Well, Some(_)) => 3,
            (End::Well, None) => 4,
        };
        kernels.entry(mutant.kernel.clone()).or_default()[column] += 1;
        kinds.entry(format!("{:?}", mutant.kind)).or_default()[column] += 1;
        match column {
            3 => println!("equivalent: {} ({})", mutant.describe(), reason.unwrap_or_default()),
            4 => {
                println!("survived: {}", mutant.describe());
                survivors += 1;
                unordered += usize::from(mutant.kind.orders());
            }
            _ => caught += 1,
        }
    }
    table("kernel", &kernels);
    table("mistake", &kinds);
    if !idle.is_empty() {
        println!("no case launches {}", idle.into_iter().collect::<Vec<_>>().join(", "));
    }
    let rate = caught as f64 / (caught + survivors).max(1) as f64;
    println!("{} of {possible} possible mutants were run; {:.1} % of those that change something were caught", mutants.len(), 100.0 * rate);
    assert!(caught > 0, "no mutant was run");
    assert!(unordered == 0, "{unordered} mistakes in the memory order were not noticed");
    assert!(rate >= REQUIRED, "{survivors} mutants survived");
    ExitCode::SUCCESS
}
