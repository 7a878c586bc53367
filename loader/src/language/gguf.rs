//! A Llama model in a GGUF file: its fields and tensors in Hugging Face's words.

use super::{LanguageConfig, LanguageError};
use crate::Result;
use crate::gguf::Gguf;

/// The token table's name in the file.
const TABLE: &str = "token_embd.weight";
/// The output product's name; absent where the token table serves.
const OUTPUT: &str = "output.weight";

/// Sizes and constants from the metadata.
pub(super) fn config(file: &Gguf) -> Result<LanguageConfig> {
    let architecture = file.text("general.architecture")?;
    if architecture != "llama" {
        return Err(LanguageError::Architecture { path: file.path().into(), found: architecture.into() }.into());
    }
    let size = |key: &str| file.unsigned(&format!("llama.{key}"));
    let optional = |key: &str| file.value(&format!("llama.{key}")).map(|_| size(key)).transpose();
    let token = |key: &str| file.value(key).and_then(|_| file.unsigned(key).ok()).map(|token| token as u32);
    if let Some(kind) =
        file.value("llama.rope.scaling.type").and_then(|_| file.text("llama.rope.scaling.type").ok()).filter(|kind| *kind != "none")
    {
        return Err(LanguageError::field(file.path(), "llama.rope.scaling.type", kind, "only the plain rotation can be read"));
    }
    let (hidden_size, heads) = (size("embedding_length")?, size("attention.head_count")?);
    let theta = match file.value("llama.rope.freq_base") {
        Some(_) => file.real("llama.rope.freq_base")?,
        None => 10_000.0,
    };
    let config = LanguageConfig {
        hidden_size,
        intermediate_size: size("feed_forward_length")?,
        num_hidden_layers: size("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
        head_dim: optional("attention.key_length")?.unwrap_or(hidden_size / heads.max(1)),
        vocab_size: file.shape(TABLE)?.first().copied().unwrap_or(0),
        max_position_embeddings: size("context_length")?,
        rms_norm_eps: file.real("llama.attention.layer_norm_rms_epsilon")?,
        rope_theta: theta,
        tie_word_embeddings: !file.contains(OUTPUT),
        bos_token_id: token("tokenizer.ggml.bos_token_id"),
        eos_token_ids: token("tokenizer.ggml.eos_token_id").into_iter().collect(),
    };
    config.check(file.path())?;
    Ok(config)
}

/// The file's name of a Hugging Face tensor.
pub(super) fn name(name: &str) -> Option<String> {
    let part = match name {
        "model.embed_tokens.weight" => return Some(TABLE.into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some(OUTPUT.into()),
        name => name.strip_prefix("model.layers.")?,
    };
    let (layer, part) = part.split_once('.')?;
    let part = match part {
        "input_layernorm.weight" => "attn_norm",
        "post_attention_layernorm.weight" => "ffn_norm",
        "self_attn.q_proj.weight" => "attn_q",
        "self_attn.k_proj.weight" => "attn_k",
        "self_attn.v_proj.weight" => "attn_v",
        "self_attn.o_proj.weight" => "attn_output",
        "mlp.gate_proj.weight" => "ffn_gate",
        "mlp.up_proj.weight" => "ffn_up",
        "mlp.down_proj.weight" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.weight"))
}

/// A tensor by its Hugging Face name, checked against `shape`.
pub(super) fn read(file: &Gguf, config: &LanguageConfig, hugging_face: &str, shape: &[usize]) -> Result<Vec<f32>> {
    let stored = name(hugging_face).unwrap_or_else(|| hugging_face.into());
    let got = file.shape(&stored)?;
    if got != shape {
        let (path, expected, got) = (file.path().into(), shape.to_vec(), got.to_vec());
        return Err(LanguageError::Shape { path, name: hugging_face.into(), expected, got }.into());
    }
    let numbers = file.to_f32(&stored)?;
    Ok(if hugging_face.ends_with("self_attn.q_proj.weight") || hugging_face.ends_with("self_attn.k_proj.weight") {
        halves(&numbers, config.head_dim, shape.last().copied().unwrap_or(1))
    } else {
        numbers
    })
}

/// Undoes the file's order of rows in a head, where the two rows that rotate together are neighbours: first all first rows of the pairs,
/// then all second ones.
///
/// # Source
/// llama.cpp `convert_hf_to_gguf.py`, `LlamaModel.permute`.
fn halves(numbers: &[f32], head_dim: usize, width: usize) -> Vec<f32> {
    let mut ordered = Vec::with_capacity(numbers.len());
    for head in numbers.chunks_exact(head_dim * width) {
        for first in [0, 1] {
            ordered.extend(head.chunks_exact(width).skip(first).step_by(2).flatten());
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_pair_part_again() {
        // Two heads of four rows, two columns; pairs are (0, 1) and (2, 3) in the file.
        let stored: Vec<f32> = (0..16u8).map(f32::from).collect();
        let expected = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15].map(f32::from as fn(u8) -> f32);
        assert_eq!(halves(&stored, 4, 2), expected);
    }

    #[test]
    fn names_translate() {
        assert_eq!(name("model.layers.11.mlp.down_proj.weight").as_deref(), Some("blk.11.ffn_down.weight"));
        assert_eq!(name("lm_head.weight").as_deref(), Some("output.weight"));
        assert_eq!(name("model.layers.0.self_attn.q_proj.bias"), None);
    }
}
