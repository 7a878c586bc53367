//! Integers, bits, predicates, moves.

use crate::bench::{NARROW, WIDE, narrow, vector, wide, widened};

fn signed(value: u32) -> i64 {
    i64::from(value as i32)
}

/// Bit `index` of a value, 0 beyond it.
fn bit(value: u64, index: u64) -> u64 {
    if index < 64 { value >> index & 1 } else { 0 }
}

#[test]
fn sums_and_products() {
    narrow("add.u32 %d, %a, %b;", 2, |a, b, _| ((u64::from(a) + u64::from(b)) % (1 << 32)) as u32);
    narrow("add.s32 %d, %a, %b;", 2, |a, b, _| (signed(a) + signed(b)) as u32);
    narrow("sub.u32 %d, %a, %b;", 2, |a, b, _| (i64::from(a) - i64::from(b)) as u32);
    narrow("sub.s32 %d, %a, %b;", 2, |a, b, _| (signed(a) - signed(b)) as u32);
    narrow("mul.lo.u32 %d, %a, %b;", 2, |a, b, _| (u64::from(a) * u64::from(b)) as u32);
    narrow("mul.lo.s32 %d, %a, %b;", 2, |a, b, _| (signed(a) * signed(b)) as u32);
    narrow("mul.hi.u32 %d, %a, %b;", 2, |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    narrow("mad.lo.u32 %d, %a, %b, %c;", 3, |a, b, c| ((u128::from(a) * u128::from(b) + u128::from(c)) % (1 << 32)) as u32);
    narrow("mad.lo.s32 %d, %a, %b, %c;", 3, |a, b, c| (i128::from(signed(a)) * i128::from(signed(b)) + i128::from(signed(c))) as u32);
    let values = widened(&NARROW);
    vector("mul.wide.u32 %wd, %a, %b;", &values, 2, |a, b, _| a * b);
    vector("mul.wide.s32 %wd, %a, %b;", &values, 2, |a, b, _| (signed(a as u32) * signed(b as u32)) as u64);
    // The sum is of 64 bits.
    vector("mad.wide.u32 %wd, %a, %b, %wc;", &values, 3, |a, b, c| (u128::from(a) * u128::from(b) + u128::from(c)) as u64);
    wide("add.u64 %wd, %wa, %wb;", 2, |a, b, _| (u128::from(a) + u128::from(b)) as u64);
    wide("add.s64 %wd, %wa, %wb;", 2, |a, b, _| (i128::from(a as i64) + i128::from(b as i64)) as u64);
    wide("sub.u64 %wd, %wa, %wb;", 2, |a, b, _| (i128::from(a) - i128::from(b)) as u64);
    wide("sub.s64 %wd, %wa, %wb;", 2, |a, b, _| (i128::from(a as i64) - i128::from(b as i64)) as u64);
    wide("mul.lo.u64 %wd, %wa, %wb;", 2, |a, b, _| (u128::from(a) * u128::from(b)) as u64);
    wide("mul.hi.u64 %wd, %wa, %wb;", 2, |a, b, _| ((u128::from(a) * u128::from(b)) >> 64) as u64);
    // What a carries into the next word.
    narrow("add.cc.u32 %x, %a, %b; addc.u32 %d, %c, 0;", 3, |a, b, c| (u64::from(c) + ((u64::from(a) + u64::from(b)) >> 32)) as u32);
    narrow("sub.cc.u32 %x, %a, %b; subc.u32 %d, %c, 0;", 3, |a, b, c| (i64::from(c) - i64::from(a < b)) as u32);
}

#[test]
fn quotients_extremes_and_signs() {
    // Division by zero has no result in PTX.
    narrow("div.u32 %d, %a, %b;", 2, |a, b, _| a.checked_div(b).unwrap_or(u32::MAX));
    narrow("rem.u32 %d, %a, %b;", 2, |a, b, _| a - a.checked_div(b).unwrap_or(0) * b);
    narrow("div.s32 %d, %a, %b;", 2, |a, b, _| if b == 0 { u32::MAX } else { (signed(a) / signed(b)) as u32 });
    narrow("rem.s32 %d, %a, %b;", 2, |a, b, _| if b == 0 { a } else { (signed(a) % signed(b)) as u32 });
    wide("div.u64 %wd, %wa, %wb;", 2, |a, b, _| a.checked_div(b).unwrap_or(u64::MAX));
    wide("rem.s64 %wd, %wa, %wb;", 2, |a, b, _| if b == 0 { a } else { (i128::from(a as i64) % i128::from(b as i64)) as u64 });
    narrow("min.u32 %d, %a, %b;", 2, |a, b, _| if a < b { a } else { b });
    narrow("max.u32 %d, %a, %b;", 2, |a, b, _| if a < b { b } else { a });
    narrow("min.s32 %d, %a, %b;", 2, |a, b, _| if signed(a) < signed(b) { a } else { b });
    narrow("max.s32 %d, %a, %b;", 2, |a, b, _| if signed(a) < signed(b) { b } else { a });
    narrow("neg.s32 %d, %a;", 1, |a, _, _| (-signed(a)) as u32);
    narrow("abs.s32 %d, %a;", 1, |a, _, _| signed(a).unsigned_abs() as u32);
}

#[test]
fn bits() {
    narrow("and.b32 %d, %a, %b;", 2, |a, b, _| a & b);
    narrow("or.b32 %d, %a, %b;", 2, |a, b, _| a | b);
    narrow("xor.b32 %d, %a, %b;", 2, |a, b, _| (a | b) - (a & b));
    narrow("not.b32 %d, %a;", 1, |a, _, _| u32::MAX - a);
    wide("and.b64 %wd, %wa, %wb;", 2, |a, b, _| a & b);
    wide("or.b64 %wd, %wa, %wb;", 2, |a, b, _| a | b);
    wide("xor.b64 %wd, %wa, %wb;", 2, |a, b, _| (a | b) - (a & b));
    // Shifts by more than the width leave nothing, or the sign.
    narrow("shl.b32 %d, %a, %b;", 2, |a, b, _| if b > 31 { 0 } else { (u64::from(a) * (1 << b)) as u32 });
    narrow("shr.u32 %d, %a, %b;", 2, |a, b, _| if b > 31 { 0 } else { a / (1u32 << b) });
    narrow("shr.b32 %d, %a, %b;", 2, |a, b, _| if b > 31 { 0 } else { a / (1u32 << b) });
    narrow("shr.s32 %d, %a, %b;", 2, |a, b, _| signed(a).div_euclid(1 << b.min(32)) as u32);
    vector("shl.b64 %wd, %wa, %b;", &WIDE, 2, |a, b, _| if b as u32 > 63 { 0 } else { (u128::from(a) << (b as u32)) as u64 });
    vector("shr.u64 %wd, %wa, %b;", &WIDE, 2, |a, b, _| if b as u32 > 63 { 0 } else { a / (1u64 << (b as u32)) });
    for (form, wraps) in [("wrap", true), ("clamp", false)] {
        let shift = |c: u32| if wraps { c % 32 } else { c.min(32) };
        let pair = |a: u32, b: u32| u64::from(b) << 32 | u64::from(a);
        narrow(&format!("shf.l.{form}.b32 %d, %a, %b, %c;"), 3, |a, b, c| ((u128::from(pair(a, b)) << shift(c)) >> 32) as u32);
        narrow(&format!("shf.r.{form}.b32 %d, %a, %b, %c;"), 3, |a, b, c| (pair(a, b) >> shift(c)) as u32);
    }
    // Bit by bit, as in the ISA's descriptions.
    let field = |a: u32, at: u32, length: u32, spread: bool| {
        let (at, length) = (u64::from(at & 255), u64::from(length & 255));
        let sign = if spread && length > 0 { bit(u64::from(a), (at + length - 1).min(31)) } else { 0 };
        (0..32).map(|i| (if i < length && at + i < 32 { bit(u64::from(a), at + i) } else { sign }) << i).sum::<u64>() as u32
    };
    narrow("bfe.u32 %d, %a, %b, %c;", 3, |a, b, c| field(a, b, c, false));
    narrow("bfe.s32 %d, %a, %b, %c;", 3, |a, b, c| field(a, b, c, true));
    for (at, length) in [(0u64, 0u64), (0, 8), (4, 5), (28, 8), (31, 1), (32, 4), (7, 32), (0, 32), (0, 255)] {
        let inserted = |a: u32, b: u32| {
            let inside = |i: u64| i >= at && i < at + length;
            (0..32).map(|i| (if inside(i) { bit(u64::from(a), i - at) } else { bit(u64::from(b), i) }) << i).sum::<u64>() as u32
        };
        narrow(&format!("bfi.b32 %d, %a, %b, {at}, {length};"), 2, |a, b, _| inserted(a, b));
    }
    for table in [0x00u32, 0x80, 0x96, 0xca, 0xe8, 0xfe, 0x1b, 0xff] {
        narrow(&format!("lop3.b32 %d, %a, %b, %c, {table};"), 3, |a, b, c| {
            let row = |i: u64| bit(u64::from(a), i) << 2 | bit(u64::from(b), i) << 1 | bit(u64::from(c), i);
            (0..32).map(|i| bit(u64::from(table), row(i)) << i).sum::<u64>() as u32
        });
    }
    narrow("popc.b32 %d, %a;", 1, |a, _, _| (0..32).map(|i| a >> i & 1).sum());
    narrow("clz.b32 %d, %a;", 1, |a, _, _| (0..32).take_while(|i| a >> (31 - i) & 1 == 0).count() as u32);
    narrow("brev.b32 %d, %a;", 1, |a, _, _| (0..32).map(|i| (a >> i & 1) << (31 - i)).sum());
    narrow("bfind.u32 %d, %a;", 1, |a, _, _| (0..32).rfind(|i| a >> i & 1 == 1).unwrap_or(u32::MAX));
    narrow("prmt.b32 %d, %a, %b, %c;", 3, |a, b, c| {
        let bytes = [a.to_le_bytes(), b.to_le_bytes()].concat();
        let chosen = [0, 4, 8, 12].map(|place| {
            let (byte, spreads) = (bytes[(c >> place & 7) as usize], c >> place & 8 != 0);
            if spreads { if byte >= 128 { 255 } else { 0 } } else { byte }
        });
        u32::from_le_bytes(chosen)
    });
}

#[test]
fn comparisons_and_choices() {
    type Compare = fn(i128, i128) -> bool;
    let relations: [(&str, Compare); 6] = [
        ("eq", |a, b| a == b),
        ("ne", |a, b| a != b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
    ];
    for (name, holds) in relations {
        let values = widened(&NARROW);
        vector(&format!("setp.{name}.u32 %p, %a, %b;"), &values, 2, |a, b, _| u64::from(holds(a.into(), b.into())));
        vector(&format!("setp.{name}.s32 %p, %a, %b;"), &values, 2, |a, b, _| {
            u64::from(holds(signed(a as u32).into(), signed(b as u32).into()))
        });
        vector(&format!("setp.{name}.u64 %p, %wa, %wb;"), &WIDE, 2, |a, b, _| u64::from(holds(a.into(), b.into())));
        vector(&format!("setp.{name}.s64 %p, %wa, %wb;"), &WIDE, 2, |a, b, _| u64::from(holds((a as i64).into(), (b as i64).into())));
        // `%q` holds where c is not 0.
        vector(&format!("setp.{name}.and.u32 %p, %a, %b, %q;"), &values, 3, |a, b, c| u64::from(holds(a.into(), b.into()) && c != 0));
        vector(&format!("setp.{name}.or.u32 %p, %a, %b, !%q;"), &values, 3, |a, b, c| u64::from(holds(a.into(), b.into()) || c == 0));
    }
    vector("setp.eq.b32 %p, %a, %b;", &widened(&NARROW), 2, |a, b, _| u64::from(a == b));
    narrow("selp.b32 %d, %a, %b, %q;", 3, |a, b, c| if c != 0 { a } else { b });
    narrow("selp.u32 %d, %a, 7, !%q;", 3, |a, _, c| if c != 0 { 7 } else { a });
    vector("selp.b64 %wd, %wa, %wb, %q;", &WIDE, 3, |a, b, c| if c as u32 != 0 { a } else { b });
    vector("and.pred %p, %q, %q;", &WIDE, 3, |_, _, c| u64::from(c as u32 != 0));
    vector("not.pred %p, %q;", &WIDE, 3, |_, _, c| u64::from(c as u32 == 0));
    vector("xor.pred %p, %q, %q;", &WIDE, 3, |_, _, _| 0);
    narrow("mov.b32 %d, 5; @%q mov.b32 %d, %a; @!%q add.u32 %d, %d, %b;", 3, |a, b, c| if c != 0 { a } else { b.wrapping_add(5) });
}

#[test]
fn moves_and_pairs() {
    narrow("mov.b32 %d, %a;", 1, |a, _, _| a);
    wide("mov.b64 %wd, %wa;", 1, |a, _, _| a);
    narrow("mov.b32 %d, {%ha, %hb};", 2, |a, b, _| a % 65536 + (b % 65536) * 65536);
    narrow("mov.b32 {%ha, %hb}, %a; mov.b32 %d, {%hb, %ha};", 1, |a, _, _| a.rotate_left(16));
    vector("mov.b64 %wd, {%a, %b};", &widened(&NARROW), 2, |a, b, _| b << 32 | a);
    wide("mov.b64 {%a, %b}, %wa; mov.b64 %wd, {%b, %a};", 1, |a, _, _| a.rotate_left(32));
    vector("mov.b16 %hd, %ha;", &widened(&NARROW), 1, |a, _, _| a & 0xffff);
}
