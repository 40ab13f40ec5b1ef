//! Asking a human.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;

/// A question to a human.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// The run.
    pub run_id: String,
    /// The phase or step asked about, such as `phase_1_hitl_checkpoint`.
    pub step_id: String,
    /// `after_planning`, `after_step`, …
    pub checkpoint_type: String,
    /// What the human may want to look at.
    pub context_snapshot: Value,
    /// The question in words.
    pub message: String,
    /// The words that answer it.
    pub options: Vec<String>,
    /// Seconds to wait.
    pub timeout_seconds: u64,
}

/// How a question ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum Answer {
    /// Someone answered.
    Given {
        /// The word.
        resolution: String,
        /// Free text.
        user_feedback: Option<String>,
        /// Changes, such as `{"plan": […]}`.
        modifications: Option<Value>,
    },
    /// Nobody answered in time.
    TimedOut,
    /// Asking failed, with the reason.
    Failed {
        /// The reason.
        error: String,
    },
}

/// The port through which the engine asks.
pub trait Approvals: Send + Sync {
    /// Whether there is anyone to ask.
    fn present(&self) -> bool;
    /// Asks and waits.
    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Answer>>;
}

/// Nobody to ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nobody;

impl Approvals for Nobody {
    fn present(&self) -> bool {
        false
    }

    fn ask<'a>(&'a self, _: &'a Question) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async { Ok(Answer::Failed { error: "there is no approval manager to ask".into() }) })
    }
}
