//! A journal that lives as long as the process: for single phases, tests and runs without a store.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, ready};

use super::{Entry, Journal, Position, Record};
use crate::error::Result;

/// Records in memory. Nobody elsewhere can see them.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    records: Mutex<Vec<Record>>,
    keeps: bool,
}

impl MemoryJournal {
    /// A journal that already holds `records`, what a crash left behind, and that a later life may read.
    pub fn replaying(records: impl IntoIterator<Item = Record>) -> Self {
        Self { records: Mutex::new(records.into_iter().collect()), keeps: true }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Record>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for MemoryJournal {
    fn append(&self, at: f64, position: Position, entry: Entry) -> Result<u64> {
        let mut records = self.lock();
        let seq = records.len() as u64 + 1;
        records.push(Record { seq, at, position, entry });
        Ok(seq)
    }

    fn commit(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Ok(())))
    }

    fn records(&self, from: u64) -> Result<Vec<Record>> {
        Ok(self.lock().iter().filter(|record| record.seq >= from).cloned().collect())
    }

    fn keeps(&self) -> bool {
        self.keeps
    }
}
