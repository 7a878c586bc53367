//! What ptxas makes of the kernels for an A100, kept under `kernels/golden`: emitted texts as they stand, one of a kind, and a ledger of
//! static and modelled figures, beside those of Triton's matrix products and attention.
//!
//! `SCMMGPT_REWRITE_GOLDEN=1 cargo test --release -p scmmgpt-tests --test ledger` writes both anew, which is to be done on purpose.

mod sass;
mod toolchain;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use sass::Loop;
use toolchain::root;

/// Emitted texts that stand in the ledger; the marked ones are kept whole.
const EMITTED: [(&str, bool); 65] = [
    ("attention_forward_f32_d8", true),
    ("attention_backward_queries_f32_d8", true),
    ("attention_backward_keys_f32_d8", true),
    ("attention_forward_f32_d64", false),
    ("attention_backward_queries_f32_d64", false),
    ("attention_backward_keys_f32_d64", false),
    ("attention_forward_bf16_d8_128x64_w4", true),
    ("attention_backward_queries_bf16_d8_128x32_w4", true),
    ("attention_backward_keys_bf16_d8_128x32_w4", true),
    ("attention_forward_bf16_d64_128x64_w4", false),
    ("attention_forward_bf16_d64_128x64_w8_dropout", false),
    ("attention_forward_bf16_d64_32x64_w2", false),
    ("attention_backward_queries_bf16_d64_128x32_w4", false),
    ("attention_backward_keys_bf16_d64_128x32_w4", false),
    ("attention_forward_bf16_d128_128x64_w8", false),
    ("attention_backward_queries_bf16_d128_128x32_w8", false),
    ("attention_backward_keys_bf16_d128_128x32_w8", false),
    ("attention_decode_f32_d8_h1", true),
    ("attention_decode_f32_d64_h8", false),
    ("attention_decode_bf16_d64_h8", false),
    ("attention_decode_bf16_d128_h1", false),
    ("attention_combine_f32", true),
    ("contrastive_forward_f32_1", true),
    ("contrastive_forward_f32_8", false),
    ("contrastive_backward_f32_1", false),
    ("contrastive_backward_f32_8", true),
    ("contrastive_combine_f32", true),
    ("contrastive_cells_f32_one", true),
    ("contrastive_texts_f32_one", false),
    ("contrastive_cells_f32_many", true),
    ("contrastive_texts_f32_many", true),
    ("gemm_nt_f32_simt_bias", true),
    ("gemm_nt_bf16_simt_bias", false),
    ("gemm_nt_bf16_128x128x32_s3_bias_relu", true),
    ("gemm_nn_bf16_128x128x32_s3_none", false),
    ("gemm_tn_bf16_128x128x32_s3_accumulate", false),
    ("gemm_tn_bf16_128x128x32_s3_partial", false),
    ("gemm_nt_bf16_128x256x64_s3_bias_relu", false),
    ("gemm_nt_bf16_128x256x64_s3_bias_gelu_kept", false),
    ("gemm_nn_bf16_128x256x64_s3_none", false),
    ("gemm_tn_bf16_128x256x64_s3_accumulate", false),
    ("gemm_nt_bf16_64x64x64_s4_bias_relu", false),
    ("gemm_nn_bf16_64x64x64_s4_none", false),
    ("gemm_tn_bf16_64x64x64_s4_partial", false),
    ("gemm_nt_f16_128x128x32_s3_bias_relu", false),
    ("gemm_nt_f16_128x256x64_s3_bias_relu", false),
    ("gemm_nt_tf32_128x128x16_s3_none", false),
    ("gemm_nn_tf32_128x128x16_s3_none", false),
    ("gemm_tn_tf32_128x128x16_s3_none", true),
    ("gemm_nt_tf32_128x256x32_s3_none", false),
    ("gemm_tn_tf32_128x256x32_s3_accumulate", false),
    ("gemm_nt_f32_16x32x32_s8_none", true),
    ("gemm_nt_bf16_16x32x64_s8_none", true),
    ("gemm_nt_tf32_16x32x32_s8_none", false),
    ("gemm_nt_bf16_128x128x32_s3_swiglu", true),
    ("gemm_nt_f32_simt_swiglu", false),
    ("gemm_nt_bf16_16x32x64_s8_swiglu", false),
    ("gemm_nt_bf16_64x64x64_s4_scaled", false),
    ("gemm_nt_bf16_128x128x32_s3_added", false),
    ("sample_choose_f32", true),
    ("sample_choose_bf16", false),
    ("topk_select_f32_inner_product_32", true),
    ("topk_merge_f32_32", true),
    ("topk_select_f32_inner_product_128", false),
    ("topk_merge_f32_128", false),
];

/// Triton's kernels (`tools/fixtures/triton_kernels.py`), with its shared memory, which its texts do not state.
const TRITON: [(&str, usize); 6] = [
    ("triton_attention_128x64_d64", 32768),
    ("triton_attention_128x64_d128", 65536),
    ("triton_matmul_128x128x32", 32768),
    ("triton_matmul_128x128x32_nt", 32768),
    ("triton_matmul_128x256x64", 98304),
    ("triton_matmul_128x256x64_nt", 98304),
];

const HEAD: &str = "\
# Figures of PTX texts for sm_80: ptxas 13.5.37, read with nvdisasm. Nothing here was measured on a GPU.
# registers, spilled bytes, shared bytes: of ptxas; dynamic shared memory as the text states it.
# loop: instructions of the main loop; products: those on tensor cores; ratio: loop / products.
# pipe bound: modelled share of time in which the tensor pipe can be busy, if only throughput mattered (tests/sass.rs).
# warps: of a partition of a multiprocessor at full occupancy; tensor use: the modelled share with them, by stalls and scoreboards.
";

const COLUMNS: &str = "text\tregisters\tspills\tshared\tloop\tproducts\tratio\tpipe bound (modelled)\twarps\ttensor use (modelled)\n";

/// An entry, assembled.
struct Figures {
    text: String,
    registers: usize,
    spills: usize,
    shared: usize,
    warps: usize,
    main_loop: Option<Loop>,
    /// Opcodes of all accesses to global memory.
    global: Vec<String>,
}

impl Figures {
    fn ratio(&self) -> f64 {
        self.main_loop.as_ref().map_or(f64::NAN, |body| body.body.len() as f64 / body.products() as f64)
    }

    fn line(&self) -> String {
        let Figures { text, registers, spills, shared, warps, .. } = self;
        let mut line = format!("{text}\t{registers}\t{spills}\t{shared}");
        let _ = match &self.main_loop {
            Some(body) if body.products() > 0 => {
                let (count, products) = (body.body.len(), body.products());
                let (bound, share) = (body.pipe_bound(), body.tensor_use(*warps));
                write!(line, "\t{count}\t{products}\t{:.2}\t{bound:.2}\t{warps}\t{share:.2}", self.ratio())
            }
            Some(body) => write!(line, "\t{}\t\t\t\t{warps}\t", body.body.len()),
            None => write!(line, "\t\t\t\t\t{warps}\t"),
        };
        line.push('\n');
        line
    }
}

/// The number before a phrase.
fn number(text: &str, phrase: &str) -> Option<usize> {
    text.split_once(phrase)?.0.split_whitespace().last()?.parse().ok()
}

/// Warps that a partition can hold: an A100's multiprocessor has 65,536 registers, 164 KiB of shared memory and 64 warps.
fn warps(threads: usize, registers: usize, shared: usize) -> usize {
    let a_block = threads.div_ceil(32);
    let by_registers = 65_536 / (registers.next_multiple_of(8) * 32) / a_block;
    let by_shared = (164 << 10) / (shared + 1024);
    (by_registers.min(by_shared).min(64 / a_block).min(32) * a_block / 4).max(1)
}

/// Every entry of a text; `name` gives the line's name from the entry's, `shared` is what the text does not state.
fn figures(folder: &Path, text: &str, name: impl Fn(&str) -> String, shared: usize) -> Vec<Figures> {
    let (source, cubin) = (folder.join("text.ptx"), folder.join("text.cubin"));
    std::fs::write(&source, text).unwrap();
    let output = Command::new(toolchain::ptxas()).args(["-v", "-arch", "sm_80", "-o"]).arg(&cubin).arg(&source).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let codes = sass::read(&toolchain::nvdisasm(), &cubin);
    let entries = text.split(".entry").skip(1).map(|rest| rest.split_once('(').unwrap());
    let entries = entries.map(|(entry, rest)| {
        let entry = entry.trim();
        let properties = said.split(&format!("Function properties for {entry}\n")).nth(1).unwrap();
        let properties = properties.split("Compile time").next().unwrap();
        let threads = ["reqntid", "maxntid"].iter().find_map(|word| {
            let rest = rest.split_once(word)?.1;
            rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        });
        let registers = number(properties, " registers").unwrap();
        let stated = text.split_once("Dynamic shared memory: ").and_then(|(_, rest)| number(rest, " bytes."));
        let shared = number(properties, " bytes smem").unwrap_or(0) + stated.unwrap_or(shared);
        let spills = number(properties, " bytes spill stores").unwrap() + number(properties, " bytes spill loads").unwrap();
        let code = &codes[entry];
        let (main_loop, global) = (code.main_loop(), code.global().map(str::to_string).collect());
        Figures { text: name(entry), registers, spills, shared, warps: warps(threads.unwrap(), registers, shared), main_loop, global }
    });
    entries.collect()
}

fn plain(folder: &Path) -> Vec<Figures> {
    let mut files: Vec<_> = std::fs::read_dir(root().join("kernels/src")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut found = Vec::new();
    for kernel in files.iter().filter(|path| path.is_dir()) {
        let inside = std::fs::read_dir(kernel).unwrap().map(|entry| entry.unwrap().path());
        for file in inside.filter(|path| path.extension().is_some_and(|extension| extension == "ptx")) {
            found.extend(figures(folder, &std::fs::read_to_string(file).unwrap(), str::to_string, 0));
        }
    }
    found
}

static TEXTS: LazyLock<Vec<(String, String)>> = LazyLock::new(scmmgpt_kernels::texts);

fn emitted(entry: &str) -> &'static str {
    let found = TEXTS.iter().find(|(name, _)| name == entry);
    found.map_or_else(|| panic!("no kernel emits {entry}"), |(_, text)| text)
}

fn triton(folder: &Path, (name, shared): (&str, usize)) -> Figures {
    let text = std::fs::read_to_string(root().join(format!("tools/emulator/tests/foreign/{name}.ptx"))).unwrap();
    figures(folder, &text, |_| name.to_string(), shared).remove(0)
}

/// Compares a file with what it should hold, or writes it where that is asked for.
fn keep(name: &str, expected: &str, failures: &mut Vec<String>) {
    let path = root().join("kernels/golden").join(name);
    if std::env::var_os("SCMMGPT_REWRITE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let mut lines = found.lines().zip(expected.lines()).enumerate();
    if let Some((at, (found, expected))) = lines.find(|(_, (found, expected))| found != expected) {
        failures.push(format!("kernels/golden/{name}:{}: expected `{expected}`, found `{found}`", at + 1));
    } else if found != expected {
        failures.push(format!("kernels/golden/{name}: expected {} lines, found {}", expected.lines().count(), found.lines().count()));
    }
}

fn report(failures: &[String]) {
    const HOW: &str = "if that is meant: SCMMGPT_REWRITE_GOLDEN=1 cargo test --release -p scmmgpt-tests --test ledger";
    assert!(failures.is_empty(), "{}\n{HOW}", failures.join("\n"));
}

#[test]
fn emitted_texts_are_those_that_were_read() {
    let mut failures = Vec::new();
    for (entry, _) in EMITTED.iter().filter(|(_, whole)| *whole) {
        let (kernel, variant) = entry.split_once('_').unwrap();
        keep(&format!("{kernel}.{variant}.ptx"), emitted(entry), &mut failures);
    }
    let kernel = |entry: &str| entry.split('_').next().unwrap().to_string();
    let kept: BTreeSet<_> = EMITTED.iter().filter(|(_, whole)| *whole).map(|(entry, _)| kernel(entry)).collect();
    failures
        .extend(TEXTS.iter().map(|(entry, _)| kernel(entry)).filter(|name| !kept.contains(name)).map(|name| format!("no text of {name}")));
    report(&failures);
}

#[test]
fn the_ledger_is_true() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = plain(folder.path());
    for (entry, _) in EMITTED {
        rows.extend(figures(folder.path(), emitted(entry), str::to_string, 0));
    }
    rows.extend(TRITON.map(|text| triton(folder.path(), text)));
    let lines: String = rows.iter().map(Figures::line).collect();
    let mut failures = Vec::new();
    keep("ledger.tsv", &format!("{HEAD}{COLUMNS}{lines}"), &mut failures);
    report(&failures);
}

/// Gates: instructions a product, also below Triton's at the same tile; the tensor pipe is the longest; nothing is spilled; global memory is
/// touched 16 bytes at a time.
#[test]
fn products_on_tensor_cores_keep_their_gates() {
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for (tile, most) in [("128x128x32", 2.1), ("128x256x64", 1.8)] {
        for layout in ["nt", "nn", "tn"] {
            let rival = triton(folder.path(), (&format!("triton_matmul_{tile}{}", if layout == "nt" { "_nt" } else { "" }), 0));
            for finish in ["none", "bias_gelu_kept"] {
                let entry = format!("gemm_{layout}_bf16_{tile}_s3_{finish}");
                let ours = figures(folder.path(), emitted(&entry), str::to_string, 0).remove(0);
                let mut gate = |holds: bool, what: String| failures.extend((!holds).then(|| format!("{entry}: {what}")));
                gate(ours.ratio() <= most, format!("{:.3} instructions a product, {most} are allowed", ours.ratio()));
                gate(ours.ratio() < rival.ratio(), format!("{:.3} instructions a product, Triton has {:.3}", ours.ratio(), rival.ratio()));
                gate(ours.main_loop.as_ref().is_some_and(|body| body.pipe_bound() == 1.0), "tensor cores wait for another pipe".into());
                gate(ours.spills == 0, format!("{} bytes are spilled", ours.spills));
                let narrow: Vec<_> = ours.global.iter().filter(|opcode| !opcode.contains(".128")).collect();
                gate(narrow.is_empty() && !ours.global.is_empty(), format!("not 16 bytes: {narrow:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Gates of attention's forward pass: instructions a product, also below Triton's at the same tile; how busy the tensor pipe can be; and as
/// for products, spills and the width of accesses, but for the logarithms that are written a row at a time.
#[test]
fn attention_on_tensor_cores_keeps_its_gates() {
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for (d, warps, most, least) in [(64, 4, 4.6, 1.0), (128, 8, 3.6, 0.87)] {
        let rival = triton(folder.path(), (&format!("triton_attention_128x64_d{d}"), 0));
        let entry = format!("attention_forward_bf16_d{d}_128x64_w{warps}");
        let ours = figures(folder.path(), emitted(&entry), str::to_string, 0).remove(0);
        let bound = ours.main_loop.as_ref().map_or(0.0, Loop::pipe_bound);
        let mut gate = |holds: bool, what: String| failures.extend((!holds).then(|| format!("{entry}: {what}")));
        gate(ours.ratio() <= most, format!("{:.3} instructions a product, {most} are allowed", ours.ratio()));
        gate(ours.ratio() < rival.ratio(), format!("{:.3} instructions a product, Triton has {:.3}", ours.ratio(), rival.ratio()));
        gate(bound >= least, format!("the tensor pipe is busy for {bound:.3} at most, {least} are asked for"));
        gate(ours.spills == 0, format!("{} bytes are spilled", ours.spills));
        let narrow = |opcode: &&String| !opcode.contains(".128") && (opcode.starts_with("LDGSTS") || opcode.contains(".64"));
        let narrow: Vec<_> = ours.global.iter().filter(narrow).collect();
        gate(
            narrow.is_empty() && ours.global.iter().any(|opcode| opcode.starts_with("STG") && opcode.contains(".128")),
            format!("not 16 bytes: {narrow:?}"),
        );
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
