//! Matrix products on the CPU: the operands are cut into blocks that fit the caches and packed; tiles of `c` go over threads.
//!
//! The depth k is cut at multiples of [`KC`] and nowhere else, and every tile, full or at an edge, runs the same micro-kernel over
//! zero-padded panels. So the bits of an element depend on its row of op(a), its column of op(b) and k alone; the cutting of m and
//! n is free and follows the number of threads.

use rayon::prelude::*;

use super::cpu_finish::{Finish, Output, store};
use super::cpu_pack::{KC, Operand, Part, pack_a, pack_b};
use super::cpu_simd::{Kernel, Panels};
use super::cpu_simd_few as few;
use super::{Accumulate, Epilogue, Forward, Layout};
use crate::runtime::simd::prefetch;
use crate::runtime::{Cpu, Float, Real, Rows, RowsMut, Stream, with_buffer};

/// Panels of a that one task packs at most: with [`KC`] a third of a second-level cache.
const BAND_PANELS: usize = 28;

/// Packed elements of b at a time: a share of the third-level cache.
const BLOCK: usize = 4 << 20;

/// Depth that is packed at a time where blocks of depth are added to `c` one by one.
const SLAB: usize = 4 * KC;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, args: Forward<T>) {
    let access = stream.access();
    let (a, b, c) = (access.read_rows(args.a), access.read_rows(args.b), access.write_rows(args.c));
    let mut pre_activation = None;
    let finish = match args.epilogue {
        // The gate is a pass of its own here.
        Epilogue::None | Epilogue::SwiGlu { .. } => Finish::None,
        Epilogue::Scaled { factor } => Finish::Scale(T::Acc::of(factor)),
        Epilogue::Added => Finish::Join,
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

/// A range of the depth.
#[derive(Clone, Copy)]
struct Depth {
    from: usize,
    count: usize,
}

impl<'a, T: Float, U: Float<Acc = T::Acc>> Product<'a, T, U> {
    fn new(a: Rows<'a, T>, b: Rows<'a, U>, layout: Layout) -> Self {
        let (a, b) = (Operand { matrix: a, deep: layout != Layout::TN }, Operand { matrix: b, deep: layout == Layout::NT });
        let (m, k) = if a.deep { (a.matrix.rows(), a.matrix.width()) } else { (a.matrix.width(), a.matrix.rows()) };
        let (n, depth) = if b.deep { (b.matrix.rows(), b.matrix.width()) } else { (b.matrix.width(), b.matrix.rows()) };
        assert_eq!(k, depth, "operands of different depth");
        Product { a, b, kernel: Kernel::select::<T, U>(), m, n, k }
    }

    fn run<C: Float<Acc = T::Acc>>(&self, output: Output<'_, C>, threads: usize) {
        assert_eq!((self.m, self.n), (output.c.rows(), output.c.width()), "c has another size");
        if self.m == 0 || self.n == 0 || (self.k == 0 && output.adds()) {
            return;
        }
        let few = self.m <= few::ROWS && self.n >= few::GROUP && !output.adds() && few::can::<T, U>(self.kernel, self.k);
        if few && self.a.deep && self.b.deep {
            return self.run_few(output, threads);
        }
        let (rows, columns) = self.grid(self.n, threads);
        if rows >= self.m {
            // One band: nobody shares b, so every task packs its own columns.
            let all = Depth { from: 0, count: self.k };
            each(threads, output.into_tiles(rows, columns), |tile| self.tile(tile, None, all));
        } else {
            self.run_shared(output, threads);
        }
    }

    /// A few rows: every thread streams its rows of b, and nothing is packed.
    fn run_few<C: Float<Acc = T::Acc>>(&self, output: Output<'_, C>, threads: usize) {
        let groups = self.n / few::GROUP;
        let cuts = if threads > 1 { groups.min(2 * threads) } else { 1 };
        let (mut tasks, mut rest) = (Vec::with_capacity(cuts), output);
        for cut in 1..cuts {
            let at = few::GROUP * (groups * cut / cuts) - rest.column;
            let (task, right) = rest.split_columns(at);
            tasks.push(task);
            rest = right;
        }
        tasks.push(rest);
        each(threads, tasks, |mut output| {
            let (mut tile, width) = ([[0.0; few::COLUMNS]; few::ROWS], output.c.width());
            few::begin(self.b.matrix.tile(output.column, width, 0, self.k));
            for column in (0..width).step_by(few::COLUMNS) {
                // Less than a group is left: some columns once more.
                let column = column.min(width - few::GROUP);
                let count = few::COLUMNS.min(width - column);
                let b = self.b.matrix.tile(output.column + column, count, 0, self.k);
                few::multiply(self.kernel, &mut tile, self.a.matrix, b);
                store(&mut output, 0, column, self.m, count, bytemuck::cast_slice(tile.as_flattened()), few::COLUMNS);
            }
        });
    }

    /// Block after block of columns (and of depth, where blocks of depth are added one by one): pack b, then the tiles.
    fn run_shared<C: Float<Acc = T::Acc>>(&self, output: Output<'_, C>, threads: usize) {
        let width = self.kernel.columns();
        let slab = if output.adds() { SLAB.min(self.k) } else { self.k };
        let columns = (BLOCK / slab.max(1) / width).max(4) * width;
        let (mut rest, mut column) = (output, 0);
        while column < self.n {
            let count = columns.min(self.n - column);
            let (mut block, right) = rest.split_columns(count);
            // Once for depth 0 as well: its epilogue.
            for from in (0..self.k.max(1)).step_by(slab.max(1)) {
                let depth = Depth { from, count: slab.min(self.k - from) };
                let panel = depth.count.div_ceil(self.kernel.pair()) * width;
                with_buffer(count.div_ceil(width) * panel, |packed: &mut [T::Acc]| {
                    each(threads, packed.chunks_mut(panel.max(1)).enumerate().collect(), |(index, panel)| {
                        let start = index * width;
                        let part = Part { start: column + start, count: width.min(count - start), from, depth: depth.count };
                        pack_b(self.kernel, panel, self.b, part);
                    });
                    let (rows, columns) = self.grid(count, threads);
                    let packed = &*packed;
                    each(threads, block.reborrow().into_tiles(rows, columns), |tile| {
                        let first = (tile.column - column) / width;
                        self.tile(tile, Some(&packed[first * panel..]), depth);
                    });
                });
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
                let rounds = (down.div_ceil(band) * across.div_ceil(strip)).div_ceil(threads);
                // A micro-kernel costs 64, packing a panel of a 6, fetching one of b 24, a task 16.
                let cost = rounds * (64 * band * strip + 6 * band + 24 * strip + 16);
                best = best.min((cost, band, strip));
            }
        }
        (best.1 * rows, best.2 * width)
    }

    /// One task: all of `depth` for one tile of c. Its panels of b lie in `packed`, or are packed here.
    fn tile<C: Float<Acc = T::Acc>>(&self, mut output: Output<'_, C>, packed: Option<&[T::Acc]>, depth: Depth) {
        let (m, n) = (output.c.rows(), output.c.width());
        let (rows, columns, panel, pair) = (self.kernel.rows(), self.kernel.columns(), self.kernel.panel_a(), self.kernel.pair());
        let (down, across) = (m.div_ceil(rows), n.div_ceil(columns));
        let blocks = depth.count.div_ceil(KC).max(1);
        // Sums wait in tiles until the last block of depth, unless every block is added to c.
        let adds = output.adds();
        let waiting = blocks > 1 && !adds;
        let (tile, all) = (self.kernel.tile(), depth.count.div_ceil(pair) * columns);
        let own = if packed.is_none() { KC.min(depth.count).div_ceil(pair) * columns } else { 0 };
        with_buffers([own, down * panel, if waiting { down * across * tile } else { tile }], |[own, a, tiles]: [&mut [T::Acc]; 3]| {
            for block in 0..blocks {
                let (at, last) = (block * KC, block + 1 == blocks);
                let part = Part { start: output.row, count: m, from: depth.from + at, depth: KC.min(depth.count - at) };
                let steps = part.depth.div_ceil(pair);
                pack_a(self.kernel, &mut a[..down * panel], self.a, part);
                for strip in 0..across {
                    let b = match packed {
                        Some(packed) => &packed[strip * all + at / pair * columns..][..steps * columns],
                        None => {
                            let start = strip * columns;
                            let part = Part { start: output.column + start, count: columns.min(n - start), ..part };
                            pack_b(self.kernel, &mut own[..steps * columns], self.b, part);
                            &own[..steps * columns]
                        }
                    };
                    for band in 0..down {
                        let (row, column) = (band * rows, strip * columns);
                        let (height, width) = (rows.min(m - row), columns.min(n - column));
                        if last || adds {
                            (row..row + height).for_each(|row| prefetch(&output.c.row(row)[column..column + width]));
                        }
                        let index = if waiting { strip * down + band } else { 0 };
                        let sums = &mut tiles[index * tile..][..tile];
                        let panels = Panels { steps, a: &a[band * panel..], deep: self.a.deep, b };
                        self.kernel.run(panels, sums, block > 0 && waiting);
                        if last || adds {
                            store(&mut output, row, column, height, width, sums, columns);
                        }
                    }
                }
            }
        });
    }
}

/// Runs `body` on every task, over the threads of the pool if there are several.
fn each<I: Send>(threads: usize, tasks: Vec<I>, body: impl Fn(I) + Send + Sync) {
    if threads > 1 { tasks.into_par_iter().for_each(body) } else { tasks.into_iter().for_each(body) }
}

/// Lends three buffers; see [`with_buffer`]. Each starts on a cache line.
fn with_buffers<A: Real, R>(lengths: [usize; 3], body: impl FnOnce([&mut [A]; 3]) -> R) -> R {
    let [first, second, third] = lengths.map(|length| length.next_multiple_of(16));
    with_buffer(first + second + third, |buffer: &mut [A]| {
        let (left, rest) = buffer.split_at_mut(first);
        let (middle, right) = rest.split_at_mut(second);
        body([left, middle, right])
    })
}
