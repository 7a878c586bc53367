//! Hugging Face folders of language models.
#![allow(clippy::unwrap_used)]

use scmmgpt_loader::checkpoint::{self, Dtype};
use scmmgpt_loader::language::{LanguageConfig, LanguageFiles};

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
