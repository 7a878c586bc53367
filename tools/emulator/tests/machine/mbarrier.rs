//! Barriers in shared memory: what they order, and every misuse with a kernel in which it is found.

use scmmgpt_emulator::{Config, Device, Error, Fault};

use crate::{fault, run, text};

/// A kernel whose first thread makes an object for `count` arrivals at `smem + 4096`, which all know then.
fn with_object(count: u32, body: &str) -> String {
    format!(
        "add.u32 %r20, %r6, 4096; mov.u32 %r21, {count}; setp.eq.u32 %p1, %r2, 0; @%p1 mbarrier.init.shared.b64 [%r20], %r21;\n\
         bar.sync 0;\n{body}"
    )
}

/// Waits for the phase of the state in `%rd10`, or of a parity.
const WAIT: &str = "WAIT:\nmbarrier.test_wait.shared.b64 %p2, [%r20], %rd10; @!%p2 bra WAIT;\n";
const WAIT_PARITY: &str = "WAIT:\nmbarrier.test_wait.parity.shared.b64 %p2, [%r20], 0; @!%p2 bra WAIT;\n";
/// Reads what the thread at the other end of the CTA wrote.
const READ: &str = "sub.u32 %r10, %r4, %r2; sub.u32 %r10, %r10, 1; shl.b32 %r10, %r10, 2; add.u32 %r10, %r10, %r6; ld.shared.u32 %r11, [%r10];\n\
     st.global.u32 [%rd5], %r11;\n";

fn exchange(count: u32, wait: &str) -> String {
    with_object(count, &format!("st.shared.u32 [%r8], %r2; mbarrier.arrive.shared.b64 %rd10, [%r20];\n{wait}{READ}"))
}

#[track_caller]
fn misuse(body: &str, block: u32, what: &str) {
    match fault(body, 1, block) {
        Fault::Mbarrier { reason, .. } => assert!(reason.contains(what), "{reason}"),
        other => panic!("{other}"),
    }
}

#[test]
fn a_phase_orders_what_came_before() {
    let expected: Vec<u32> = (0..128).rev().collect();
    for wait in [WAIT, WAIT_PARITY] {
        assert_eq!(run(&exchange(128, wait), &[0; 128], 1, 128).unwrap().out, expected);
    }
    let generic =
        exchange(128, WAIT).replace("mbarrier.arrive.shared", "cvt.u64.u32 %rd11, %r20; cvta.shared.u64 %rd11, %rd11; mbarrier.arrive");
    assert_eq!(run(&generic.replace("%rd10, [%r20];\nWAIT", "%rd10, [%rd11];\nWAIT"), &[0; 128], 1, 128).unwrap().out, expected);
    assert!(matches!(fault(&exchange(128, ""), 1, 128), Fault::Race { .. } | Fault::UninitialisedMemory { .. }));
    let relaxed = exchange(128, WAIT).replace("test_wait.shared", "test_wait.relaxed.cta.shared");
    assert!(matches!(fault(&relaxed, 1, 128), Fault::Race { .. }), "a relaxed wait orders nothing");
}

/// Who has not waited knows nothing, though another lane of its warp has.
#[test]
fn each_lane_waits_for_itself() {
    let only_first = exchange(32, "setp.ne.u32 %p3, %r2, 0; @%p3 bra ON;\n{WAIT}ON:\n").replace("{WAIT}", WAIT);
    assert!(matches!(fault(&only_first, 1, 32), Fault::Race { .. }));
    let and_tells = only_first.replace("ON:\n", "ON:\nbar.warp.sync 0xffffffff;\n");
    assert_eq!(run(&and_tells, &[0; 32], 1, 32).unwrap().out, (0..32).rev().collect::<Vec<u32>>());
}

/// Two warps read what a third one writes over and over; it waits for both before it writes again.
#[test]
fn readers_of_several_warps_let_the_writer_go_on() {
    let ring = "add.u32 %r22, %r20, 8; mov.u32 %r21, 96; @%p1 mbarrier.init.shared.b64 [%r22], %r21; bar.sync 0;\n\
        and.b32 %r12, %r2, 31; shl.b32 %r13, %r12, 2; add.u32 %r13, %r13, %r6; mov.u32 %r14, 0; mov.u32 %r15, 0; setp.lt.u32 %p4, %r2, 32;\n\
        LOOP:\nand.b32 %r17, %r14, 1; @!%p4 bra FILLED;\nadd.u32 %r16, %r12, %r14; st.shared.u32 [%r13], %r16;\n\
        FILLED:\nmbarrier.arrive.shared.b64 %rd10, [%r20];\nWAIT:\nmbarrier.test_wait.shared.b64 %p2, [%r20], %rd10; @!%p2 bra WAIT;\n\
        @%p4 bra EMPTIED;\nld.shared.u32 %r16, [%r13]; add.u32 %r15, %r15, %r16;\n\
        EMPTIED:\nFREE\nadd.u32 %r14, %r14, 1; setp.lt.u32 %p5, %r14, 5; @%p5 bra LOOP;\nst.global.u32 [%rd5], %r15;";
    let free = "mbarrier.arrive.shared.b64 %rd11, [%r22];\n\
        AGAIN:\nmbarrier.test_wait.parity.shared.b64 %p2, [%r22], %r17; @!%p2 bra AGAIN;";
    let done = run(&with_object(96, &ring.replace("FREE", free)), &[0; 96], 1, 96).unwrap();
    let sum = |lane: u32| 5 * lane + 10;
    assert_eq!(done.out, (0..96).map(|thread| if thread < 32 { 0 } else { sum(thread % 32) }).collect::<Vec<_>>());
    assert!(matches!(fault(&with_object(96, &ring.replace("FREE", "")), 1, 96), Fault::Race { .. }), "nobody says that it has read");
}

#[test]
fn copies_arrive_when_they_are_waited_for() {
    let copy = |count: u32, arrive: &str, wait: &str| {
        let body = format!("cp.async.ca.shared.global [%r8], [%rd4], 4; {arrive}\n{wait}{READ}");
        with_object(count, &body)
    };
    let input: Vec<u32> = (0..64).map(|x| x * x + 5).collect();
    let expected: Vec<u32> = input.iter().rev().copied().collect();
    let alone = "cp.async.mbarrier.arrive.noinc.shared.b64 [%r20];";
    assert_eq!(run(&copy(64, alone, WAIT_PARITY), &input, 1, 64).unwrap().out, expected);
    let both = "cp.async.mbarrier.arrive.shared.b64 [%r20]; mbarrier.arrive.shared.b64 %rd10, [%r20];";
    let done = run(&copy(64, both, WAIT), &input, 1, 64).unwrap();
    assert_eq!((done.out, done.counters.copies_left), (expected, 0));
    let unattended = "mbarrier.arrive.shared.b64 %rd10, [%r20];";
    assert!(matches!(fault(&copy(64, unattended, WAIT), 1, 64), Fault::InFlight { .. }), "the barrier knows of no copies");
    assert!(matches!(fault(&copy(32, both, ""), 1, 32), Fault::InFlight { .. }), "nobody waits");
    let before = "cp.async.mbarrier.arrive.noinc.shared.b64 [%r20]; cp.async.ca.shared.global [%r8+2048], [%rd4], 4;";
    let late = copy(64, before, WAIT_PARITY).replace("[%r10];\nst", "[%r10+2048];\nst");
    assert!(matches!(fault(&late, 1, 64), Fault::InFlight { .. }), "a copy that starts after the arrival is not part of it");
}

#[test]
fn objects_that_are_not_there() {
    let none = "add.u32 %r20, %r6, 4096; mbarrier.arrive.shared.b64 %rd10, [%r20];";
    misuse(none, 32, "nothing has initialised it");
    misuse(&format!("add.u32 %r20, %r6, 4096; mov.u64 %rd10, 0;\n{WAIT}"), 32, "nothing has initialised it");
    let gone = "bar.sync 0; @%p1 mbarrier.inval.shared.b64 [%r20]; bar.sync 0; mbarrier.arrive.shared.b64 %rd10, [%r20];";
    misuse(&with_object(32, gone), 32, "invalidated");
    let unordered = exchange(64, WAIT).replace("bar.sync 0;\n", "");
    assert!(matches!(fault(&unordered, 1, 64), Fault::Race { .. } | Fault::Mbarrier { .. }), "nobody waits for the initialisation");
    assert!(matches!(fault(&exchange(64, WAIT).replace("4096", "8192"), 1, 64), Fault::Bounds { space: "shared", .. }));
    assert!(matches!(fault(&exchange(64, WAIT).replace("4096", "4100"), 1, 64), Fault::Misaligned { alignment: 8, .. }));
    misuse(&with_object(32, "@%p1 mbarrier.init.shared.b64 [%r20], %r21;"), 32, "again while it lives");
    misuse(&with_object(0, ""), 32, "a count of 0");
}

#[test]
fn plain_accesses_to_a_live_object() {
    for access in ["st.shared.u32 [%r20+4], %r2;", "ld.shared.u32 %r9, [%r20];", "atom.shared.add.u32 %r9, [%r20], 1;"] {
        misuse(&with_object(32, &format!("@%p1 {access}")), 32, "plain access");
    }
    misuse(&with_object(32, "cp.async.ca.shared.global [%r20], [%rd4], 4; cp.async.wait_all;"), 32, "plain access");
    // Its bytes are anybody's once it is gone, and hold nothing.
    let gone = "@%p1 mbarrier.inval.shared.b64 [%r20]; bar.sync 0;";
    assert!(run(&with_object(32, &format!("{gone} @%p1 st.shared.u32 [%r20], %r2;")), &[0; 32], 1, 32).is_ok());
    let read = with_object(32, &format!("{gone} @%p1 ld.shared.u32 %r9, [%r20]; @%p1 st.global.u32 [%rd5], %r9;"));
    assert!(matches!(fault(&read, 1, 32), Fault::UninitialisedMemory { .. }));
    assert!(run(&with_object(32, &format!("{gone} @%p1 mbarrier.init.shared.b64 [%r20], %r21;")), &[0; 32], 1, 32).is_ok());
}

#[test]
fn wrong_numbers_of_arrivals() {
    misuse(&exchange(16, WAIT), 64, "more came than its count");
    misuse(&with_object(2, "mov.u32 %r9, 2; @%p1 mbarrier.arrive.noComplete.shared.b64 %rd10, [%r20], %r9;"), 32, "must not complete");
    misuse(&with_object(2, "mov.u32 %r9, 3; @%p1 mbarrier.arrive_drop.noComplete.shared.b64 %rd10, [%r20], %r9;"), 32, "must not complete");
    for (body, missing) in [(exchange(65, WAIT), "1 of 65"), (exchange(192, WAIT_PARITY), "128 of 192")] {
        match fault(&body, 1, 64) {
            Fault::Deadlock { waiting } => assert!(waiting.contains("mbarrier") && waiting.contains(missing), "{waiting}"),
            other => panic!("{other}"),
        }
    }
    let at_a_barrier = exchange(65, "setp.lt.u32 %p3, %r2, 32; @%p3 bra WAIT;\nbar.sync 1;\n{WAIT}").replace("{WAIT}", WAIT);
    assert!(matches!(fault(&at_a_barrier, 1, 64), Fault::Deadlock { waiting } if waiting.contains("barrier 1")));
}

#[test]
fn counts_states_and_threads_that_leave() {
    let several = with_object(
        40,
        "mov.u32 %r9, 8; @%p1 mbarrier.arrive.noComplete.shared.b64 %rd11, [%r20], %r9; bar.sync 0;\n\
         mbarrier.arrive.shared.b64 %rd10, [%r20]; mbarrier.pending_count.b64 %r10, %rd10;\n{WAIT} st.global.u32 [%rd5], %r10;",
    );
    let done = run_sorted(&several.replace("{WAIT}", WAIT), 32);
    assert_eq!(done, (1..33).collect::<Vec<u32>>(), "each arrival sees how many are missing before it");
    // Half of the threads leave in the first phase; the second one does not wait for them.
    let leaving = with_object(
        64,
        "setp.ge.u32 %p3, %r2, 32; @%p3 mbarrier.arrive_drop.shared.b64 %rd10, [%r20]; @%p3 ret;\n\
         mbarrier.arrive.shared.b64 %rd10, [%r20];\n{WAIT}\
         st.shared.u32 [%r8], %r2; mbarrier.arrive.shared.b64 %rd10, [%r20];\nLAST:\nmbarrier.test_wait.shared.b64 %p2, [%r20], %rd10;\n\
         @!%p2 bra LAST;\nxor.b32 %r10, %r8, 4; ld.shared.u32 %r11, [%r10]; st.global.u32 [%rd5], %r11;",
    );
    let done = run(&leaving.replace("{WAIT}", WAIT), &[0; 64], 1, 64).unwrap();
    assert_eq!(done.out[..32], (0..32).map(|lane| lane ^ 1).collect::<Vec<u32>>());
}

fn run_sorted(body: &str, block: u32) -> Vec<u32> {
    let mut out = run(body, &vec![0; block as usize], 1, block).unwrap().out;
    out.sort_unstable();
    out
}

#[test]
fn what_later_machines_have_is_refused() {
    let device = Device::new(Config::default());
    for line in [
        "mbarrier.try_wait.shared.b64 %p2, [%r20], %rd10;",
        "mbarrier.arrive.expect_tx.shared.b64 %rd10, [%r20], %r9;",
        "mbarrier.arrive.shared.b64 %rd10, [%r20], %r9;",
    ] {
        assert!(matches!(device.load(&text(line)).err(), Some(Error::Target { line: 11, .. })), "{line}");
    }
}

/// A flag in shared memory: strong accesses to it are no race, and those that release and acquire order what stands around them.
#[test]
fn words_that_order_what_stands_around_them() {
    let flag = "setp.eq.u32 %p1, %r2, 0; mov.u32 %r9, 0; @%p1 st.shared.u32 [%r6+4096], %r9; bar.sync 0; setp.lt.u32 %p2, %r2, 32; mov.u32 %r12, 1;\n\
        @!%p2 bra READS;\nst.shared.u32 [%r8], %r2; bar.warp.sync 0xffffffff;\n@%p1 st.release.cta.shared.u32 [%r6+4096], %r12; bra.uni DONE;\n\
        READS:\nld.acquire.cta.shared.u32 %r10, [%r6+4096]; setp.eq.u32 %p3, %r10, 0; @%p3 bra READS;\n\
        ld.shared.u32 %r11, [%r8+-128]; st.global.u32 [%rd5], %r11;\nDONE:";
    assert_eq!(run(flag, &[0; 64], 1, 64).unwrap().out[32..], (0..32).collect::<Vec<u32>>());
    let fenced = flag.replace("@%p1 st.release", "fence.acq_rel.cta; @%p1 st.relaxed").replace("ld.acquire", "ld.relaxed");
    assert!(run(&fenced, &[0; 64], 1, 64).is_ok());
    assert!(matches!(fault(&flag.replace("st.release", "st.relaxed"), 1, 64), Fault::Race { .. }), "a relaxed write releases nothing");
    assert!(matches!(fault(&flag.replace("st.release.cta", "st").replace("ld.acquire.cta", "ld"), 1, 64), Fault::Race { .. }));
}
