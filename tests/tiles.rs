//! Products on tensor cores, tile by tile on the PTX emulator: the same bits from every tile in every order of warps, whatever the sums
//! inside a matrix instruction are; no lanes that meet in a bank of shared memory; no sector of global memory that is half used.

use std::sync::LazyLock;

use scmmgpt_emulator::{ApproxModel, Config, Counters, Device, Launch, MmaModel, Numerics};
use scmmgpt_kernels::runtime::bf16;

/// Rows, columns, depth and stages.
const TILES: [[u32; 4]; 3] = [[128, 128, 32, 3], [128, 256, 64, 3], [64, 64, 64, 4]];

/// Sizes that are no multiple of a tile; 16 elements are a sector of 32 bytes.
const M: u32 = 208;
const N: u32 = 272;
const K: u32 = 336;

struct Product {
    c: Vec<u8>,
    counters: Counters,
}

/// Element `index` of an operand, in [-1, 1).
fn element(index: u32, salt: u32) -> bf16 {
    let word = (index.wrapping_mul(0x9e37_79b1) ^ salt.wrapping_mul(0x85eb_ca6b)).wrapping_mul(0x2c1b_3c6d) >> 8;
    bf16::from_f32(word as f32 / 8_388_608.0 - 1.0)
}

fn matrix(count: u32, salt: u32) -> Vec<u8> {
    (0..count).flat_map(|index| element(index, salt).to_le_bytes()).collect()
}

/// Compares every 67th element with its sum in f64.
fn check(layout: &str, c: &[u8]) {
    for at in (0..M * N).step_by(67) {
        let (row, column) = (at / N, at % N);
        let a = |p: u32| element(if layout == "tn" { p * M + row } else { row * K + p }, 1).to_f64();
        let b = |p: u32| element(if layout == "nt" { column * K + p } else { p * N + column }, 2).to_f64();
        let expected = ((0..K).map(|p| a(p) * b(p)).sum::<f64>() + element(column, 3).to_f64()).max(0.0);
        let got = bf16::from_le_bytes([c[2 * at as usize], c[2 * at as usize + 1]]).to_f64();
        assert!((got - expected).abs() <= expected / 256.0 + 1e-4, "{layout} {row},{column}: expected {expected}, got {got}");
    }
}

/// `relu(op(a) op(b) + bias)` by one tile.
fn product(layout: &str, [rows, columns, depth, stages]: [u32; 4], seed: u64, mma: MmaModel) -> Product {
    static TEXTS: LazyLock<Vec<(String, String)>> = LazyLock::new(scmmgpt_kernels::texts);
    let entry = format!("gemm_{layout}_bf16_{rows}x{columns}x{depth}_s{stages}_bias_relu");
    let (_, text) = TEXTS.iter().find(|(name, _)| *name == entry).unwrap();
    let device = Device::new(Config { seed, numerics: Numerics { mma, approx: ApproxModel::Hash }, ..Config::default() });
    let function = device.load(text).unwrap().function(&entry).unwrap();
    let bytes = (2 * M * N) as usize;
    let upload = |values: Vec<u8>| {
        let address = device.allocate(values.len() as u64).unwrap();
        device.write(address, &values).unwrap();
        address
    };
    let c = device.allocate(bytes as u64).unwrap();
    let pointers = [c, upload(matrix(M * K, 1)), upload(matrix(N * K, 2)), upload(matrix(N, 3))];
    let (a_stride, b_stride) = (if layout == "tn" { M } else { K }, if layout == "nt" { K } else { N });
    let params = pointers.iter().flat_map(|pointer| pointer.to_le_bytes());
    let params: Vec<u8> = params.chain([M, N, K, N, a_stride, b_stride].iter().flat_map(|value| value.to_le_bytes())).collect();
    let shared = stages * 2 * depth * (rows + columns);
    let (grid, block) = ([8, N.div_ceil(columns), M.div_ceil(8 * rows)], [function.max_threads(), 1, 1]);
    let launch = Launch { grid, block, dynamic_shared: shared, max_dynamic_shared: shared, params };
    let counters = device.launch(&function, &launch).unwrap_or_else(|error| panic!("{entry}: {error}"));
    let mut read = vec![0; bytes];
    device.read(c, &mut read).unwrap();
    Product { c: read, counters }
}

#[test]
fn every_tile_gives_the_same_bits_without_conflicts() {
    for layout in ["nt", "nn", "tn"] {
        for mma in [MmaModel::Sequential, MmaModel::Exact, MmaModel::Blocks] {
            let mut first: Option<Vec<u8>> = None;
            for tile in TILES {
                for seed in [0, 1, 2] {
                    let Product { c, counters } = product(layout, tile, seed, mma);
                    assert_eq!(counters.bank_conflicts, 0, "{layout} {tile:?}");
                    assert_eq!(counters.global_sectors, counters.global_sectors_least, "{layout} {tile:?}");
                    assert_eq!(counters.copies_left, 0, "{layout} {tile:?}");
                    let first = first.get_or_insert_with(|| {
                        check(layout, &c);
                        c.clone()
                    });
                    assert!(c == *first, "{layout} {tile:?} differs under seed {seed} and {mma:?}");
                }
            }
        }
    }
}
