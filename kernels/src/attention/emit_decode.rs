//! Attention of one query an item, over cached keys: splits of 128 keys side by side, then their combination in order.
//!
//! A block takes one split of one key head for all query heads that share it, so that keys and values pass once. Eight lanes are a team:
//! a row of keys or values is theirs, 16 bytes a lane at a time, and a team has four rows under way. A split leaves its maximum, its sum
//! and its weighted values. Which keys are a split depends on their places alone, and so does every bit of the result.

use super::emit_combine;
use crate::ptx;
use crate::runtime::emit::{Kernel, Kind, Reg, Text, float};

/// Keys of a split.
pub(super) const SPLIT: usize = 128;
/// Threads a block, of both entries.
pub(super) const THREADS: usize = 128;
/// Lanes of a team, teams of a block, rows that a team reads at a time.
const LANES: usize = 8;
const TEAMS: usize = THREADS / LANES;
const ROWS: usize = 4;
/// Rows that the block reads at a time.
const STEP: usize = TEAMS * ROWS;
/// Bytes from one head's scores to the next: teams and heads meet all banks.
const PITCH: usize = 4 * (SPLIT + 4);
/// Most heads a block, and most elements that they have together: the registers of a lane hold an eighth of them twice.
const HEADS: usize = 8;
const ELEMENTS: usize = 512;

/// Sizes of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decode {
    pub(super) head_dim: usize,
    /// Query heads a block.
    pub(super) heads: usize,
    /// Bytes of an element: 4, f32, or 2, bf16.
    pub(super) bytes: usize,
}

impl Decode {
    /// The text for heads of which `group` share their keys.
    pub(super) fn new(head_dim: usize, group: usize, bytes: usize) -> Decode {
        let fit = 1 << (ELEMENTS / head_dim).ilog2();
        Decode { head_dim, heads: group.next_power_of_two().min(HEADS).min(fit), bytes }
    }

    pub(super) fn name(self) -> String {
        format!("attention_decode_{}_d{}_h{}", element(self.bytes), self.head_dim, self.heads)
    }

    /// Elements of 16 bytes.
    fn chunk(self) -> usize {
        16 / self.bytes
    }

    /// Chunks of a row.
    fn chunks(self) -> usize {
        self.head_dim / self.chunk()
    }

    /// Chunks of a row that a lane reads.
    fn parts(self) -> usize {
        self.chunks().div_ceil(LANES)
    }

    /// Whether some lane has nothing to read at this part.
    fn is_ragged(self, part: usize) -> bool {
        LANES * (part + 1) > self.chunks()
    }

    /// Bytes of a team's weighted values in shared memory.
    fn team_bytes(self) -> usize {
        4 * self.heads * self.head_dim
    }
}

pub(super) fn element(bytes: usize) -> &'static str {
    if bytes == 4 { "f32" } else { "bf16" }
}

/// Texts that tests assemble: models' sizes and edges, in both elements; others are made when they are asked for.
pub(super) fn all() -> Vec<Text> {
    let shapes = [(8, 1), (16, 8), (24, 2), (64, 1), (64, 3), (64, 8), (80, 3), (128, 1), (128, 8)];
    let decode = shapes.into_iter().flat_map(|(head_dim, group)| [4, 2].map(|bytes| Decode::new(head_dim, group, bytes)));
    decode.map(text).chain([4, 2].map(emit_combine::text)).collect()
}

/// The module that makes the splits of a variant.
pub(super) fn text(decode: Decode) -> Text {
    let Decode { head_dim: d, heads, .. } = decode;
    let about = format!(
        "Of each split of {SPLIT} keys: the maximum m of scale q k^T in units of ln 2, the sum of 2^(score - m), and the sum of\n\
         2^(score - m) v, for {heads} of the query heads that share a key head; head size {d}, sums f32.\n\
         Grid: (splits, key heads x tiles of {heads} query heads, items). Block: {THREADS} threads, 16 teams of 8 lanes. Strides count\n\
         elements; score_scale is scale / ln 2. A split behind the last key writes nothing.\n\
         Shared: scores [{heads}][{SPLIT} + 4], then each team's weighted values [{TEAMS}][{heads}][{d}], all f32."
    );
    let mut kernel = Kernel::new(decode.name(), about);
    let k = &mut kernel;
    k.params(".u64", "partial statistics q k v query_lengths key_lengths");
    k.params(".u32", "key_len num_heads group tiles q_stride k_stride v_stride");
    k.params(".f32", "score_scale");
    k.block(THREADS, 2);
    k.shared(Some(heads * PITCH + TEAMS * decode.team_bytes()));
    positions(k, decode);
    let queries = queries(k, decode);
    let rows = Rows::new(k, decode);
    scores(k, decode, &rows, &queries);
    weights(k, decode);
    let sums = values(k, decode, &rows);
    write(k, decode, &sums);
    ptx!(k, "ret;");
    k.text()
}

/// Reads how many keys an item has into `%keys`: none where its query does not count.
pub(super) fn lengths(k: &mut Kernel) {
    k.regs(Kind::B32, "keys given_length");
    k.regs(Kind::B64, "lengths item_bytes");
    k.regs(Kind::Pred, "given empty");
    ptx!(k, "ld.param.u32 %keys, [key_len];\nmul.wide.u32 %item_bytes, %item, 4;");
    ptx!(k, "ld.param.u64 %lengths, [key_lengths];\nsetp.ne.u64 %given, %lengths, 0;\ncvta.to.global.u64 %lengths, %lengths;");
    ptx!(k, "add.u64 %lengths, %lengths, %item_bytes;\nmov.u32 %given_length, %keys;");
    ptx!(k, "@%given ld.global.u32 %given_length, [%lengths];\nmin.u32 %keys, %keys, %given_length;");
    ptx!(k, "ld.param.u64 %lengths, [query_lengths];\nsetp.ne.u64 %given, %lengths, 0;\ncvta.to.global.u64 %lengths, %lengths;");
    ptx!(k, "add.u64 %lengths, %lengths, %item_bytes;\nmov.u32 %given_length, 1;");
    ptx!(k, "@%given ld.global.u32 %given_length, [%lengths];\nsetp.eq.u32 %empty, %given_length, 0;\nselp.u32 %keys, 0, %keys, %empty;");
}

fn positions(k: &mut Kernel, decode: Decode) {
    k.regs(Kind::B32, "shared thread lane warp team chunk item split tile tiles kv_head group num_heads first_head first last index");
    k.regs(Kind::B64, "address bytes");
    k.regs(Kind::Pred, "nothing");
    ptx!(k, "mov.u32 %shared, shared_memory;\nmov.u32 %thread, %tid.x;\nand.b32 %lane, %thread, 31;\nshr.u32 %warp, %thread, 5;");
    ptx!(k, "shr.u32 %team, %thread, 3;\nand.b32 %chunk, %thread, 7;\nmov.u32 %item, %ctaid.z;\nmov.u32 %split, %ctaid.x;");
    lengths(k);
    k.note("A split that begins behind the last key is nobody's.");
    ptx!(k, "shl.b32 %first, %split, {};\nsetp.ge.u32 %nothing, %first, %keys;\n@%nothing ret;", SPLIT.trailing_zeros());
    ptx!(k, "sub.u32 %last, %keys, 1;");
    k.note("Key head, and the first of the block's heads within its group.");
    ptx!(k, "ld.param.u32 %group, [group];\nld.param.u32 %num_heads, [num_heads];\nld.param.u32 %tiles, [tiles];");
    ptx!(k, "mov.u32 %index, %ctaid.y;\ndiv.u32 %kv_head, %index, %tiles;\nmul.lo.u32 %tile, %kv_head, %tiles;");
    ptx!(k, "sub.u32 %tile, %index, %tile;\nmul.lo.u32 %first_head, %tile, {};", decode.heads);
    let offsets = k.array(Kind::B64, "part", decode.parts());
    for (part, offset) in offsets.iter().enumerate() {
        ptx!(k, "add.u32 %index, %chunk, {};", LANES * part);
        if decode.is_ragged(part) {
            let has = k.reg(Kind::Pred, format_args!("has_{part}"));
            ptx!(k, "setp.lt.u32 {has}, %index, {};\nselp.u32 %index, %index, 0, {has};", decode.chunks());
        }
        ptx!(k, "mul.wide.u32 {offset}, %index, 16;");
    }
}

/// The lane's elements of every query, times `score_scale`; 0 where a row is shorter than the lanes reach.
fn queries(k: &mut Kernel, decode: Decode) -> Vec<Vec<Reg>> {
    k.regs(Kind::B32, "head q_stride");
    k.regs(Kind::B64, "q q_row");
    k.regs(Kind::F32, "score_scale");
    let queries = k.grid(Kind::F32, "query", decode.heads, decode.parts() * decode.chunk());
    let raw = raw(k, decode, "query_raw", 1);
    k.note("The queries; heads that the group lacks repeat its last.");
    ptx!(k, "ld.param.f32 %score_scale, [score_scale];\nld.param.u64 %q, [q];\ncvta.to.global.u64 %q, %q;");
    ptx!(k, "ld.param.u32 %q_stride, [q_stride];");
    ptx!(k, "mul.wide.u32 %q_row, %item, %q_stride;\nmul.lo.u64 %q_row, %q_row, {};\nadd.u64 %q, %q, %q_row;", decode.bytes);
    for (number, query) in queries.iter().enumerate() {
        ptx!(k, "add.u32 %head, %first_head, {number};\nsub.u32 %index, %group, 1;\nmin.u32 %head, %head, %index;");
        ptx!(k, "mad.lo.u32 %head, %kv_head, %group, %head;\nmad.wide.u32 %q_row, %head, {}, %q;", decode.bytes * decode.head_dim);
        for (part, elements) in query.chunks(decode.chunk()).enumerate() {
            load(k, decode, if decode.bytes == 4 { elements } else { &raw[0] }, "%q_row", part);
            if decode.bytes == 2 {
                widen(k, &raw[0], elements);
            }
            for element in elements {
                ptx!(k, "mul.rn.f32 {element}, {element}, %score_scale;");
                if decode.is_ragged(part) {
                    ptx!(k, "selp.f32 {element}, {element}, {}, %has_{part};", float(0.0));
                }
            }
        }
    }
    queries
}

/// Registers for chunks as they are stored: four each.
fn raw(k: &mut Kernel, decode: Decode, name: &str, count: usize) -> Vec<Vec<Reg>> {
    let kind = if decode.bytes == 4 { Kind::F32 } else { Kind::B32 };
    k.grid(kind, name, count, 4)
}

/// Loads the lane's chunk of a part of the row at `row`.
fn load(k: &mut Kernel, decode: Decode, to: &[Reg], row: &str, part: usize) {
    let (r0, r1, r2, r3) = (&to[0], &to[1], &to[2], &to[3]);
    ptx!(k, "add.u64 %address, {row}, %part_{part};");
    match decode.bytes {
        4 => ptx!(k, "ld.global.v4.f32 {{{r0}, {r1}, {r2}, {r3}}}, [%address];"),
        _ => ptx!(k, "ld.global.v4.b32 {{{r0}, {r1}, {r2}, {r3}}}, [%address];"),
    }
}

/// Eight bf16 as f32: their bits are the upper half.
fn widen(k: &mut Kernel, raw: &[Reg], wide: &[Reg]) {
    for (pair, wide) in raw.iter().zip(wide.chunks(2)) {
        ptx!(k, "shl.b32 {low}, {pair}, 16;\nand.b32 {high}, {pair}, 0xffff0000;", low = wide[0], high = wide[1]);
    }
}

/// Four rows of keys or values of a team.
struct Rows {
    /// A chunk a row and part.
    raw: Vec<Vec<Reg>>,
    /// A chunk as f32, where it is stored as bf16.
    wide: Vec<Reg>,
}

impl Rows {
    fn new(k: &mut Kernel, decode: Decode) -> Rows {
        k.regs(Kind::B32, "step row key row_step");
        k.regs(Kind::B64, "matrix row_at");
        k.regs(Kind::Pred, "more");
        let wide = if decode.bytes == 4 { Vec::new() } else { k.array(Kind::F32, "wide", 8) };
        Rows { raw: raw(k, decode, "rows", ROWS * decode.parts()), wide }
    }

    /// Points at the item's rows of a matrix and the elements of the key head.
    fn start(&self, k: &mut Kernel, decode: Decode, matrix: &str) {
        ptx!(k, "ld.param.u64 %matrix, [{matrix}];\ncvta.to.global.u64 %matrix, %matrix;\nld.param.u32 %row_step, [{matrix}_stride];");
        ptx!(k, "mul.lo.u32 %row_step, %row_step, {};\nld.param.u32 %index, [key_len];\nmul.lo.u32 %index, %index, %item;", decode.bytes);
        ptx!(k, "mad.wide.u32 %matrix, %index, %row_step, %matrix;");
        ptx!(k, "mul.wide.u32 %bytes, %kv_head, {};\nadd.u64 %matrix, %matrix, %bytes;", decode.bytes * decode.head_dim);
        ptx!(k, "mov.u32 %step, 0;");
    }

    /// Loads the team's rows of the step; behind the last key comes the last key again.
    fn load(&self, k: &mut Kernel, decode: Decode) {
        ptx!(k, "shl.b32 %key, %team, {};\nadd.u32 %key, %key, %first;\nadd.u32 %key, %key, %step;", ROWS.trailing_zeros());
        for (row, chunks) in self.raw.chunks(decode.parts()).enumerate() {
            ptx!(k, "add.u32 %row, %key, {row};\nmin.u32 %row, %row, %last;\nmad.wide.u32 %row_at, %row, %row_step, %matrix;");
            for (part, chunk) in chunks.iter().enumerate() {
                load(k, decode, chunk, "%row_at", part);
            }
        }
    }

    /// The elements of a row's part in f32.
    fn elements(&self, k: &mut Kernel, decode: Decode, row: usize, part: usize) -> &[Reg] {
        let raw = &self.raw[row * decode.parts() + part];
        if decode.bytes == 4 {
            return raw;
        }
        widen(k, raw, &self.wide);
        &self.wide
    }

    fn next(&self, k: &mut Kernel, label: &str) {
        ptx!(k, "add.u32 %step, %step, {STEP};\nsetp.lt.u32 %more, %step, {SPLIT};\n@%more bra {label};");
    }
}

/// The scores of all heads, -inf behind the last key.
fn scores(k: &mut Kernel, decode: Decode, rows: &Rows, queries: &[Vec<Reg>]) {
    let sums = k.grid(Kind::F32, "score", decode.heads, ROWS);
    k.regs(Kind::B32, "scores_to");
    k.regs(Kind::F32, "sent passed");
    k.regs(Kind::Pred, "upper seen");
    let levels = decode.heads.trailing_zeros();
    k.note("Scores: after the sum over a team, each lane holds those of one head.");
    ptx!(k, "shr.u32 %index, %chunk, {};\nmad.lo.u32 %scores_to, %index, {PITCH}, %shared;", 3 - levels);
    ptx!(k, "shl.b32 %index, %team, {};\nadd.u32 %scores_to, %scores_to, %index;", (4 * ROWS).trailing_zeros());
    rows.start(k, decode, "k");
    ptx!(k, "SCORES:\n.pragma \"nounroll\";");
    rows.load(k, decode);
    for sum in sums.iter().flatten() {
        ptx!(k, "mov.f32 {sum}, {};", float(0.0));
    }
    for part in 0..decode.parts() {
        for row in 0..ROWS {
            for (at, key) in rows.elements(k, decode, row, part).iter().enumerate() {
                for (sums, query) in sums.iter().zip(queries) {
                    ptx!(k, "fma.rn.f32 {sum}, {}, {key}, {sum};", query[part * decode.chunk() + at], sum = sums[row]);
                }
            }
        }
    }
    let mut kept = decode.heads;
    for distance in [4, 2, 1] {
        if kept > 1 {
            k.note(format!("Lanes {distance} apart share the heads between them."));
            kept /= 2;
            ptx!(k, "and.b32 %index, %chunk, {distance};\nsetp.ne.u32 %upper, %index, 0;");
            for (low, high) in (0..kept).flat_map(|head| (0..ROWS).map(move |row| ((head, row), (head + kept, row)))) {
                let (low, high) = (&sums[low.0][low.1], &sums[high.0][high.1]);
                ptx!(k, "selp.f32 %sent, {low}, {high}, %upper;\nselp.f32 {low}, {high}, {low}, %upper;");
                ptx!(k, "shfl.sync.bfly.b32 %passed, %sent, {distance}, 31, 0xffffffff;\nadd.rn.f32 {low}, {low}, %passed;");
            }
        } else {
            for sum in &sums[0] {
                ptx!(k, "shfl.sync.bfly.b32 %passed, {sum}, {distance}, 31, 0xffffffff;\nadd.rn.f32 {sum}, {sum}, %passed;");
            }
        }
    }
    for (row, sum) in sums[0].iter().enumerate() {
        ptx!(k, "add.u32 %row, %key, {row};\nsetp.lt.u32 %seen, %row, %keys;\nselp.f32 {sum}, {sum}, {}, %seen;", float(f32::NEG_INFINITY));
    }
    let (s0, s1, s2, s3) = (&sums[0][0], &sums[0][1], &sums[0][2], &sums[0][3]);
    ptx!(k, "st.shared.v4.f32 [%scores_to], {{{s0}, {s1}, {s2}, {s3}}};\nadd.u32 %scores_to, %scores_to, {};", 4 * STEP);
    rows.next(k, "SCORES");
    ptx!(k, "bar.sync 0;");
}

/// Scores become weights, a warp a head; maximum and sum go out.
fn weights(k: &mut Kernel, decode: Decode) {
    let weights = k.array(Kind::F32, "weight", SPLIT / 32);
    k.regs(Kind::B32, "own_head weights_at splits");
    k.regs(Kind::B64, "statistics");
    k.regs(Kind::F32, "top base total");
    k.regs(Kind::Pred, "absent writes");
    ptx!(k, "ld.param.u64 %statistics, [statistics];\ncvta.to.global.u64 %statistics, %statistics;\nmov.u32 %splits, %nctaid.x;");
    for round in 0..decode.heads.div_ceil(4) {
        k.note("Weights of the warp's head, relative to the largest.");
        ptx!(k, "add.u32 %own_head, %warp, {};", 4 * round);
        if decode.heads < 4 {
            ptx!(k, "setp.ge.u32 %absent, %own_head, {};\n@%absent bra WEIGHED;", decode.heads);
        }
        ptx!(k, "mad.lo.u32 %weights_at, %own_head, {PITCH}, %shared;\nshl.b32 %index, %lane, 2;");
        ptx!(k, "add.u32 %weights_at, %weights_at, %index;");
        for (at, weight) in weights.iter().enumerate() {
            ptx!(k, "ld.shared.f32 {weight}, [%weights_at + {}];", 128 * at);
        }
        ptx!(k, "max.f32 %top, {}, {};", weights[0], weights[1]);
        for weight in &weights[2..] {
            ptx!(k, "max.f32 %top, %top, {weight};");
        }
        for distance in [16, 8, 4, 2, 1] {
            ptx!(k, "shfl.sync.bfly.b32 %passed, %top, {distance}, 31, 0xffffffff;\nmax.f32 %top, %top, %passed;");
        }
        ptx!(k, "setp.eq.f32 %nothing, %top, {};\nselp.f32 %base, {}, %top, %nothing;", float(f32::NEG_INFINITY), float(0.0));
        ptx!(k, "mov.f32 %total, {};", float(0.0));
        for (at, weight) in weights.iter().enumerate() {
            ptx!(k, "sub.rn.f32 {weight}, {weight}, %base;\nex2.approx.ftz.f32 {weight}, {weight};\nadd.rn.f32 %total, %total, {weight};");
            ptx!(k, "st.shared.f32 [%weights_at + {}], {weight};", 128 * at);
        }
        for distance in [16, 8, 4, 2, 1] {
            ptx!(k, "shfl.sync.bfly.b32 %passed, %total, {distance}, 31, 0xffffffff;\nadd.rn.f32 %total, %total, %passed;");
        }
        ptx!(k, "add.u32 %head, %first_head, %own_head;\nsetp.eq.u32 %writes, %lane, 0;\nsetp.lt.and.u32 %writes, %head, %group, %writes;");
        unit(k);
        ptx!(k, "mad.wide.u32 %address, %index, 8, %statistics;\n@%writes st.global.v2.f32 [%address], {{%top, %total}};");
    }
    ptx!(k, "WEIGHED:\nbar.sync 0;");
}

/// `%index`: place of the split among those of all items and heads; `%head` counts within the group.
fn unit(k: &mut Kernel) {
    ptx!(k, "mad.lo.u32 %index, %kv_head, %group, %head;\nmad.lo.u32 %index, %item, %num_heads, %index;");
    ptx!(k, "mad.lo.u32 %index, %index, %splits, %split;");
}

/// A lane's share of the weighted values of every head.
fn values(k: &mut Kernel, decode: Decode, rows: &Rows) -> Vec<Vec<Reg>> {
    let sums = k.grid(Kind::F32, "sum", decode.heads, decode.parts() * decode.chunk());
    let shares = k.grid(Kind::F32, "share", decode.heads, ROWS);
    k.regs(Kind::B32, "shares_at");
    k.note("Values by weights.");
    for sum in sums.iter().flatten() {
        ptx!(k, "mov.f32 {sum}, {};", float(0.0));
    }
    ptx!(k, "shl.b32 %shares_at, %team, {};\nadd.u32 %shares_at, %shares_at, %shared;", (4 * ROWS).trailing_zeros());
    rows.start(k, decode, "v");
    ptx!(k, "VALUES:\n.pragma \"nounroll\";");
    rows.load(k, decode);
    for (head, shares) in shares.iter().enumerate() {
        let (s0, s1, s2, s3) = (&shares[0], &shares[1], &shares[2], &shares[3]);
        ptx!(k, "ld.shared.v4.f32 {{{s0}, {s1}, {s2}, {s3}}}, [%shares_at + {}];", head * PITCH);
    }
    for part in 0..decode.parts() {
        for row in 0..ROWS {
            for (at, value) in rows.elements(k, decode, row, part).iter().enumerate() {
                for (sums, shares) in sums.iter().zip(&shares) {
                    ptx!(k, "fma.rn.f32 {sum}, {}, {value}, {sum};", shares[row], sum = sums[part * decode.chunk() + at]);
                }
            }
        }
    }
    ptx!(k, "add.u32 %shares_at, %shares_at, {};", 4 * STEP);
    rows.next(k, "VALUES");
    sums
}

/// Adds the teams' sums up in their order and writes them. In shared memory a row's chunks of eight elements lie as two halves, so that
/// lanes next to each other store next to each other.
fn write(k: &mut Kernel, decode: Decode, sums: &[Vec<Reg>]) {
    let Decode { head_dim: d, heads, .. } = decode;
    let halves = decode.chunk() / 4;
    k.regs(Kind::B32, "sums_to sums_at element");
    k.regs(Kind::B64, "partial");
    k.note("Every team's sums, then their sum.");
    ptx!(k, "mad.lo.u32 %sums_to, %team, {}, %shared;\nshl.b32 %index, %chunk, 4;", decode.team_bytes());
    ptx!(k, "add.u32 %sums_to, %sums_to, %index;\nadd.u32 %sums_to, %sums_to, {};", heads * PITCH);
    for (head, sums) in sums.iter().enumerate() {
        for (at, four) in sums.chunks(4).enumerate() {
            let (part, half) = (at / halves, at % halves);
            let guard = if decode.is_ragged(part) { format!("@%has_{part} ") } else { String::new() };
            let (s0, s1, s2, s3) = (&four[0], &four[1], &four[2], &four[3]);
            let offset = 4 * head * d + half * 4 * d / halves + 16 * LANES * part;
            ptx!(k, "{guard}st.shared.v4.f32 [%sums_to + {offset}], {{{s0}, {s1}, {s2}, {s3}}};");
        }
    }
    ptx!(k, "bar.sync 0;\nsetp.ge.u32 %absent, %thread, {};\n@%absent ret;", heads * d / 4);
    ptx!(k, "shl.b32 %sums_at, %thread, 4;\nadd.u32 %sums_at, %sums_at, %shared;");
    let (total, team) = (k.array(Kind::F32, "whole", 4), k.array(Kind::F32, "team_sum", 4));
    for number in 0..TEAMS {
        let to = if number == 0 { &total } else { &team };
        let (s0, s1, s2, s3) = (&to[0], &to[1], &to[2], &to[3]);
        ptx!(k, "ld.shared.v4.f32 {{{s0}, {s1}, {s2}, {s3}}}, [%sums_at + {}];", heads * PITCH + number * decode.team_bytes());
        for (total, team) in total.iter().zip(&team).filter(|_| number > 0) {
            ptx!(k, "add.rn.f32 {total}, {total}, {team};");
        }
    }
    ptx!(k, "div.u32 %own_head, %thread, {quarter};\nmul.lo.u32 %element, %own_head, {quarter};", quarter = d / 4);
    ptx!(k, "sub.u32 %element, %thread, %element;");
    if halves == 2 {
        ptx!(k, "setp.ge.u32 %upper, %element, {};\nshl.b32 %element, %element, 1;", d / 8);
        ptx!(k, "@%upper sub.u32 %element, %element, {};", d / 4 - 1);
    }
    ptx!(k, "add.u32 %head, %first_head, %own_head;\nsetp.lt.u32 %writes, %head, %group;");
    unit(k);
    ptx!(
        k,
        "ld.param.u64 %partial, [partial];\ncvta.to.global.u64 %partial, %partial;\nmad.wide.u32 %partial, %index, {}, %partial;",
        4 * d
    );
    let (s0, s1, s2, s3) = (&total[0], &total[1], &total[2], &total[3]);
    ptx!(k, "mul.wide.u32 %bytes, %element, 16;\nadd.u64 %partial, %partial, %bytes;");
    ptx!(k, "@%writes st.global.v4.f32 [%partial], {{{s0}, {s1}, {s2}, {s3}}};");
}
