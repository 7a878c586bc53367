//! Which rows stand in which batch of which epoch.

use crate::random::{Purpose, Random};
use crate::{Error, Result};

/// Batches sorted by length are formed within stretches of this many batches, so that an epoch still
/// mixes all cells.
const BUCKET_BATCHES: usize = 32;

/// The batches of every epoch, as a pure function of the seed and the epoch: to resume, ask for the epoch
/// and skip the batches already done.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOrder {
    rows: Vec<usize>,
    batch_size: usize,
    seed: u64,
    shuffle: bool,
    drop_last: bool,
    /// `[rows]`: lengths to bucket by.
    lengths: Option<Vec<usize>>,
}

impl BatchOrder {
    /// Shuffled batches of `batch_size` rows; the last one of an epoch may be smaller.
    ///
    /// # Errors
    /// `EmptyBatch` without rows; `Setting` for a batch size of 0.
    pub fn new(rows: Vec<usize>, batch_size: usize, seed: u64) -> Result<BatchOrder> {
        if rows.is_empty() {
            return Err(Error::EmptyBatch);
        }
        if batch_size == 0 {
            let (got, expected) = ("0".to_owned(), "at least 1");
            return Err(Error::Setting { setting: "batch_size", got, expected });
        }
        Ok(BatchOrder { rows, batch_size, seed, shuffle: true, drop_last: false, lengths: None })
    }

    /// Every epoch in the order of the rows as given: for inference.
    pub fn sequential(mut self) -> BatchOrder {
        self.shuffle = false;
        self
    }

    /// Leaves out an incomplete last batch (unless it would be the only one).
    pub fn drop_last(mut self, drop_last: bool) -> BatchOrder {
        self.drop_last = drop_last;
        self
    }

    /// Puts cells of similar length into one batch, which saves padding. `lengths` has one entry for each
    /// row of the **dataset** ([`CellDataset::lengths`](crate::dataset::CellDataset::lengths)). The order
    /// of the batches stays random.
    ///
    /// # Errors
    /// `Row` when a row has no length.
    pub fn bucket_by_length(mut self, lengths: &[usize]) -> Result<BatchOrder> {
        let of_row = |&row: &usize| lengths.get(row).copied().ok_or(Error::Row { row, rows: lengths.len() });
        self.lengths = Some(self.rows.iter().map(of_row).collect::<Result<_>>()?);
        Ok(self)
    }

    /// Batches in each epoch.
    pub fn batches_per_epoch(&self) -> usize {
        if self.drop_last { (self.rows.len() / self.batch_size).max(1) } else { self.rows.len().div_ceil(self.batch_size) }
    }

    /// The rows of each batch of an epoch.
    pub fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut places: Vec<usize> = (0..self.rows.len()).collect();
        let mut random = Random::new(self.seed, Purpose::Order, epoch, 0);
        if self.shuffle {
            random.shuffle(&mut places);
        }
        // Cut first: which cells an incomplete batch holds must not depend on their length.
        let count = self.batches_per_epoch();
        places.truncate(count * self.batch_size);
        if let Some(lengths) = &self.lengths {
            let stretch = if self.shuffle { BUCKET_BATCHES * self.batch_size } else { places.len() };
            for stretch in places.chunks_mut(stretch) {
                stretch.sort_by_key(|&place| lengths[place]);
            }
        }
        let rows = |batch: &[usize]| batch.iter().map(|&place| self.rows[place]).collect();
        let mut batches: Vec<Vec<usize>> = places.chunks(self.batch_size).map(rows).collect();
        if self.shuffle && self.lengths.is_some() {
            random.shuffle(&mut batches);
        }
        batches
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(batches: &[Vec<usize>]) -> Vec<usize> {
        let mut rows: Vec<usize> = batches.concat();
        rows.sort_unstable();
        rows
    }

    #[test]
    fn an_epoch_is_a_permutation_and_a_pure_function() {
        let rows: Vec<usize> = (100..203).collect();
        let order = BatchOrder::new(rows.clone(), 10, 5).unwrap();
        let epoch = order.epoch(3);
        assert_eq!((epoch.len(), epoch[10].len()), (11, 3));
        assert_eq!(order.batches_per_epoch(), 11);
        assert_eq!(sorted(&epoch), rows);
        assert_eq!(epoch, order.epoch(3));
        assert_ne!(epoch, order.epoch(4));
        assert_ne!(epoch, BatchOrder::new(rows.clone(), 10, 6).unwrap().epoch(3));
        let whole = order.clone().drop_last(true).epoch(3);
        assert_eq!(whole, epoch[..10]);
        assert_eq!(order.sequential().epoch(7).concat(), rows);
    }

    #[test]
    fn buckets_hold_similar_lengths_and_lose_no_row() {
        let lengths: Vec<usize> = (0..640).map(|row| (row * 37) % 640).collect();
        let order = BatchOrder::new((0..640).collect(), 8, 1).unwrap();
        let bucketed = order.clone().bucket_by_length(&lengths).unwrap().epoch(0);
        assert_eq!(sorted(&bucketed), (0..640).collect::<Vec<_>>());
        let spread = |batches: &[Vec<usize>]| -> usize {
            let of = |batch: &Vec<usize>| {
                let values = batch.iter().map(|&row| lengths[row]);
                values.clone().max().unwrap() - values.min().unwrap()
            };
            batches.iter().map(of).sum()
        };
        assert!(spread(&bucketed) * 5 < spread(&order.epoch(0)));
        assert!(order.bucket_by_length(&[1, 2]).is_err());
    }

    #[test]
    fn degenerate_sizes() {
        assert!(BatchOrder::new(vec![], 4, 0).is_err());
        assert!(BatchOrder::new(vec![1], 0, 0).is_err());
        let one = BatchOrder::new(vec![9], 4, 0).unwrap().drop_last(true);
        assert_eq!(one.epoch(0), [[9]]);
    }
}
