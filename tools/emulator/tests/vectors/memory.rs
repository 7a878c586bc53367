//! Loads, stores, copies and atomics of every width.

use crate::bench::{WIDE, vector};

/// Byte `index` of a thread's 24 bytes of operands.
fn byte(operands: [u64; 3], index: usize) -> u64 {
    operands[index / 8] >> (8 * (index % 8)) & 0xff
}

fn bytes(operands: [u64; 3], start: usize, count: usize) -> u64 {
    (0..count).map(|index| byte(operands, start + index) << (8 * index)).sum()
}

/// The value with the sign of its lowest `bits` bits, in 32 bits.
fn spread(value: u64, bits: u32) -> u64 {
    if value >> (bits - 1) & 1 == 1 { (value | (u64::MAX << bits)) & 0xffff_ffff } else { value }
}

#[test]
fn loads_of_every_width() {
    for form in ["", ".nc", ".nc.L1::no_allocate", ".L2::128B"] {
        vector(&format!("ld.global{form}.u8 %d, [%at+5];"), &WIDE, 3, |a, b, c| bytes([a, b, c], 5, 1));
        vector(&format!("ld.global{form}.u16 %d, [%at+6];"), &WIDE, 3, |a, b, c| bytes([a, b, c], 6, 2));
        vector(&format!("ld.global{form}.b32 %d, [%at+12];"), &WIDE, 3, |a, b, c| bytes([a, b, c], 12, 4));
        vector(&format!("ld.global{form}.b64 %wd, [%at+16];"), &WIDE, 3, |a, b, c| bytes([a, b, c], 16, 8));
        vector(&format!("ld.global{form}.v2.b32 {{%x, %d}}, [%at+8];"), &WIDE, 3, |a, b, c| bytes([a, b, c], 12, 4));
    }
    vector("ld.global.s8 %d, [%at+9];", &WIDE, 3, |a, b, c| spread(bytes([a, b, c], 9, 1), 8));
    vector("ld.global.s16 %d, [%at+22];", &WIDE, 3, |a, b, c| spread(bytes([a, b, c], 22, 2), 16));
    vector("ld.volatile.global.u32 %d, [%at+4];", &WIDE, 3, |a, b, c| bytes([a, b, c], 4, 4));
    vector("ld.acquire.gpu.global.u32 %d, [%at+4];", &WIDE, 3, |a, b, c| bytes([a, b, c], 4, 4));
    // A generic address, and the distance in a register.
    vector("ld.b32 %d, [%at+20];", &WIDE, 3, |a, b, c| bytes([a, b, c], 20, 4));
    vector("add.s64 %at, %at, -8; ld.global.b64 %wd, [%at+16];", &WIDE, 3, |_, b, _| b);
}

/// A thread's own 32 bytes of shared memory, at `%b`.
const OWN: &str = ".shared .align 16 .b8 tile[2048]; mov.u32 %b, tile; mov.u32 %x, %tid.x; shl.b32 %x, %x, 5; add.u32 %b, %b, %x;";

#[test]
fn stores_of_every_width_come_back() {
    let shared = |body: &str| format!("{{ {OWN} {body} }}");
    let store = |instruction: &str| shared(&format!("st.shared.b64 [%b], %wc; {instruction} ld.shared.b64 %wd, [%b];"));
    vector(&store("st.shared.u8 [%b+3], %a;"), &WIDE, 3, |a, _, c| (c & !(0xff << 24)) | (a & 0xff) << 24);
    vector(&store("st.shared.b16 [%b+6], %ha;"), &WIDE, 3, |a, _, c| (c & !(0xffff << 48)) | (a & 0xffff) << 48);
    vector(&store("st.shared.b32 [%b+4], %a;"), &WIDE, 3, |a, _, c| (c & 0xffff_ffff) | a << 32);
    vector(&store("st.shared.v2.b32 [%b], {%a, %c};"), &WIDE, 3, |a, _, c| (a & 0xffff_ffff) | c << 32);
    for (results, which) in [("%x, %d, %t, %y", 2), ("%x, %y, %t, %d", 0)] {
        let wide = format!("st.shared.v4.b32 [%b+16], {{%b, %c, %x, %a}}; ld.shared.v4.b32 {{{results}}}, [%b+16];");
        vector(&shared(&wide), &WIDE, 3, |a, b, c| [a, b, c][which] & 0xffff_ffff);
    }
    // Through memory of the thread alone.
    let local = "{ .local .align 8 .b8 own[16]; st.local.b64 [own+8], %wa; ld.local.u16 %d, [own+12]; }";
    vector(local, &WIDE, 1, |a, _, _| a >> 32 & 0xffff);
}

#[test]
fn copies_of_every_size() {
    for (form, size) in [("ca", 4usize), ("ca", 8)] {
        for valid in 0..=size {
            let body = format!(
                "{{ {OWN} st.shared.b64 [%b], %wc; cp.async.{form}.shared.global [%b], [%at+8], {size}, {valid}; cp.async.commit_group;\n\
                 cp.async.wait_group 0; ld.shared.b64 %wd, [%b]; }}"
            );
            vector(&body, &WIDE, 3, |a, b, c| {
                let kept = if size == 8 { 0 } else { c >> 32 << 32 };
                kept | bytes([a, b, c], 8, valid)
            });
        }
    }
}

#[test]
fn atomics_give_what_was_there_and_leave_the_rest() {
    type Update = fn(u32, u32) -> u32;
    let updates: [(&str, Update); 5] = [
        ("add.u32", u32::wrapping_add),
        ("min.u32", |old, value| if value < old { value } else { old }),
        ("max.u32", |old, value| if value > old { value } else { old }),
        ("exch.b32", |_, value| value),
        ("cas.b32", |old, value| if old == 1 { value } else { old }),
    ];
    for (name, update) in updates {
        let operands = if name == "cas.b32" { "1, %a" } else { "%a" };
        let body = |result: &str| {
            format!(
                "{{ {OWN} st.shared.b32 [%b], %c; atom.shared.{name} %y, [%b], {operands};\n\
                 ld.shared.b32 %x, [%b]; mov.b32 %d, {result}; }}"
            )
        };
        vector(&body("%y"), &WIDE, 3, |_, _, c| c & 0xffff_ffff);
        vector(&body("%x"), &WIDE, 3, |a, _, c| u64::from(update(c as u32, a as u32)));
    }
    let body = "st.global.b64 [%to], %wa; atom.global.add.u64 %wb, [%to], %wc; ld.global.b64 %wd, [%to];";
    vector(body, &WIDE, 3, |a, _, c| a.wrapping_add(c));
}
