//! `wmma`: matrices between memory and fragments, and products of fragments, eight rows by eight columns at a time.

use super::block::Block;
use super::execute::lanes_of;
use crate::error::Fault;
use crate::lanes::{L32, L64};
use crate::numeric::exact::{self, Integers};
use crate::numeric::format::{Rounding, f16_to_f32, to_f16};
use crate::numeric::matrix::{self, Shape};
use crate::numeric::tile::Tile;
use crate::program::{Address, Src, Wmma, WmmaProduct};
use crate::syntax::Type;

/// Accumulators by row and column.
type Cells = Vec<Vec<u32>>;

impl Block<'_> {
    #[cold]
    pub(super) fn wmma(&mut self, warp: usize, active: u32, wmma: &Wmma) -> Result<(), Fault> {
        match wmma {
            Wmma::Load { tile, rows, d, at, stride, space } => {
                let (base, stride) = self.matrix_at(warp, active, *at, *stride)?;
                let size = tile.element.size();
                for (register, d) in d.iter().enumerate().take(tile.registers()) {
                    let mut values = [0u64; 32];
                    for fold in 0..tile.folds() {
                        let places = std::array::from_fn(|lane| address(*tile, *rows, base, stride, tile.place(register, lane, fold)));
                        let words = self.fetch(warp, active, *space, &places, size as u32, false)?;
                        for (value, words) in values.iter_mut().zip(words) {
                            *value |= (u64::from(words[0]) | u64::from(words[1]) << 32) << (8 * size * fold);
                        }
                    }
                    self.warps[warp].put_wide(*d, active, &values);
                }
            }
            Wmma::Store { tile, rows, s, at, stride, space } => {
                let (base, stride) = self.matrix_at(warp, active, *at, *stride)?;
                let size = tile.element.size();
                for (register, s) in s.iter().enumerate().take(tile.registers()) {
                    let values = self.wide(warp, active, *s)?;
                    for fold in 0..tile.folds() {
                        let places = std::array::from_fn(|lane| address(*tile, *rows, base, stride, tile.place(register, lane, fold)));
                        let low = if size == 2 { 0xffff } else { u64::MAX };
                        let words =
                            values.map(|value| (value >> (8 * size * fold)) & low).map(|value| [value as u32, (value >> 32) as u32, 0, 0]);
                        self.put(warp, active, *space, &places, size as u32, &words, false)?;
                    }
                }
            }
            Wmma::Multiply(product) => self.wmma_product(warp, active, product)?,
        }
        Ok(())
    }

    /// Address and stride of a matrix: the same in all lanes.
    fn matrix_at(&mut self, warp: usize, active: u32, at: Address, stride: Src) -> Result<(u64, u64), Fault> {
        let (addresses, strides) = (self.addresses(warp, active, at)?, self.narrow(warp, active, stride)?);
        let first = active.trailing_zeros() as usize % 32;
        if lanes_of(active).any(|lane| (addresses[lane], strides[lane]) != (addresses[first], strides[first])) {
            return Err(Fault::Divergence { reason: "lanes name different matrices".into() });
        }
        Ok((addresses[first], u64::from(strides[first])))
    }

    fn registers(&self, warp: usize, active: u32, tile: Tile, s: &[Src; 8]) -> Result<Vec<L32>, Fault> {
        s[..tile.registers()].iter().map(|s| self.narrow(warp, active, *s)).collect()
    }

    fn wmma_product(&mut self, warp: usize, active: u32, product: &WmmaProduct) -> Result<(), Fault> {
        let WmmaProduct { tiles, saturate, d, a, b, c } = product;
        let [of_a, of_b, of_c, of_d] = *tiles;
        if of_a.element == Type::F64 {
            let read = |s: Src| self.wide(warp, active, s);
            let (a, b, c): (L64, L64, [L64; 2]) = (read(a[0])?, read(b[0])?, [read(c[0])?, read(c[1])?]);
            for (d, values) in d.iter().zip(exact::multiply_doubles(&a, &b, &c)) {
                self.warps[warp].put_wide(*d, active, &values);
            }
            return Ok(());
        }
        let (a, b) = (self.registers(warp, active, of_a, a)?, self.registers(warp, active, of_b, b)?);
        let mut cells = unfold(of_c, &self.registers(warp, active, of_c, c)?);
        // Products have 16 rows at least: of fewer the transposed one is taken, in which a and b change places.
        let turned = of_a.shape[0] == 8;
        let sides = if turned { [(of_b, &b), (of_a, &a)] } else { [(of_a, &a), (of_b, &b)] };
        let lines = if turned { [of_a.shape[1], of_a.shape[0]] } else { [of_a.shape[0], of_a.shape[1]] };
        let depths = of_a.shape[2] / (4 * of_a.folds());
        let pick = |(tile, registers): (Tile, &Vec<L32>), line: usize, depth: usize| match depth < depths {
            true => registers[tile.register(line, depth)],
            false => [0; 32],
        };
        for rows in 0..lines[0] / 16 {
            let left: [L32; 4] = std::array::from_fn(|index| pick(sides[0], 2 * rows + index % 2, index / 2));
            for columns in 0..lines[1] / 8 {
                let right: [L32; 2] = std::array::from_fn(|depth| pick(sides[1], columns, depth));
                let cell = |register: usize, lane: usize| {
                    let (line, column) = (16 * rows + 8 * (register / 2) + lane / 4, 8 * columns + 2 * (lane % 4) + register % 2);
                    if turned { (column, line) } else { (line, column) }
                };
                let sums: [L32; 4] = std::array::from_fn(|register| {
                    std::array::from_fn(|lane| {
                        let (row, column) = cell(register, lane);
                        cells[row][column]
                    })
                });
                let results = match of_a.element {
                    Type::S8 | Type::U8 => {
                        let signed = sides.map(|(tile, _)| tile.element.is_signed());
                        exact::multiply_integers(Integers { depth: 16, signed, saturate: *saturate }, &left, &right, &sums)
                    }
                    element => {
                        let shape = Shape { element, depth: of_a.shape[2], half: false };
                        matrix::multiply(shape, self.grid.config.numerics.mma, left.each_ref(), right.each_ref(), sums.each_ref())
                    }
                };
                for (register, values) in results.iter().enumerate() {
                    for (lane, value) in values.iter().enumerate() {
                        let (row, column) = cell(register, lane);
                        cells[row][column] = *value;
                    }
                }
            }
        }
        for (register, d) in d.iter().enumerate().take(of_d.registers()) {
            let at = |lane: usize, fold: usize| {
                let [row, column] = of_d.place(register, lane, fold);
                cells[row][column]
            };
            let half = |bits: u32| to_f16(f64::from(f32::from_bits(bits)), Rounding::Nearest);
            let values: L32 = std::array::from_fn(|lane| match of_d.element {
                Type::F16 => half(at(lane, 0)) | half(at(lane, 1)) << 16,
                _ => at(lane, 0),
            });
            self.warps[warp].put_narrow(*d, active, &values);
        }
        Ok(())
    }
}

/// Where an element of a matrix in memory stands.
fn address(tile: Tile, rows: bool, base: u64, stride: u64, [row, column]: [usize; 2]) -> u64 {
    let (major, minor) = if rows { (row, column) } else { (column, row) };
    base.wrapping_add((major as u64 * stride + minor as u64) * tile.element.size() as u64)
}

/// The accumulators of a fragment by row and column, f16 widened to f32.
fn unfold(tile: Tile, registers: &[L32]) -> Cells {
    let [rows, columns] = tile.sizes();
    let mut cells = vec![vec![0; columns]; rows];
    for (register, values) in registers.iter().enumerate() {
        for (lane, value) in values.iter().enumerate() {
            for fold in 0..tile.folds() {
                let [row, column] = tile.place(register, lane, fold);
                cells[row][column] = match tile.element {
                    Type::F16 => f16_to_f32((value >> (16 * fold)) & 0xffff).to_bits(),
                    _ => *value,
                };
            }
        }
    }
    cells
}
