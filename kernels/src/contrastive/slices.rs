//! How a GPU cuts the matrix of scores: into slices, which pass through the scratch one after the other, and these into tiles.
//!
//! A slice is `side` cells by `side` texts of every group. While it is there, the scratch holds a slope for each of its pairs, and with
//! several queries the one that won; in the forward pass a sum for each item and tile instead, which is less. Everything follows from the
//! shapes alone.

use super::emit::{MET, OWN, at_a_time};

/// Most bytes of scratch for pairs, unless [`FEWEST`] of every item's need more.
const MOST: usize = 128 << 20;
/// Pairs of an item that there is always room for, and what sides are multiples of where several slices cover a group.
const FEWEST: usize = 128;

/// Places in a row of slopes, whose start is a multiple of 16 bytes.
fn pitch(side: usize) -> usize {
    side.next_multiple_of(4)
}

/// Bytes of a pair: its slope, and its winner among several queries.
fn bytes_a_pair(queries: usize) -> usize {
    size_of::<f32>() + if queries > 1 { size_of::<u32>() } else { 0 }
}

/// Pairs that the scratch has room for: all, or as much as cells, texts and their gradients take.
fn room(items: usize, queries: usize, width: usize) -> usize {
    let gradients = 2 * size_of::<f32>() * items * (queries + 1) * width;
    (items * pitch(items)).min((gradients.min(MOST) / bytes_a_pair(queries)).max(items * FEWEST))
}

/// Bytes of stream scratch of either pass, whatever the groups: the pairs, and up to 64 an item for sums.
pub(super) fn scratch(items: usize, queries: usize, width: usize) -> usize {
    room(items, queries, width) * bytes_a_pair(queries) + 64 * items
}

/// The cut, and where what lies in the scratch begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slices {
    pub(super) groups: usize,
    /// Cells, and texts, of a slice of a group.
    pub(super) side: usize,
    /// Slices of a group along either side.
    pub(super) count: usize,
    /// Places for a slice's cells, or texts, of all groups: group x side + place in the slice.
    pub(super) slots: usize,
    /// Cells of a tile.
    pub(super) own: usize,
    pub(super) pitch: usize,
    items: usize,
    queries: usize,
}

impl Slices {
    /// For `group` items a group, of which the last may have fewer.
    pub(super) fn new(items: usize, group: usize, queries: usize, width: usize) -> Slices {
        let (groups, room) = (items.div_ceil(group), room(items, queries, width));
        let mut side = group;
        // The last group ends with the items, so that there are never more places than these.
        if (groups * side).min(items) * pitch(side) > room {
            let most = ((room / groups).isqrt() / FEWEST * FEWEST).max(FEWEST);
            side = group.div_ceil(group.div_ceil(most)).next_multiple_of(FEWEST);
        }
        let (count, slots, own) = (group.div_ceil(side), (groups * side).min(items), OWN / at_a_time(queries));
        Slices { groups, side, count, slots, own, pitch: pitch(side), items, queries }
    }

    /// First cells and first texts of the slices, in their order.
    pub(super) fn firsts(&self) -> impl Iterator<Item = [usize; 2]> {
        let Slices { side, count, .. } = *self;
        (0..count).flat_map(move |cells| (0..count).map(move |texts| [cells * side, texts * side]))
    }

    /// Whether a slice that begins there is the last along its side.
    pub(super) fn is_last(&self, first: usize) -> bool {
        first + self.side >= self.count * self.side
    }

    /// Tiles of a slice: one a block.
    pub(super) fn grid(&self) -> [usize; 3] {
        [self.groups, self.side.div_ceil(self.own), self.side.div_ceil(MET)]
    }

    /// Forward: shares of the cells' sums, shares of the texts', the sums of cells and of texts between slices, the own scores; the end.
    pub(super) fn forward(&self) -> [usize; 6] {
        let [_, down, across] = self.grid();
        let pair = 2 * size_of::<f32>();
        let mut at = 0;
        [across * self.slots * pair, down * self.slots * pair, self.items * pair, self.items * pair, self.items * size_of::<f32>(), 0].map(
            |bytes| {
                at += bytes;
                at - bytes
            },
        )
    }

    /// Backward: slopes, winners, the blocks' sums of slope x score; the end.
    pub(super) fn backward(&self) -> [usize; 4] {
        let pairs = self.slots * self.pitch;
        let sums = pairs * bytes_a_pair(self.queries);
        [0, pairs * size_of::<f32>(), sums, sums + self.grid().into_iter().product::<usize>() * size_of::<f32>()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_every_group_and_fit_the_scratch() {
        for items in [1, 2, 3, 17, 63, 129, 600, 1449, 4096, 65_536, 1_000_000] {
            for (queries, width) in [(1, 1), (1, 256), (2, 16), (5, 3), (32, 256), (200, 9)] {
                for group in [1, 2, 3, 16, 65, 127, 128, 129, 1000, 4096, items / 2 + 1, items - 1, items] {
                    let group = group.clamp(1, items);
                    let slices = Slices::new(items, group, queries, width);
                    let Slices { side, count, slots, .. } = slices;
                    let what = format!("{items} items, {queries} queries, width {width}, groups of {group}: {slices:?}");
                    assert!(count * side >= group && (count - 1) * side < group, "{what}");
                    assert!(count == 1 || side % OWN == 0, "tiles keep to their slice: {what}");
                    assert!(slots <= items, "{what}");
                    let last = items - (slices.groups - 1) * group;
                    assert!((slices.groups - 1) * side + last.min(side) <= slots, "{what}");
                    let needed = slices.forward()[5].max(slices.backward()[3]);
                    assert!(needed <= scratch(items, queries, width), "{needed} of {}: {what}", scratch(items, queries, width));
                }
            }
        }
    }

    #[test]
    fn scratch_is_linear_in_many_items_and_large_cuts_keep_a_device_busy() {
        let mib = |items, queries, width| scratch(items, queries, width) as f64 / f64::from(1 << 20);
        assert!(mib(512, 32, 256) < 2.1 && mib(4096, 1, 256) < 16.3 && mib(4096, 32, 256) < 128.3 && mib(65_536, 1, 256) < 132.1);
        for (items, queries) in [(512, 32), (4096, 1), (4096, 32), (65_536, 1), (65_536, 32)] {
            let slices = Slices::new(items, items, queries, 256);
            assert!(slices.grid().into_iter().product::<usize>() >= 128, "{slices:?}");
            assert!(slices.side >= 512, "{slices:?}");
        }
    }
}
