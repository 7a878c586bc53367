//! Layers wired into models.
//!
//! | model | checkpoint names | reference |
//! |---|---|---|
//! | [`cell_encoder`] | `encoder`, `value_encoder`, `flag_encoder`, `transformer_encoder.layers` | scGPT `TransformerModel` |
//! | [`expression_decoder`] | `decoder.fc` | scGPT `ExprDecoder` |
//! | [`mvc_decoder`] | `mvc_decoder` | scGPT `MVCDecoder`, inner product |
//! | [`classifier`] | `cls_decoder` | scGPT `ClsDecoder` |
//! | [`gene_linear`] | `gene_linear` | ours: a linear expert beside the encoder |

pub mod captioning_head;
pub mod cell_encoder;
pub mod cell_model;
pub mod cell_text;
pub mod classifier;
pub mod contrastive_head;
pub mod expression_decoder;
pub mod gene_linear;
pub mod hard_negatives;
pub mod matching_head;
pub mod mvc_decoder;
pub mod projection;
pub mod qformer;
