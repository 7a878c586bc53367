//! Shapes, masks and traffic of the attention cases.

use super::{Backward, Dims, Dropout, Forward, Mask, backward, forward, scratch};
use crate::Result;
use crate::runtime::philox::Site;
use crate::runtime::{Float, Stream, Tensor, bf16};
use crate::testing::{Bindings, Case, Fill, Op, Tolerance};

#[derive(Clone, Copy)]
enum Seen {
    Full,
    Causal,
    Prefix,
}

#[derive(Clone, Copy)]
struct Attention {
    dims: Dims,
    seen: Seen,
    query_lengths: bool,
    key_lengths: bool,
    /// q, k and v are columns of one matrix, and so are their gradients.
    packed: bool,
    dropout: Option<Dropout>,
}

impl Attention {
    /// q, k, v, or their gradients under the prefix `d`.
    fn operands<T: Float>(&self, t: &Bindings<T>, prefix: &str) -> [Tensor<T>; 3] {
        let (queries, keys) = (self.dims.num_heads * self.dims.head_dim, self.dims.num_kv_heads * self.dims.head_dim);
        if self.packed {
            let qkv = t.value(&format!("{prefix}qkv"));
            [qkv.columns(0, queries), qkv.columns(queries, keys), qkv.columns(queries + keys, keys)]
        } else {
            ["q", "k", "v"].map(|name| t.value(&format!("{prefix}{name}")))
        }
    }

    fn mask<T: Float>(&self, t: &Bindings<T>) -> Mask {
        match self.seen {
            Seen::Full => Mask::Full,
            Seen::Causal => Mask::Causal,
            Seen::Prefix => Mask::Prefix { known_lengths: t.index("known_lengths") },
        }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.dims.head_dim as f64).sqrt()
    }
}

impl Op for Attention {
    fn forward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let [q, k, v] = self.operands(t, "");
        forward(
            stream,
            Forward {
                out: t.value("out"),
                logsumexp: t.accumulated("logsumexp"),
                q,
                k,
                v,
                query_lengths: self.query_lengths.then(|| t.index("query_lengths")),
                key_lengths: self.key_lengths.then(|| t.index("key_lengths")),
                mask: self.mask(t),
                scale: self.scale(),
                dropout: self.dropout,
                dims: self.dims,
            },
        )
    }

    fn backward<T: Float>(&self, stream: &Stream, t: &Bindings<T>) -> Result<()> {
        let ([q, k, v], [dq, dk, dv]) = (self.operands(t, ""), self.operands(t, "d"));
        backward(
            stream,
            Backward {
                dq,
                dk,
                dv,
                dout: t.value("dout"),
                out: t.value("out"),
                logsumexp: t.accumulated("logsumexp"),
                q,
                k,
                v,
                query_lengths: self.query_lengths.then(|| t.index("query_lengths")),
                key_lengths: self.key_lengths.then(|| t.index("key_lengths")),
                mask: self.mask(t),
                scale: self.scale(),
                dropout: self.dropout,
                dims: self.dims,
            },
        )
    }
}

/// A case under construction: sizes first, then what is special about it.
struct Draft {
    name: &'static str,
    op: Attention,
    lengths: [Vec<u32>; 3],
    /// Largest element of the queries: above 1, exponentials of scores overflow unless the maximum is taken out, and forward alone is run.
    hottest: f64,
}

/// `[batch, query_len, key_len, num_heads, num_kv_heads, head_dim]`.
fn draft(name: &'static str, sizes: [usize; 6]) -> Draft {
    let [batch, query_len, key_len, num_heads, num_kv_heads, head_dim] = sizes;
    let dims = Dims { batch, query_len, key_len, num_heads, num_kv_heads, head_dim };
    let op = Attention { dims, seen: Seen::Full, query_lengths: false, key_lengths: false, packed: false, dropout: None };
    Draft { name, op, lengths: Default::default(), hottest: 1.0 }
}

impl Draft {
    fn queries(mut self, lengths: &[u32]) -> Draft {
        (self.op.query_lengths, self.lengths[0]) = (true, lengths.to_vec());
        self
    }

    fn keys(mut self, lengths: &[u32]) -> Draft {
        (self.op.key_lengths, self.lengths[1]) = (true, lengths.to_vec());
        self
    }

    fn causal(mut self) -> Draft {
        self.op.seen = Seen::Causal;
        self
    }

    fn prefix(mut self, known: &[u32]) -> Draft {
        (self.op.seen, self.lengths[2]) = (Seen::Prefix, known.to_vec());
        self
    }

    fn hot(mut self) -> Draft {
        self.hottest = 200.0;
        self
    }

    fn packed(mut self) -> Draft {
        self.op.packed = true;
        self
    }

    fn dropout(mut self) -> Draft {
        self.op.dropout = Some(Dropout { probability: 0.2, site: Site { seed: 7, step: 3, site: 5 } });
        self
    }

    /// (query, key) pairs of an item that see each other.
    fn pairs(&self, item: usize) -> usize {
        let Dims { query_len, key_len, .. } = self.op.dims;
        let length = |kind: usize, all: usize| self.lengths[kind].get(item).map_or(all, |length| *length as usize);
        let (queries, keys, known) = (length(0, query_len), length(1, key_len), length(2, key_len));
        match self.op.seen {
            Seen::Full => queries * keys,
            Seen::Causal => (0..queries).map(|row| keys.min((row + 1 + key_len).saturating_sub(query_len))).sum(),
            Seen::Prefix => queries * known.min(keys) + queries.min(keys).saturating_sub(known),
        }
    }

    fn case(self) -> Case {
        let dims = self.op.dims;
        let (queries, keys) = (dims.num_heads * dims.head_dim, dims.num_kv_heads * dims.head_dim);
        let (query_rows, key_rows) = (dims.batch * dims.query_len, dims.batch * dims.key_len);
        let Dims { batch, query_len, key_len, num_heads, num_kv_heads, head_dim } = dims;
        let pairs: usize = (0..batch).map(|item| self.pairs(item)).sum();
        let name = format!("{}_b{batch}_{query_len}x{key_len}_h{num_heads}:{num_kv_heads}_d{head_dim}", self.name);
        let case = Case::new(name, self.op);
        let mut case = if self.op.packed {
            case.input("qkv", [query_rows, queries + 2 * keys])
        } else {
            let fill = Fill::Range(-self.hottest, self.hottest);
            case.input_filled("q", [query_rows, queries], fill).input("k", [key_rows, keys]).input("v", [key_rows, keys])
        };
        for (name, lengths) in ["query_lengths", "key_lengths", "known_lengths"].into_iter().zip(self.lengths) {
            if !lengths.is_empty() {
                case = case.index(name, [batch], Fill::Integers(lengths));
            }
        }
        let case = if self.hottest > 1.0 { case.forward_only() } else { case };
        case.output("out", [query_rows, queries])
            .statistic("logsumexp", [batch, num_heads, query_len])
            .tolerance(Tolerance::f32().reduction(key_len.max(query_len)))
            .scratch(scratch::<bf16>(&dims))
            .bytes(4 * (2 * query_rows * queries + 2 * key_rows * keys))
            .flops(4 * num_heads * head_dim * pairs)
    }
}

/// Every mask, lengths from 0 to all, grouped heads, head sizes around the vector's, odd lengths, packed operands, dropout. Of the
/// Q-Former: queries before a padded text, each seeing both (a length is queries and text together); a causal text behind 32 queries
/// that it sees, whose rows are keys alone; 32 queries over as many genes as a cell may have. Heads that share keys, with masks and
/// dropout, over whole tiles too; no key but the own. Of decoding: whole and partial splits, none, groups from one head to more than a
/// block takes. Scores of hundreds, of which the maximum must be taken out. Then the sizes of the models.
pub fn cases() -> Vec<Case> {
    let cases = [
        draft("self", [1, 1, 1, 1, 1, 8]),
        draft("self", [2, 7, 7, 2, 2, 16]),
        draft("self", [1, 65, 65, 1, 1, 64]),
        draft("self", [1, 130, 130, 2, 2, 24]),
        draft("self", [1, 33, 33, 1, 1, 128]).packed(),
        draft("lengths", [3, 33, 33, 2, 2, 16]).queries(&[33, 0, 17]).keys(&[33, 0, 17]).packed(),
        draft("no_keys", [2, 7, 33, 1, 1, 8]).keys(&[0, 32]),
        draft("cross", [2, 33, 130, 2, 2, 64]).keys(&[130, 97]),
        draft("cross", [1, 130, 7, 1, 1, 32]).queries(&[100]),
        draft("causal", [2, 65, 65, 2, 2, 16]).causal().queries(&[65, 50]).keys(&[65, 50]),
        draft("causal", [1, 130, 130, 1, 1, 32]).causal().packed(),
        draft("causal_late", [1, 7, 130, 2, 1, 24]).causal(),
        draft("causal_early", [1, 33, 7, 1, 1, 8]).causal(),
        draft("prefix", [4, 33, 33, 2, 2, 16]).prefix(&[1, 20, 33, 0]).queries(&[33, 30, 33, 7]).keys(&[33, 30, 33, 7]).packed(),
        draft("prefix", [1, 130, 130, 1, 1, 64]).prefix(&[101]),
        draft("prefix_short", [2, 7, 7, 1, 1, 24]).prefix(&[5, 3]).keys(&[4, 5]),
        draft("grouped", [2, 33, 65, 4, 2, 24]).keys(&[65, 33]),
        draft("grouped", [1, 65, 65, 4, 2, 64]).causal().packed(),
        draft("dropout", [2, 65, 130, 2, 1, 16]).keys(&[130, 99]).dropout(),
        draft("wide", [1, 150, 150, 2, 1, 128]).causal(),
        draft("odd_head", [1, 70, 140, 1, 1, 80]).keys(&[133]),
        draft("grouped_prefix", [1, 150, 150, 4, 2, 40]).prefix(&[70]).dropout(),
        draft("dropout", [1, 130, 140, 2, 2, 64]).dropout(),
        draft("qformer_matching", [3, 40, 40, 2, 2, 16]).queries(&[40, 9, 33]).keys(&[40, 9, 33]).packed(),
        draft("qformer_captioning", [2, 33, 65, 2, 2, 16]).causal().queries(&[33, 20]).keys(&[65, 52]),
        draft("qformer_genes", [2, 32, 2048, 1, 1, 64]).keys(&[2048, 1201]),
        draft("dropout_prefix", [2, 33, 33, 2, 2, 24]).prefix(&[20, 9]).packed().dropout(),
        draft("grouped_prefix", [2, 140, 140, 2, 1, 8]).prefix(&[0, 70]),
        draft("causal_dropout", [1, 200, 200, 2, 1, 24]).causal().dropout(),
        draft("dropout_prefix", [1, 140, 140, 2, 1, 64]).prefix(&[70]).dropout(),
        draft("decode", [3, 1, 300, 6, 2, 64]).keys(&[300, 0, 129]),
        draft("decode", [2, 1, 128, 16, 2, 16]).causal().keys(&[127, 1]).queries(&[1, 0]),
        draft("decode", [1, 1, 257, 8, 1, 128]).causal(),
        draft("decode", [2, 1, 130, 5, 1, 24]).keys(&[130, 65]),
        draft("decode", [1, 1, 70, 3, 3, 80]),
        draft("decode", [3, 1, 5, 4, 2, 8]).keys(&[1, 5, 4]),
        draft("decode_hot", [1, 1, 300, 3, 1, 64]).hot(),
        draft("self_hot", [1, 70, 70, 1, 1, 64]).hot(),
        draft("decode", [2, 1, 200, 6, 2, 64]).keys(&[200, 97]),
        draft("decode", [2, 1, 33, 4, 4, 24]).causal().queries(&[1, 0]).keys(&[33, 20]),
        // The group sizes of decoding that have a text of their own.
        draft("decode", [1, 1, 70, 1, 1, 8]),
        draft("decode", [1, 1, 70, 2, 1, 24]),
        draft("decode", [1, 1, 70, 1, 1, 64]),
        draft("decode", [1, 1, 140, 8, 1, 64]),
        draft("decode", [1, 1, 140, 3, 1, 80]),
        draft("decode", [1, 1, 70, 1, 1, 128]),
        // Every head size that has a text of its own, under dropout, with few queries and with many.
        draft("few", [1, 9, 20, 1, 1, 32]),
        draft("dropout_few", [1, 9, 20, 1, 1, 8]).dropout(),
        draft("dropout_few", [1, 9, 20, 1, 1, 16]).dropout(),
        draft("dropout_few", [1, 9, 20, 1, 1, 24]).dropout(),
        draft("dropout_few", [1, 9, 20, 1, 1, 32]).dropout(),
        draft("dropout_few", [1, 9, 20, 1, 1, 64]).dropout(),
        draft("dropout", [1, 70, 20, 1, 1, 8]).dropout(),
        draft("dropout", [1, 70, 20, 1, 1, 32]).dropout(),
        draft("dropout_few", [1, 9, 20, 1, 1, 128]).dropout(),
        draft("dropout", [1, 70, 20, 1, 1, 128]).dropout(),
        draft("dropout_prefix", [1, 70, 70, 2, 1, 128]).prefix(&[30]).dropout(),
    ];
    let timed = [
        draft("encoder", [8, 512, 512, 8, 8, 64]),
        draft("encoder", [8, 1200, 1200, 8, 8, 64]),
        draft("encoder", [8, 1200, 1200, 8, 8, 64]).packed().dropout(),
        draft("encoder_prefix", [8, 1200, 1200, 8, 8, 64]).prefix(&[600]),
        draft("encoder_one", [1, 1200, 1200, 8, 8, 64]),
        draft("projector_cross", [8, 32, 1200, 12, 12, 64]),
        draft("language", [1, 1024, 1024, 32, 4, 64]).causal(),
        draft("language_decode", [16, 1, 1024, 32, 4, 64]).causal(),
        draft("decoding", [8, 1, 512, 9, 3, 64]),
        draft("research", [8, 512, 512, 4, 4, 16]),
        draft("research", [8, 512, 512, 4, 4, 32]),
    ];
    cases.map(Draft::case).into_iter().chain(timed.map(|draft| draft.case().bench())).collect()
}
