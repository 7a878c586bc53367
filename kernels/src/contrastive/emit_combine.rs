//! The tiles' shares of a sum of exponentials, combined in their order.

use super::emit::group;
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Text, float};

/// Threads a block, one an item.
pub(super) const THREADS: usize = 64;
/// Shares that are on their way at once.
const AT_ONCE: usize = 4;

/// Entry.
pub(super) const ENTRY: &str = "contrastive_combine_f32";

/// Its module.
pub(super) fn text() -> Text {
    let about = format!(
        "The shares (m, sum 2^(s - m)) of an item's tiles, parts[tile][slot], after those before the slice, in order: logsumexp of all, or,\n\
         where `after` is given, what the next slice goes on from. `first`: the slice's first item, `met_first`: the first it meets, of\n\
         which a share stands for `per_part`. A slot is group x side + place in the slice.\n\
         Grid: ceil(slots / {THREADS}). Block: {THREADS} threads, one a slot."
    );
    let mut kernel = Kernel::new(ENTRY, about);
    let k = &mut kernel;
    k.params(".u64", "logsumexp before after parts");
    k.params(".u32", "items group side slots first met_first per_part");
    k.block(THREADS, 8);
    k.regs(Kind::B32, "slot slots group_index place item index parts_left per_part met_first");
    k.regs(Kind::B64, "at step address bytes");
    k.regs(Kind::F32, "top base total t");
    k.regs(Kind::Pred, "nothing given more");
    let (tops, sums) = (k.array(Kind::F32, "part_top", AT_ONCE), k.array(Kind::F32, "part_sum", AT_ONCE));
    ptx!(k, "mov.u32 %index, %tid.x;\nmov.u32 %slot, %ctaid.x;\nmad.lo.u32 %slot, %slot, {THREADS}, %index;");
    ptx!(k, "ld.param.u32 %slots, [slots];\nsetp.ge.u32 %nothing, %slot, %slots;\n@%nothing ret;");
    ptx!(k, "ld.param.u32 %place, [side];\ndiv.u32 %group_index, %slot, %place;");
    group(k, "%group_index");
    ptx!(k, "mul.lo.u32 %index, %group_index, %side;\nsub.u32 %place, %slot, %index;\nld.param.u32 %index, [first];");
    ptx!(k, "add.u32 %place, %place, %index;\nsetp.ge.u32 %nothing, %place, %count;\n@%nothing ret;\nadd.u32 %item, %start, %place;");
    k.note("Shares of the items that the slice meets in this group.");
    ptx!(k, "ld.param.u32 %met_first, [met_first];\nld.param.u32 %per_part, [per_part];\nmax.u32 %parts_left, %count, %met_first;");
    ptx!(
        k,
        "sub.u32 %parts_left, %parts_left, %met_first;\nmin.u32 %parts_left, %parts_left, %side;\nadd.u32 %parts_left, %parts_left, %per_part;"
    );
    ptx!(k, "sub.u32 %parts_left, %parts_left, 1;\ndiv.u32 %parts_left, %parts_left, %per_part;");
    k.note("What came before.");
    ptx!(k, "mov.f32 %top, {};\nmov.f32 %total, {};", float(f32::NEG_INFINITY), float(0.0));
    ptx!(k, "ld.param.u64 %bytes, [before];\nsetp.ne.u64 %given, %bytes, 0;\ncvta.to.global.u64 %bytes, %bytes;");
    ptx!(k, "mad.wide.u32 %address, %item, 8, %bytes;\n@%given ld.global.v2.f32 {{%top, %total}}, [%address];");
    ptx!(k, "ld.param.u64 %at, [parts];\ncvta.to.global.u64 %at, %at;\nmad.wide.u32 %at, %slot, 8, %at;\nmul.wide.u32 %step, %slots, 8;");
    ptx!(k, "PART_LOOP:\n.pragma \"nounroll\";\nsetp.eq.u32 %nothing, %parts_left, 0;\n@%nothing bra PARTS_DONE;");
    for (part, (top, sum)) in tops.iter().zip(&sums).enumerate() {
        ptx!(k, "mov.f32 {top}, {};\nmov.f32 {sum}, {};", float(f32::NEG_INFINITY), float(0.0));
        ptx!(k, "setp.gt.u32 %more, %parts_left, {part};\n@%more ld.global.v2.f32 {{{top}, {sum}}}, [%at];\nadd.u64 %at, %at, %step;");
    }
    ptx!(k, "mov.f32 %t, %top;");
    for top in &tops {
        ptx!(k, "max.f32 %top, %top, {top};");
    }
    ptx!(k, "setp.eq.f32 %more, %top, {};\nselp.f32 %base, {}, %top, %more;", float(f32::NEG_INFINITY), float(0.0));
    ptx!(k, "sub.rn.f32 %t, %t, %base;\nex2.approx.ftz.f32 %t, %t;\nmul.rn.f32 %total, %total, %t;");
    for (top, sum) in tops.iter().zip(&sums) {
        ptx!(k, "sub.rn.f32 %t, {top}, %base;\nex2.approx.ftz.f32 %t, %t;\nfma.rn.f32 %total, {sum}, %t, %total;");
    }
    ptx!(k, "max.u32 %parts_left, %parts_left, {AT_ONCE};\nsub.u32 %parts_left, %parts_left, {AT_ONCE};\nbra PART_LOOP;\nPARTS_DONE:");
    ptx!(k, "ld.param.u64 %bytes, [after];\nsetp.ne.u64 %given, %bytes, 0;\ncvta.to.global.u64 %bytes, %bytes;");
    ptx!(k, "mad.wide.u32 %address, %item, 8, %bytes;\n@%given st.global.v2.f32 [%address], {{%top, %total}};\n@%given ret;");
    ptx!(k, "lg2.approx.ftz.f32 %t, %total;\nadd.rn.f32 %t, %t, %top;\nmul.rn.f32 %t, %t, {};", float(std::f32::consts::LN_2));
    ptx!(k, "ld.param.u64 %bytes, [logsumexp];\ncvta.to.global.u64 %bytes, %bytes;\nmad.wide.u32 %address, %item, 4, %bytes;");
    ptx!(k, "st.global.f32 [%address], %t;\nret;");
    k.text()
}
