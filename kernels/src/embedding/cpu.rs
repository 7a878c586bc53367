//! Gather and ordered scatter-add on the CPU.

use rayon::prelude::*;

use super::{Backward, Forward, Group, check_ids, groups, id, position, sort};
use crate::Result;
use crate::runtime::{Cpu, Float, Real, RowsMut, Stream};
use crate::vectorize;

/// Tokens that one task copies.
const BAND: usize = 64;
/// Columns that one task sums when there are few distinct ids.
const COLUMNS: usize = 64;

pub(super) fn forward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Forward<T>) -> Result<()> {
    let access = stream.access();
    let (table, ids) = (access.read_rows(args.table), access.read(args.ids));
    check_ids(op, ids, args.table.rows())?;
    let bands = access.write_rows(args.y).into_tiles(BAND, args.y.width().max(1));
    cpu.install(|| {
        bands.into_par_iter().zip(ids.par_chunks(BAND)).for_each(|(mut y, ids)| {
            for (row, id) in ids.iter().enumerate() {
                y.row_mut(row).copy_from_slice(table.row(*id as usize));
            }
        });
    });
    Ok(())
}

pub(super) fn backward<T: Float>(stream: &Stream, cpu: &Cpu, op: &'static str, args: Backward<T>) -> Result<()> {
    let access = stream.access();
    let (dy, ids) = (access.read_rows(args.dy), access.read(args.ids));
    check_ids(op, ids, args.dtable.rows())?;
    let dtable = access.write_rows(args.dtable);
    stream.with_scratch(op, 2 * ids.len(), |words: &mut [u32]| {
        let keys: &mut [u64] = bytemuck::cast_slice_mut(words);
        sort(cpu, keys, |position| ids[position]);
        let groups = groups(keys, Some(dtable), args.padding_id);
        // Each element of the table has one order of addition, whichever task it falls to.
        let columns = if groups.len() < 4 * cpu.threads() { COLUMNS } else { args.dy.width().max(1) };
        let tasks: Vec<_> = groups.into_iter().flat_map(|group| tiles(group, columns)).collect();
        cpu.install(|| {
            tasks.into_par_iter().for_each(|(keys, first, column, mut rows)| {
                for key in keys.iter().filter(|key| Some(id(**key)) != args.padding_id) {
                    let row = rows.row_mut(id(*key) as usize - first);
                    let width = row.len();
                    add::<T>(row, &dy.row(position(*key))[column..column + width]);
                }
            });
        });
    })
}

type Task<'a, A> = (&'a [u64], usize, usize, RowsMut<'a, A>);

fn tiles<'a, A: Real>(group: Group<'a, A>, columns: usize) -> impl Iterator<Item = Task<'a, A>> {
    let Group { keys, first, rows } = group;
    let tiles = rows
        .map(|rows| {
            let all = rows.rows().max(1);
            rows.into_tiles(all, columns)
        })
        .unwrap_or_default();
    tiles.into_iter().enumerate().map(move |(index, rows)| (keys, first, index * columns, rows))
}

vectorize! {
    fn add<T: Float>(total: &mut [T::Acc], x: &[T]) {
        for (total, x) in total.iter_mut().zip(x) {
            *total += x.to_acc();
        }
    }
}
