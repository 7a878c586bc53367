//! Launches of the matrix products: which text a call takes, and its grid.
//!
//! bf16 and f16 go to tensor cores where the rows of every matrix start at multiples of 16 bytes and are whole numbers of them long, and so
//! does f32 on devices that were told to allow tf32; anything else to the texts without. The tile of `c` a block makes is chosen by m and
//! n, and no bit depends on it. What is accumulated over a long k is summed in segments, whose length depends on n and k
//! alone, and the segments are added in order; in f32 without tensor cores, only where four neighbours of `c` can be written at once.

use super::emit::{Finish, Stored};
use super::emit_mma::{FEW, FEW_BY_LANES, LARGE, MEDIUM, RASTER, SMALL, Tile, Variant};
use super::emit_simt::{self, Block, NARROW, WIDE};
use super::{Accumulate, Epilogue, Forward, Layout};
use crate::runtime::{CudaStream, Element, Float, Launch, Tensor, elementwise, emit};
use crate::{Error, Result};

const SEGMENTS: &str = include_str!("segments.ptx");

/// Blocks that keep a device busy: an A100 has 108 multiprocessors.
const BUSY: usize = 108;
/// Bytes between rows from which the offsets inside a tile would leave 32 bits.
const FAR: usize = 1 << 24;
/// Bytes of an operand of which a tile reads rows that lie half of all apart.
const FURTHEST: usize = 1 << 31;
/// Shortest segment, longest list of them.
const SHORTEST: usize = 512;
const MOST: usize = 16;

/// Length of the segments that k is summed in, not below k where one is all: as many as give the device two blocks a multiprocessor,
/// if the result is about as high as it is wide.
fn segment(n: usize, k: usize) -> usize {
    let tiles = n.div_ceil(MEDIUM.columns).max(1);
    let count = (2 * BUSY).div_ceil(tiles * tiles).min(MOST).min(k / SHORTEST).max(1);
    k.div_ceil(count).next_multiple_of(MEDIUM.depth(Stored::Bf16))
}

/// See [`super::scratch`].
pub(super) fn scratch(m: usize, n: usize, k: usize) -> usize {
    let segment = segment(n, k);
    if segment < k { k.div_ceil(segment) * m * n * size_of::<f32>() } else { 0 }
}

fn tile(stream: &CudaStream, m: usize, n: usize) -> Tile {
    let fills = m.div_ceil(LARGE.rows) * n.div_ceil(LARGE.columns) >= BUSY;
    match m {
        _ if m.min(n) <= SMALL.rows => SMALL,
        _ if fills && stream.shared_limit() >= LARGE.shared_bytes() => LARGE,
        _ => MEDIUM,
    }
}

/// Both operands and the matrix that their product goes to.
struct Product<T: Float, C: Element> {
    c: Tensor<C>,
    a: Tensor<T>,
    b: Tensor<T>,
    layout: Layout,
    finish: Finish,
    bias: Option<Tensor<T>>,
    other: Option<Tensor<T>>,
    factor: Option<f32>,
}

pub(super) fn forward<T: Float>(stream: &CudaStream, op: &'static str, args: Forward<T>) -> Result<()> {
    let (finish, bias, other) = match args.epilogue {
        Epilogue::None => (Finish::None, None, None),
        Epilogue::Scaled { .. } => (Finish::Scaled, None, None),
        Epilogue::Added => (Finish::Added, None, None),
        Epilogue::SwiGlu { gate_up } => (Finish::SwiGlu, None, Some(gate_up)),
        Epilogue::Bias { bias } => (Finish::Bias, Some(bias), None),
        Epilogue::BiasRelu { bias } => (Finish::BiasRelu, Some(bias), None),
        Epilogue::BiasGelu { bias, pre_activation: None } => (Finish::BiasGelu, Some(bias), None),
        Epilogue::BiasGelu { bias, pre_activation } => (Finish::BiasGeluKept, Some(bias), pre_activation),
        Epilogue::BiasResidual { bias, residual } => (Finish::BiasResidual, Some(bias), Some(residual)),
        Epilogue::Residual { residual } => (Finish::Residual, None, Some(residual)),
        Epilogue::ReluMask { output } => (Finish::ReluMask, None, Some(output)),
        Epilogue::GeluMask { pre_activation } => (Finish::GeluMask, None, Some(pre_activation)),
    };
    let factor = if let Epilogue::Scaled { factor } = args.epilogue { Some(factor as f32) } else { None };
    let Forward { c, a, b, layout, .. } = args;
    Product { c, a, b, layout, finish, bias, other, factor }.launch(stream, op)
}

pub(super) fn accumulate<T: Float>(stream: &CudaStream, op: &'static str, args: Accumulate<T>) -> Result<()> {
    let Accumulate { c, a, b, layout } = args;
    Product { c, a, b, layout, finish: Finish::Accumulate, bias: None, other: None, factor: None }.launch(stream, op)
}

impl<T: Float, C: Element> Product<T, C> {
    fn launch(self, stream: &CudaStream, op: &'static str) -> Result<()> {
        match T::NAME {
            "f32" if stream.allows_tf32() => self.by_alignment(stream, op, [Stored::Tf32, Stored::F32]),
            "f32" => self.without_tensor_cores(stream, op, Stored::F32),
            "bf16" => self.by_alignment(stream, op, [Stored::Bf16; 2]),
            "f16" => self.by_alignment(stream, op, [Stored::F16; 2]),
            element => Err(Error::NoCudaKernel { op, element }),
        }
    }

    /// On tensor cores or without, with elements stored so or so.
    fn by_alignment(&self, stream: &CudaStream, op: &'static str, [on, without]: [Stored; 2]) -> Result<()> {
        if self.suits_tensor_cores(stream) { self.on_tensor_cores(stream, op, on) } else { self.without_tensor_cores(stream, op, without) }
    }

    /// Few rows, of an operand `b` that can be streamed.
    fn is_few(&self) -> bool {
        self.c.rows() <= FEW.rows && self.layout == Layout::NT && !self.finish.is_wide()
    }

    fn k(&self) -> usize {
        if self.layout == Layout::TN { self.a.rows() } else { self.a.width() }
    }

    /// Both operands can be copied 16 bytes at a time.
    fn has_whole_chunks(&self, stream: &CudaStream) -> bool {
        let mut near = self.a.row_stride().max(self.b.row_stride()) * size_of::<T>() < FAR;
        if self.finish.folds() > 1 {
            near &= self.b.rows() * self.b.row_stride() * size_of::<T>() < FURTHEST;
        }
        near && stream.has_whole_chunks(self.a) && stream.has_whole_chunks(self.b)
    }

    fn suits_tensor_cores(&self, stream: &CudaStream) -> bool {
        let others = [self.bias, self.other].into_iter().flatten().all(|tensor| stream.has_whole_chunks(tensor));
        self.has_whole_chunks(stream) && stream.has_whole_chunks(self.c) && others
    }

    fn without_tensor_cores(&self, stream: &CudaStream, op: &'static str, stored: Stored) -> Result<()> {
        if stored == Stored::F32 && self.is_few() && self.has_whole_chunks(stream) {
            return self.tiled(stream, stored, FEW_BY_LANES);
        }
        let (m, n) = (self.c.rows(), self.c.width());
        let blocks = |block: Block| [n.div_ceil(block.tile() / self.finish.folds()), m.div_ceil(block.tile())];
        let launch = |finish: Finish, block: Block, segments: usize| {
            let entry = emit_simt::entry(stored, self.layout, finish, block);
            let text = emit::kept(&entry, || emit_simt::text(stored, self.layout, finish, block));
            let [across, down] = blocks(block);
            stream.launch(text, entry, [across, down, segments].map(|blocks| blocks as u32), emit_simt::THREADS as u32)
        };
        match self.segment() {
            Some(segment) if stored == Stored::F32 && stream.has_whole_chunks(self.c) => {
                self.in_segments(stream, op, segment, |segments| launch(Finish::Partial, WIDE, segments))
            }
            _ => {
                let idle = blocks(WIDE).into_iter().product::<usize>() < BUSY;
                let block = if idle && stored == Stored::F32 && self.finish.folds() == 1 { NARROW } else { WIDE };
                self.arguments(launch(self.finish, block, 1).write("c", self.c), self.c.row_stride()).submit()
            }
        }
    }

    /// Length of the segments that a long k is summed in.
    fn segment(&self) -> Option<usize> {
        let k = self.k();
        Some(segment(self.c.width(), k)).filter(|segment| self.finish == Finish::Accumulate && *segment < k)
    }

    /// Sums of so many segments by `partial`, and their sum.
    fn in_segments<'a>(
        &self,
        stream: &'a CudaStream,
        op: &'static str,
        segment: usize,
        partial: impl FnOnce(usize) -> Launch<'a>,
    ) -> Result<()> {
        let (m, n, k) = (self.c.rows(), self.c.width(), self.k());
        let segments = k.div_ceil(segment);
        stream.need_scratch(op, scratch(m, n, k))?;
        self.arguments(partial(segments).scratch("c", 0), n).value("segment", segment as u32).submit()?;
        let (grid, threads) = elementwise(m, n / 4);
        stream
            .launch(SEGMENTS, "gemm_add_segments_f32", grid, threads)
            .write("c", self.c)
            .scratch("partial", 0)
            .value("height", m as u32)
            .value("width", n as u32)
            .value("segments", segments as u32)
            .value("c_stride", self.c.row_stride() as u32)
            .submit()
    }

    fn on_tensor_cores(&self, stream: &CudaStream, op: &'static str, stored: Stored) -> Result<()> {
        let (m, n) = (self.c.rows(), self.c.width());
        if let Some(segment) = self.segment() {
            let tile = if m <= SMALL.rows { SMALL } else { MEDIUM };
            return self.in_segments(stream, op, segment, |segments| {
                let grid = [m.div_ceil(tile.rows), n.div_ceil(tile.columns), segments].map(|blocks| blocks as u32);
                self.variant(stream, Variant { stored, layout: self.layout, tile, finish: Finish::Partial }, grid)
            });
        }
        self.tiled(stream, stored, if self.is_few() { FEW } else { tile(stream, m, n * self.finish.folds()) })
    }

    fn tiled(&self, stream: &CudaStream, stored: Stored, tile: Tile) -> Result<()> {
        let (m, n) = (self.c.rows(), self.c.width());
        let (down, across) = (m.div_ceil(tile.rows), n.div_ceil(tile.columns / self.finish.folds()));
        let grid = [down.min(RASTER), across, down.div_ceil(RASTER)].map(|blocks| blocks as u32);
        let launch = self.variant(stream, Variant { stored, layout: self.layout, tile, finish: self.finish }, grid);
        self.arguments(launch.write("c", self.c), self.c.row_stride()).submit()
    }

    fn variant<'a>(&self, stream: &'a CudaStream, variant: Variant, grid: [u32; 3]) -> Launch<'a> {
        let entry = variant.entry();
        let text = emit::kept(&entry, || variant.text());
        stream.launch(text, entry, grid, variant.tile.threads() as u32).shared(variant.tile.shared_bytes() as u32)
    }

    /// Everything after `c`.
    fn arguments<'a>(&self, launch: Launch<'a>, c_stride: usize) -> Launch<'a> {
        let mut launch = launch.read("a", self.a).read("b", self.b);
        if let Some(bias) = self.bias {
            launch = launch.read("bias", bias);
        }
        if let (Some(name), Some(other)) = (self.finish.other(), self.other) {
            launch = if self.finish.reads_other() { launch.read(name, other) } else { launch.write(name, other) };
        }
        launch = launch.value("m", self.c.rows() as u32).value("n", self.c.width() as u32).value("k", self.k() as u32);
        launch = launch.value("c_stride", c_stride as u32);
        launch = launch.value("a_stride", self.a.row_stride() as u32).value("b_stride", self.b.row_stride() as u32);
        if let Some(other) = self.other {
            launch = launch.value("other_stride", other.row_stride() as u32);
        }
        match self.factor {
            Some(factor) => launch.value("factor", factor),
            None => launch,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_cover_k_and_keep_to_whole_steps() {
        for n in [8, 512, 768, 1536, 4096] {
            for k in [1, 1023, 2047, 2048, 9600, 76_800] {
                let (segment, tiles) = (segment(n, k), n.div_ceil(MEDIUM.columns));
                assert!(segment >= k.min(SHORTEST) && segment.is_multiple_of(MEDIUM.depth(Stored::Bf16)), "n {n} k {k}: {segment}");
                assert!(k.div_ceil(segment) <= MOST);
                assert!(segment >= k || tiles * tiles < 2 * BUSY, "n {n} k {k}: wide enough to be left whole");
                let expected = if segment < k { k.div_ceil(segment) * 24 * n * 4 } else { 0 };
                assert_eq!(scratch(24, n, k), expected);
            }
        }
        assert!(segment(512, 76_800) < 76_800 / 8);
    }
}
