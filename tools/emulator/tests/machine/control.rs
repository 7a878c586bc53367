//! Control flow: branches by a table.

use scmmgpt_emulator::{Config, Device, Error, Fault};

use crate::{fault, run, text};

/// What lanes do that come to one of four places by an index, fall through to the next one, and meet again.
const SWITCH: &str = "\
    mov.u32 %r10, 1000; LIST: .branchtargets ONE, TWO, THREE, TWO;\n\
    and.b32 %r9, %r2, 3;\nGUARD brx.idx %r9, LIST;\nmov.u32 %r10, 7; bra.uni JOIN;\n\
    ONE:\nadd.u32 %r10, %r10, 1;\nTWO:\nadd.u32 %r10, %r10, 20; bra.uni JOIN;\nTHREE:\nadd.u32 %r10, %r10, 300;\nJOIN:\n\
    shfl.sync.bfly.b32 %r11, %r10, 1, 31, 0xffffffff; st.global.u32 [%rd5], %r11;";

#[test]
fn indices_pick_their_targets() {
    let done = run(&SWITCH.replace("GUARD", ""), &[0; 64], 1, 64).unwrap();
    let expected = |lane: usize| [1021, 1020, 1300, 1020][(lane ^ 1) & 3];
    assert_eq!(done.out, (0..64).map(expected).collect::<Vec<u32>>());
    assert_eq!(done.counters.divergent_branches, 6, "three partings of two warps");
    let guarded = SWITCH.replace("GUARD", "setp.lt.u32 %p1, %r2, 13; @%p1");
    let done = run(&guarded, &[0; 32], 1, 32).unwrap();
    assert_eq!(done.out, (0..32).map(|lane| if lane ^ 1 < 13 { expected(lane) } else { 7 }).collect::<Vec<u32>>());
    let uniform = SWITCH.replace("GUARD", "mov.u32 %r9, 2;").replace("brx.idx", "brx.idx.uni");
    let done = run(&uniform, &[0; 32], 1, 32).unwrap();
    assert_eq!((done.out[5], done.counters.divergent_branches), (1300, 0));
}

#[test]
fn indices_outside_the_list_and_lists_that_are_not_there() {
    let outside = SWITCH.replace("GUARD", "add.u32 %r9, %r9, 1;");
    assert!(matches!(fault(&outside, 1, 32), Fault::Illegal { reason } if reason.contains("index 4 in a list of 4")));
    let device = Device::new(Config::default());
    for (spoilt, with) in [("LIST;\nmov", "LISTS;\nmov"), ("THREE, TWO;", "NOWHERE;"), ("LIST:", "")] {
        let text = text(&SWITCH.replace("GUARD", "").replace(spoilt, with));
        assert!(matches!(device.load(&text).err(), Some(Error::Parse { line: 11.., .. })), "{with}");
    }
}

/// Each CTA waits for the one that the order begins later.
#[test]
fn blocks_that_wait_for_blocks_after_them() {
    let wait = |read: &str| {
        format!(
            "setp.eq.u32 %p1, %r2, 0; mov.u32 %r9, %nctaid.x; sub.u32 %r9, %r9, 1; setp.eq.u32 %p2, %r3, %r9; mul.wide.u32 %rd6, %r3, 4;\n\
             add.u64 %rd6, %rd1, %rd6; @%p2 bra DONE;\nLOOP:\n{read}; setp.eq.u32 %p3, %r10, 0; @%p3 bra LOOP;\n\
             DONE:\nmov.u32 %r11, 1; @%p1 st.release.gpu.global.u32 [%rd6], %r11; st.global.u32 [%rd5], %r3;"
        )
    };
    for read in
        ["ld.acquire.gpu.global.u32 %r10, [%rd6+4]", "ld.volatile.global.u32 %r10, [%rd6+4]", "atom.global.add.u32 %r10, [%rd6+4], 0"]
    {
        let done = run(&wait(read), &[0; 40 * 32], 40, 32).unwrap();
        assert_eq!(done.out, (0..40 * 32).map(|thread| thread / 32).collect::<Vec<u32>>());
    }
    // Nobody writes what the first one waits for.
    let never = wait("ld.volatile.global.u32 %r10, [%rd1]").replace("[%rd6], %r11", "[%rd2], %r11");
    assert!(matches!(fault(&never, 2, 32), Fault::Deadlock { waiting } if waiting.contains("all CTAs")));
}

/// One lane waits in a loop that stands before what another lane of its warp has to do.
#[test]
fn lanes_that_wait_for_lanes_of_their_warp() {
    let body = "setp.ne.u32 %p1, %r2, 31; @!%p1 bra LATER; mov.u32 %r10, 0;\n\
        LOOP:\natom.global.add.u32 %r9, [%rd1], 0; setp.eq.u32 %p2, %r9, 0; @%p2 bra LOOP;\nbra.uni JOIN;\n\
        LATER:\natom.global.exch.b32 %r9, [%rd1], 5;\nJOIN:\nst.global.u32 [%rd5], %r9;";
    let mut input = [0; 32];
    let done = run(body, &input, 1, 32).unwrap();
    input.fill(5);
    input[31] = 0;
    assert_eq!(done.out, input);
}
