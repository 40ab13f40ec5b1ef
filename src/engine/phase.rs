//! A phase, as the executor sees it.

use std::any::Any;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ledger::Line;
use super::{Limits, PhaseStatus, Run, State};
use crate::error::{Error, Result};

/// One part of a workflow.
pub trait Phase: Send + Sync {
    /// Its type, such as `planning`.
    fn phase_type(&self) -> &str;
    /// Its name for people.
    fn display_name(&self) -> String;
    /// Its configuration in plain values, for the `phase_started` event.
    fn config(&self) -> Value {
        Value::Null
    }
    /// What the executor does for every phase.
    ///
    /// # Errors
    /// A setting that cannot be used.
    fn settings(&self) -> Result<Settings> {
        Ok(Settings::default())
    }
    /// Whether it is to be left out.
    fn can_skip(&self, state: &dyn State) -> Result<bool>;
    /// What is wrong with its input, a sentence each.
    fn validate_input(&self, state: &dyn State) -> Result<Vec<String>>;
    /// Does its work. It acts on the world only through `run`.
    fn execute<'a>(&'a self, run: &'a Run, state: Arc<dyn State>) -> BoxFuture<'a, Result<Outcome>>;
    /// Resolves when nothing of an execution that was given up goes on any more.
    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Settings every phase has.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// Seconds the phase may take, only when set explicitly.
    pub timeout_seconds: Option<f64>,
    /// How often a failed phase is tried again.
    pub max_retries: u32,
    /// What the phase may take, all its tries together.
    pub limits: Limits,
}

/// What a phase came to.
#[derive(Clone)]
pub struct Outcome {
    /// Its status.
    pub status: PhaseStatus,
    /// The context it leaves; the next phase starts from it.
    pub state: Arc<dyn State>,
    /// Why it failed.
    pub error: Option<String>,
    /// The error of ours behind `error`, when there is one.
    pub cause: Option<Arc<Error>>,
    /// Its conversation, in the form legacy callers read.
    pub chat_history: Vec<Value>,
    /// Seconds by name; `total` is the one the workflow keeps.
    pub timing: Vec<(String, f64)>,
    /// The host language's own result object, when it made one.
    pub object: Option<Arc<dyn Any + Send + Sync>>,
}

impl Outcome {
    /// A phase that ended with this status and nothing else to say.
    pub fn new(status: PhaseStatus, state: Arc<dyn State>) -> Self {
        Self {
            status,
            state,
            error: None,
            cause: None,
            chat_history: Vec::new(),
            timing: Vec::new(),
            object: None,
        }
    }

    /// A phase that failed.
    pub fn failed(state: Arc<dyn State>, error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::new(PhaseStatus::Failed, state) }
    }
}

/// An outcome as the journal keeps it: a later life takes it up instead of the phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The phase's type.
    pub phase_type: String,
    /// How it ended.
    pub status: PhaseStatus,
    /// Why it failed.
    pub error: Option<String>,
    /// The context it left, see [`State::snapshot`].
    pub state: Value,
    /// Its conversation.
    pub chat_history: Vec<Value>,
    /// Seconds by name.
    pub timing: Vec<(String, f64)>,
    /// What its models cost.
    pub ledger: Vec<Line>,
}

impl Kept {
    /// What is to be kept of an outcome.
    pub fn of(phase_type: &str, outcome: &Outcome, ledger: Vec<Line>) -> Result<Self> {
        Ok(Self {
            phase_type: phase_type.into(),
            status: outcome.status,
            error: outcome.error.clone(),
            state: outcome.state.snapshot()?,
            chat_history: outcome.chat_history.clone(),
            timing: outcome.timing.clone(),
            ledger,
        })
    }

    /// As the journal keeps it.
    pub(super) fn into_json(mut self) -> serde_json::Result<Value> {
        // The state may be large: it is moved, not copied.
        let state = std::mem::take(&mut self.state);
        let mut kept = serde_json::to_value(self)?;
        kept["state"] = state;
        Ok(kept)
    }

    /// The outcome with a context that was made again.
    pub fn outcome(self, state: Arc<dyn State>) -> Outcome {
        Outcome {
            error: self.error,
            chat_history: self.chat_history,
            timing: self.timing,
            ..Outcome::new(self.status, state)
        }
    }
}
