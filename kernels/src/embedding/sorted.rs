//! Tokens in the order of their ids, in groups that share no row: what makes a scatter-add parallel and its sums ordered.

use rayon::prelude::*;

use crate::runtime::{Cpu, Element, RowsMut};

/// Tokens of a group, at least, unless there are no more.
const GROUP: usize = 64;

/// Consecutive sorted tokens and the table rows that they alone write.
pub(crate) struct Group<'a, A> {
    /// Sorted keys, see [`id`] and [`position`].
    pub(crate) keys: &'a [u64],
    /// Table row of `rows`' first row.
    pub(crate) first: usize,
    /// The table's rows from `first` to the next group's; none when the table is frozen.
    pub(crate) rows: Option<RowsMut<'a, A>>,
}

/// The id of a key.
pub(crate) fn id(key: u64) -> u32 {
    (key >> 32) as u32
}

/// The token of a key.
pub(crate) fn position(key: u64) -> usize {
    (key & 0xffff_ffff) as usize
}

/// Fills `keys` with the tokens ordered by `id_of`, tokens of one id by position.
pub(crate) fn sort(cpu: &Cpu, keys: &mut [u64], id_of: impl Fn(usize) -> u32 + Sync) {
    cpu.install(|| {
        keys.par_iter_mut().with_min_len(GROUP).enumerate().for_each(|(position, key)| {
            *key = u64::from(id_of(position)) << 32 | position as u64;
        });
        // No two keys are equal: there is one order, however it is found.
        keys.par_sort_unstable();
    });
}

/// Cuts sorted keys where the id changes; tokens of `padding`, which write no row, may be cut anywhere. The cuts depend on the
/// ids alone.
pub(crate) fn groups<'a, A: Element>(keys: &'a [u64], table: Option<RowsMut<'a, A>>, padding: Option<u32>) -> Vec<Group<'a, A>> {
    let mut groups = Vec::with_capacity(keys.len() / GROUP + 1);
    let (mut keys, mut table, mut first) = (keys, table, 0);
    while let Some(last) = keys.get(GROUP - 1).map(|key| id(*key)) {
        let count = match Some(last) == padding {
            true => GROUP,
            false => GROUP + keys[GROUP..].partition_point(|key| id(*key) == last),
        };
        let (group, rest) = keys.split_at(count);
        let Some(next) = rest.first().map(|key| id(*key) as usize) else { break };
        let (rows, below) = match table {
            Some(table) => Some(table.split_rows(next - first)).unzip(),
            None => (None, None),
        };
        groups.push(Group { keys: group, first, rows });
        (keys, table, first) = (rest, below, next);
    }
    groups.push(Group { keys, first, rows: table });
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Device, Stream, Target};

    fn sorted(ids: &[u32]) -> Vec<u64> {
        let stream = Stream::new(&Device::cpu(2).unwrap(), 0).unwrap();
        let Target::Cpu(cpu) = stream.target() else { panic!("a CPU device has a CPU target") };
        let mut keys = vec![0; ids.len()];
        sort(cpu, &mut keys, |position| ids[position]);
        keys
    }

    #[test]
    fn groups_hold_every_token_once_and_share_no_row() {
        let ids: Vec<u32> = (0..1000u32).map(|token| if token % 3 == 0 { 7 } else { token.wrapping_mul(2_654_435_761) % 50 }).collect();
        let (keys, mut table) = (sorted(&ids), vec![0u32; 60 * 2]);
        for padding in [None, Some(7), Some(49)] {
            let mut seen = Vec::new();
            for mut group in groups(&keys, Some(RowsMut::of(&mut table, 2)), padding) {
                for key in group.keys {
                    seen.push(*key);
                    assert_eq!(ids[position(*key)], id(*key));
                    if Some(id(*key)) != padding {
                        group.rows.as_mut().unwrap().row_mut(id(*key) as usize - group.first)[0] += 1;
                    }
                }
            }
            assert_eq!(seen, keys);
        }
        assert!(keys.is_sorted());
        let count = |id| ids.iter().filter(|other| **other == id).count() as u32;
        assert_eq!((table[0], table[14], table[98]), (3 * count(0), 2 * count(7), 2 * count(49)));
    }

    #[test]
    fn padding_is_cut_and_other_runs_are_not() {
        let keys = sorted(&[5; 1000]);
        assert_eq!(groups::<f32>(&keys, None, None).len(), 1);
        assert_eq!(groups::<f32>(&keys, None, Some(5)).len(), 1000usize.div_ceil(GROUP));
        assert_eq!(groups::<f32>(&[], None, None).len(), 1);
    }
}
