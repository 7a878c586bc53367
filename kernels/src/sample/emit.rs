//! The PTX of the choice. A warp has a run of whole 32 tokens, a lane every 32nd of it, so that a warp reads side by side and the warps'
//! tokens follow each other; two bits a token in shared memory say which are impossible and which are penalised.

use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Text, float};
use crate::runtime::math::EXP;

/// Threads of a block: as many warps as a warp has lanes, so that a warp can sum what the warps found.
pub(super) const THREADS: usize = 1024;
/// Bytes in front of the masks: four numbers of 64 bits a warp, and the chosen token.
const NUMBERS: usize = 4 * 32 * 8;
const MASKS: usize = NUMBERS + 16;

/// Bytes of shared memory for so many classes.
pub(super) fn shared(classes: usize) -> usize {
    MASKS + 2 * 4 * words(classes)
}

/// Words of a mask: one for 32 tokens.
fn words(classes: usize) -> usize {
    classes.div_ceil(THREADS) * (THREADS / 32)
}

/// Entry for elements of so many bytes.
pub(super) fn name(bytes: usize) -> String {
    format!("sample_choose_{}", if bytes == 4 { "f32" } else { "bf16" })
}

/// Its module.
pub(super) fn text(bytes: usize) -> Text {
    let about = format!(
        "A row's next token: the largest logit's, or one drawn in proportion to whole-numbered weights, floor(2^40 exp((x - top) sharpness)),\n\
         of those that least, top_k and top_p leave. Elements {}.\n\
         Grid: (rows). Block: {THREADS} threads, 32 warps of a run of tokens each.\n\
         Dynamic shared memory: four numbers a warp, the token, then two masks of a bit a token (impossible, penalised).",
        if bytes == 4 { "f32" } else { "bf16" }
    );
    let mut kernel = Kernel::new(name(bytes), about);
    let k = &mut kernel;
    k.params(".u64", "tokens log_probabilities logits hidden barred seen random least");
    k.params(".f64", "top_p");
    k.params(".u32", "classes logits_stride hidden_count barred_count seen_count seen_stride random_stride top_k");
    k.params(".f32", "sharpness penalty inverse");
    k.block(THREADS, 1);
    k.shared(None);
    begin(k, bytes);
    model(k, bytes);
    most_probable(k, bytes);
    cut(k, bytes);
    draw(k, bytes);
    end(k, bytes);
    k.text()
}

/// Who is who, and empty masks.
fn begin(k: &mut Kernel, bytes: usize) {
    k.regs(Kind::B32, "shared thread lane warp row classes chunks first words mask warp_mask slot lane_slot at index id chunk bit word other count stride");
    k.regs(Kind::B64, "logits place start bytes list");
    k.regs(Kind::F32, "value top changed factor penalty inverse sharpness gap scaled whole rest square power");
    k.regs(Kind::Pred, "more real same impossible penalised positive leader inside");
    if bytes == 2 {
        k.regs(Kind::B16, "narrow zero");
        ptx!(k, "mov.b16 %zero, 0;");
    }
    ptx!(k, "mov.u32 %shared, shared_memory;\nmov.u32 %thread, %tid.x;\nmov.u32 %row, %ctaid.x;");
    ptx!(k, "and.b32 %lane, %thread, 31;\nshr.u32 %warp, %thread, 5;\nsetp.eq.u32 %leader, %lane, 0;");
    ptx!(k, "mad.lo.u32 %slot, %warp, 8, %shared;\nmad.lo.u32 %lane_slot, %lane, 8, %shared;");
    ptx!(k, "ld.param.u32 %classes, [classes];\nadd.u32 %chunks, %classes, {};\nshr.u32 %chunks, %chunks, 10;", THREADS - 1);
    ptx!(k, "mul.lo.u32 %first, %warp, %chunks;\nshl.b32 %words, %chunks, 5;\nadd.u32 %mask, %shared, {MASKS};");
    k.note("The first token of the lane, where its logit lies, and the warp's first words of the masks.");
    ptx!(k, "mad.lo.u32 %warp_mask, %first, 4, %mask;\nshl.b32 %first, %first, 5;\nadd.u32 %first, %first, %lane;");
    ptx!(k, "ld.param.u64 %logits, [logits];\ncvta.to.global.u64 %logits, %logits;\nld.param.u32 %stride, [logits_stride];");
    ptx!(k, "mul.wide.u32 %bytes, %row, %stride;\nshl.b64 %bytes, %bytes, {};\nadd.u64 %logits, %logits, %bytes;", bytes.trailing_zeros());
    ptx!(k, "mad.wide.u32 %start, %first, {bytes}, %logits;");
    ptx!(k, "ld.param.f32 %sharpness, [sharpness];\nld.param.f32 %penalty, [penalty];\nld.param.f32 %inverse, [inverse];");
    ptx!(k, "mov.u32 %index, %thread;\nshl.b32 %count, %words, 1;\nCLEAR:\n.pragma \"nounroll\";");
    ptx!(k, "setp.ge.u32 %more, %index, %count;\n@%more bra CLEARED;\nmad.lo.u32 %at, %index, 4, %mask;\nst.shared.u32 [%at], 0;");
    ptx!(k, "add.u32 %index, %index, {THREADS};\nbra CLEAR;\nCLEARED:\nbar.sync 0;");
}

/// Sets the bits of a list of tokens in the mask behind `%mask` by `%other` bytes. `row`: the list is the row's own.
fn mark(k: &mut Kernel, list: &str, row: bool) {
    let (top, done) = (format!("MARK_{}", list.to_uppercase()), format!("{}_MARKED", list.to_uppercase()));
    ptx!(k, "ld.param.u64 %list, [{list}];\nld.param.u32 %count, [{list}_count];\nmov.u32 %index, %thread;");
    ptx!(k, "setp.eq.u64 %more, %list, 0;\n@%more bra {done};\ncvta.to.global.u64 %list, %list;");
    if row {
        ptx!(k, "ld.param.u32 %stride, [{list}_stride];\nmul.wide.u32 %bytes, %row, %stride;\nshl.b64 %bytes, %bytes, 2;");
        ptx!(k, "add.u64 %list, %list, %bytes;");
    }
    ptx!(k, "{top}:\n.pragma \"nounroll\";\nsetp.ge.u32 %more, %index, %count;\n@%more bra {done};");
    ptx!(k, "mad.wide.u32 %place, %index, 4, %list;\nld.global.u32 %id, [%place];\nsetp.lt.u32 %inside, %id, %classes;");
    ptx!(k, "shr.u32 %at, %id, 5;\nmad.lo.u32 %at, %at, 4, %other;\nand.b32 %bit, %id, 31;\nshl.b32 %bit, 1, %bit;");
    ptx!(k, "@%inside red.shared.or.b32 [%at], %bit;\nadd.u32 %index, %index, {THREADS};\nbra {top};\n{done}:");
}

/// Goes through the warp's tokens; `body` finds the lane's in `%id`, and its logit, -inf where it is impossible or behind the last class,
/// and penalised, in `%value`.
fn walk(k: &mut Kernel, bytes: usize, stem: &str, body: impl FnOnce(&mut Kernel)) {
    ptx!(k, "mov.u32 %id, %first;\nmov.u64 %place, %start;\nmov.u32 %at, %warp_mask;\nmov.u32 %chunk, 0;\n{stem}:\n.pragma \"nounroll\";");
    read(k, bytes);
    ptx!(k, "@%penalised mov.f32 %value, %changed;\n@%impossible mov.f32 %value, {};", float(f32::NEG_INFINITY));
    body(k);
    ptx!(k, "add.u32 %id, %id, 32;\nadd.u64 %place, %place, {};\nadd.u32 %at, %at, 4;", 32 * bytes);
    ptx!(k, "add.u32 %chunk, %chunk, 1;\nsetp.lt.u32 %more, %chunk, %chunks;\n@%more bra {stem};");
}

/// The logit of `%id` at `%place`, as it is in `%value` and as a penalty would make it in `%changed`; the bits of the words at `%at`.
fn read(k: &mut Kernel, bytes: usize) {
    ptx!(k, "setp.lt.u32 %real, %id, %classes;\nmov.f32 %value, {};", float(f32::NEG_INFINITY));
    if bytes == 4 {
        ptx!(k, "@%real ld.global.f32 %value, [%place];");
    } else {
        ptx!(k, "@%real ld.global.b16 %narrow, [%place];\n@%real mov.b32 %value, {{%zero, %narrow}};");
    }
    ptx!(k, "ld.shared.u32 %word, [%at];\nand.b32 %bit, %id, 31;\nshl.b32 %bit, 1, %bit;\nand.b32 %word, %word, %bit;");
    ptx!(k, "setp.ne.u32 %impossible, %word, 0;\nmad.lo.u32 %other, %words, 4, %at;\nld.shared.u32 %word, [%other];");
    ptx!(k, "and.b32 %word, %word, %bit;\nsetp.ne.u32 %penalised, %word, 0;\nsetp.gt.f32 %positive, %value, {};", float(0.0));
    ptx!(k, "selp.f32 %factor, %inverse, %penalty, %positive;\nmul.rn.f32 %changed, %value, %factor;");
}

/// `%weight` of `%value`: `runtime::math::exp_f32`, step by step, of the gap to `%top`, times 2^40.
fn weigh(k: &mut Kernel, sharpness: &str) {
    let [clamp, log2e, round] = [-60.0, std::f32::consts::LOG2_E, EXP.round].map(float);
    ptx!(k, "sub.rn.f32 %gap, %value, %top;\nmul.rn.f32 %gap, %gap, {sharpness};\nsetp.eq.f32 %same, %value, %top;");
    ptx!(k, "selp.f32 %gap, {}, %gap, %same;\nmax.f32 %gap, %gap, {clamp};", float(0.0));
    ptx!(k, "mul.rn.f32 %scaled, %gap, {log2e};\nadd.rn.f32 %scaled, %scaled, {round};\nsub.rn.f32 %whole, %scaled, {round};");
    for part in EXP.ln_2 {
        ptx!(k, "mul.rn.f32 %rest, %whole, {};\nsub.rn.f32 %gap, %gap, %rest;", float(part));
    }
    ptx!(k, "mov.f32 %power, {};", float(EXP.polynomial[0]));
    for &coefficient in &EXP.polynomial[1..] {
        ptx!(k, "mul.rn.f32 %power, %power, %gap;\nadd.rn.f32 %power, %power, {};", float(coefficient));
    }
    ptx!(k, "mul.rn.f32 %square, %gap, %gap;\nmul.rn.f32 %power, %power, %square;\nadd.rn.f32 %power, %power, %gap;");
    ptx!(k, "add.rn.f32 %power, %power, {};", float(1.0));
    k.note("Times 2^(n + 40), by the exponent.");
    ptx!(k, "mov.b32 %word, %scaled;\nsub.u32 %word, %word, {};\nshl.b32 %word, %word, 23;", EXP.round.to_bits() - 40);
    ptx!(k, "mov.b32 %bit, %power;\nadd.u32 %bit, %bit, %word;\nmov.b32 %power, %bit;\ncvt.rzi.u64.f32 %weight, %power;");
}

/// Sums registers of 64 bits over the block; every thread gets the sums, and a barrier must follow before the next one.
fn sum(k: &mut Kernel, registers: &[&str]) {
    for (number, register) in registers.iter().enumerate() {
        sum_of_warp(k, register);
        ptx!(k, "@%leader st.shared.u64 [%slot + {}], {register};", number * 32 * 8);
    }
    ptx!(k, "bar.sync 0;");
    for (number, register) in registers.iter().enumerate() {
        ptx!(k, "ld.shared.u64 {register}, [%lane_slot + {}];", number * 32 * 8);
        sum_of_warp(k, register);
    }
}

fn sum_of_warp(k: &mut Kernel, register: &str) {
    for distance in [16, 8, 4, 2, 1] {
        ptx!(k, "mov.b64 {{%low, %high}}, {register};\nshfl.sync.bfly.b32 %low, %low, {distance}, 31, 0xffffffff;");
        ptx!(k, "shfl.sync.bfly.b32 %high, %high, {distance}, 31, 0xffffffff;\nmov.b64 %moved, {{%low, %high}};");
        ptx!(k, "add.u64 {register}, {register}, %moved;");
    }
}

/// `%best`, larger for a larger number and for the smaller token, of the whole block: a key above, the complement of the token below.
fn best(k: &mut Kernel, bytes: usize, stem: &str) {
    ptx!(k, "mov.u64 %best, 0;");
    walk(k, bytes, stem, |k| {
        ascending(k);
        ptx!(k, "not.b32 %bit, %id;\nmov.b64 %moved, {{%bit, %key}};\nmax.u64 %best, %best, %moved;");
    });
    for part in 0..2 {
        for distance in [16, 8, 4, 2, 1] {
            ptx!(k, "mov.b64 {{%low, %high}}, %best;\nshfl.sync.bfly.b32 %low, %low, {distance}, 31, 0xffffffff;");
            ptx!(k, "shfl.sync.bfly.b32 %high, %high, {distance}, 31, 0xffffffff;\nmov.b64 %moved, {{%low, %high}};");
            ptx!(k, "max.u64 %best, %best, %moved;");
        }
        if part == 0 {
            ptx!(k, "@%leader st.shared.u64 [%slot], %best;\nbar.sync 0;\nld.shared.u64 %best, [%lane_slot];");
        }
    }
    ptx!(k, "bar.sync 0;\nmov.b64 {{%low, %key}}, %best;");
    value(k);
    ptx!(k, "mov.f32 %top, %value;");
}

/// `%key`: the bits of `%value`, so that they ascend as numbers do; 0 for NaN. 0 and -0 are one number.
fn ascending(k: &mut Kernel) {
    ptx!(k, "add.rn.f32 %value, %value, {};\nmov.b32 %key, %value;\nshr.s32 %bit, %key, 31;\nor.b32 %bit, %bit, 0x80000000;", float(0.0));
    ptx!(k, "xor.b32 %key, %key, %bit;\nsetp.nan.f32 %same, %value, %value;\nselp.b32 %key, 0, %key, %same;");
}

/// `%value` of `%key`.
fn value(k: &mut Kernel) {
    ptx!(
        k,
        "shr.s32 %bit, %key, 31;\nnot.b32 %bit, %bit;\nor.b32 %bit, %bit, 0x80000000;\nxor.b32 %bit, %key, %bit;\nmov.b32 %value, %bit;"
    );
}

/// What the model says, without the hidden tokens: `%whole_top`, and `%whole_sum` of the weights.
fn model(k: &mut Kernel, bytes: usize) {
    k.regs(Kind::B32, "low high key");
    k.regs(Kind::B64, "best moved weight whole_sum");
    k.regs(Kind::F32, "whole_top");
    ptx!(k, "mov.u32 %other, %mask;");
    mark(k, "hidden", false);
    ptx!(k, "bar.sync 0;");
    best(k, bytes, "WHOLE_TOP");
    ptx!(k, "mov.f32 %whole_top, %top;\nmov.u64 %whole_sum, 0;");
    walk(k, bytes, "WHOLE_SUM", |k| {
        weigh(k, &float(1.0));
        ptx!(k, "add.u64 %whole_sum, %whole_sum, %weight;");
    });
    sum(k, &["%whole_sum"]);
    k.note("What may be chosen, and what has occurred.");
    ptx!(k, "mov.u32 %other, %mask;");
    mark(k, "barred", false);
    ptx!(k, "mad.lo.u32 %other, %words, 4, %mask;");
    mark(k, "seen", true);
    ptx!(k, "bar.sync 0;");
}

/// The most probable token; done, if that is wanted or nothing has a probability.
fn most_probable(k: &mut Kernel, bytes: usize) {
    k.regs(Kind::B32, "token");
    best(k, bytes, "TOP");
    ptx!(k, "not.b32 %token, %low;\nsetp.eq.f32 %same, %top, {};", float(f32::NEG_INFINITY));
    ptx!(k, "setp.nan.or.f32 %same, %top, %top, %same;\nselp.b32 %token, 0, %token, %same;");
    ptx!(k, "setp.eq.or.f32 %same, %sharpness, {}, %same;\n@%same bra CHOSEN;", float(0.0));
}

/// Sums over the block, for each key of `bounds`, which ascend, of what the allowed tokens at it and above measure: 1 where they are counted, else their
/// weights.
fn measure(k: &mut Kernel, bytes: usize, stem: &str, counted: bool, bounds: &[(&str, &str)]) {
    for (_, total) in bounds {
        ptx!(k, "mov.u64 {total}, 0;");
    }
    walk(k, bytes, stem, |k| {
        ascending(k);
        k.note("Most warps have nothing above the smallest bound, once that is high.");
        ptx!(k, "setp.ge.u32 %same, %key, {};\nvote.sync.any.pred %same, %same, 0xffffffff;\n@!%same bra {stem}_LOW;", bounds[0].0);
        weigh(k, "%sharpness");
        ptx!(k, "setp.ge.u64 %real, %weight, %least;");
        if counted {
            ptx!(k, "mov.u64 %weight, 1;");
        }
        for (bound, total) in bounds {
            ptx!(k, "setp.ge.and.u32 %same, %key, {bound}, %real;\n@%same add.u64 {total}, {total}, %weight;");
        }
        ptx!(k, "{stem}_LOW:");
    });
    let totals: Vec<&str> = bounds.iter().map(|(_, total)| *total).collect();
    sum(k, &totals);
    ptx!(k, "bar.sync 0;");
}

/// `%bound`, the largest key that is at most `%floor`, or at which and above the tokens measure `%needed`: two bits at a time.
fn search(k: &mut Kernel, bytes: usize, stem: &str, counted: bool) {
    const TRIALS: [(&str, &str); 3] = [("%trial_1", "%sum_1"), ("%trial_2", "%sum_2"), ("%trial_3", "%sum_3")];
    ptx!(k, "mov.u32 %bound, 0;\nmov.u32 %shift, 30;\n{stem}:\n.pragma \"nounroll\";");
    for (number, (trial, _)) in TRIALS.iter().enumerate() {
        ptx!(k, "shl.b32 %bit, {}, %shift;\nor.b32 {trial}, %bound, %bit;", number + 1);
    }
    measure(k, bytes, &format!("{stem}_SUM"), counted, &TRIALS);
    for (trial, total) in TRIALS {
        ptx!(k, "setp.le.u32 %same, {trial}, %floor;\nsetp.ge.or.u64 %same, {total}, %needed, %same;\n@%same mov.u32 %bound, {trial};");
    }
    ptx!(k, "sub.u32 %shift, %shift, 2;\nsetp.le.u32 %more, %shift, 30;\n@%more bra {stem};");
}

/// `%above`: the weight of the allowed tokens above `%bound`; `%equal`: that of each token at it.
fn weights(k: &mut Kernel, bytes: usize, stem: &str) {
    ptx!(k, "add.u32 %trial_1, %bound, 1;");
    measure(k, bytes, stem, false, &[("%trial_1", "%above")]);
    ptx!(k, "mov.u32 %key, %bound;");
    value(k);
    weigh(k, "%sharpness");
    ptx!(k, "setp.eq.u32 %same, %bound, 0;\nselp.b64 %equal, 0, %weight, %same;");
}

/// What the cuts leave: all of `%mass`, of it `%above` above `%bound`, and so many tokens at it as fill the rest by `%equal`.
fn cut(k: &mut Kernel, bytes: usize) {
    k.regs(Kind::B32, "bound floor shift trial_1 trial_2 trial_3 top_k");
    k.regs(Kind::B64, "least needed sum_1 sum_2 sum_3 above equal mass top_p share");
    k.regs(Kind::Pred, "all");
    ptx!(k, "ld.param.u64 %least, [least];\nmov.u32 %bound, 0;\nmov.u32 %floor, 0;");
    k.note("top_k: the k-th key, and how many of the tokens at it are among the k.");
    ptx!(k, "mov.u64 %needed, 0;\nld.param.u32 %top_k, [top_k];\nsetp.eq.u32 %all, %top_k, 0;\n@%all bra COUNTED;");
    ptx!(k, "cvt.u64.u32 %needed, %top_k;");
    search(k, bytes, "COUNT", true);
    ptx!(k, "add.u32 %trial_1, %bound, 1;");
    measure(k, bytes, "COUNT_ABOVE", true, &[("%trial_1", "%sum_1")]);
    ptx!(k, "sub.u64 %needed, %needed, %sum_1;\nCOUNTED:");
    weights(k, bytes, "ABOVE");
    ptx!(k, "mad.lo.u64 %mass, %needed, %equal, %above;");
    k.note("top_p: the key at which its share is reached, and the tokens at it that are needed for that.");
    ptx!(k, "ld.param.f64 %top_p, [top_p];\nsetp.ge.f64 %all, %top_p, 0d3FF0000000000000;\n@%all bra SHARED;");
    ptx!(k, "cvt.rn.f64.u64 %share, %mass;\nmul.rn.f64 %share, %share, %top_p;\ncvt.rpi.u64.f64 %needed, %share;");
    ptx!(k, "max.u64 %needed, %needed, 1;\nmin.u64 %needed, %needed, %mass;\nmov.u32 %floor, %bound;");
    search(k, bytes, "SHARE", false);
    weights(k, bytes, "SHARE_ABOVE");
    ptx!(k, "sub.u64 %needed, %needed, %above;\nadd.u64 %needed, %needed, %equal;\nsub.u64 %needed, %needed, 1;");
    ptx!(k, "div.u64 %needed, %needed, %equal;\nmad.lo.u64 %mass, %needed, %equal, %above;\nSHARED:");
}

/// The token at the random number's share of the mass: first those above the bound, then those at it.
fn draw(k: &mut Kernel, bytes: usize) {
    k.regs(Kind::B64, "target");
    k.regs(Kind::Pred, "at_bound passed found");
    ptx!(k, "ld.param.u64 %list, [random];\ncvta.to.global.u64 %list, %list;\nld.param.u32 %stride, [random_stride];");
    ptx!(k, "mul.wide.u32 %bytes, %row, %stride;\nshl.b64 %bytes, %bytes, 2;\nadd.u64 %list, %list, %bytes;");
    ptx!(k, "ld.global.u32 %low, [%list];\nld.global.u32 %high, [%list + 4];\nmov.b64 %target, {{%low, %high}};");
    ptx!(k, "mul.hi.u64 %target, %target, %mass;\nsetp.ge.u64 %at_bound, %target, %above;\n@!%at_bound bra DRAWN;");
    k.note("Which of the tokens at the bound; they count 1 each.");
    ptx!(k, "sub.u64 %target, %target, %above;\ndiv.u64 %target, %target, %equal;\nDRAWN:");
    k.note("The warp in whose run the target lies.");
    ptx!(k, "mov.u64 %sum_1, 0;");
    walk(k, bytes, "RUN", |k| {
        part(k);
        ptx!(k, "add.u64 %sum_1, %sum_1, %weight;");
    });
    sum_of_warp(k, "%sum_1");
    ptx!(k, "@%leader st.shared.u64 [%slot], %sum_1;\nbar.sync 0;\nld.shared.u64 %sum_1, [%lane_slot];");
    scan(k);
    ptx!(k, "setp.eq.u32 %found, %word, %warp;\n@!%found bra CHOSEN;");
    k.note("Its tokens, 32 at a time.");
    walk(k, bytes, "FIND", |k| {
        part(k);
        ptx!(k, "mov.u64 %sum_1, %weight;");
        scan(k);
        ptx!(k, "setp.lt.u32 %found, %word, 32;\n@%found bra FOUND;\nsub.u64 %target, %target, %sum_2;");
    });
    ptx!(k, "FOUND:\nsub.u32 %token, %id, %lane;\nadd.u32 %token, %token, %word;\n@%leader st.shared.u32 [%shared + {NUMBERS}], %token;");
    ptx!(k, "CHOSEN:\nsetp.eq.f32 %same, %top, {};\nsetp.nan.or.f32 %same, %top, %top, %same;", float(f32::NEG_INFINITY));
    ptx!(k, "setp.eq.or.f32 %same, %sharpness, {}, %same;\nbar.sync 0;\n@!%same ld.shared.u32 %token, [%shared + {NUMBERS}];", float(0.0));
}

/// `%weight` of `%value` in the draw's order: its own above the bound, 0 elsewhere; or 1 at the bound.
fn part(k: &mut Kernel) {
    weigh(k, "%sharpness");
    ascending(k);
    ptx!(
        k,
        "setp.ge.u64 %real, %weight, %least;\nsetp.gt.and.u32 %passed, %key, %bound, %real;\nsetp.eq.and.u32 %real, %key, %bound, %real;"
    );
    ptx!(k, "selp.b64 %weight, %weight, 0, %passed;\nselp.b64 %moved, 1, 0, %real;\nselp.b64 %weight, %moved, %weight, %at_bound;");
}

/// With the lanes' `%sum_1` one behind the other: `%word`, the lane in whose part `%target` lies (32: none), `%target` less what lies before
/// it, and `%sum_2`, all of them together.
fn scan(k: &mut Kernel) {
    for distance in [1, 2, 4, 8, 16] {
        ptx!(k, "mov.b64 {{%low, %high}}, %sum_1;\nshfl.sync.up.b32 %low|%same, %low, {distance}, 0, 0xffffffff;");
        ptx!(k, "shfl.sync.up.b32 %high, %high, {distance}, 0, 0xffffffff;\nmov.b64 %moved, {{%low, %high}};");
        ptx!(k, "@%same add.u64 %sum_1, %sum_1, %moved;");
    }
    ptx!(k, "setp.le.u64 %same, %sum_1, %target;\nvote.sync.ballot.b32 %word, %same, 0xffffffff;\npopc.b32 %word, %word;");
    k.note("What lies before that lane, and everything.");
    ptx!(k, "mov.b64 {{%low, %high}}, %sum_1;\nsub.u32 %bit, %word, 1;");
    ptx!(k, "shfl.sync.idx.b32 %key, %low, %bit, 31, 0xffffffff;\nshfl.sync.idx.b32 %bit, %high, %bit, 31, 0xffffffff;");
    ptx!(k, "mov.b64 %moved, {{%key, %bit}};\nsetp.eq.u32 %same, %word, 0;\nselp.b64 %moved, 0, %moved, %same;");
    ptx!(k, "shfl.sync.idx.b32 %low, %low, 31, 31, 0xffffffff;\nshfl.sync.idx.b32 %high, %high, 31, 31, 0xffffffff;");
    ptx!(k, "mov.b64 %sum_2, {{%low, %high}};\nsetp.lt.u32 %same, %word, 32;\n@%same sub.u64 %target, %target, %moved;");
}

/// The token's probability in the model's own words, and both results, by one thread.
fn end(k: &mut Kernel, bytes: usize) {
    ptx!(k, "setp.eq.u32 %leader, %thread, 0;\n@!%leader ret;");
    ptx!(
        k,
        "ld.param.u64 %list, [tokens];\ncvta.to.global.u64 %list, %list;\nmad.wide.u32 %list, %row, 4, %list;\nst.global.u32 [%list], %token;"
    );
    ptx!(k, "mov.u32 %id, %token;\nmad.wide.u32 %place, %id, {bytes}, %logits;\nshr.u32 %at, %id, 5;\nmad.lo.u32 %at, %at, 4, %mask;");
    read(k, bytes);
    k.note("Hidden or barred: only where nothing else was there, or the token that the model would never choose.");
    ptx!(k, "@%impossible mov.f32 %value, {};", float(f32::NEG_INFINITY));
    ptx!(k, "cvt.rn.f32.u64 %rest, %whole_sum;\nmul.rn.f32 %rest, %rest, {};\nlg2.approx.ftz.f32 %rest, %rest;", float((-40f32).exp2()));
    ptx!(
        k,
        "mul.rn.f32 %rest, %rest, {};\nsub.rn.f32 %gap, %value, %whole_top;\nsub.rn.f32 %gap, %gap, %rest;",
        float(std::f32::consts::LN_2)
    );
    ptx!(
        k,
        "abs.f32 %rest, %whole_top;\nsetp.lt.f32 %real, %rest, {};\nsetp.num.and.f32 %real, %value, %value, %real;",
        float(f32::INFINITY)
    );
    ptx!(k, "selp.f32 %gap, %gap, {}, %real;", float(f32::NEG_INFINITY));
    ptx!(k, "ld.param.u64 %list, [log_probabilities];\ncvta.to.global.u64 %list, %list;\nmad.wide.u32 %list, %row, 4, %list;");
    ptx!(k, "st.global.f32 [%list], %gap;\nret;");
}
