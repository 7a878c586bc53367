//! Matrix products on the CPU: the operands are cut into blocks that fit the caches and packed; tiles of `c` go over threads.
//!
//! The depth k is cut at multiples of [`KC`] and nowhere else, and every tile, full or at an edge, runs the same micro-kernel over
//! zero-padded panels. So the bits of an element depend on its row of op(a), its column of op(b) and k alone; the cutting of m and
//! n is free and follows the number of threads.

use rayon::prelude::*;

use super::cpu_finish::{Finish, Output, store};
use super::cpu_pack::{KC, Operand, pack_a, pack_b};
use super::cpu_simd::{Kernel, Panels};
use super::{Accumulate, Epilogue, Forward, Layout};
use crate::runtime::{Cpu, Float, Real, Rows, RowsMut, Stream, with_buffer};

/// Panels of a that one task packs at most: with [`KC`] a quarter of a second-level cache.
const BAND_PANELS: usize = 14;

/// Packed elements of b at a time: a share of the third-level cache.
const BLOCK: usize = 4 << 20;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) {
    let access = stream.access();
    let (a, b, c) = (access.read_rows(args.a), access.read_rows(args.b), access.write_rows(args.c));
    let mut pre_activation = None;
    let finish = match args.epilogue {
        Epilogue::None => Finish::None,
        Epilogue::Bias { bias } => Finish::Bias(access.read(bias)),
        Epilogue::BiasRelu { bias } => Finish::Relu(access.read(bias)),
        Epilogue::BiasGelu { bias, pre_activation: kept } => {
            pre_activation = kept.map(|tensor| access.write_rows(tensor));
            Finish::Gelu(access.read(bias))
        }
        Epilogue::BiasResidual { bias, residual } => Finish::BiasResidual(access.read(bias), access.read_rows(residual)),
        Epilogue::Residual { residual } => Finish::Residual(access.read_rows(residual)),
        Epilogue::ReluMask { output } => Finish::ReluMask(access.read_rows(output)),
        Epilogue::GeluMask { pre_activation } => Finish::GeluMask(access.read_rows(pre_activation)),
    };
    let output = Output { c, pre_activation, finish, row: 0, column: 0 };
    cpu.install(|| Product::new(a, b, args.layout).run(output, cpu.threads()));
}

pub(super) fn accumulate<T: Float>(stream: &Stream, cpu: &Cpu, args: Accumulate<T>) {
    let access = stream.access();
    let (a, b, c) = (access.read_rows(args.a), access.read_rows(args.b), access.write_rows(args.c));
    let output = Output { c, pre_activation: None, finish: Finish::Add(T::Acc::ONE), row: 0, column: 0 };
    cpu.install(|| Product::new(a, b, args.layout).run(output, cpu.threads()));
}

/// `c = alpha op(a) op(b)`, or `c += alpha op(a) op(b)` with `add`, on the calling thread alone: for tiles inside other kernels.
///
/// # Panics
/// When the sizes do not fit: a bug of the caller.
#[allow(dead_code, reason = "for the CPU paths of other kernels")]
pub(crate) fn multiply<A: Real, T: Float<Acc = A>, U: Float<Acc = A>>(
    c: RowsMut<'_, A>,
    a: Rows<'_, T>,
    b: Rows<'_, U>,
    layout: Layout,
    alpha: A,
    add: bool,
) {
    let finish = if add { Finish::Add(alpha) } else { Finish::Scale(alpha) };
    Product::new(a, b, layout).run(Output { c, pre_activation: None, finish, row: 0, column: 0 }, 1);
}

/// Both operands and the micro-kernel that suits them.
#[derive(Clone, Copy)]
struct Product<'a, T: Float, U: Float<Acc = T::Acc>> {
    a: Operand<'a, T>,
    b: Operand<'a, U>,
    kernel: Kernel,
    m: usize,
    n: usize,
    k: usize,
}

impl<'a, T: Float, U: Float<Acc = T::Acc>> Product<'a, T, U> {
    fn new(a: Rows<'a, T>, b: Rows<'a, U>, layout: Layout) -> Self {
        let (a, b) = (Operand { matrix: a, deep: layout != Layout::TN }, Operand { matrix: b, deep: layout == Layout::NT });
        let (m, k) = if a.deep { (a.matrix.rows(), a.matrix.width()) } else { (a.matrix.width(), a.matrix.rows()) };
        let (n, depth) = if b.deep { (b.matrix.rows(), b.matrix.width()) } else { (b.matrix.width(), b.matrix.rows()) };
        assert_eq!(k, depth, "operands of different depth");
        Product { a, b, kernel: Kernel::select::<T::Acc>(), m, n, k }
    }

    /// Block after block of columns (and of depth, where blocks of depth are added one by one): pack b, then the tiles.
    fn run<C: Float<Acc = T::Acc>>(&self, output: Output<'_, C>, threads: usize) {
        assert_eq!((self.m, self.n), (output.c.rows(), output.c.width()), "c has another size");
        if self.m == 0 || self.n == 0 || (self.k == 0 && output.adds()) {
            return;
        }
        let width = self.kernel.columns();
        let slab = if output.adds() { self.k.min((BLOCK / 512 / KC).max(1) * KC) } else { self.k };
        let columns = (BLOCK / slab.max(1) / width).max(4) * width;
        let (mut rest, mut column) = (output, 0);
        while column < self.n {
            let count = columns.min(self.n - column);
            let (mut block, right) = rest.split_columns(count);
            let mut from = 0;
            loop {
                let depth = slab.min(self.k - from);
                let panels = count.div_ceil(width);
                with_buffer(panels * depth * width, |packed: &mut [T::Acc]| {
                    if depth > 0 {
                        let pack = |(index, panel): (usize, &mut [T::Acc])| {
                            let start = index * width;
                            pack_b(self.kernel, panel, self.b, column + start, width.min(count - start), from, depth);
                        };
                        if threads > 1 {
                            packed.par_chunks_mut(depth * width).enumerate().for_each(pack);
                        } else {
                            packed.chunks_mut(depth * width).enumerate().for_each(pack);
                        }
                    }
                    let (rows, columns) = self.grid(count, threads);
                    let tiles = block.reborrow().into_tiles(rows, columns);
                    let packed = &*packed;
                    let tile = |tile: Output<'_, C>| {
                        let start = tile.column - column;
                        let len = tile.c.width().div_ceil(width) * depth * width;
                        self.tile(tile, &packed[start * depth..][..len], from, depth);
                    };
                    if threads > 1 { tiles.into_par_iter().for_each(tile) } else { tiles.into_iter().for_each(tile) }
                });
                from += depth;
                if from >= self.k {
                    break;
                }
            }
            column += count;
            rest = right;
        }
    }

    /// Rows and columns of a task.
    fn grid(&self, columns: usize, threads: usize) -> (usize, usize) {
        let (rows, width) = (self.kernel.rows(), self.kernel.columns());
        let (down, across) = (self.m.div_ceil(rows), columns.div_ceil(width));
        let mut best = (usize::MAX, 1, across);
        for cuts in 1..=across.min(4 * threads) {
            let strip = across.div_ceil(cuts);
            for band in 1..=BAND_PANELS.min(down) {
                let tasks = down.div_ceil(band) * across.div_ceil(strip);
                // In units of one micro-kernel: the work, packing a for the band, reading b for the strip.
                let cost = 64 * band * strip + 64 * band + 64 * strip + 64;
                let cost = cost * tasks.div_ceil(threads);
                best = best.min((cost, band, strip));
            }
        }
        (best.1 * rows, best.2 * width)
    }

    /// One task: all of `depth` for one tile of c, whose panels of b lie in `packed`.
    fn tile<C: Float<Acc = T::Acc>>(&self, mut output: Output<'_, C>, packed: &[T::Acc], from: usize, depth: usize) {
        let (m, n) = (output.c.rows(), output.c.width());
        let (rows, columns, panel) = (self.kernel.rows(), self.kernel.columns(), self.kernel.panel_a());
        let (down, across) = (m.div_ceil(rows), n.div_ceil(columns));
        let blocks = depth.div_ceil(KC).max(1);
        let whole = blocks == 1 || output.adds();
        let tile_len = self.kernel.tile();
        let tiles_len = if whole { tile_len } else { down * across * tile_len };
        with_buffer(down * panel, |a: &mut [T::Acc]| {
            with_buffer(tiles_len, |tiles: &mut [T::Acc]| {
                for block in 0..blocks {
                    let (at, depth_here) = (block * KC, KC.min(depth - block * KC));
                    pack_a(self.kernel, a, self.a, output.row, m, from + at, depth_here);
                    for strip in 0..across {
                        let b = &packed[(strip * depth + at) * columns..][..depth_here * columns];
                        for band in 0..down {
                            let index = if whole { 0 } else { strip * down + band };
                            let tile = &mut tiles[index * tile_len..][..tile_len];
                            let next = if band + 1 < down { &a[(band + 1) * panel..] } else { &*a };
                            let panels = Panels { depth: depth_here, a: &a[band * panel..], deep: self.a.deep, b, next };
                            self.kernel.run(panels, tile, block > 0 && !output.adds());
                            if block + 1 == blocks || output.adds() {
                                let (row, column) = (band * rows, strip * columns);
                                store(&mut output, row, column, rows.min(m - row), columns.min(n - column), tile, columns);
                            }
                        }
                    }
                }
            });
        });
    }
}
