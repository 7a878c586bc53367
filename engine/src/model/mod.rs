//! Layers wired into models.
//!
//! | model | checkpoint names | reference |
//! |---|---|---|
//! | [`cell_encoder`] | `encoder`, `value_encoder`, `flag_encoder`, `transformer_encoder.layers` | scGPT `TransformerModel` |
//! | [`expression_decoder`] | `decoder.fc` | scGPT `ExprDecoder` |
//! | [`mvc_decoder`] | `mvc_decoder` | scGPT `MVCDecoder`, inner product |
//! | [`classifier`] | `cls_decoder` | scGPT `ClsDecoder` |
//! | [`gene_linear`] | `gene_linear` | ours: a linear expert beside the encoder |
//! | [`qformer`] | `query_tokens`, `Qformer.bert` | LAVIS `Qformer.py`, scMMGPT `blip2qformer.py` |
//! | [`cell_text`] | `ln_gene`, `cell_proj`, `text_proj` and the parts above and below | scMMGPT `blip2qformer.py` |
//! | [`space_expert`] | `cell_proj.gene_linear` | ours: a linear expert of the joint space |
//! | [`contrastive_head`] | `temperature`, where it is learned | ours |
//! | [`matching_head`] | `matching_head` | scMMGPT `gtm_head` |
//! | [`cell_language`] | `llm_proj`, `expr_decoder`, `llm_model` and the parts above | scMMGPT `blip2_llama.py` |
//! | [`gene_expression`] | `expr_decoder` | scMMGPT `GeneExpressionModel` |
//! | [`language_model`] | `model`, `lm_head` | Hugging Face's Llama |
//! | [`adapter_files`] | `lora_A`, `lora_B`, `token_adapter` behind a projection's or a table's name | PEFT `LoraConfig` |
//! | [`sentence_encoder`] | those of BERT | sentence-transformers, mean pooling |
//! | [`captioning_head`] | `Qformer.cls.predictions` | BERT's language-model head, tied to the word table |
//!
//! # Names
//!
//! scMMGPT's code of stage 1 comes from a model of molecules and speaks of graphs. Ours does not:
//!
//! | scMMGPT | here |
//! |---|---|
//! | prefix `blip2qformer.` | none |
//! | `cell_encoder.model.` in front of scGPT's names | none: scGPT's names as they are |
//! | `gtm_head` | `matching_head` |
//! | `graph` | cells |
//! | `contrast`, `gtm`, `lm` | contrastive, matching, captioning |
//! | `Qformer.cls.predictions.decoder.weight` | the word table, of which it is a copy |
//!
//! Checkpoints with the names of either side load.

pub mod adapter_files;
mod batch_feed;
pub mod bert;
pub mod captioning_head;
pub mod cell_encoder;
pub mod cell_language;
pub mod cell_model;
pub mod cell_text;
pub mod classifier;
pub mod contrastive_head;
pub mod converted;
pub mod count_loss;
pub mod expression_decoder;
pub mod gene_expression;
pub mod gene_linear;
pub mod hard_negatives;
pub mod language_model;
pub mod language_workspace;
pub mod llm_projection;
pub mod matching_head;
pub mod merged;
pub mod mvc_decoder;
mod pass_memory;
pub mod projection;
pub mod qformer;
pub mod sentence_encoder;
pub mod space_expert;
pub mod squared_error;
pub mod token_loss;
