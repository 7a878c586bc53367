//! GGUF files: read back, refused when damaged, never a panic.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use scmmgpt_loader::gguf::{Gguf, Value};
use scmmgpt_loader::language::LanguageFiles;

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

/// Every cut and thousands of changed bytes: an answer or an error, never a panic, never memory that the file could not fill.
#[test]
fn no_bytes_make_it_panic() {
    let folder = tempfile::tempdir().unwrap();
    let whole = model();
    let header = whole.len() - 3000;
    let attempt = |bytes: &[u8]| {
        let path = write(folder.path(), "any.gguf", bytes);
        if let Ok(files) = LanguageFiles::open(&path) {
            let shape = [files.config().vocab_size, files.config().hidden_size];
            let _ = files.to_f32("model.embed_tokens.weight", &shape);
        }
    };
    (0..header.min(1200)).step_by(3).for_each(|len| attempt(&whole[..len]));
    let mut state = 1u64;
    for _ in 0..1500 {
        let mut bytes = whole.clone();
        for _ in 0..1 + state % 3 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % header.min(1200);
            bytes[at] = (state >> 20) as u8;
        }
        attempt(&bytes);
    }
}
