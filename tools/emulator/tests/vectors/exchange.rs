//! What the lanes of a warp do together.

use scmmgpt_emulator::Numerics;

use crate::bench::execute;

/// Compares an instruction, of which `%a` is a value of each lane's own, with what every lane should get out of its warp's values.
#[track_caller]
fn together(instruction: &str, expected: impl Fn(u32, &[u32]) -> u32) {
    let values: Vec<u32> = (0..64u32).map(|lane| lane.wrapping_mul(0x9e37_79b1) >> (lane % 29)).collect();
    let operands: Vec<[u64; 3]> = values.iter().map(|value| [u64::from(*value), 0, u64::from(value % 2)]).collect();
    let got = execute(instruction, &operands, Numerics::default()).unwrap_or_else(|error| panic!("`{instruction}`: {error}"));
    for (thread, got) in got.into_iter().enumerate() {
        let warp = &values[thread / 32 * 32..][..32];
        let expected = expected(thread as u32 % 32, warp);
        assert_eq!(got, u64::from(expected), "`{instruction}` in lane {}", thread % 32);
    }
}

#[test]
fn shuffles_follow_the_isa() {
    for (kind, clamps) in [("up", [0u32, 0x1800]), ("down", [0x1f, 0x181f]), ("bfly", [0x1f, 0x100f]), ("idx", [0x1f, 0x1807])] {
        for clamp in clamps {
            for operand in [0u32, 1, 3, 8, 17, 31] {
                let source = |lane: u32| {
                    let (mask, limit) = (clamp >> 8 & 31, clamp & 31);
                    let (least, most) = (lane & mask, (lane & mask) | (limit & !mask));
                    let (from, inside) = match kind {
                        "up" => (lane.wrapping_sub(operand), lane as i32 - operand as i32 >= most as i32),
                        "down" => (lane + operand, lane + operand <= most),
                        "bfly" => (lane ^ operand, lane ^ operand <= most),
                        _ => (least | (operand & !mask), least | (operand & !mask) <= most),
                    };
                    (if inside { from } else { lane }, inside)
                };
                let instruction = format!("shfl.sync.{kind}.b32 %d, %a, {operand}, {clamp}, 0xffffffff;");
                together(&instruction, |lane, values| values[source(lane).0 as usize]);
                let instruction = format!("shfl.sync.{kind}.b32 %x|%p, %a, {operand}, {clamp}, 0xffffffff;");
                together(&instruction, |lane, _| u32::from(source(lane).1));
            }
        }
    }
}

#[test]
fn votes_matches_and_reductions() {
    // `%q` holds in lanes whose value is odd.
    let odd = |values: &[u32]| (0..32).map(|lane| (values[lane] % 2) << lane).sum::<u32>();
    together("vote.sync.ballot.b32 %d, %q, 0xffffffff;", |_, values| odd(values));
    together("vote.sync.any.pred %p, %q, 0xffffffff;", |_, values| u32::from(odd(values) != 0));
    together("vote.sync.all.pred %p, %q, 0xffffffff;", |_, values| u32::from(odd(values) == u32::MAX));
    together("vote.sync.all.pred %p, !%done, 0xffffffff;", |_, _| 1);
    together("and.b32 %x, %a, 3; match.any.sync.b32 %d, %x, 0xffffffff;", |lane, values| {
        (0..32).filter(|other| values[*other] % 4 == values[lane as usize] % 4).map(|other| 1 << other).sum()
    });
    together("redux.sync.add.u32 %d, %a, 0xffffffff;", |_, values| values.iter().fold(0, |sum, value| sum.wrapping_add(*value)));
    together("redux.sync.min.u32 %d, %a, 0xffffffff;", |_, values| *values.iter().min().unwrap());
    together("redux.sync.max.u32 %d, %a, 0xffffffff;", |_, values| *values.iter().max().unwrap());
    together("redux.sync.min.s32 %d, %a, 0xffffffff;", |_, values| values.iter().map(|value| *value as i32).min().unwrap() as u32);
    together("redux.sync.max.s32 %d, %a, 0xffffffff;", |_, values| values.iter().map(|value| *value as i32).max().unwrap() as u32);
    together("activemask.b32 %d;", |_, _| u32::MAX);
}

#[test]
fn places_of_a_thread() {
    together("mov.u32 %d, %laneid;", |lane, _| lane);
    together("mov.u32 %d, %lanemask_lt;", |lane, _| (0..lane).map(|other| 1 << other).sum());
    together("mov.u32 %d, %lanemask_eq;", |lane, _| 1 << lane);
    together("mov.u32 %d, %ntid.x;", |_, _| 64);
    together("mov.u32 %d, %nctaid.y;", |_, _| 1);
    together("mov.u32 %d, %ctaid.x;", |_, _| 0);
}

#[test]
fn matrices_out_of_shared_memory() {
    // 32 rows of 16 bytes, of which element e of row r is 8 r + e in 16 bits; lane l gives the address of row l.
    let fill = ".shared .align 16 .b8 rows[1024]; mov.u32 %b, rows; mov.u32 %x, %tid.x; shl.b32 %y, %x, 4; add.u32 %b, %b, %y;\n\
                shl.b32 %x, %x, 3; mad.lo.u32 %x, %x, 0x10001, 0x10000; st.shared.b32 [%b], %x; add.u32 %x, %x, 0x20002; st.shared.b32 [%b+4], %x;\n\
                add.u32 %x, %x, 0x20002; st.shared.b32 [%b+8], %x; add.u32 %x, %x, 0x20002; st.shared.b32 [%b+12], %x; bar.sync 0;";
    for (place, register) in ["%d, %x, %y, %c", "%x, %d, %y, %c", "%x, %y, %d, %c", "%x, %y, %c, %d"].into_iter().enumerate() {
        for trans in [false, true] {
            let form = if trans { ".trans" } else { "" };
            let instruction = format!("{{ {fill} ldmatrix.sync.aligned.m8n8.x4{form}.shared.b16 {{{register}}}, [%b]; }}");
            let operands = vec![[0u64; 3]; 32];
            let got = execute(&instruction, &operands, Numerics::default()).unwrap_or_else(|error| panic!("`{instruction}`: {error}"));
            for (lane, got) in got.into_iter().enumerate() {
                let element = |row: usize, column: usize| (8 * (8 * place + row) + column) as u64;
                let (g, t) = (lane / 4, 2 * (lane % 4));
                let [low, high] = if trans { [element(t, g), element(t + 1, g)] } else { [element(g, t), element(g, t + 1)] };
                assert_eq!(got, low | high << 16, "matrix {place}, lane {lane}, transposed: {trans}");
            }
        }
    }
}
