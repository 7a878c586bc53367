//! Dropout's random numbers in PTX: Philox 4x32-10, and which 16 bits of it belong to which probability ([`super::Dropout`]).

use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, float};

/// Parameters of a text with dropout; `kept` is the factor of what stays.
pub(super) fn params(k: &mut Kernel, dropout: bool) {
    if dropout {
        k.params(".u32", "threshold seed_low seed_high step site");
        k.params(".f32", "kept");
    }
}

pub(super) fn declare(k: &mut Kernel, dropout: bool) {
    if dropout {
        k.regs(Kind::B32, "threshold seed_low seed_high step site word_0 word_1 word_2 word_3 key_low key_high");
        k.regs(Kind::B32, "first_high first_low second_high second_low plane slice eighth");
        k.regs(Kind::F32, "kept keep");
        k.regs(Kind::Pred, "odd stays");
        for name in ["threshold", "seed_low", "seed_high", "step", "site"] {
            ptx!(k, "ld.param.u32 %{name}, [{name}];");
        }
        ptx!(k, "ld.param.f32 %kept, [kept];");
    }
}

/// How the ten rounds of Philox stand in a text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rounds {
    Unrolled,
    /// A loop, which keeps ptxas from interleaving the rounds of several words: for texts that have no registers left for that.
    Looped,
}

/// `%word_0` to `%word_3`: the words of query row `row` and the eight keys around key `key` of `%plane`.
pub(super) fn words(k: &mut Kernel, rounds: Rounds, row: &str, key: &str) {
    ptx!(k, "shr.u32 %eighth, {key}, 3;\nshl.b32 %word_0, %eighth, 22;\nadd.u32 %word_0, %word_0, {row};");
    ptx!(k, "shr.u32 %word_1, %eighth, 10;\nshl.b32 %slice, %plane, 10;\nadd.u32 %word_1, %word_1, %slice;");
    ptx!(k, "mov.u32 %word_2, %step;\nmov.u32 %word_3, %site;\nmov.u32 %key_low, %seed_low;\nmov.u32 %key_high, %seed_high;");
    let top = (rounds == Rounds::Looped).then(|| k.label("ROUND"));
    if let Some(top) = &top {
        ptx!(k, "mov.u32 %slice, 10;\n{top}:\n.pragma \"nounroll\";");
    }
    for _ in 0..if top.is_some() { 1 } else { 10 } {
        ptx!(k, "mul.hi.u32 %first_high, %word_0, 0xD2511F53;\nmul.lo.u32 %first_low, %word_0, 0xD2511F53;");
        ptx!(k, "mul.hi.u32 %second_high, %word_2, 0xCD9E8D57;\nmul.lo.u32 %second_low, %word_2, 0xCD9E8D57;");
        ptx!(k, "xor.b32 %word_0, %second_high, %word_1;\nxor.b32 %word_0, %word_0, %key_low;\nmov.u32 %word_1, %second_low;");
        ptx!(k, "xor.b32 %word_2, %first_high, %word_3;\nxor.b32 %word_2, %word_2, %key_high;\nmov.u32 %word_3, %first_low;");
        ptx!(k, "add.u32 %key_low, %key_low, 0x9E3779B9;\nadd.u32 %key_high, %key_high, 0xBB67AE85;");
    }
    if let Some(top) = &top {
        ptx!(k, "sub.u32 %slice, %slice, 1;\nsetp.ne.u32 %odd, %slice, 0;\n@%odd bra {top};");
    }
}

/// Multiplies four probabilities of query row `row` and of the keys `key .. key + 4`, `key` a multiple of 4, by what dropout makes of
/// them.
pub(super) fn four(k: &mut Kernel, rounds: Rounds, row: &str, key: &str, values: [&Reg; 4]) {
    words(k, rounds, row, key);
    ptx!(k, "and.b32 %slice, {key}, 4;\nsetp.ne.u32 %odd, %slice, 0;");
    ptx!(k, "selp.b32 %word_0, %word_2, %word_0, %odd;\nselp.b32 %word_1, %word_3, %word_1, %odd;");
    for (index, value) in values.into_iter().enumerate() {
        let word = index / 2;
        if index % 2 == 0 {
            ptx!(k, "and.b32 %slice, %word_{word}, 0xffff;");
        } else {
            ptx!(k, "shr.u32 %slice, %word_{word}, 16;");
        }
        ptx!(
            k,
            "setp.ge.u32 %stays, %slice, %threshold;\nselp.f32 %keep, %kept, {}, %stays;\nmul.rn.f32 {value}, {value}, %keep;",
            float(0.0)
        );
    }
}

/// `%keep`: the factor of query row `row` and itself as a key.
pub(super) fn own(k: &mut Kernel, rounds: Rounds, row: &str) {
    words(k, rounds, row, row);
    ptx!(k, "and.b32 %slice, {row}, 4;\nsetp.ne.u32 %odd, %slice, 0;");
    ptx!(k, "selp.b32 %word_0, %word_2, %word_0, %odd;\nselp.b32 %word_1, %word_3, %word_1, %odd;");
    ptx!(k, "and.b32 %slice, {row}, 2;\nsetp.ne.u32 %odd, %slice, 0;\nselp.b32 %word_0, %word_1, %word_0, %odd;");
    ptx!(k, "and.b32 %slice, {row}, 1;\nshl.b32 %slice, %slice, 4;\nshr.u32 %slice, %word_0, %slice;\nand.b32 %slice, %slice, 0xffff;");
    ptx!(k, "setp.ge.u32 %stays, %slice, %threshold;\nselp.f32 %keep, %kept, {}, %stays;", float(0.0));
}
