//! GGUF files: read back, refused when damaged, never a panic.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use scmmgpt_loader::gguf::{Gguf, Value};
use scmmgpt_loader::language::{LanguageConfig, LanguageFiles, LanguageTokenizer};

/// Writes the format, field by field.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend(value.to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.u64(text.len() as u64).bytes.extend(text.bytes());
        self
    }
}

const LAYER: [(&str, [u64; 2]); 9] = [
    ("attn_norm", [8, 0]),
    ("ffn_norm", [8, 0]),
    ("attn_q", [8, 16]),
    ("attn_k", [8, 8]),
    ("attn_v", [8, 8]),
    ("attn_output", [16, 8]),
    ("ffn_gate", [8, 32]),
    ("ffn_up", [8, 32]),
    ("ffn_down", [32, 8]),
];

/// A Llama model of one layer: width 8, two query heads and one key head of 8, all numbers in f32 counting up by quarters.
fn model() -> Vec<u8> {
    let mut tensors: Vec<(String, Vec<u64>)> = vec![("token_embd.weight".into(), vec![8, 5]), ("output_norm.weight".into(), vec![8])];
    for (name, sizes) in LAYER {
        tensors.push((format!("blk.0.{name}.weight"), sizes.into_iter().filter(|size| *size > 0).collect()));
    }
    let mut file = Writer::default();
    file.bytes.extend(b"GGUF");
    let sizes = [
        ("embedding_length", 8),
        ("feed_forward_length", 32),
        ("block_count", 1),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("attention.key_length", 8),
        ("context_length", 64),
    ];
    file.u32(3).u64(tensors.len() as u64).u64(sizes.len() as u64 + 4);
    file.text("general.architecture").u32(8).text("llama");
    for (key, size) in sizes {
        file.text(&format!("llama.{key}")).u32(4).u32(size);
    }
    file.text("llama.attention.layer_norm_rms_epsilon").u32(6).bytes.extend(1e-5f32.to_le_bytes());
    file.text("tokenizer.ggml.eos_token_id").u32(4).u32(2);
    file.text("tokenizer.ggml.tokens").u32(9).u32(8).u64(2).text("a").text("b");
    let mut offset = 0;
    let mut data = Vec::new();
    for (name, sizes) in &tensors {
        file.text(name).u32(sizes.len() as u32);
        for size in sizes {
            file.u64(*size);
        }
        file.u32(0).u64(offset);
        let count: u64 = sizes.iter().product();
        data.extend((0..count).flat_map(|index| (index as f32 / 4.0).to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
        offset = data.len() as u64;
    }
    let start = file.bytes.len().next_multiple_of(32);
    file.bytes.resize(start, 0);
    file.bytes.extend(data);
    file.bytes
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_model_is_read_in_the_words_of_hugging_face() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "model.gguf", &model());
    let file = Gguf::open(&path).unwrap();
    assert_eq!(file.value("tokenizer.ggml.tokens"), Some(&Value::Texts(vec!["a".into(), "b".into()])));
    assert_eq!(file.shape("blk.0.attn_q.weight").unwrap(), [16, 8]);

    let files = LanguageFiles::open(&path).unwrap();
    let config = files.config();
    assert_eq!((config.hidden_size, config.intermediate_size, config.num_hidden_layers, config.vocab_size), (8, 32, 1, 5));
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (2, 1, 8));
    assert!(config.tie_word_embeddings && config.eos_token_ids == [2] && config.bos_token_id.is_none());
    let values = files.to_f32("model.layers.0.self_attn.v_proj.weight", &[8, 8]).unwrap();
    assert_eq!(values, (0..64).map(|index| index as f32 / 4.0).collect::<Vec<_>>());
    let keys = files.to_f32("model.layers.0.self_attn.k_proj.weight", &[8, 8]).unwrap();
    let first: Vec<f32> = keys.iter().step_by(8).copied().collect();
    assert_eq!(first, [0.0, 4.0, 8.0, 12.0, 2.0, 6.0, 10.0, 14.0], "rows of a pair lie half a head apart");
    let error = files.to_f32("model.norm.weight", &[9]).unwrap_err().to_string();
    assert!(error.contains("model.norm.weight") && error.contains("[9]") && error.contains("[8]"), "{error}");
    assert!(files.to_f32("model.layers.1.mlp.up_proj.weight", &[32, 8]).unwrap_err().to_string().contains("blk.1.ffn_up"));
}

#[test]
fn damage_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let whole = model();
    let refuse = |change: &dyn Fn(&mut Vec<u8>), part: &str| {
        let mut bytes = whole.clone();
        change(&mut bytes);
        let path = write(folder.path(), "damaged.gguf", &bytes);
        let error = LanguageFiles::open(&path).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("damaged.gguf"), "{error}");
    };
    let find = |needle: &str| whole.windows(needle.len()).position(|window| window == needle.as_bytes()).unwrap();
    refuse(&|bytes| bytes[0] = b'X', "not a GGUF file");
    refuse(&|bytes| bytes[4] = 1, "version 1");
    refuse(&|bytes| bytes[15] = 0x7F, "are left");
    refuse(&|bytes| bytes.truncate(bytes.len() - 40), "beyond the file");
    refuse(&|bytes| bytes.truncate(200), "are left");
    let architecture = find("llama");
    refuse(&|bytes| bytes[architecture] = b'k', "\"klama\"");
    let heads = find("llama.attention.head_count_kv") + "llama.attention.head_count_kv".len() + 4;
    refuse(&|bytes| bytes[heads] = 3, "num_key_value_heads");
    let name = find("token_embd.weight");
    // The length of the name, and the number of dimensions behind it.
    refuse(&|bytes| bytes[name - 1] = 0xFF, "are left");
    refuse(&|bytes| bytes[name + 17] = 9, "dimensions");
    refuse(&|bytes| bytes[name + 17 + 4 + 7] = 0xFF, "token_embd.weight");
    refuse(&|bytes| bytes[name + 17 + 4 + 16] = 77, "type 77");
    refuse(&|bytes| bytes[name + 17 + 4 + 16 + 4] = 1, "multiple of 32");
    let twice = find("attn_k.weight");
    refuse(&|bytes| bytes[twice..twice + 6].copy_from_slice(b"attn_q"), "twice");
}

/// Numbers that lengths, counts and offsets trip over.
const EDGES: [u64; 12] = [0, 1, 2, 31, 32, 255, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 32, 1 << 48, (1 << 63) - 1, u64::MAX];

/// Random words, by a rule.
struct Words(u64);

impl Words {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Changes bytes in front of `header`: single ones, whole fields, parts moved, dropped or doubled, the end cut off.
fn spoil(bytes: &mut Vec<u8>, header: usize, words: &mut Words) {
    let at = words.below(header);
    match words.below(7) {
        0 | 1 => bytes[at] = words.below(256) as u8,
        2 => bytes[at] ^= 1 << words.below(8),
        3 => {
            let width = [4, 8][words.below(2)];
            let edge = EDGES[words.below(EDGES.len())].to_le_bytes();
            bytes[at..at + width].copy_from_slice(&edge[..width]);
        }
        4 => {
            let (from, len) = (words.below(header), 1 + words.below(24));
            let part = bytes[from..from + len].to_vec();
            bytes.splice(at..at, part);
        }
        5 => {
            bytes.drain(at..at + 1 + words.below(24));
        }
        _ => bytes.truncate(header / 2 + words.below(bytes.len() - header / 2)),
    }
}

/// Opens what the bytes say, and reads every tensor and the tokenizer.
fn attempt(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    let _ = LanguageTokenizer::open(path);
    let Ok(files) = LanguageFiles::open(path) else { return };
    let LanguageConfig { vocab_size, hidden_size, .. } = *files.config();
    let _ = files.to_f32("model.embed_tokens.weight", &[vocab_size, hidden_size]);
    for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        let _ = files.to_f32(&format!("model.layers.0.self_attn.{name}.weight"), &[hidden_size, hidden_size]);
    }
}

/// Every cut and thousands of spoilt files: an answer or an error, never a panic, never memory that the file could not fill.
/// `SCMMGPT_FUZZ_SECONDS` spoils on for so long.
#[test]
fn no_bytes_make_it_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("any.gguf");
    let whole = model();
    // Up to the numbers, and some fields' width more.
    let header = whole.len() - 3000;
    (0..header).step_by(3).for_each(|len| attempt(&path, &whole[..len]));
    let seconds = std::env::var("SCMMGPT_FUZZ_SECONDS").map_or(0, |text| text.parse().unwrap());
    let (start, mut files) = (Instant::now(), 0u64);
    while files < 3000 || start.elapsed() < Duration::from_secs(seconds) {
        let mut words = Words(files);
        let mut bytes = whole.clone();
        for _ in 0..=words.below(4) {
            if bytes.len() > header + 64 {
                spoil(&mut bytes, header, &mut words);
            }
        }
        attempt(&path, &bytes);
        files += 1;
    }
    println!("{files} spoilt files in {:.0} s", start.elapsed().as_secs_f64());
}
