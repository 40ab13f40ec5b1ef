//! A run that this process owns, and what is said to it from elsewhere.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::Value;
use tokio::sync::Notify;

use super::Demand;
use super::writer::lock;
use crate::error::{Error, Result};

/// A run that this process owns.
pub(super) struct Live {
    pub(super) no: i64,
    pub(super) id: String,
    pub(super) epoch: i64,
    /// The last phase's end, which the next is stored relative to.
    pub(super) kept: Mutex<Value>,
    /// Why nothing can be recorded any more.
    broken: Mutex<Option<Error>>,
    pub(super) demands: Mutex<Vec<Demand>>,
    pub(super) answers: Mutex<HashMap<String, Value>>,
    pub(super) news: Notify,
}

impl Live {
    pub(super) fn new(no: i64, id: &str, epoch: i64, kept: Value) -> Self {
        Self {
            no,
            id: id.into(),
            epoch,
            kept: Mutex::new(kept),
            broken: Mutex::default(),
            demands: Mutex::default(),
            answers: Mutex::default(),
            news: Notify::new(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        lock(&self.broken).clone().map_or(Ok(()), Err)
    }

    pub(super) fn give_up(&self, error: &Error) {
        lock(&self.broken).get_or_insert_with(|| error.clone());
        // A run that can record nothing must not act either.
        lock(&self.demands).push(Demand::Cancel);
        self.news.notify_waiters();
    }

    pub(super) async fn demand(&self) -> Demand {
        self.wait(|| {
            let mut demands = lock(&self.demands);
            (!demands.is_empty()).then(|| demands.remove(0))
        })
        .await
    }

    pub(super) async fn answered(&self, id: &str) -> Value {
        self.wait(|| lock(&self.answers).remove(id)).await
    }

    async fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        loop {
            let news = self.news.notified();
            tokio::pin!(news);
            // From here on no news is missed.
            news.as_mut().enable();
            if let Some(found) = look() {
                return found;
            }
            news.await;
        }
    }
}
