//! Texts spoilt at random: whatever is in them is an error or runs to an end; nothing panics.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use scmmgpt_emulator::{Config, Device, Launch};

/// Texts from others.
const FOREIGN: [&str; 7] = [
    include_str!("foreign/nvcc_kernels.ptx"),
    include_str!("foreign/triton_matmul.ptx"),
    include_str!("foreign/nvcc_barrier.ptx"),
    include_str!("foreign/nvcc_control.ptx"),
    include_str!("foreign/nvcc_wmma.ptx"),
    include_str!("foreign/nvcc_order.ptx"),
    include_str!("foreign/triton_fp8_convert_e4m3b15.ptx"),
];

/// Every kind of instruction and declaration.
const OWN: &str = "\
.version 7.8
.target sm_80
.address_size 64
.global .align 4 .b32 table[4] = {1, 2, -3, 0x10};
.const .align 8 .f64 constant = 1.5e-3;
.extern .shared .align 16 .b8 dynamic[];
.global .align 1 .b8 words[12] = {37, 100, 32, 37, 115, 32, 37, 46, 51, 101, 10};
.extern .func (.param .b32 count) vprintf(.param .b64 text, .param .b64 values);
.func (.param .b32 out) twice(.param .b32 x)
{
.reg .b32 %r<3>;
ld.param.u32 %r1, [x];
add.u32 %r2, %r1, %r1;
st.param.b32 [out], %r2;
ret;
}
.visible .entry kernel(.param .u64 a, .param .u64 b, .param .u32 n)
.maxntid 64, 1, 1
{
.reg .pred %p<4>;
.reg .b16 %h<6>;
.reg .b32 %r<40>;
.reg .f32 %f<16>;
.reg .b64 %w<12>;
.reg .f64 %d<4>;
.shared .align 16 .b8 tile[4096];
.local .align 8 .b8 own[16];
ld.param.u64 %w1, [a];
ld.param.u64 %w2, [b];
ld.param.u32 %r1, [n];
mov.u32 %r2, %tid.x;
mov.u32 %r3, %ctaid.x;
mov.u32 %r4, %ntid.x;
mad.lo.u32 %r5, %r3, %r4, %r2;
mul.wide.u32 %w3, %r5, 4;
add.u64 %w4, %w1, %w3;
add.u64 %w5, %w2, %w3;
ld.global.nc.u32 %r6, [%w4];
mov.u32 %r7, tile;
shl.b32 %r8, %r2, 4;
add.u32 %r8, %r8, %r7;
mul.wide.u32 %w6, %r2, 16;
add.u64 %w6, %w6, %w1;
cp.async.cg.shared.global [%r8], [%w6], 16;
cp.async.ca.shared.global [%r8+1024], [%w4], 4, %r1;
cp.async.commit_group;
cp.async.wait_group 0;
bar.sync 0;
ld.shared.v4.b32 {%r9, %r10, %r11, %r12}, [%r8];
ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r13, %r14, %r15, %r16}, [%r8];
ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r17, %r18}, [%r8];
mov.f32 %f1, 0f00000000;
mov.f32 %f2, 0f3F800000;
mov.f32 %f3, 1.5;
mov.f32 %f4, %f1;
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r13, %r14, %r15, %r16}, {%r17, %r18}, {%f1, %f2, %f3, %f4};
mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1, %f2, %f3, %f4}, {%r13, %r14, %r15, %r16}, {%r17, %r18}, {%f1, %f2, %f3, %f4};
movmatrix.sync.aligned.m8n8.trans.b16 %r19, %r13;
cvt.rn.bf16x2.f32 %r20, %f1, %f2;
cvt.rna.tf32.f32 %r21, %f2;
cvt.rzi.s32.f32 %r22, %f3;
cvt.rn.f16.f32 %h1, %f2;
cvt.f64.f32 %d1, %f2;
fma.rn.f64 %d2, %d1, %d1, %d1;
cvt.rn.f32.f64 %f5, %d2;
fma.rn.ftz.f32 %f6, %f5, %f2, %f1;
ex2.approx.ftz.f32 %f7, %f6;
div.full.f32 %f8, %f7, %f2;
div.u32 %r23, %r6, %r1;
rem.s32 %r24, %r6, %r1;
bfe.s32 %r25, %r6, 3, %r2;
bfi.b32 %r26, %r6, %r25, 5, 7;
lop3.b32 %r27, %r6, %r25, %r26, 0x96;
prmt.b32 %r28, %r6, %r27, 0x5410;
shf.l.wrap.b32 %r29, %r6, %r28, 9;
add.cc.u32 %r30, %r6, %r6;
addc.u32 %r31, %r6, 0;
mov.b32 {%h2, %h3}, %r6;
mov.b32 %r32, {%h3, %h2};
mov.b64 %w7, {%r6, %r32};
setp.lt.and.u32 %p1, %r2, 17, %p3;
setp.ne.u32 %p3, %r1, 0;
setp.gt.f32 %p2|%p1, %f2, %f1;
selp.b32 %r33, %r6, 5, %p2;
and.pred %p1, %p1, !%p2;
@%p2 bra AHEAD;
shfl.sync.bfly.b32 %r34|%p1, %r6, 1, 31, 0xffffffff;
vote.sync.ballot.b32 %r35, %p2, 0xffffffff;
AHEAD:
redux.sync.add.u32 %r36, %r2, 0xffffffff;
match.any.sync.b32 %r37, %r6, 0xffffffff;
shfl.sync.down.b32 %r34, %r6, 3, 0x1f, -1;
atom.shared.add.u32 %r38, [%r7], 1;
atom.global.cas.b32 %r38, [%w4], 7, %r6;
red.global.add.u64 [%w1], 1;
st.local.u32 [own+4], %r6;
ld.local.u32 %r39, [own+4];
cvta.shared.u64 %w8, %w7;
ld.global.u32 %r39, [table+4];
ld.const.f64 %d3, [constant];
{ .param .b32 p0; .param .b32 q0; st.param.b32 [p0], %r6; call.uni (q0), twice, (p0); ld.param.b32 %r33, [q0]; }
activemask.b32 %r34;
bar.warp.sync 0xffffffff;
bar.arrive 1, 64;
bar.sync 1, 64;
membar.gl;
prefetch.global.L2 [%w4];
st.global.u32 [%w5], %r33;
wmma.load.a.sync.aligned.row.m16n16k16.shared.f16 {%r9, %r10, %r11, %r12, %r13, %r14, %r15, %r16}, [%r7], %r1;
wmma.load.b.sync.aligned.col.m8n32k16.global.u8 {%r9, %r10, %r11, %r12}, [%w1], 16;
wmma.mma.sync.aligned.row.col.m8n32k16.s32.u8.u8.s32.satfinite {%r16, %r17, %r18, %r19, %r20, %r21, %r22, %r23}, {%r6}, {%r9, %r10, %r11, %r12}, {%r9, %r9, %r9, %r9, %r9, %r9, %r9, %r9};
TARGETS: .branchtargets FIRST, SECOND;
and.b32 %r34, %r2, 1;
brx.idx %r34, TARGETS;
FIRST:
fns.b32 %r35, %r6, 3, 1;
SECOND:
nanosleep.u32 %r34;
setp.eq.u32 %p1, %r2, 0;
@%p1 mbarrier.init.shared.b64 [dynamic+512], 64;
bar.sync 0;
cp.async.ca.shared.global [%r8+2048], [%w4], 4;
cp.async.mbarrier.arrive.shared.b64 [dynamic+512];
mbarrier.arrive.shared.b64 %w9, [dynamic+512];
mbarrier.pending_count.b64 %r36, %w9;
WAIT:
mbarrier.test_wait.shared.b64 %p1, [dynamic+512], %w9;
@!%p1 bra WAIT;
ld.acquire.cta.shared.u32 %r37, [%r8+2048];
prmt.b32 %r38, %r39, %r37, 0x7654;
mov.u64 %w10, words;
cvta.local.u64 %w11, 0;
{ .param .b64 p1; .param .b64 p2; .param .b32 q1; st.param.b64 [p1], %w10; st.param.b64 [p2], %w11; @%p1 call.uni (q1), vprintf, (p1, p2); }
exit;
}
";

/// A counted generator.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// Numbers, types and signs that stand at the ends of something.
const EDGES: [&str; 34] = [
    "0",
    "-1",
    "1",
    "31",
    "32",
    "64",
    "255",
    "65535",
    "65536",
    "0x7fffffff",
    "4294967295",
    "18446744073709551615",
    "0x8000000000000000",
    "0f7F800000",
    "0d7FF8000000000000",
    "1e308",
    "{",
    "}",
    "[",
    "]",
    ",",
    ";",
    "%r0",
    "%w0",
    "%p0",
    "%tid.x",
    "_",
    "!%p1",
    "pred",
    "b128",
    "u8",
    "b16",
    "f64",
    ".",
];

/// A text with one to four changes: words lost, doubled, exchanged, or put from elsewhere; characters lost; lines lost or moved.
fn spoil(text: &str, random: &mut Random) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    for _ in 0..=random.below(4) {
        let at = random.below(lines.len());
        let from = lines[random.below(lines.len())].clone();
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '%' | '_');
        let mut words: Vec<String> = lines[at].split_inclusive(|c| !is_word(c)).map(str::to_string).collect();
        let other: Vec<&str> = from.split_inclusive(|c| !is_word(c)).collect();
        let word = random.below(words.len());
        match random.below(8) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, from),
            2 if !lines[at].is_empty() && lines[at].is_ascii() => {
                let character = random.below(lines[at].len());
                lines[at].remove(character);
            }
            _ if words.is_empty() => {}
            3 => {
                words.remove(word);
                lines[at] = words.concat();
            }
            4 if !other.is_empty() => {
                words[word] = other[random.below(other.len())].to_string();
                lines[at] = words.concat();
            }
            5 => {
                let second = random.below(words.len());
                words.swap(word, second);
                lines[at] = words.concat();
            }
            _ => {
                let tail = words[word].chars().last().filter(|c| !is_word(*c));
                words[word] = format!("{}{}", EDGES[random.below(EDGES.len())], tail.map(String::from).unwrap_or_default());
                lines[at] = words.concat();
            }
        }
    }
    lines.join("\n")
}

/// Loads a text and runs its entries; whether anything ran.
fn run(text: &str, seed: u64) -> bool {
    let device = Device::new(Config { seed, threads: 1, memory_bytes: 1 << 20, budget: 1 << 12, ..Config::default() });
    let Ok(module) = device.load(text) else { return false };
    let names: Vec<String> = module.functions().map(str::to_string).collect();
    let Ok(data) = device.allocate(1 << 12) else { return false };
    device.write(data, &[1; 1 << 12]).unwrap();
    for function in names.iter().filter_map(|name| module.function(name)) {
        let bytes = function.parameters().iter().map(|parameter| parameter.offset + parameter.size).max().unwrap_or(0);
        let mut params: Vec<u8> = data.to_le_bytes().repeat(bytes.div_ceil(8));
        // What is no address is a small number.
        for parameter in function.parameters().iter().filter(|parameter| parameter.size == 4) {
            params[parameter.offset..parameter.offset + 4].copy_from_slice(&16u32.to_le_bytes());
        }
        let launch = Launch { grid: [2, 1, 1], block: [64, 1, 1], dynamic_shared: 1024, max_dynamic_shared: 1024, params };
        let _ = device.launch(&function, &launch);
    }
    !names.is_empty()
}

#[test]
fn spoilt_texts_are_errors_or_run() {
    std::panic::set_hook(Box::new(|_| {}));
    let (mut random, mut ran, mut failures) = (Random(1), 0, Vec::new());
    assert!(run(OWN, 0), "the whole text loads");
    for trial in 0..6000 {
        let text = if trial % 50 == 0 { FOREIGN[trial / 50 % FOREIGN.len()] } else { OWN };
        let spoilt = spoil(text, &mut random);
        match catch_unwind(AssertUnwindSafe(|| run(&spoilt, trial as u64 % 3))) {
            Ok(started) => ran += usize::from(started),
            Err(panic) => {
                let reason = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|text| (*text).to_string()));
                let before: Vec<&str> = text.lines().collect();
                let changed: Vec<&str> = spoilt.lines().filter(|line| !before.contains(line)).collect();
                failures.push(format!("trial {trial}: {} after {changed:?}", reason.unwrap_or_default()));
            }
        }
    }
    let _ = std::panic::take_hook();
    assert!(failures.is_empty(), "{} panics:\n{}", failures.len(), failures.join("\n"));
    assert!(ran > 500, "only {ran} spoilt texts could be loaded");
}
