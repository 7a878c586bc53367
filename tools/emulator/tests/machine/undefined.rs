//! Registers that nothing has written: what depends on them is an error where it is used, and nothing else is.

use scmmgpt_emulator::Fault;

use crate::{fault, run};

#[track_caller]
fn unwritten(body: &str, name: &str) {
    assert!(matches!(fault(body, 1, 32), Fault::UninitialisedRegister { register } if register == name), "{body}");
}

#[track_caller]
fn gives(body: &str, expected: impl Fn(u32) -> u32) {
    let body = format!("{body}\nst.global.u32 [%rd5], %r9;");
    assert_eq!(run(&body, &[0; 32], 1, 32).unwrap().out, (0..32).map(expected).collect::<Vec<u32>>());
}

#[test]
fn results_that_do_not_depend_on_them() {
    gives("prmt.b32 %r9, %r2, %r20, 0x0000;", |lane| lane * 0x0101_0101);
    gives("prmt.b32 %r10, %r2, %r20, 0x7500; and.b32 %r9, %r10, 0xffff;", |lane| lane * 0x0101);
    gives(
        "add.u32 %r10, %r20, 7; mov.b32 {%h1, %h2}, %r10; mov.b32 %r11, {%h1, %h2}; and.b32 %r12, %r11, 0; or.b32 %r9, %r12, %r2;",
        |lane| lane,
    );
    gives("and.b32 %r10, %r20, 0xff00ff; or.b32 %r11, %r10, %r2; lop3.b32 %r9, %r11, 0xff00, %r2, 0xc0;", |_| 0);
    gives(
        "mov.b32 %r10, {%h3, %h4}; shl.b32 %r10, %r10, 16; cvt.u16.u32 %h5, %r10; cvt.u32.u16 %r9, %h5; add.u32 %r9, %r9, %r2;",
        |lane| lane,
    );
    gives("bfi.b32 %r10, %r2, %r20, 0, 16; bfe.u32 %r9, %r10, 0, 16;", |lane| lane);
    gives("mul.lo.u32 %r10, %r20, 0; max.u32 %r9, %r10, %r2;", |lane| lane);
    gives("cvt.u64.u32 %rd8, %r20; shl.b64 %rd8, %rd8, 32; cvt.u32.u64 %r10, %rd8; add.u32 %r9, %r10, %r2;", |lane| lane);
    // In the lanes that are used the other operand is taken.
    gives("mov.u32 %r10, 5; setp.lt.u32 %p1, %r2, 40; selp.b32 %r11, %r10, %r20, %p1; add.u32 %r9, %r11, %r2;", |lane| lane + 5);
    gives("setp.eq.u32 %p1, %r20, 7; setp.gt.u32 %p2, %r2, 40; and.pred %p3, %p1, %p2; selp.u32 %r9, 1, %r2, %p3;", |lane| lane);
    let narrow = "shl.b32 %r10, %r20, 8; or.b32 %r9, %r10, 3; st.global.u8 [%rd5], %r9;";
    assert!(run(narrow, &[0; 32], 1, 32).is_ok());
}

#[test]
fn results_that_do() {
    unwritten("add.u32 %r9, %r20, 1; st.global.u32 [%rd5], %r9;", "%r20");
    unwritten("prmt.b32 %r9, %r2, %r20, 0x4000; st.global.u32 [%rd5], %r9;", "%r20");
    unwritten("shl.b32 %r10, %r20, 8; or.b32 %r9, %r10, 3; st.global.u16 [%rd5], %r9;", "%r20");
    unwritten("and.b32 %r10, %r20, 0x10000; shr.u32 %r9, %r10, 16; st.global.u8 [%rd5], %r9;", "%r20");
    unwritten("xor.b32 %r9, %r20, %r21; st.global.u32 [%rd5], %r9;", "%r20");
    unwritten("and.b32 %r10, %r20, 1; setp.eq.u32 %p1, %r10, 0; @%p1 mov.u32 %r9, 0;", "%r20");
    unwritten("mul.f32 %f2, %f1, 0f3F800000; st.global.f32 [%rd5], %f2;", "%f1");
    unwritten("add.u32 %r9, %r20, 4; shfl.sync.idx.b32 %r10, %r9, 0, 31, 0xffffffff;", "%r20");
    unwritten("and.b64 %rd8, %rd7, 1; add.u64 %rd8, %rd8, %rd4; ld.global.u8 %r9, [%rd8];", "%rd7");
    unwritten("setp.lt.u32 %p1, %r2, 16; @%p1 mov.u32 %r10, 5; add.u32 %r9, %r10, 1; st.global.u32 [%rd5], %r9;", "%r10");
    unwritten("setp.lt.u32 %p1, %r2, 16; mov.u32 %r10, 5; selp.b32 %r11, %r10, %r20, %p1; st.global.u32 [%rd5], %r11;", "%r20");
    unwritten("@%p1 mov.u32 %r9, 5;", "%p1");
    unwritten("setp.eq.u32 %p1, %r20, 77777; @%p1 bra ON;\nON:", "%r20");
    unwritten("setp.eq.u32 %p1, %r20, 77777; selp.u32 %r9, 1, 0, %p1; st.global.u32 [%rd5], %r9;", "%r20");
    unwritten("setp.eq.u32 %p1, %r20, 77777; setp.lt.u32 %p2, %r2, 16; and.pred %p3, %p1, %p2; @%p3 bra ON;\nON:", "%r20");
    // Written over in some lanes only.
    let half = "add.u32 %r9, %r20, 1; setp.lt.u32 %p1, %r2, 16; @%p1 mov.u32 %r9, 5;";
    unwritten(&format!("{half} st.global.u32 [%rd5], %r9;"), "%r20");
    assert!(run(&format!("{half} @%p1 st.global.u32 [%rd5], %r9;"), &[0; 32], 1, 32).is_ok());
}

#[test]
fn memory_of_a_block_that_nothing_wrote() {
    gives(
        "ld.shared.u32 %r10, [%r8]; setp.eq.u32 %p1, %r10, 9; setp.gt.u32 %p2, %r2, 99; and.pred %p1, %p1, %p2; selp.u32 %r9, 7, %r2, %p1;",
        |lane| lane,
    );
    // A place too far is read, and not used.
    let ahead = "st.shared.u32 [%r8], %r2; bar.sync 0; ld.shared.u32 %r10, [%r8+4]; setp.lt.u32 %p1, %r2, 31; selp.u32 %r9, %r10, 77, %p1;";
    gives(ahead, |lane| if lane < 31 { lane + 1 } else { 77 });
    let memory = |body: &str| matches!(fault(body, 1, 32), Fault::UninitialisedMemory { space: "shared", .. });
    assert!(memory(&format!("{} st.global.u32 [%rd5], %r10;", ahead)));
    assert!(memory("ld.shared.v2.u32 {%r9, %r10}, [%r6]; add.u32 %r9, %r9, 1; st.global.u32 [%rd5], %r9;"));
    assert!(memory("ld.shared.u32 %r9, [%r8]; setp.eq.u32 %p1, %r9, 0; @%p1 bra ON;\nON:"));
    assert!(memory("ld.shared.u32 %r9, [%r8]; and.b32 %r9, %r9, 4; add.u32 %r9, %r9, %r8; ld.shared.u32 %r9, [%r9];"));
    assert!(memory("ld.volatile.shared.u32 %r9, [%r8];"));
}
