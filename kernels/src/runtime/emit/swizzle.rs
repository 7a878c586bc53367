//! Where a 16-byte chunk of a tile's row lies in shared memory, so that eight rows of one column of chunks meet all 32 banks.

/// Rows of `row_bytes` (64 or 128) with their chunks exchanged: by `row & 7` where a row fills the banks, by `(row >> 1) & 3` where
/// two rows do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Swizzle {
    /// Bytes a row.
    pub row_bytes: usize,
}

impl Swizzle {
    /// Byte offset of a chunk.
    pub fn offset(self, row: usize, chunk: usize) -> usize {
        row * self.row_bytes + 16 * (chunk ^ self.key(row))
    }

    /// What the chunk index of a row is exclusive-ored with.
    pub fn key(self, row: usize) -> usize {
        if self.row_bytes == 64 { (row >> 1) & 3 } else { row & 7 }
    }

    /// Right shift that brings the key's bits of a row index to bit 0.
    pub fn shift(self) -> usize {
        usize::from(self.row_bytes == 64)
    }

    /// Mask of the key.
    pub fn mask(self) -> usize {
        if self.row_bytes == 64 { 3 } else { 7 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The eight chunks of one ldmatrix phase, or of one copy by eight threads, touch every bank once.
    #[test]
    fn eight_rows_meet_every_bank() {
        for row_bytes in [64, 128, 256] {
            let swizzle = Swizzle { row_bytes };
            for first in (0..64).step_by(8) {
                for chunk in 0..row_bytes / 16 {
                    let mut groups: Vec<_> = (first..first + 8).map(|row| swizzle.offset(row, chunk) / 16 % 8).collect();
                    groups.sort_unstable();
                    assert_eq!(groups, (0..8).collect::<Vec<_>>(), "rows of {row_bytes} bytes, chunk {chunk}");
                }
            }
        }
    }

    #[test]
    fn chunks_stay_apart() {
        for row_bytes in [64, 128] {
            let swizzle = Swizzle { row_bytes };
            let mut seen: Vec<_> =
                (0..16 * row_bytes / 16).map(|at| swizzle.offset(at / (row_bytes / 16), at % (row_bytes / 16))).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..16 * row_bytes).step_by(16).collect::<Vec<_>>());
        }
    }
}
