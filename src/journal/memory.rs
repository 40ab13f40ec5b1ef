//! A journal that lives as long as the process: for single phases, tests and runs without a store.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, ready};
use serde_json::Value;

use super::{Effect, Entry, Journal, Position, Record};
use crate::error::Result;

/// Records in memory, with an index by position.
#[derive(Debug, Default)]
pub struct MemoryJournal(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    records: Vec<Record>,
    started: HashMap<Position, usize>,
    finished: HashMap<Position, usize>,
}

impl MemoryJournal {
    /// A journal that already holds `records`: what a crash left behind.
    pub fn replaying(records: impl IntoIterator<Item = Record>) -> Self {
        let journal = Self::default();
        for record in records {
            journal.lock().push(record.at, record.position, record.entry);
        }
        journal
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push(&mut self, at: f64, position: Position, entry: Entry) -> u64 {
        let index = self.records.len();
        match entry {
            Entry::Started { .. } => drop(self.started.insert(position, index)),
            Entry::Finished { .. } => drop(self.finished.insert(position, index)),
            Entry::Event { .. } => {}
        }
        let seq = index as u64 + 1;
        self.records.push(Record { seq, at, position, entry });
        seq
    }
}

impl Journal for MemoryJournal {
    fn append(&self, at: f64, position: Position, entry: Entry) -> BoxFuture<'_, Result<u64>> {
        Box::pin(ready(Ok(self.lock().push(at, position, entry))))
    }

    fn finished(&self, position: &Position) -> Option<(Effect, Value)> {
        let inner = self.lock();
        match &inner.records[*inner.finished.get(position)?].entry {
            Entry::Finished { effect, output } => Some((*effect, output.clone())),
            _ => None,
        }
    }

    fn started(&self, position: &Position) -> Option<String> {
        let inner = self.lock();
        match &inner.records[*inner.started.get(position)?].entry {
            Entry::Started { input, .. } => Some(input.clone()),
            _ => None,
        }
    }

    fn records(&self, from: u64) -> Vec<Record> {
        self.lock().records.iter().filter(|r| r.seq >= from).cloned().collect()
    }
}
