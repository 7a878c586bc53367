//! What the vectors run on.

use scmmgpt_emulator::{Config, Device, Error, Launch, Numerics};

/// Operands of 32 bits and less.
pub(crate) const NARROW: [u32; 21] = [
    0,
    1,
    2,
    3,
    4,
    5,
    16,
    31,
    32,
    33,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x1234_5678,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff9,
    u32::MAX,
];
/// Operands of 64 bits.
pub(crate) const WIDE: [u64; 14] = [
    0,
    1,
    3,
    31,
    63,
    64,
    65,
    0xffff_ffff,
    0x1_0000_0000,
    0x1234_5678_9abc_def0,
    i64::MAX as u64,
    i64::MIN as u64,
    (-7i64) as u64,
    u64::MAX,
];
/// Operands of f32: zeros, subnormals, neighbours of 1, halves, large ones, infinities, NaN.
pub(crate) const SINGLE: [u32; 24] = [
    0,
    0x8000_0000,
    1,
    0x8000_0001,
    0x007f_ffff,
    0x0080_0000,
    0x3f80_0000,
    0x3f80_0001,
    0x3f7f_ffff,
    0xbf80_0000,
    0x3f00_0000,
    0xbf00_0000,
    0x4020_0000,
    0xc060_0000,
    0x4b80_0001,
    0x4f00_0000,
    0xcf00_0000,
    0x5f80_0000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x40a8_7ed9,
];

/// Every pair, triple, .. of the values.
pub(crate) fn combinations<T: Copy>(values: &[T], of: usize) -> Vec<[T; 3]> {
    let pick =
        |index: usize, place: usize| if place < of { values[index / values.len().pow(place as u32) % values.len()] } else { values[0] };
    (0..values.len().pow(of as u32)).map(|index| [0, 1, 2].map(|place| pick(index, place))).collect()
}

/// Runs an instruction once a thread. It reads `%a`, `%b`, `%c` (32 bits), `%ha`, .. (16) or `%wa`, .. (64) and writes one of `%d`, `%hd`,
/// `%wd`, `%p`, whose bits come back.
pub(crate) fn execute(instruction: &str, operands: &[[u64; 3]], numerics: Numerics) -> Result<Vec<u64>, Error> {
    let result = [("%wd", ""), ("%hd", "cvt.u64.u16 %wd, %hd;"), ("%p", "selp.b64 %wd, 1, 0, %p;"), ("%d", "cvt.u64.u32 %wd, %d;")];
    let written = instruction
        .split(|c: char| !(c.is_alphanumeric() || c == '%' || c == '_'))
        .find(|word| result.iter().any(|(name, _)| name == word));
    let (_, widened) = result.iter().find(|(name, _)| Some(*name) == written).unwrap();
    let text = format!(
        ".version 7.8\n.target sm_80\n.address_size 64\n.visible .entry kernel(.param .u64 in, .param .u64 out, .param .u32 n)\n{{\n\
         .reg .pred %p, %q, %done; .reg .b16 %ha, %hb, %hc, %hd; .reg .b32 %a, %b, %c, %d, %x, %y, %t, %n; .reg .b64 %wa, %wb, %wc, %wd, %at, %to;\n\
         mov.u32 %x, %ctaid.x; mov.u32 %y, %ntid.x; mov.u32 %t, %tid.x; mad.lo.u32 %t, %x, %y, %t; ld.param.u32 %n, [n];\n\
         setp.ge.u32 %done, %t, %n; @%done ret; ld.param.u64 %at, [in]; mad.wide.u32 %at, %t, 24, %at; ld.param.u64 %to, [out];\n\
         mad.wide.u32 %to, %t, 8, %to; ld.global.b64 %wa, [%at]; ld.global.b64 %wb, [%at+8]; ld.global.b64 %wc, [%at+16];\n\
         cvt.u32.u64 %a, %wa; cvt.u32.u64 %b, %wb; cvt.u32.u64 %c, %wc; cvt.u16.u64 %ha, %wa; cvt.u16.u64 %hb, %wb; cvt.u16.u64 %hc, %wc;\n\
         setp.ne.u32 %q, %c, 0;\n{instruction}\n{widened}\nst.global.b64 [%to], %wd;\nret;\n}}\n"
    );
    let device = Device::new(Config { threads: 1, memory_bytes: 1 << 24, numerics, ..Config::default() });
    let function = device.load(&text)?.function("kernel").unwrap();
    let count = operands.len();
    let (from, to) = (device.allocate(24 * count as u64)?, device.allocate(8 * count as u64)?);
    device.write(from, &operands.iter().flatten().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?;
    let params = [from.to_le_bytes(), to.to_le_bytes()].concat().into_iter().chain((count as u32).to_le_bytes()).collect();
    let grid = [count.div_ceil(64) as u32, 1, 1];
    device.launch(&function, &Launch { grid, block: [64, 1, 1], dynamic_shared: 0, max_dynamic_shared: 0, params })?;
    let mut bytes = vec![0; 8 * count];
    device.read(to, &mut bytes)?;
    Ok(bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect())
}

/// Compares an instruction with what `expected` says of every combination of `of` values.
#[track_caller]
pub(crate) fn vector(instruction: &str, values: &[u64], of: usize, expected: impl Fn(u64, u64, u64) -> u64) {
    agree(instruction, values, of, |[a, b, c], got| (got == expected(a, b, c)).then_some(()).ok_or(expected(a, b, c)));
}

/// The same where `accept` says what is right, or what was expected.
#[track_caller]
pub(crate) fn agree(instruction: &str, values: &[u64], of: usize, accept: impl Fn([u64; 3], u64) -> Result<(), u64>) {
    agree_under(instruction, values, of, Numerics::default(), accept);
}

#[track_caller]
pub(crate) fn agree_under(
    instruction: &str,
    values: &[u64],
    of: usize,
    numerics: Numerics,
    accept: impl Fn([u64; 3], u64) -> Result<(), u64>,
) {
    let operands = combinations(values, of);
    let got = execute(instruction, &operands, numerics).unwrap_or_else(|error| panic!("`{instruction}`: {error}"));
    for (operands, got) in operands.iter().zip(got) {
        if let Err(expected) = accept(*operands, got) {
            panic!("`{instruction}` of {operands:#x?}: expected {expected:#x}, got {got:#x}");
        }
    }
}

/// Values of 32 bits, widened.
pub(crate) fn widened(values: &[u32]) -> Vec<u64> {
    values.iter().map(|value| u64::from(*value)).collect()
}

/// A vector of 32-bit operands.
#[track_caller]
pub(crate) fn narrow(instruction: &str, of: usize, expected: impl Fn(u32, u32, u32) -> u32) {
    vector(instruction, &widened(&NARROW), of, |a, b, c| u64::from(expected(a as u32, b as u32, c as u32)));
}

/// A vector of 64-bit operands.
#[track_caller]
pub(crate) fn wide(instruction: &str, of: usize, expected: impl Fn(u64, u64, u64) -> u64) {
    vector(instruction, &WIDE, of, expected);
}
