//! The splits of [`super::emit_decode`], combined in their order.

use super::emit_decode::{SPLIT, THREADS, element, lengths};
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Text, float};

/// Name of the entry for elements of so many bytes.
pub(super) fn name(bytes: usize) -> String {
    format!("attention_combine_{}", element(bytes))
}

/// Its module, for any head size.
pub(super) fn text(bytes: usize) -> Text {
    let about = format!(
        "out = sum_s 2^(m_s - m) values_s / sum_s 2^(m_s - m) sum_s over an item's splits s in their order, m the largest m_s; and the\n\
         logarithm of that sum of exponentials. No split gives 0 and -inf. Elements {}, sums f32.\n\
         Grid: (heads, items). Block: {THREADS} threads, one an element of the head.",
        element(bytes)
    );
    let mut kernel = Kernel::new(name(bytes), about);
    let k = &mut kernel;
    k.params(".u64", "out logsumexp partial statistics query_lengths key_lengths");
    k.params(".u32", "key_len num_heads splits head_dim out_stride");
    k.block(THREADS, 4);
    k.regs(Kind::B32, "thread head item num_heads splits head_dim element unit split count stride");
    k.regs(Kind::B64, "statistics partial statistic at step out bytes logsumexp");
    k.regs(Kind::F32, "top base largest share weight total value sum inverse");
    k.regs(Kind::Pred, "nothing done more writes");
    ptx!(k, "mov.u32 %thread, %tid.x;\nmov.u32 %head, %ctaid.x;\nmov.u32 %item, %ctaid.y;\nld.param.u32 %num_heads, [num_heads];");
    ptx!(k, "ld.param.u32 %splits, [splits];\nld.param.u32 %head_dim, [head_dim];");
    lengths(k);
    k.note("The head's splits; a thread behind the head follows its first element.");
    ptx!(k, "add.u32 %count, %keys, {};\nshr.u32 %count, %count, {};", SPLIT - 1, SPLIT.trailing_zeros());
    ptx!(k, "setp.lt.u32 %writes, %thread, %head_dim;\nselp.u32 %element, %thread, 0, %writes;");
    ptx!(k, "mad.lo.u32 %unit, %item, %num_heads, %head;\nmul.lo.u32 %unit, %unit, %splits;");
    ptx!(
        k,
        "ld.param.u64 %statistics, [statistics];\ncvta.to.global.u64 %statistics, %statistics;\nmad.wide.u32 %statistics, %unit, 8, %statistics;"
    );
    ptx!(k, "ld.param.u64 %partial, [partial];\ncvta.to.global.u64 %partial, %partial;\nmul.wide.u32 %step, %head_dim, 4;");
    ptx!(
        k,
        "cvt.u64.u32 %bytes, %unit;\nmul.lo.u64 %bytes, %bytes, %step;\nadd.u64 %partial, %partial, %bytes;\nmad.wide.u32 %partial, %element, 4, %partial;"
    );
    k.note("The largest maximum.");
    ptx!(k, "mov.f32 %top, {};\nmov.u32 %split, 0;\nmov.u64 %statistic, %statistics;", float(f32::NEG_INFINITY));
    ptx!(k, "MAXIMA:\n.pragma \"nounroll\";\nsetp.ge.u32 %done, %split, %count;\n@%done bra MAXIMA_DONE;");
    ptx!(k, "ld.global.f32 %largest, [%statistic];\nmax.f32 %top, %top, %largest;\nadd.u64 %statistic, %statistic, 8;");
    ptx!(k, "add.u32 %split, %split, 1;\nbra MAXIMA;\nMAXIMA_DONE:");
    ptx!(k, "setp.eq.f32 %nothing, %top, {};\nselp.f32 %base, {}, %top, %nothing;", float(f32::NEG_INFINITY), float(0.0));
    k.note("Sums, split by split.");
    ptx!(k, "mov.f32 %total, {zero};\nmov.f32 %sum, {zero};\nmov.u32 %split, 0;\nmov.u64 %at, %partial;", zero = float(0.0));
    ptx!(k, "SPLITS:\n.pragma \"nounroll\";\nsetp.ge.u32 %done, %split, %count;\n@%done bra SPLITS_DONE;");
    ptx!(k, "ld.global.v2.f32 {{%largest, %weight}}, [%statistics];\nld.global.f32 %value, [%at];");
    ptx!(k, "sub.rn.f32 %share, %largest, %base;\nex2.approx.ftz.f32 %share, %share;");
    ptx!(k, "fma.rn.f32 %total, %weight, %share, %total;\nfma.rn.f32 %sum, %value, %share, %sum;");
    ptx!(k, "add.u64 %statistics, %statistics, 8;\nadd.u64 %at, %at, %step;\nadd.u32 %split, %split, 1;\nbra SPLITS;\nSPLITS_DONE:");
    ptx!(
        k,
        "setp.eq.f32 %nothing, %total, {};\nrcp.rn.f32 %inverse, %total;\nselp.f32 %inverse, {}, %inverse, %nothing;",
        float(0.0),
        float(0.0)
    );
    ptx!(k, "mul.rn.f32 %sum, %sum, %inverse;");
    ptx!(
        k,
        "ld.param.u64 %out, [out];\ncvta.to.global.u64 %out, %out;\nld.param.u32 %stride, [out_stride];\nmul.wide.u32 %bytes, %item, %stride;"
    );
    ptx!(k, "mul.wide.u32 %at, %head, %head_dim;\nadd.u64 %bytes, %bytes, %at;\ncvt.u64.u32 %at, %element;\nadd.u64 %bytes, %bytes, %at;");
    ptx!(k, "shl.b64 %bytes, %bytes, {};\nadd.u64 %out, %out, %bytes;", bytes.trailing_zeros());
    if bytes == 4 {
        ptx!(k, "@%writes st.global.f32 [%out], %sum;");
    } else {
        k.regs(Kind::B16, "narrow");
        ptx!(k, "cvt.rn.bf16.f32 %narrow, %sum;\n@%writes st.global.b16 [%out], %narrow;");
    }
    k.note("The first thread's: the logarithm.");
    ptx!(
        k,
        "lg2.approx.ftz.f32 %total, %total;\nadd.rn.f32 %total, %total, %base;\nmul.rn.f32 %total, %total, {};",
        float(std::f32::consts::LN_2)
    );
    ptx!(k, "selp.f32 %total, {}, %total, %nothing;\nsetp.eq.u32 %writes, %thread, 0;", float(f32::NEG_INFINITY));
    ptx!(
        k,
        "ld.param.u64 %logsumexp, [logsumexp];\ncvta.to.global.u64 %logsumexp, %logsumexp;\nmad.lo.u32 %unit, %item, %num_heads, %head;"
    );
    ptx!(k, "mad.wide.u32 %logsumexp, %unit, 4, %logsumexp;\n@%writes st.global.f32 [%logsumexp], %total;\nret;");
    k.text()
}
