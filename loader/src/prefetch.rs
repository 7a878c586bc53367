//! Batches made ahead on a thread of their own, while the model computes.

use std::any::Any;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, JoinHandle};

use crate::batch::{CellBatch, Collator, SampleKey};
use crate::dataset::CellDataset;
use crate::{Error, Result};

/// An iterator over batches that keeps a few ready.
///
/// Batches come in order. An error takes the place of its batch, and the batches behind it follow. When
/// the iterator is dropped, the thread stops after the batch it is at.
#[derive(Debug)]
pub struct Prefetcher<B = CellBatch> {
    /// `None` when finished.
    batches: Option<Receiver<Result<B>>>,
    thread: Option<JoinHandle<()>>,
    left: usize,
}

impl Prefetcher {
    /// Starts to collate `batches[start..]`, at most `depth` (at least 1) ahead of the reader.
    ///
    /// `start` is the resume position within the epoch; beyond the end there is nothing to do.
    ///
    /// # Errors
    /// `Worker` when the system gives no thread.
    pub fn new(
        dataset: Arc<CellDataset>,
        collator: Collator,
        batches: Vec<Vec<usize>>,
        key: SampleKey,
        start: usize,
        depth: usize,
    ) -> Result<Prefetcher> {
        let left = batches.len().saturating_sub(start);
        let make = move |position: usize| collator.collate(&dataset, &batches[position], key);
        Prefetcher::spawn(make, start, left, depth)
    }
}

impl<B: Send + 'static> Prefetcher<B> {
    /// Starts to make the `left` batches from position `start` on, at most `depth` (at least 1) ahead of the reader.
    ///
    /// # Errors
    /// `Worker` when the system gives no thread.
    pub fn spawn(make: impl Fn(usize) -> Result<B> + Send + 'static, start: usize, left: usize, depth: usize) -> Result<Prefetcher<B>> {
        let (sender, receiver) = sync_channel(depth.max(1));
        let work = move || {
            for position in start..start + left {
                // The reader is gone: nobody wants the rest.
                if sender.send(make(position)).is_err() {
                    break;
                }
            }
        };
        let thread =
            thread::Builder::new().name("batches".to_owned()).spawn(work).map_err(|source| Error::Worker { reason: source.to_string() })?;
        Ok(Prefetcher { batches: Some(receiver), thread: Some(thread), left })
    }
}

impl<B> Prefetcher<B> {
    /// Waits for the thread; its panic, if it had one, as an error.
    fn join(&mut self) -> Result<()> {
        self.batches = None;
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(())) => Ok(()),
            Some(Err(payload)) => Err(Error::Worker { reason: message(payload.as_ref()) }),
        }
    }
}

impl<B> Iterator for Prefetcher<B> {
    type Item = Result<B>;

    fn next(&mut self) -> Option<Result<B>> {
        if let Some(Ok(batch)) = self.batches.as_ref().map(Receiver::recv) {
            self.left -= 1;
            return Some(batch);
        }
        // The thread has ended; early only if it panicked.
        self.left = 0;
        self.join().err().map(Err)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left + 1))
    }
}

impl<B> Drop for Prefetcher<B> {
    fn drop(&mut self) {
        // A panic nobody will ask for has been printed by the panic hook.
        let _ = self.join();
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("panic without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn batch(position: usize) -> CellBatch {
        CellBatch { rows: vec![position], ..CellBatch::default() }
    }

    #[test]
    fn batches_and_errors_come_in_order() {
        let make = |position| {
            if position == 4 { Err(Error::EmptyBatch) } else { Ok(batch(position)) }
        };
        let made: Vec<_> = Prefetcher::spawn(make, 2, 5, 2).unwrap().collect();
        let rows: Vec<_> = made.iter().map(|batch| batch.as_ref().ok().map(|b| b.rows[0])).collect();
        assert_eq!(rows, [Some(2), Some(3), None, Some(5), Some(6)]);
    }

    #[test]
    fn a_panic_becomes_an_error_after_the_batches_before_it() {
        let make = |position| {
            if position == 1 { panic!("bug {position}") } else { Ok(batch(position)) }
        };
        let mut made = Prefetcher::spawn(make, 0, 9, 1).unwrap();
        assert!(made.next().unwrap().is_ok());
        let error = made.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("bug 1"), "{error}");
        assert!(made.next().is_none() && made.next().is_none());
    }

    #[test]
    fn dropping_stops_the_thread_and_the_queue_is_bounded() {
        let count = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&count);
        let make = move |position| {
            seen.fetch_add(1, Ordering::SeqCst);
            Ok(batch(position))
        };
        let mut made = Prefetcher::spawn(make, 0, 1_000_000, 3).unwrap();
        assert!(made.next().unwrap().is_ok());
        drop(made);
        // One taken, three queued, one at hand when the reader left (and one begun by then).
        assert!(count.load(Ordering::SeqCst) <= 6);
        assert!(Prefetcher::spawn(|p| Ok(batch(p)), 7, 0, 0).unwrap().next().is_none());
    }
}
