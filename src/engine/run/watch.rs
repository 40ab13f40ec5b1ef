//! What a model call reports while it runs, on its way to the run's listener and ledger.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::Run;
use crate::engine::ledger::Line;
use crate::llm::{Usage, Watch};

/// Watches one call.
pub(super) struct CallWatch<'a> {
    run: &'a Run,
    agent: &'a str,
    model: &'a str,
    /// What the call has used, as long as it has not been answered in full.
    spent: Mutex<Option<Usage>>,
    /// Told once the call has ended: they are kept with its result.
    differences: Mutex<Vec<Value>>,
}

impl<'a> CallWatch<'a> {
    pub(super) fn new(run: &'a Run, agent: &'a str, model: &'a str) -> Self {
        Self { run, agent, model, spent: Mutex::default(), differences: Mutex::default() }
    }

    /// The reply has come, and says itself what it used.
    pub(super) fn replied(&self) {
        self.so_far().take();
    }

    /// How it differs from the call on the tape, as data of warnings.
    pub(super) fn differences(&self) -> Vec<Value> {
        std::mem::take(&mut *self.differences.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn so_far(&self) -> MutexGuard<'_, Option<Usage>> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CallWatch<'_> {
    /// A call that was cut has to be paid for as far as it came.
    fn drop(&mut self) {
        if let Some(usage) = self.so_far().take() {
            self.run.charge(Line::new(self.agent, self.model, usage));
        }
    }
}

impl Watch for CallWatch<'_> {
    fn text(&self, delta: &str) {
        self.run.whisper(self.agent, "call_text", json!({"delta": delta}));
    }

    fn spent(&self, usage: &Usage) {
        *self.so_far() = Some(*usage);
    }

    fn retry(&self, reason: &str, wait_seconds: f64, tries: u32) {
        let about =
            json!({"model": self.model, "reason": reason, "wait_seconds": wait_seconds, "tries": tries});
        self.run.whisper(self.agent, "call_retry", about);
    }

    fn differs(&self, what: &str, diff: &str) {
        let mut differences = self.differences.lock().unwrap_or_else(PoisonError::into_inner);
        differences.push(json!({"message": what, "diff": diff}));
    }
}
