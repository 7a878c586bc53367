//! Products tile by tile on the PTX emulator: the same bits from every tile in every order of warps, whatever the sums inside a matrix
//! instruction are; no lanes that meet in a bank of shared memory; no sector of global memory that is half used.

use std::sync::LazyLock;

use scmmgpt_emulator::{ApproxModel, Config, Counters, Device, Launch, MmaModel, Numerics};
use scmmgpt_kernels::runtime::{bf16, f16};

/// Rows, columns, bytes of a row along k, and stages.
const TILES: [[u32; 4]; 3] = [[128, 128, 64, 3], [128, 256, 128, 3], [64, 64, 128, 4]];
/// The one for few rows, which exists for layout NT and writes `c` element by element.
const FEW: [u32; 4] = [16, 32, 128, 8];

/// Sizes that are no multiple of a tile; 16 elements are a sector of 32 bytes.
const M: u32 = 208;
const N: u32 = 272;
const K: u32 = 336;

struct Product {
    c: Vec<u8>,
    counters: Counters,
}

/// Element `index` of an operand, in [-1, 1): few enough bits for every type.
fn element(index: u32, salt: u32) -> f32 {
    let word = (index.wrapping_mul(0x9e37_79b1) ^ salt.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x2c1b_3c6d) >> 24;
    word as f32 / 128.0 - 1.0
}

fn bytes(element: &str) -> u32 {
    if element.ends_with("f16") { 2 } else { 4 }
}

fn matrix(stored: &str, count: u32, salt: u32) -> Vec<u8> {
    let values = (0..count).map(|index| element(index, salt));
    match stored {
        "bf16" => values.flat_map(|value| bf16::from_f32(value).to_le_bytes()).collect(),
        "f16" => values.flat_map(|value| f16::from_f32(value).to_le_bytes()).collect(),
        _ => values.flat_map(f32::to_le_bytes).collect(),
    }
}

fn decode(stored: &str, bytes: &[u8]) -> f64 {
    match (stored, bytes) {
        ("bf16", [low, high]) => bf16::from_le_bytes([*low, *high]).to_f64(),
        ("f16", [low, high]) => f16::from_le_bytes([*low, *high]).to_f64(),
        (_, bytes) => f64::from(f32::from_le_bytes(bytes.try_into().unwrap())),
    }
}

/// Compares every 67th element with its sum in f64.
fn check(layout: &str, stored: &str, c: &[u8]) {
    let (size, rounding) = (bytes(stored) as usize, if stored == "bf16" { 256.0 } else { 2048.0 });
    for at in (0..M * N).step_by(67) {
        let (row, column) = (at / N, at % N);
        let a = |p: u32| f64::from(element(if layout == "tn" { p * M + row } else { row * K + p }, 1));
        let b = |p: u32| f64::from(element(if layout == "nt" { column * K + p } else { p * N + column }, 2));
        let expected = ((0..K).map(|p| a(p) * b(p)).sum::<f64>() + f64::from(element(column, 3))).max(0.0);
        let got = decode(stored, &c[at as usize * size..][..size]);
        assert!((got - expected).abs() <= expected / rounding + 1e-4, "{layout} {stored} {row},{column}: {expected} and not {got}");
    }
}

/// `relu(op(a) op(b) + bias)` by one tile; none: by the text that has one of 128 x 128 and no tensor cores.
fn product(layout: &str, stored: &str, tile: Option<[u32; 4]>, seed: u64, mma: MmaModel) -> Product {
    static TEXTS: LazyLock<Vec<(String, String)>> = LazyLock::new(scmmgpt_kernels::texts);
    let variant = match tile {
        Some([rows, columns, row_bytes, stages]) => format!("{rows}x{columns}x{}_s{stages}", row_bytes / bytes(stored)),
        None => "simt".into(),
    };
    let entry = format!("gemm_{layout}_{stored}_{variant}_bias_relu");
    let (_, text) = TEXTS.iter().find(|(name, _)| *name == entry).unwrap_or_else(|| panic!("no {entry}"));
    let device = Device::new(Config { seed, numerics: Numerics { mma, approx: ApproxModel::Hash }, ..Config::default() });
    let function = device.load(text).unwrap().function(&entry).unwrap();
    let length = (bytes(stored) * M * N) as usize;
    let upload = |values: Vec<u8>| {
        let address = device.allocate(values.len() as u64).unwrap();
        device.write(address, &values).unwrap();
        address
    };
    let c = device.allocate(length as u64).unwrap();
    let pointers = [c, upload(matrix(stored, M * K, 1)), upload(matrix(stored, N * K, 2)), upload(matrix(stored, N, 3))];
    let (a_stride, b_stride) = (if layout == "tn" { M } else { K }, if layout == "nt" { K } else { N });
    let params = pointers.iter().flat_map(|pointer| pointer.to_le_bytes());
    let params: Vec<u8> = params.chain([M, N, K, N, a_stride, b_stride].iter().flat_map(|value| value.to_le_bytes())).collect();
    let (grid, shared) = match tile {
        Some([rows, columns, row_bytes, stages]) => ([8, N.div_ceil(columns), M.div_ceil(8 * rows)], stages * row_bytes * (rows + columns)),
        None => ([N.div_ceil(128), M.div_ceil(128), 1], 0),
    };
    let block = [function.max_threads(), 1, 1];
    let launch = Launch { grid, block, dynamic_shared: shared, max_dynamic_shared: shared, params };
    let counters = device.launch(&function, &launch).unwrap_or_else(|error| panic!("{entry}: {error}"));
    let mut read = vec![0; length];
    device.read(c, &mut read).unwrap();
    Product { c: read, counters }
}

#[test]
fn every_tile_gives_the_same_bits_without_conflicts() {
    for (layout, stored) in ["nt", "nn", "tn"].into_iter().flat_map(|layout| ["bf16", "f16", "tf32"].map(|stored| (layout, stored))) {
        for mma in [MmaModel::Sequential, MmaModel::Exact, MmaModel::Blocks] {
            let mut first: Option<Vec<u8>> = None;
            for tile in TILES.into_iter().chain((layout == "nt").then_some(FEW)) {
                // Types share their schedule; one is run in several.
                for seed in if stored == "bf16" { vec![0, 1, 2] } else { vec![1] } {
                    let Product { c, counters } = product(layout, stored, Some(tile), seed, mma);
                    assert_eq!(counters.bank_conflicts, 0, "{layout} {stored} {tile:?}");
                    assert_eq!(counters.copies_left, 0, "{layout} {stored} {tile:?}");
                    if tile != FEW {
                        assert_eq!(counters.global_sectors, counters.global_sectors_least, "{layout} {stored} {tile:?}");
                    }
                    let first = first.get_or_insert_with(|| {
                        check(layout, stored, &c);
                        c.clone()
                    });
                    assert!(c == *first, "{layout} {stored} {tile:?} differs under seed {seed} and {mma:?}");
                }
            }
        }
    }
}

/// A row has the same bits in a batch of one as in a large one, without tensor cores too.
#[test]
fn few_rows_in_f32_give_the_bits_of_many() {
    let many = product("nt", "f32", None, 1, MmaModel::Sequential);
    check("nt", "f32", &many.c);
    for seed in [0, 1, 2] {
        let few = product("nt", "f32", Some(FEW), seed, MmaModel::Sequential);
        assert_eq!((few.counters.bank_conflicts, few.counters.copies_left), (0, 0));
        assert!(few.c == many.c, "other bits under seed {seed}");
    }
}
