//! Products of matrices that a warp holds in pieces, and their transposition. Small whole numbers, of which every sum is exact.

use scmmgpt_emulator::Numerics;

use crate::bench::execute;

/// An element of an operand as the instruction reads it.
type Encode = fn(i32) -> u32;

fn bf16(value: i32) -> u32 {
    tf32(value) >> 16
}

fn f16(value: i32) -> u32 {
    let (sign, size) = (u32::from(value < 0) << 15, value.unsigned_abs());
    if size == 0 {
        return 0;
    }
    let exponent = size.ilog2();
    sign | (exponent + 15) << 10 | (size - (1 << exponent)) << (10 - exponent)
}

fn tf32(value: i32) -> u32 {
    (value as f32).to_bits()
}

fn byte(value: i32) -> u32 {
    u32::from(value as u8)
}

fn left(row: usize, k: usize) -> i32 {
    ((7 * row + 3 * k) % 5) as i32 - 2
}

fn right(k: usize, column: usize) -> i32 {
    ((5 * k + 2 * column + k / 3) % 7) as i32 - 3
}

/// The whole product, plus what stands in the accumulators before.
fn product(row: usize, column: usize, depth: usize, sides: [i32; 2]) -> i32 {
    (0..depth).map(|k| (left(row, k) + sides[0]) * (right(k, column) + sides[1])).sum()
}

/// A register of `per` elements.
fn packed(per: usize, encode: Encode, element: impl Fn(usize) -> i32) -> u32 {
    (0..per).map(|at| encode(element(at)) << (32 / per * at)).sum()
}

/// What `mma.sync.aligned.m16n8kDEPTH.row.col.TYPES` gives, with `per` elements of an operand a register and accumulators that hold
/// `lane + 100 register`, against the fragments of the ISA: register r of A holds row `g + 8 (r % 2)`, columns from `per t + 4 per (r / 2)`
/// on, that of B column g, rows from `per t + 4 per r` on, with g = lane / 4 and t = lane % 4. `sides` is added to the elements.
#[track_caller]
fn tile(types: &str, depth: usize, per: usize, encode: [Encode; 2], sides: [i32; 2]) {
    let (whole, of_a) = (types.starts_with("s32"), depth / (2 * per));
    let fragments = |lane: usize| {
        let (g, t) = (lane / 4, lane % 4);
        let a = |r: usize| packed(per, encode[0], |e| left(g + 8 * (r % 2), per * t + e + 4 * per * (r / 2)) + sides[0]);
        let b = |r: usize| packed(per, encode[1], |e| right(per * t + e + 4 * per * r, g) + sides[1]);
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        [pair(a(0), a(1)), pair(a(2), a(3)), pair(b(0), b(1))]
    };
    let operands: Vec<[u64; 3]> = (0..64).map(|thread| fragments(thread % 32)).collect();
    let list = |name: &str, count: usize| (0..count).map(|r| format!("%{name}{r}")).collect::<Vec<_>>().join(", ");
    for register in 0..4 {
        let start = if whole { "mov.b32 %s{}, %n;" } else { "cvt.rn.f32.u32 %s{}, %n;" };
        let start: String = (0..4).map(|r| format!("add.u32 %n, %x, {}; {}\n", 100 * r, start.replace("{}", &r.to_string()))).collect();
        let instruction = format!(
            "{{ .reg .b32 %l<4>, %r<2>, %s<4>; mov.b64 {{%l0, %l1}}, %wa; mov.b64 {{%l2, %l3}}, %wb; mov.b64 {{%r0, %r1}}, %wc;\n\
             mov.u32 %x, %laneid; {start}mma.sync.aligned.m16n8k{depth}.row.col.{types} {{{sums}}}, {{{a}}}, {{{b}}}, {{{sums}}};\n\
             mov.b32 %d, %s{register}; }}",
            sums = list("s", 4),
            a = list("l", of_a),
            b = list("r", of_a / 2),
        );
        let got = execute(&instruction, &operands, Numerics::default()).unwrap_or_else(|error| panic!("`{instruction}`: {error}"));
        for (thread, got) in got.into_iter().enumerate() {
            let lane = thread % 32;
            let (row, column) = (lane / 4 + 8 * (register / 2), 2 * (lane % 4) + register % 2);
            let sum = product(row, column, depth, sides) + (lane + 100 * register) as i32;
            let expected = if whole { sum as u32 } else { tf32(sum) };
            assert_eq!(got, u64::from(expected), "m16n8k{depth} {types}: accumulator {register} of lane {lane} should be {sum}");
        }
    }
}

#[test]
fn products_in_sixteen_bits() {
    for depth in [8, 16] {
        tile("f32.bf16.bf16.f32", depth, 2, [bf16; 2], [0; 2]);
        tile("f32.f16.f16.f32", depth, 2, [f16; 2], [0; 2]);
    }
}

#[test]
fn products_in_tf32() {
    tile("f32.tf32.tf32.f32", 8, 1, [tf32; 2], [0; 2]);
}

#[test]
fn products_of_bytes() {
    for depth in [16, 32] {
        tile("s32.s8.s8.s32", depth, 4, [byte; 2], [0, -90]);
        tile("s32.u8.u8.s32", depth, 4, [byte; 2], [200, 180]);
        tile("s32.u8.s8.s32", depth, 4, [byte; 2], [200, -90]);
        tile("s32.s8.u8.s32", depth, 4, [byte; 2], [-90, 200]);
    }
}

#[test]
fn products_in_f64() {
    // Row g and column t of A, row t and column g of B, columns 2 t and 2 t + 1 of the sum.
    let bits = |value: i32| f64::from(value).to_bits();
    let operands: Vec<[u64; 3]> = (0..64)
        .map(|thread| [bits(left(thread % 32 / 4, thread % 4)), bits(right(thread % 4, thread % 32 / 4)), bits(thread as i32)])
        .collect();
    for register in 0..2 {
        let instruction = format!(
            "{{ .reg .f64 %s<2>; mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {{%s0, %s1}}, {{%wa}}, {{%wb}}, {{%wc, %wc}};\n\
             mov.b64 %wd, %s{register}; }}"
        );
        let got = execute(&instruction, &operands, Numerics::default()).unwrap_or_else(|error| panic!("`{instruction}`: {error}"));
        for (thread, got) in got.into_iter().enumerate() {
            let sum = product(thread % 32 / 4, 2 * (thread % 4) + register, 4, [0; 2]) + thread as i32;
            assert_eq!(got, bits(sum), "sum {register} of thread {thread} should be {sum}");
        }
    }
}

#[test]
fn transposition_in_registers() {
    let element = |row: usize, column: usize| (8 * row + column) as u64;
    let operands: Vec<[u64; 3]> =
        (0..32).map(|lane| [element(lane / 4, 2 * (lane % 4)) | element(lane / 4, 2 * (lane % 4) + 1) << 16, 0, 0]).collect();
    let instruction = "movmatrix.sync.aligned.m8n8.trans.b16 %d, %a;";
    let got = execute(instruction, &operands, Numerics::default()).unwrap_or_else(|error| panic!("`{instruction}`: {error}"));
    for (lane, got) in got.into_iter().enumerate() {
        let (g, t) = (lane / 4, 2 * (lane % 4));
        assert_eq!(got, element(t, g) | element(t + 1, g) << 16, "lane {lane}");
    }
}
