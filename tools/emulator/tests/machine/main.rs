//! Small kernels end to end, and every check with a kernel that it must find.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

mod control;
mod mbarrier;
mod undefined;

use scmmgpt_emulator::{Class, Config, Counters, Device, Error, Fault, Launch};

/// A text around a body with parameters `a`, `b` (addresses) and `n`.
fn text(body: &str) -> String {
    format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry kernel(.param .u64 a, .param .u64 b, .param .u32 n)\n{{\n\
         .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .f32 %f<16>; .reg .b64 %rd<16>;\n.shared .align 16 .b8 smem[8192];\n\
         ld.param.u64 %rd1, [a]; ld.param.u64 %rd2, [b]; ld.param.u32 %r1, [n]; mov.u32 %r2, %tid.x; mov.u32 %r3, %ctaid.x;\n\
         mov.u32 %r4, %ntid.x; mad.lo.u32 %r5, %r3, %r4, %r2; mul.wide.u32 %rd3, %r5, 4; add.u64 %rd4, %rd1, %rd3; add.u64 %rd5, %rd2, %rd3;\n\
         mov.u32 %r6, smem; shl.b32 %r7, %r2, 2; add.u32 %r8, %r6, %r7;\n{body}\nret;\n}}\n"
    )
}

struct Run {
    out: Vec<u32>,
    counters: Counters,
}

fn run_seeded(body: &str, input: &[u32], grid: u32, block: u32, seed: u64) -> Result<Run, Error> {
    let device = Device::new(Config { seed, threads: 2, budget: 1 << 22, ..Config::default() });
    let module = device.load(&text(body))?;
    let function = module.function("kernel").unwrap();
    let bytes = 4 * input.len() as u64;
    let (a, b) = (device.allocate(bytes).unwrap(), device.allocate(bytes).unwrap());
    device.write(a, &input.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    let mut params = Vec::new();
    params.extend(a.to_le_bytes());
    params.extend(b.to_le_bytes());
    params.extend((input.len() as u32).to_le_bytes());
    let launch = Launch { grid: [grid, 1, 1], block: [block, 1, 1], dynamic_shared: 0, max_dynamic_shared: 0, params };
    let counters = device.launch(&function, &launch)?;
    let mut out = vec![0u8; bytes as usize];
    device.read(b, &mut out).unwrap();
    Ok(Run { out: out.chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect(), counters })
}

/// Runs under several seeds; the results must be the same.
fn run(body: &str, input: &[u32], grid: u32, block: u32) -> Result<Run, Error> {
    let first = run_seeded(body, input, grid, block, 0)?;
    for seed in 1..6 {
        assert_eq!(run_seeded(body, input, grid, block, seed)?.out, first.out, "seed {seed}");
    }
    Ok(first)
}

#[track_caller]
fn fault(body: &str, grid: u32, block: u32) -> Fault {
    let input: Vec<u32> = (0..grid * block).collect();
    match run(body, &input, grid, block) {
        Err(Error::Kernel { fault, place }) => {
            assert!(place.line > 0 && !place.text.is_empty());
            fault
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("nothing was found"),
    }
}

#[test]
fn every_thread_adds() {
    let body =
        "setp.ge.u32 %p1, %r5, %r1; @%p1 bra DONE;\nld.global.u32 %r9, [%rd4]; add.u32 %r9, %r9, 7; st.global.u32 [%rd5], %r9;\nDONE:";
    let input: Vec<u32> = (0..200).collect();
    let done = run(body, &input, 4, 64).unwrap();
    assert_eq!(done.out, input.iter().map(|x| x + 7).collect::<Vec<_>>());
    assert_eq!(done.counters.global_requests, 14, "seven warps load and store, the last one in part");
    assert_eq!(done.counters.ctas, 4);
}

#[test]
fn shared_memory_reverses_and_counts_conflicts() {
    let reverse = "ld.global.u32 %r9, [%rd4]; st.shared.u32 [%r8], %r9; bar.sync 0;\n\
                   sub.u32 %r10, %r4, %r2; sub.u32 %r10, %r10, 1; shl.b32 %r10, %r10, 2; add.u32 %r10, %r10, %r6;\n\
                   ld.shared.u32 %r11, [%r10]; st.global.u32 [%rd5], %r11;";
    let input: Vec<u32> = (0..128).collect();
    let done = run(reverse, &input, 1, 128).unwrap();
    assert_eq!(done.out, input.iter().rev().copied().collect::<Vec<_>>());
    assert_eq!((done.counters.bank_conflicts, done.counters.barriers), (0, 1));
    let strided = "shl.b32 %r9, %r2, 7; and.b32 %r9, %r9, 4095; add.u32 %r9, %r9, %r6; st.shared.u32 [%r9], %r2; bar.sync 0; ld.shared.u32 %r10, [%r9];\n\
                   st.global.u32 [%rd5], %r10;";
    assert_eq!(run(strided, &input[..32], 1, 32).unwrap().counters.bank_conflicts, 62);
}

#[test]
fn divergence_meets_again() {
    let body = "and.b32 %r9, %r2, 1; setp.eq.u32 %p1, %r9, 0; @%p1 bra EVEN;\nadd.u32 %r10, %r2, 100; bra.uni JOIN;\nEVEN:\nadd.u32 %r10, %r2, 200;\nJOIN:\n\
                shfl.sync.bfly.b32 %r11, %r10, 1, 31, 0xffffffff; st.global.u32 [%rd5], %r11;";
    let done = run(body, &[0; 32], 1, 32).unwrap();
    assert_eq!(done.out[0], 101);
    assert_eq!(done.out[1], 200);
    assert_eq!(done.counters.divergent_branches, 1);
}

#[test]
fn loops_and_reductions() {
    let body = "mov.f32 %f1, 0f00000000; mov.u32 %r9, 0;\nLOOP:\ncvt.rn.f32.u32 %f2, %r9; fma.rn.f32 %f1, %f2, %f2, %f1; add.u32 %r9, %r9, 1; setp.lt.u32 %p1, %r9, 10; @%p1 bra LOOP;\n\
                redux.sync.add.u32 %r10, %r2, 0xffffffff; cvt.rzi.u32.f32 %r11, %f1; add.u32 %r10, %r10, %r11; st.global.u32 [%rd5], %r10;";
    let done = run(body, &[0; 32], 1, 32).unwrap();
    assert_eq!(done.out, vec![496 + 285; 32]);
    assert!(done.counters.instructions[Class::Float as usize] >= 10);
}

#[test]
fn asynchronous_copies_arrive_at_the_wait() {
    let copy = |wait: &str| {
        format!(
            "cp.async.ca.shared.global [%r8], [%rd4], 4; cp.async.commit_group;\n{wait}\nbar.sync 0; xor.b32 %r10, %r8, 4;\n\
             ld.shared.u32 %r11, [%r10]; st.global.u32 [%rd5], %r11;"
        )
    };
    let input: Vec<u32> = (0..64).map(|x| x * x).collect();
    let done = run(&copy("cp.async.wait_group 0;"), &input, 1, 64).unwrap();
    assert_eq!(done.out[..4], [1, 0, 9, 4]);
    assert!(matches!(fault(&copy(""), 1, 64), Fault::InFlight { .. }));
    assert!(matches!(fault(&copy("cp.async.wait_group 1;"), 1, 64), Fault::InFlight { .. }));
}

#[test]
fn a_copy_of_fewer_bytes_fills_with_zeros() {
    let body = "mov.u32 %r9, 2; cp.async.ca.shared.global [%r8], [%rd4], 4, %r9; cp.async.wait_all; ld.shared.u32 %r11, [%r8]; st.global.u32 [%rd5], %r11;";
    let done = run(body, &[0x1234_5678; 32], 1, 32).unwrap();
    assert_eq!(done.out, vec![0x5678; 32]);
}

#[test]
fn missing_barriers_are_races() {
    let body = "st.shared.u32 [%r8], %r2; xor.b32 %r10, %r8, 128; ld.shared.u32 %r11, [%r10]; st.global.u32 [%rd5], %r11;";
    // Depending on the order the other warp's word is unwritten or unordered; both are found.
    assert!(matches!(fault(body, 1, 64), Fault::Race { .. } | Fault::UninitialisedMemory { .. }));
    let again = "st.shared.u32 [%r8], %r2; bar.sync 0; xor.b32 %r10, %r8, 128; ld.shared.u32 %r11, [%r10]; st.shared.u32 [%r8], %r11; st.global.u32 [%rd5], %r11;";
    assert!(matches!(fault(again, 1, 64), Fault::Race { .. }));
    let within = "st.shared.u32 [%r8], %r2; xor.b32 %r10, %r8, 4; ld.shared.u32 %r11, [%r10]; st.global.u32 [%rd5], %r11;";
    assert!(matches!(fault(within, 1, 32), Fault::Race { .. }), "lanes of one warp are not ordered either");
    let ordered = within.replace("xor.b32 %r10", "bar.warp.sync 0xffffffff; xor.b32 %r10");
    assert!(run(&ordered, &[0; 32], 1, 32).is_ok());
    let exchanged = within.replace("xor.b32 %r10", "shfl.sync.bfly.b32 %r12, %r2, 1, 31, 0xffffffff; xor.b32 %r10");
    assert!(matches!(fault(&exchanged, 1, 32), Fault::Race { .. }), "an exchange of registers orders no memory");
    let global = "st.global.u32 [%rd2], %r5;";
    assert!(matches!(fault(global, 2, 1), Fault::Race { space: "global", .. }));
}

#[test]
fn atomics_race_with_plain_accesses_alone() {
    let count = |threads: u32, [cleared, counted]: [&str; 2]| {
        let body = format!(
            "st.shared.u32 [%r8], 0; {cleared} red.shared.add.u32 [%r6], 1; red.shared.add.u32 [%r6], 1; {counted} ld.shared.u32 %r11, [%r6]; st.global.u32 [%rd5], %r11;"
        );
        (body, threads)
    };
    for threads in [32, 96] {
        let (body, _) = count(threads, ["bar.sync 0;"; 2]);
        assert_eq!(run(&body, &vec![0; threads as usize], 1, threads).unwrap().out, vec![2 * threads; threads as usize]);
        for places in [["", "bar.sync 0;"], ["bar.sync 0;", ""]] {
            let (body, threads) = count(threads, places);
            assert!(
                matches!(fault(&body, 1, threads), Fault::Race { space: "shared", .. } | Fault::UninitialisedMemory { .. }),
                "{places:?}"
            );
        }
        let read_first =
            "st.shared.u32 [%r8], 0; bar.sync 0; ld.shared.u32 %r11, [%r6]; red.shared.add.u32 [%r6], 1; st.global.u32 [%rd5], %r11;";
        assert!(matches!(fault(read_first, 1, threads), Fault::Race { access: "atomic", .. }));
    }
}

#[test]
fn bad_addresses_are_found() {
    assert!(matches!(fault("add.u64 %rd6, %rd4, 4096; ld.global.u32 %r9, [%rd6];", 1, 32), Fault::Bounds { space: "global", .. }));
    assert!(matches!(fault("ld.global.u32 %r9, [%rd1+2];", 1, 32), Fault::Misaligned { alignment: 4, .. }));
    assert!(matches!(fault("ld.global.v4.u32 {%r9, %r10, %r11, %r12}, [%rd1+4];", 1, 32), Fault::Misaligned { alignment: 16, .. }));
    assert!(matches!(fault("ld.shared.u32 %r9, [%r6+8192];", 1, 32), Fault::Bounds { space: "shared", .. }));
    assert!(matches!(fault("ld.global.u32 %r9, [%rd2];", 1, 32), Fault::UninitialisedMemory { space: "global", .. }));
    assert!(matches!(
        fault("ld.shared.u32 %r9, [%r8]; st.global.u32 [%rd5], %r9;", 1, 32),
        Fault::UninitialisedMemory { space: "shared", .. }
    ));
    assert!(
        matches!(fault("add.u32 %r9, %r20, 1; st.global.u32 [%rd5], %r9;", 1, 32), Fault::UninitialisedRegister { register } if register == "%r20")
    );
    assert!(matches!(fault("mov.u64 %rd6, 64; ld.global.u32 %r9, [%rd6];", 1, 32), Fault::Bounds { .. }));
}

#[test]
fn barriers_that_cannot_fill_are_found() {
    let half = "setp.lt.u32 %p1, %r2, 16; @%p1 bra OTHER;\nbar.sync 0;\nbra.uni END;\nOTHER:\nbar.sync 0;\nEND:";
    assert!(matches!(fault(half, 1, 32), Fault::Divergence { .. }));
    assert!(matches!(fault("setp.lt.u32 %p1, %r2, 16; @%p1 bar.sync 0;", 1, 32), Fault::Divergence { .. }));
    let different = "setp.lt.u32 %p1, %r2, 32; @%p1 bra OTHER;\nbar.sync 1, 64;\nbra.uni END;\nOTHER:\nbar.sync 2, 64;\nEND:";
    assert!(matches!(fault(different, 1, 64), Fault::Deadlock { .. }));
    let forever = "LOOP:\nbra.uni LOOP;";
    assert!(matches!(fault(forever, 1, 32), Fault::Endless { .. }));
    assert!(matches!(
        fault("setp.lt.u32 %p1, %r2, 16; @%p1 shfl.sync.idx.b32 %r9, %r2, 0, 31, 0xffffffff;", 1, 32),
        Fault::Divergence { .. }
    ));
    assert!(matches!(fault("trap;", 1, 32), Fault::Illegal { .. }));
}

#[test]
fn named_barriers_order_only_who_takes_part() {
    let pair = "setp.lt.u32 %p1, %r2, 64; @!%p1 bra END;\nst.shared.u32 [%r8], %r2; bar.sync 1, 64; xor.b32 %r10, %r8, 128; ld.shared.u32 %r11, [%r10]; st.global.u32 [%rd5], %r11;\nEND:";
    let done = run(pair, &[0; 96], 1, 96).unwrap();
    assert_eq!(done.out[0], 32);
    assert_eq!(done.out[40], 8);
}

#[test]
fn atomics_count_across_ctas() {
    let body = "setp.eq.u32 %p1, %r5, 0; @!%p1 bra ADD;\nADD:\natom.global.add.u32 %r9, [%rd1], 1; setp.ne.u32 %p2, %r9, 127; @%p2 bra END;\nst.global.u32 [%rd2], %r9;\nEND:";
    let input = vec![0; 128];
    let done = run(body, &input, 4, 32).unwrap();
    assert_eq!(done.out[0], 127);
}

#[test]
fn generic_addresses_local_arrays_and_calls() {
    let body = "cvta.shared.u64 %rd6, %rd7; st.u32 [%rd6], %r2;";
    assert!(matches!(fault(body, 1, 32), Fault::UninitialisedRegister { .. }));
    let module = ".version 7.8\n.target sm_80\n.address_size 64\n\
        .func (.param .b32 out) twice(.param .b32 x) { .reg .b32 %r<3>; ld.param.u32 %r1, [x]; add.u32 %r2, %r1, %r1; st.param.b32 [out], %r2; ret; }\n\
        .visible .entry kernel(.param .u64 b) { .reg .b32 %r<9>; .reg .b64 %rd<9>; .local .align 8 .b8 depot[16]; .shared .b32 word;\n\
        mov.u64 %rd1, depot; cvta.local.u64 %rd2, %rd1; mov.u32 %r1, %tid.x; st.u32 [%rd2+4], %r1; ld.local.u32 %r2, [%rd1+4];\n\
        { .param .b32 p0; .param .b32 q0; st.param.b32 [p0], %r2; call.uni (q0), twice, (p0); ld.param.b32 %r3, [q0]; }\n\
        mov.u32 %r4, word; cvt.u64.u32 %rd3, %r4; cvta.shared.u64 %rd4, %rd3; setp.eq.u32 %p, %r1, 0; @%p st.u32 [%rd4], 5; bar.sync 0; ld.shared.u32 %r5, [word];\n\
        add.u32 %r3, %r3, %r5; ld.param.u64 %rd5, [b]; cvta.to.global.u64 %rd5, %rd5; mad.wide.u32 %rd6, %r1, 4, %rd5; st.global.u32 [%rd6], %r3; ret; }"
        .replace("{ .reg .b32 %r<9>", "{ .reg .pred %p; .reg .b32 %r<9>");
    let device = Device::new(Config::default());
    let function = device.load(&module).unwrap().function("kernel").unwrap();
    let b = device.allocate(128).unwrap();
    let launch = Launch { grid: [1; 3], block: [32, 1, 1], dynamic_shared: 0, max_dynamic_shared: 0, params: b.to_le_bytes().to_vec() };
    device.launch(&function, &launch).unwrap();
    let mut out = [0; 128];
    device.read(b, &mut out).unwrap();
    assert_eq!(out[4 * 7..4 * 8], (7u32 * 2 + 5).to_le_bytes());
}

#[test]
fn texts_that_are_not_right_are_refused_with_their_line() {
    let device = Device::new(Config::default());
    let line = |body: &str| match device.load(&text(body)) {
        Err(Error::Parse { line, .. } | Error::Unsupported { line, .. } | Error::Target { line, .. }) => line,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted `{body}`"),
    };
    let first = 11;
    assert_eq!(line("frobnicate.u32 %r9, %r1;"), first);
    assert_eq!(line("add.u32 %r9, %r99, 1;"), first);
    assert_eq!(line("bra NOWHERE;"), first);
    assert_eq!(line("add.u32 %r9, %r1;"), first);
    assert_eq!(line("add.rn.bf16x2 %r9, %r1, %r1;"), first, "needs sm_90");
    assert_eq!(
        line("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1,%f2,%f3,%f4}, {%r1,%r2,%r3}, {%r1,%r2}, {%f1,%f2,%f3,%f4};"),
        first
    );
    for text in [
        "",
        ".version",
        ".version 7.8",
        ".version 7.8\n.target sm_80\n.entry k(",
        ".version 7.8\n.target sm_120\n",
        "\u{0}{{{{",
        ".version 7.8\n.target sm_80\n.entry k() { mov.u32 %r, {{{{",
    ] {
        assert!(device.load(text).is_err(), "{text}");
    }
}
