//! The journal of one run in a store.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::oneshot;

use super::live::Live;
use super::op::{Op, Waiter};
use super::store::Store;
use super::writer::lock;
use super::{Demand, Entry, Journal, Position, Record};
use crate::error::{Error, Result};

/// A run's records in a [`Store`]. The run is this process's own until the journal is dropped.
pub struct SqliteJournal {
    store: Arc<Store>,
    live: Arc<Live>,
    /// The next record's number.
    next: Mutex<u64>,
    attempt: Option<u32>,
    released: AtomicBool,
}

impl SqliteJournal {
    pub(super) fn new(store: Arc<Store>, live: Arc<Live>, next: u64, attempt: Option<u32>) -> Self {
        store.writer().push(Op::Adopt(live.clone()));
        Self { store, live, next: Mutex::new(next), attempt, released: AtomicBool::new(false) }
    }

    /// The store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The last execution that earlier lives have recorded; `None` of a new run.
    pub fn attempt(&self) -> Option<u32> {
        self.attempt
    }

    /// Lets the run go: another process, or this one again, may take it up. Nothing is recorded any more.
    pub fn release(&self) {
        if !self.released.swap(true, Ordering::SeqCst) {
            self.store.writer().push(Op::Release(self.live.clone()));
        }
    }

    fn push(&self, op: Op) -> Result<()> {
        if self.released.load(Ordering::SeqCst) {
            return Err(Error::Journal(format!(
                "run {} has ended: nothing can be done in it any more",
                self.live.id
            )));
        }
        self.live.check()?;
        self.store.writer().push(op);
        Ok(())
    }
}

impl Journal for SqliteJournal {
    fn file(&self) -> Option<PathBuf> {
        Some(self.store.path().to_owned())
    }

    fn append(&self, at: f64, position: Position, entry: Entry) -> Result<u64> {
        // Held until it is in the queue, so that what a crash leaves has no gaps.
        let mut next = lock(&self.next);
        let seq = *next;
        self.push(Op::Record { run: self.live.clone(), seq, at, position, entry })?;
        *next += 1;
        Ok(seq)
    }

    fn commit(&self) -> BoxFuture<'_, Result<()>> {
        let (sender, receiver) = oneshot::channel();
        self.store.writer().push(Op::Commit { run: self.live.clone(), waiter: Waiter::Task(sender) });
        Box::pin(async move {
            receiver.await.unwrap_or_else(|_| Err(Error::Journal("the store was closed".into())))
        })
    }

    fn records(&self, from: u64) -> Result<Vec<Record>> {
        if *lock(&self.next) <= from {
            return Ok(Vec::new());
        }
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.store.writer().push(Op::Commit { run: self.live.clone(), waiter: Waiter::Thread(sender) });
        receiver.recv().unwrap_or_else(|_| Err(Error::Journal("the store was closed".into())))?;
        self.store.records(&self.live.id, from)
    }

    fn keeps(&self) -> bool {
        true
    }

    fn ask(&self, id: &str, question: &Value) -> Result<()> {
        self.push(Op::Ask { run: self.live.clone(), id: id.into(), question: question.clone() })
    }

    fn answered<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Value> {
        Box::pin(self.live.answered(id))
    }

    fn settle(&self, id: &str, answer: &Value) -> Result<()> {
        self.push(Op::Settle { run: self.live.clone(), id: id.into(), answer: answer.clone() })
    }

    fn demand(&self) -> BoxFuture<'_, Demand> {
        Box::pin(self.live.demand())
    }
}

impl Drop for SqliteJournal {
    fn drop(&mut self) {
        self.release();
    }
}
