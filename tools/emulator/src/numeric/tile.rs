//! Fragments of `wmma`: which element of its matrix each lane's registers hold.
//!
//! The ISA leaves that open, so any order serves that load, store and product share. This one is that of `mma` on the same elements, block
//! by block: with lane = 4 g + t, a register of a holds row g of an 8 x `4 * folds` block, elements `folds * t..`; one of b the same of
//! a column; accumulators hold columns 2 t, 2 t + 1 of row g of an 8 x 8 block, as two registers or as the halves of one. So fragments of
//! f32 and f16 agree element by element. a and b of f16 have eight registers whatever the shape: they repeat.

use crate::syntax::Type;

/// What a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    A,
    B,
    Sum,
}

/// A matrix of m x k, k x n or m x n elements over the lanes of a warp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) part: Part,
    /// m, n, k.
    pub(crate) shape: [usize; 3],
    pub(crate) element: Type,
}

impl Tile {
    /// Rows and columns.
    pub(crate) fn sizes(self) -> [usize; 2] {
        let [m, n, k] = self.shape;
        match self.part {
            Part::A => [m, k],
            Part::B => [k, n],
            Part::Sum => [m, n],
        }
    }

    /// Elements of a register.
    pub(crate) fn folds(self) -> usize {
        (4 / self.element.size()).max(1)
    }

    /// Registers that hold the matrix once.
    pub(crate) fn once(self) -> usize {
        let [rows, columns] = self.sizes();
        rows * columns / (32 * self.folds())
    }

    /// Registers that the ISA gives the fragment.
    pub(crate) fn registers(self) -> usize {
        if self.element == Type::F16 && self.part != Part::Sum { 8 } else { self.once() }
    }

    /// The register of a or b that holds block `depth`, counted along k, of the eight rows (of b: columns) number `line`.
    pub(crate) fn register(self, line: usize, depth: usize) -> usize {
        let [m, _, k] = self.shape;
        match self.part {
            Part::A => line + depth * m / 8,
            _ => line * (k / (4 * self.folds())) + depth,
        }
    }

    /// Row and column of element `fold` of a lane's register.
    pub(crate) fn place(self, register: usize, lane: usize, fold: usize) -> [usize; 2] {
        let ([m, _, k], folds, register) = (self.shape, self.folds(), register % self.once());
        let (g, t) = (lane / 4, lane % 4);
        let along = |block: usize| 4 * folds * block + folds * t + fold;
        match self.part {
            Part::A => [8 * (register % (m / 8)) + g, along(register / (m / 8))],
            Part::B => {
                let blocks = k / (4 * folds);
                [along(register % blocks), 8 * (register / blocks) + g]
            }
            Part::Sum => {
                let index = register * folds + fold;
                let block = index / 2;
                [8 * (block % (m / 8)) + g, 8 * (block / (m / 8)) + 2 * t + index % 2]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every element of a matrix stands in its fragment, all of them equally often.
    #[test]
    fn fragments_hold_their_matrices() {
        let wide = [[16, 16, 16], [32, 8, 16], [8, 32, 16]];
        let bytes = [Type::F16, Type::Bf16, Type::S8, Type::U8].into_iter().flat_map(|element| wide.map(|shape| (shape, element)));
        for (shape, element) in bytes.chain([([16, 16, 8], Type::Tf32), ([8, 8, 4], Type::F64)]) {
            let sums = if element.is_float() && element.size() < 4 { [Type::F32, Type::F16] } else { [Type::F32; 2] };
            let sums = if element == Type::F64 { [Type::F64; 2] } else { sums };
            for (part, element) in [(Part::A, element), (Part::B, element), (Part::Sum, sums[0]), (Part::Sum, sums[1])] {
                let tile = Tile { part, shape, element };
                let [rows, columns] = tile.sizes();
                let mut held = vec![0; rows * columns];
                for register in 0..tile.registers() {
                    for lane in 0..32 {
                        for fold in 0..tile.folds() {
                            let [row, column] = tile.place(register, lane, fold);
                            assert!(column < columns, "{tile:?}");
                            held[row * columns + column] += 1;
                        }
                    }
                }
                assert!(tile.registers() <= 8 && held.iter().all(|&count| count == tile.registers() / tile.once()), "{tile:?}: {held:?}");
            }
        }
    }
}
