//! Hugging Face folders of language models.
#![allow(clippy::unwrap_used)]

use scmmgpt_loader::checkpoint::{self, Dtype};
use scmmgpt_loader::language::{CellTokens, LanguageConfig, LanguageFiles, LanguageTokenizer};

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 40,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 7, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 100000, "rope_scaling": null, "hidden_act": "silu", "eos_token_id": [2, 3],
    "tie_word_embeddings": true, "torch_dtype": "bfloat16"}"#;

#[test]
fn a_folder_is_read_and_what_cannot_be_computed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, CONFIG).unwrap();
    let values: Vec<u8> = (0..16u8).flat_map(|value| f32::from(value).to_le_bytes()).collect();
    let tensors = [("model.norm.weight", Dtype::F32, &[16usize][..], values.as_slice())];
    checkpoint::write(folder.path().join("model.safetensors"), tensors, &Default::default()).unwrap();
    let files = LanguageFiles::open(folder.path()).unwrap();
    assert_eq!((files.config().head_dim, files.config().rope_theta, files.config().eos_token_ids.len()), (8, 1e5, 2));
    assert_eq!(files.to_f32("model.norm.weight", &[16]).unwrap()[15], 15.0);
    assert!(files.to_f32("lm_head.weight", &[7, 16]).unwrap_err().to_string().contains("lm_head.weight"));

    let refuse = |from: &str, to: &str, part: &str| {
        std::fs::write(&path, CONFIG.replace(from, to)).unwrap();
        let error = LanguageConfig::read(&path).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("config.json"), "{error}");
    };
    refuse(r#""model_type": "llama""#, r#""model_type": "gpt2""#, "gpt2");
    refuse(r#""rope_scaling": null"#, r#""rope_scaling": {"type": "linear", "factor": 2.0}"#, "rope_scaling");
    refuse(r#""hidden_act": "silu""#, r#""hidden_act": "gelu""#, "hidden_act");
    refuse(r#""num_key_value_heads": 1"#, r#""num_key_value_heads": 3"#, "num_key_value_heads");
    refuse(r#""hidden_size": 16"#, r#""hidden_size": 0"#, "hidden_size");
    refuse(r#""vocab_size": 7"#, r#""vocab_size": "many""#, "invalid type");
    refuse(r#""rms_norm_eps": 1e-5"#, r#""rms_norm_eps": -1"#, "rms_norm_eps");
}

fn config(vocab_size: usize) -> LanguageConfig {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let text = CONFIG.replace(r#""vocab_size": 7"#, &format!(r#""vocab_size": {vocab_size}, "bos_token_id": 1"#));
    std::fs::write(&path, text).unwrap();
    LanguageConfig::read(&path).unwrap()
}

fn tokenizer() -> LanguageTokenizer {
    LanguageTokenizer::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/language_tokenizer.json")).unwrap()
}

#[test]
fn cell_tokens_stand_behind_the_vocabulary_and_survive_a_file() {
    let (tokenizer, base) = (tokenizer(), 1203);
    assert_eq!(tokenizer.vocab_size(), base);
    let words = tokenizer.encode("CD14-positive monocyte <cell> </cell>").unwrap();
    let (tokenizer, tokens) = tokenizer.with_cell_tokens(&config(base), 3).unwrap();
    assert_eq!(tokens, CellTokens { bos: 1, eos: 2, pad: 1203, open: 1204, first_slot: 1205, slots: 3, close: 1208 });
    assert_eq!(tokens.block().collect::<Vec<_>>(), [1204, 1205, 1206, 1207, 1208]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.id("<cell_00002>")), (1209, Some(1207)));
    assert_eq!(tokenizer.encode("CD14-positive monocyte <cell> </cell>").unwrap(), words, "in a text, the tokens' letters are letters");
    assert_eq!(tokenizer.decode(&[words.as_slice(), &[1203, 1204, 2]].concat()).unwrap(), "CD14-positive monocyte <cell> </cell>");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokenizer.json");
    tokenizer.save(&file).unwrap();
    let opened = LanguageTokenizer::open(folder.path()).unwrap();
    assert_eq!(opened.encode("CD14-positive monocyte <cell> </cell>").unwrap(), words);
    let (again, same) = opened.clone().with_cell_tokens(&config(base), 3).unwrap();
    assert_eq!((same, again.vocab_size()), (tokens, 1209));
    for slots in [2, 4] {
        let error = opened.clone().with_cell_tokens(&config(base), slots).unwrap_err().to_string();
        assert!(error.contains("slots"), "{error}");
    }
}

#[test]
fn cell_tokens_fit_the_table_or_are_refused() {
    // A table with more rows than tokens: the new tokens still get rows of their own.
    let (padded, tokens) = tokenizer().with_cell_tokens(&config(1216), 1).unwrap();
    assert_eq!((tokens.pad, tokens.close, padded.id("<reserved_1203>")), (1216, 1219, Some(1203)));
    let refused = |config: &LanguageConfig, slots, part: &str| {
        let error = tokenizer().with_cell_tokens(config, slots).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(&config(1000), 3, "1000 rows");
    refused(&config(1203), 0, "slots");
    refused(&LanguageConfig { bos_token_id: None, ..config(1203) }, 3, "bos_token_id");
    refused(&LanguageConfig { eos_token_ids: Vec::new(), ..config(1203) }, 3, "eos_token_id");
}
