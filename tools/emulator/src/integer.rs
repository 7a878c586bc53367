//! Integer and bit instructions, lane by lane. 16-bit values stand in the low half of a 32-bit lane, their upper half 0.

use crate::lanes::Lanes;
use crate::syntax::Type;

/// What happens to a 16-bit result.
fn low(value: u32) -> u32 {
    value & 0xffff
}

fn sign16(value: u32) -> i32 {
    i32::from(value as u16 as i16)
}

/// Bits of `byte` of the eight bytes of a and b, or its sign spread, as `prmt`'s selector says.
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = (u64::from(b) << 32) | u64::from(a);
    (0..4).fold(0, |result, place| {
        let choice = (selector >> (4 * place)) & 0xf;
        let byte = (bytes >> (8 * (choice & 7))) as u8;
        let byte = if choice & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
        result | (u32::from(byte) << (8 * place))
    })
}

/// A signed number's bits without those that only repeat its sign.
fn magnitude(a: u32) -> Option<u32> {
    let bits = if (a as i32) < 0 { !a } else { a };
    (bits != 0).then_some(bits)
}

/// `bmsk`: `length` ones from bit `at` on.
fn mask_of(at: u32, length: u32) -> u32 {
    insert32(u32::MAX, 0, at.min(32), length.min(32))
}

/// `fns`: the place of the set bit number `offset` of a mask, counted from 1 upwards or from -1 downwards, at `base` or beyond.
fn find_set(mask: u32, base: u32, offset: u32) -> u32 {
    let offset = offset as i32;
    let base = base & 31;
    let (ahead, step) = if offset < 0 { (mask << (31 - base), -1) } else { (mask >> base, 1) };
    if offset == 0 {
        return if ahead & 1 == 1 { base } else { u32::MAX };
    }
    let mut left = offset.unsigned_abs();
    for distance in 0..32 {
        let bit = if step < 0 { ahead >> (31 - distance) } else { ahead >> distance };
        left -= bit & 1;
        if left == 0 {
            return (base as i32 + step * distance) as u32;
        }
    }
    u32::MAX
}

/// `szext`: the low `bits` of a number as one of 32 bits.
fn extend(a: u32, bits: u32, clamp: bool, signed: bool) -> u32 {
    if clamp && bits >= 32 {
        return a;
    }
    let (bits, unused) = (bits & 31, (32 - (bits & 31)) & 31);
    match (bits, signed) {
        (0, _) => 0,
        (_, true) => ((a << unused) as i32 >> unused) as u32,
        (_, false) => a << unused >> unused,
    }
}

/// `dp4a` and `dp2a`: products of `count` parts of `a` with bytes of `b` from `first` on, added to `c`.
fn dot(a: u32, b: u32, c: u32, count: u32, first: u32, signed: [bool; 2]) -> u32 {
    let part = |value: u32, bits: u32, index: u32, signed: bool| {
        let up = value << (32 - bits - bits * index);
        if signed { ((up as i32) >> (32 - bits)) as u32 } else { up >> (32 - bits) }
    };
    (0..count).fold(c, |sum, index| {
        let product = part(a, 32 / count, index, signed[0]).wrapping_mul(part(b, 8, first + index, signed[1]));
        sum.wrapping_add(product)
    })
}

/// The function of `dp4a.s32.u32` or `dp2a.lo.s32.u32`.
pub(crate) fn dots(name: &str, parts: &[&str]) -> Option<Lanes> {
    macro_rules! signs {
        ($count:expr, $first:expr, $types:expr) => {
            match $types {
                ["s32", "s32"] => n3!(|a, b, c| dot(a, b, c, $count, $first, [true, true])),
                ["s32", "u32"] => n3!(|a, b, c| dot(a, b, c, $count, $first, [true, false])),
                ["u32", "s32"] => n3!(|a, b, c| dot(a, b, c, $count, $first, [false, true])),
                ["u32", "u32"] => n3!(|a, b, c| dot(a, b, c, $count, $first, [false, false])),
                _ => return None,
            }
        };
    }
    Some(match (name, parts) {
        ("dp4a", types) => signs!(4, 0, types),
        ("dp2a", ["lo", types @ ..]) => signs!(2, 0, types),
        ("dp2a", ["hi", types @ ..]) => signs!(2, 2, types),
        _ => return None,
    })
}

fn funnel_left(a: u32, b: u32, shift: u32) -> u32 {
    let pair = (u64::from(b) << 32) | u64::from(a);
    ((pair << shift) >> 32) as u32
}

fn funnel_right(a: u32, b: u32, shift: u32) -> u32 {
    let pair = (u64::from(b) << 32) | u64::from(a);
    (pair >> shift) as u32
}

fn extract32(a: u32, at: u32, length: u32, signed: bool) -> u32 {
    let (at, length) = (at & 0xff, length & 0xff);
    let field = if at < 32 { a >> at } else { 0 };
    let mask = if length >= 32 { u32::MAX } else { (1 << length) - 1 };
    if !signed || length == 0 {
        return field & mask;
    }
    let top = (at + length - 1).min(31);
    let sign = if (a >> top) & 1 == 1 { u32::MAX } else { 0 };
    (field & mask & if at < 32 { u32::MAX >> at.min(31) } else { 0 }) | (sign & !(mask & if at < 32 { u32::MAX >> at.min(31) } else { 0 }))
}

fn extract64(a: u64, at: u64, length: u64, signed: bool) -> u64 {
    let (at, length) = (at & 0xff, length & 0xff);
    let field = if at < 64 { a >> at } else { 0 };
    let mask = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    let inside = mask & if at < 64 { u64::MAX >> at } else { 0 };
    if !signed || length == 0 {
        return field & mask;
    }
    let sign = if (a >> (at + length - 1).min(63)) & 1 == 1 { u64::MAX } else { 0 };
    (field & inside) | (sign & !inside)
}

/// Bits of `a`, `length` of them, put into `b` from bit `at` on.
pub(crate) fn insert32(a: u32, b: u32, at: u32, length: u32) -> u32 {
    let (at, length) = (at & 0xff, length & 0xff);
    if at >= 32 {
        return b;
    }
    let mask = if length >= 32 { u32::MAX } else { (1 << length) - 1 } << at;
    (b & !mask) | ((a << at) & mask)
}

/// [`insert32`] for 64 bits.
pub(crate) fn insert64(a: u64, b: u64, at: u32, length: u32) -> u64 {
    let (at, length) = (at & 0xff, length & 0xff);
    if at >= 64 {
        return b;
    }
    let mask = if length >= 64 { u64::MAX } else { (1 << length) - 1 } << at;
    (b & !mask) | ((a << at) & mask)
}

/// The function of an instruction such as `add.s32`; `parts` are its modifiers without the type.
#[expect(clippy::too_many_lines, reason = "one table")]
pub(crate) fn lanes(name: &str, parts: &[&str], element: Type) -> Option<Lanes> {
    use Type::*;
    let has = |part: &str| parts.contains(&part);
    let wide = element.size() == 8;
    let narrow = element.size() == 2;
    let signed = element.is_signed();
    if element.is_float() || matches!(element, F16x2 | Bf16x2 | Pred) {
        return None;
    }
    Some(match (name, wide, narrow) {
        ("add", true, _) => w2!(u64::wrapping_add),
        ("add", _, true) => n2!(|a: u32, b: u32| low(a.wrapping_add(b))),
        ("add", ..) if has("sat") => n2!(|a: u32, b: u32| (a as i32).saturating_add(b as i32) as u32),
        ("add", ..) => n2!(u32::wrapping_add),
        ("sub", true, _) => w2!(u64::wrapping_sub),
        ("sub", _, true) => n2!(|a: u32, b: u32| low(a.wrapping_sub(b))),
        ("sub", ..) if has("sat") => n2!(|a: u32, b: u32| (a as i32).saturating_sub(b as i32) as u32),
        ("sub", ..) => n2!(u32::wrapping_sub),
        ("mul", true, _) if has("hi") && signed => w2!(|a: u64, b: u64| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
        ("mul", true, _) if has("hi") => w2!(|a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        ("mul", true, _) => w2!(u64::wrapping_mul),
        ("mul", _, true) if has("wide") && signed => n2!(|a: u32, b: u32| sign16(a).wrapping_mul(sign16(b)) as u32),
        ("mul", _, true) if has("wide") => n2!(|a: u32, b: u32| low(a).wrapping_mul(low(b))),
        ("mul", _, true) if has("hi") && signed => n2!(|a: u32, b: u32| low((sign16(a).wrapping_mul(sign16(b)) >> 16) as u32)),
        ("mul", _, true) if has("hi") => n2!(|a: u32, b: u32| low(a).wrapping_mul(low(b)) >> 16),
        ("mul", _, true) => n2!(|a: u32, b: u32| low(a.wrapping_mul(b))),
        ("mul", ..) if has("wide") && signed => w2!(|a: u64, b: u64| (i64::from(a as i32) * i64::from(b as i32)) as u64),
        ("mul", ..) if has("wide") => w2!(|a: u64, b: u64| u64::from(a as u32) * u64::from(b as u32)),
        ("mul", ..) if has("hi") && signed => n2!(|a: u32, b: u32| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32),
        ("mul", ..) if has("hi") => n2!(|a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        ("mul", ..) => n2!(u32::wrapping_mul),
        ("mul24", ..) if signed && !has("hi") => {
            n2!(|a: u32, b: u32| (((a << 8) as i32 >> 8).wrapping_mul((b << 8) as i32 >> 8)) as u32)
        }
        ("mul24", ..) if !has("hi") => n2!(|a: u32, b: u32| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff)),
        ("mad", true, _) if has("hi") && signed => {
            w3!(|a: u64, b: u64, c: u64| (((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64).wrapping_add(c))
        }
        ("mad", true, _) if has("hi") => w3!(|a: u64, b: u64, c: u64| (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)),
        ("mad", true, _) => w3!(|a: u64, b: u64, c: u64| a.wrapping_mul(b).wrapping_add(c)),
        ("mad", _, true) if has("wide") && signed => {
            n3!(|a: u32, b: u32, c: u32| (sign16(a).wrapping_mul(sign16(b)) as u32).wrapping_add(c))
        }
        ("mad", _, true) if has("wide") => n3!(|a: u32, b: u32, c: u32| low(a).wrapping_mul(low(b)).wrapping_add(c)),
        ("mad", _, true) => n3!(|a: u32, b: u32, c: u32| low(a.wrapping_mul(b).wrapping_add(c))),
        ("mad", ..) if has("wide") && signed => {
            w3!(|a: u64, b: u64, c: u64| ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c))
        }
        ("mad", ..) if has("wide") => w3!(|a: u64, b: u64, c: u64| (u64::from(a as u32) * u64::from(b as u32)).wrapping_add(c)),
        ("mad", ..) if has("hi") && signed => {
            n3!(|a: u32, b: u32, c: u32| (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c))
        }
        ("mad", ..) if has("hi") => n3!(|a: u32, b: u32, c: u32| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)),
        ("mad", ..) => n3!(|a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c)),
        ("sad", ..) if !wide && signed => n3!(|a: u32, b: u32, c: u32| (a as i32).abs_diff(b as i32).wrapping_add(c)),
        ("sad", ..) if !wide => n3!(|a: u32, b: u32, c: u32| a.abs_diff(b).wrapping_add(c)),
        // Division by zero is undefined in PTX; hardware gives all ones.
        ("div", true, _) if signed => w2!(|a: u64, b: u64| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
        ("div", true, _) => w2!(|a: u64, b: u64| a.checked_div(b).unwrap_or(u64::MAX)),
        ("div", _, true) if signed => {
            n2!(|a: u32, b: u32| low(if low(b) == 0 { u32::MAX } else { sign16(a).wrapping_div(sign16(b)) as u32 }))
        }
        ("div", _, true) => n2!(|a: u32, b: u32| low(low(a).checked_div(low(b)).unwrap_or(u32::MAX))),
        ("div", ..) if signed => n2!(|a: u32, b: u32| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }),
        ("div", ..) => n2!(|a: u32, b: u32| a.checked_div(b).unwrap_or(u32::MAX)),
        ("rem", true, _) if signed => w2!(|a: u64, b: u64| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        ("rem", true, _) => w2!(|a: u64, b: u64| a.checked_rem(b).unwrap_or(a)),
        ("rem", _, true) if signed => n2!(|a: u32, b: u32| low(if low(b) == 0 { a } else { sign16(a).wrapping_rem(sign16(b)) as u32 })),
        ("rem", _, true) => n2!(|a: u32, b: u32| low(low(a).checked_rem(low(b)).unwrap_or(a))),
        ("rem", ..) if signed => n2!(|a: u32, b: u32| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        ("rem", ..) => n2!(|a: u32, b: u32| a.checked_rem(b).unwrap_or(a)),
        ("min", true, _) if signed => w2!(|a: u64, b: u64| (a as i64).min(b as i64) as u64),
        ("min", true, _) => w2!(|a: u64, b: u64| a.min(b)),
        ("min", _, true) if signed => n2!(|a: u32, b: u32| low(sign16(a).min(sign16(b)) as u32)),
        ("min", ..) if signed => n2!(|a: u32, b: u32| (a as i32).min(b as i32) as u32),
        ("min", ..) => n2!(|a: u32, b: u32| a.min(b)),
        ("max", true, _) if signed => w2!(|a: u64, b: u64| (a as i64).max(b as i64) as u64),
        ("max", true, _) => w2!(|a: u64, b: u64| a.max(b)),
        ("max", _, true) if signed => n2!(|a: u32, b: u32| low(sign16(a).max(sign16(b)) as u32)),
        ("max", ..) if signed => n2!(|a: u32, b: u32| (a as i32).max(b as i32) as u32),
        ("max", ..) => n2!(|a: u32, b: u32| a.max(b)),
        ("neg", true, _) => w1!(u64::wrapping_neg),
        ("neg", _, true) => n1!(|a: u32| low(a.wrapping_neg())),
        ("neg", ..) => n1!(u32::wrapping_neg),
        ("abs", true, _) => w1!(|a: u64| (a as i64).wrapping_abs() as u64),
        ("abs", _, true) => n1!(|a: u32| low(sign16(a).wrapping_abs() as u32)),
        ("abs", ..) => n1!(|a: u32| (a as i32).wrapping_abs() as u32),
        ("and", true, _) => w2!(|a: u64, b: u64| a & b),
        ("and", ..) => n2!(|a: u32, b: u32| a & b),
        ("or", true, _) => w2!(|a: u64, b: u64| a | b),
        ("or", ..) => n2!(|a: u32, b: u32| a | b),
        ("xor", true, _) => w2!(|a: u64, b: u64| a ^ b),
        ("xor", ..) => n2!(|a: u32, b: u32| a ^ b),
        ("not", true, _) => w1!(|a: u64| !a),
        ("not", _, true) => n1!(|a: u32| low(!a)),
        ("not", ..) => n1!(|a: u32| !a),
        ("cnot", false, _) => n1!(|a: u32| u32::from(a == 0)),
        ("shl", true, _) => w2!(|a: u64, b: u64| if b as u32 >= 64 { 0 } else { a << (b as u32) }),
        ("shl", _, true) => n2!(|a: u32, b: u32| if b >= 16 { 0 } else { low(a << b) }),
        ("shl", ..) => n2!(|a: u32, b: u32| if b >= 32 { 0 } else { a << b }),
        ("shr", true, _) if signed => w2!(|a: u64, b: u64| ((a as i64) >> (b as u32).min(63)) as u64),
        ("shr", true, _) => w2!(|a: u64, b: u64| if b as u32 >= 64 { 0 } else { a >> (b as u32) }),
        ("shr", _, true) if signed => n2!(|a: u32, b: u32| low((sign16(a) >> b.min(15)) as u32)),
        ("shr", _, true) => n2!(|a: u32, b: u32| if b >= 16 { 0 } else { low(a) >> b }),
        ("shr", ..) if signed => n2!(|a: u32, b: u32| ((a as i32) >> b.min(31)) as u32),
        ("shr", ..) => n2!(|a: u32, b: u32| if b >= 32 { 0 } else { a >> b }),
        ("shf", ..) if has("l") && has("wrap") => n3!(|a, b, c: u32| funnel_left(a, b, c & 31)),
        ("shf", ..) if has("l") => n3!(|a, b, c: u32| funnel_left(a, b, c.min(32))),
        ("shf", ..) if has("r") && has("wrap") => n3!(|a, b, c: u32| funnel_right(a, b, c & 31)),
        ("shf", ..) if has("r") => n3!(|a, b, c: u32| funnel_right(a, b, c.min(32))),
        ("bfe", true, _) if signed => w3!(|a, b, c| extract64(a, b, c, true)),
        ("bfe", true, _) => w3!(|a, b, c| extract64(a, b, c, false)),
        ("bfe", ..) if signed => n3!(|a, b, c| extract32(a, b, c, true)),
        ("bfe", ..) => n3!(|a, b, c| extract32(a, b, c, false)),
        ("popc", true, _) => w1!(|a: u64| u64::from(a.count_ones())),
        ("popc", ..) => n1!(u32::count_ones),
        ("clz", true, _) => w1!(|a: u64| u64::from(a.leading_zeros())),
        ("clz", ..) => n1!(u32::leading_zeros),
        ("brev", true, _) => w1!(u64::reverse_bits),
        ("brev", ..) => n1!(u32::reverse_bits),
        ("bfind", false, _) if has("shiftamt") && !signed => n1!(|a: u32| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        ("bfind", true, _) if has("shiftamt") => return None,
        ("bfind", false, _) if has("shiftamt") => n1!(|a: u32| magnitude(a).map_or(u32::MAX, u32::leading_zeros)),
        ("bfind", false, _) if !signed => n1!(|a: u32| if a == 0 { u32::MAX } else { 31 - a.leading_zeros() }),
        ("bfind", false, _) => {
            n1!(|a: u32| {
                let a = if (a as i32) < 0 { !a } else { a };
                if a == 0 { u32::MAX } else { 31 - a.leading_zeros() }
            })
        }
        ("bfind", true, _) if !signed => w1!(|a: u64| if a == 0 { 0xffff_ffff } else { u64::from(63 - a.leading_zeros()) }),
        ("bfind", true, _) if signed && !has("shiftamt") => {
            w1!(|a: u64| {
                let a = if (a as i64) < 0 { !a } else { a };
                if a == 0 { 0xffff_ffff } else { u64::from(63 - a.leading_zeros()) }
            })
        }
        ("fns", false, false) => n3!(find_set),
        ("bmsk", false, false) if has("clamp") => n2!(mask_of),
        ("bmsk", false, false) if has("wrap") => n2!(|at: u32, length: u32| mask_of(at & 31, length & 31)),
        ("szext", false, false) => match (has("clamp"), signed) {
            (true, true) => n2!(|a, b| extend(a, b, true, true)),
            (true, false) => n2!(|a, b| extend(a, b, true, false)),
            (false, true) => n2!(|a, b| extend(a, b, false, true)),
            (false, false) => n2!(|a, b| extend(a, b, false, false)),
        },
        ("prmt", ..) => match parts {
            [] => n3!(permute),
            ["f4e"] => n3!(|a, b, c: u32| permute(a, b, 0x3210 + 0x1111 * (c & 3))),
            ["b4e"] => n3!(|a, b, c: u32| permute(a, b, [0x5670, 0x6701, 0x7012, 0x0123][(c & 3) as usize])),
            ["rc8"] => n3!(|a, b, c: u32| permute(a, b, 0x1111 * (c & 3))),
            ["ecl"] => n3!(|a, b, c: u32| permute(a, b, [0x3210, 0x3211, 0x3222, 0x3333][(c & 3) as usize])),
            ["ecr"] => n3!(|a, b, c: u32| permute(a, b, [0x0000, 0x1110, 0x2210, 0x3210][(c & 3) as usize])),
            ["rc16"] => n3!(|a, b, c: u32| permute(a, b, 0x1010 + 0x2222 * (c & 1))),
            _ => return None,
        },
        _ => return None,
    })
}

/// `setp` on integers and bits.
pub(crate) fn compare(name: &str, element: Type) -> Option<Lanes> {
    let signed = element.is_signed();
    if element.is_float() || matches!(element, Type::F16x2 | Type::Bf16x2 | Type::Pred) {
        return None;
    }
    Some(match (name, element.size(), signed) {
        ("eq", 8, _) => c64!(|a, b| a == b),
        ("ne", 8, _) => c64!(|a, b| a != b),
        ("lt", 8, true) => c64!(|a, b| (a as i64) < (b as i64)),
        ("le", 8, true) => c64!(|a, b| (a as i64) <= (b as i64)),
        ("gt", 8, true) => c64!(|a, b| (a as i64) > (b as i64)),
        ("ge", 8, true) => c64!(|a, b| (a as i64) >= (b as i64)),
        ("lt" | "lo", 8, _) => c64!(|a, b| a < b),
        ("le" | "ls", 8, _) => c64!(|a, b| a <= b),
        ("gt" | "hi", 8, _) => c64!(|a, b| a > b),
        ("ge" | "hs", 8, _) => c64!(|a, b| a >= b),
        ("eq", 2, _) => c32!(|a, b| low(a) == low(b)),
        ("ne", 2, _) => c32!(|a, b| low(a) != low(b)),
        ("lt", 2, true) => c32!(|a, b| sign16(a) < sign16(b)),
        ("le", 2, true) => c32!(|a, b| sign16(a) <= sign16(b)),
        ("gt", 2, true) => c32!(|a, b| sign16(a) > sign16(b)),
        ("ge", 2, true) => c32!(|a, b| sign16(a) >= sign16(b)),
        ("lt" | "lo", 2, _) => c32!(|a, b| low(a) < low(b)),
        ("le" | "ls", 2, _) => c32!(|a, b| low(a) <= low(b)),
        ("gt" | "hi", 2, _) => c32!(|a, b| low(a) > low(b)),
        ("ge" | "hs", 2, _) => c32!(|a, b| low(a) >= low(b)),
        ("eq", 4, _) => c32!(|a, b| a == b),
        ("ne", 4, _) => c32!(|a, b| a != b),
        ("lt", 4, true) => c32!(|a, b| (a as i32) < (b as i32)),
        ("le", 4, true) => c32!(|a, b| (a as i32) <= (b as i32)),
        ("gt", 4, true) => c32!(|a, b| (a as i32) > (b as i32)),
        ("ge", 4, true) => c32!(|a, b| (a as i32) >= (b as i32)),
        ("lt" | "lo", 4, _) => c32!(|a, b| a < b),
        ("le" | "ls", 4, _) => c32!(|a, b| a <= b),
        ("gt" | "hi", 4, _) => c32!(|a, b| a > b),
        ("ge" | "hs", 4, _) => c32!(|a, b| a >= b),
        _ => return None,
    })
}
