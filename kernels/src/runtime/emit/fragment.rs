//! Which element of a matrix a lane holds in which register: `mma.sync.m16n8k16` and `ldmatrix`.
//!
//! # Source
//! PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type" and "ldmatrix".

/// (row, column) of the first of the two neighbours that register `register` (0 to 3) of a 16 x 16 operand `a` holds.
pub fn a(lane: usize, register: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register % 2), 2 * (lane % 4) + 8 * (register / 2))
}

/// (k, n) of the first of the two neighbours along k that register `register` (0, 1) of a 16 x 8 operand `b` holds.
pub fn b(lane: usize, register: usize) -> (usize, usize) {
    (2 * (lane % 4) + 8 * register, lane / 4)
}

/// (row, column) of accumulator `register` (0 to 3) of a 16 x 8 result.
pub fn c(lane: usize, register: usize) -> (usize, usize) {
    (lane / 4 + 8 * (register / 2), 2 * (lane % 4) + register % 2)
}

/// (matrix, row) whose address lane `lane` gives to `ldmatrix.x4`.
pub fn source(lane: usize) -> (usize, usize) {
    (lane / 8, lane % 8)
}

/// (row, column) of the first of the two neighbours of an 8 x 8 matrix that a lane receives; transposed, the column is the stored row.
pub fn received(lane: usize) -> (usize, usize) {
    (lane / 4, 2 * (lane % 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_are_covered_once() {
        let sorted = |mut at: Vec<(usize, usize)>| {
            at.sort_unstable();
            at
        };
        let all = |rows: usize, columns: usize| (0..rows * columns).map(|at| (at / columns, at % columns)).collect::<Vec<_>>();
        let each = |registers: usize| (0..32).flat_map(move |lane| (0..registers).map(move |register| (lane, register)));
        let a_held = each(4).flat_map(|(lane, register)| [0, 1].map(|next| (a(lane, register).0, a(lane, register).1 + next)));
        assert_eq!(sorted(a_held.collect()), all(16, 16));
        let b_held = each(2).flat_map(|(lane, register)| [0, 1].map(|next| (b(lane, register).0 + next, b(lane, register).1)));
        assert_eq!(sorted(b_held.collect()), all(16, 8));
        assert_eq!(sorted(each(4).map(|(lane, register)| c(lane, register)).collect()), all(16, 8));
    }

    /// Four 8 x 8 matrices (rows 0 and 8, then columns 0 and 8) land in the registers of `a` in order.
    #[test]
    fn four_matrices_make_an_operand() {
        for lane in 0..32 {
            for register in 0..4 {
                let (row, column) = received(lane);
                assert_eq!(a(lane, register), (row + 8 * (register % 2), column + 8 * (register / 2)));
            }
        }
        assert_eq!(source(17), (2, 1));
    }

    /// Two neighbouring accumulators are the packed operand `a` of the next product: P of attention.
    #[test]
    fn results_are_operands() {
        for lane in 0..32 {
            for register in 0..4 {
                let (tile, half) = (register / 2, register % 2);
                let (row, column) = c(lane, 2 * half);
                assert_eq!(a(lane, register), (row, column + 8 * tile));
            }
        }
    }
}
