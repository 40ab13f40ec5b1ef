//! The one error of the engine. Every message says what was expected, what came and what to do.

use std::any::Any;
use std::sync::Arc;

use crate::exec::ExecError;
use crate::llm::LlmError;
use crate::llm::tape::TapeError;

/// Results of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a run, a phase or an effect did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// An argument or a configuration that cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// A file that should be there is not.
    #[error("{0}")]
    MissingFile(String),
    /// A phase found its input wanting.
    #[error("Phase {phase} validation failed: {}", python_list(messages))]
    Validation {
        /// The phase's type.
        phase: String,
        /// What is wrong, a sentence each.
        messages: Vec<String>,
    },
    /// A phase ended as failed.
    #[error("Phase {phase} failed: {error}")]
    PhaseFailed {
        /// The phase's type.
        phase: String,
        /// Its own error text.
        error: String,
        /// What made it fail, when that was an error of ours.
        #[source]
        cause: Option<Arc<Error>>,
    },
    /// A model call failed for good.
    #[error("{error} [agent {agent}, phase {phase}{}]", step_words(*step))]
    Model {
        /// What the provider said.
        #[source]
        error: LlmError,
        /// The agent that spoke.
        agent: String,
        /// The phase's type.
        phase: String,
        /// The step, 0 outside one.
        step: u32,
    },
    /// A script could not be run at all.
    #[error(transparent)]
    Execution(#[from] ExecError),
    /// `max_rounds` was reached.
    #[error("{0}")]
    Limit(String),
    /// The next effect would exceed a limit of the run or the phase; a higher one lets a later life go on.
    #[error("{0}")]
    OverLimit(String),
    /// The work directory cannot be used.
    #[error("{0}")]
    WorkDir(String),
    /// A document could not be downloaded.
    #[error("{0}")]
    Download(String),
    /// The run was cancelled: by `cancel()`, a callback, or with the task that awaits it.
    #[error("{0}")]
    Stopped(String),
    /// `timeout_seconds` of a phase passed.
    #[error("{0}")]
    Timeout(String),
    /// The record of the run cannot be read or does not fit what is being replayed.
    #[error("{0}")]
    Journal(String),
    /// An error of the host language, handed back to it as the same object.
    #[error("{text}")]
    Foreign {
        /// The error as text, for records.
        text: String,
        /// The error itself.
        object: Arc<dyn Any + Send + Sync>,
        /// What it means for the run.
        meaning: Meaning,
    },
}

impl From<TapeError> for Error {
    fn from(error: TapeError) -> Self {
        match error {
            TapeError::Missing(text) => Self::MissingFile(text),
            TapeError::Unusable(text) => Self::Configuration(text),
        }
    }
}

/// What an error of the host language means for the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The phase failed; trying it again may help.
    Failure,
    /// The run was cancelled, and an effect within a custom phase said so.
    Stop,
    /// A limit of the run or the phase was reached, and an effect within a custom phase said so.
    Limit,
    /// The task or the whole program is to end: a cancellation, an interrupt, an exit.
    Exit,
}

impl Error {
    /// Whether trying the phase again can help: not after a stop, a wrong argument or a missing key.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Configuration(_)
            | Self::Validation { .. }
            | Self::Stopped(_)
            | Self::OverLimit(_)
            | Self::WorkDir(_) => false,
            Self::Model { error, .. } => !matches!(
                error.kind,
                crate::llm::LlmErrorKind::MissingKey
                    | crate::llm::LlmErrorKind::Authentication
                    | crate::llm::LlmErrorKind::ModelNotFound
                    | crate::llm::LlmErrorKind::Tape
                    | crate::llm::LlmErrorKind::Cancelled
            ),
            Self::Foreign { meaning, .. } => *meaning == Meaning::Failure,
            _ => true,
        }
    }

    /// Whether it ends the run from outside: nothing failed.
    pub fn is_ending(&self) -> bool {
        matches!(
            self,
            Self::Stopped(_)
                | Self::OverLimit(_)
                | Self::Foreign { meaning: Meaning::Stop | Meaning::Limit | Meaning::Exit, .. }
        )
    }

    /// Whether the run is over with it, whatever a phase makes of it: what ends it from outside, and a record
    /// that cannot be kept.
    pub fn ends_run(&self) -> bool {
        self.is_ending() || matches!(self, Self::Journal(_))
    }

    /// Whether it says that the run was cancelled.
    pub fn is_stop(&self) -> bool {
        matches!(self, Self::Stopped(_) | Self::Foreign { meaning: Meaning::Stop, .. })
    }

    /// Whether it says that a limit of the run or the phase was reached.
    pub fn is_over_limit(&self) -> bool {
        matches!(self, Self::OverLimit(_) | Self::Foreign { meaning: Meaning::Limit, .. })
    }
}

fn step_words(step: u32) -> String {
    if step == 0 { String::new() } else { format!(", step {step}") }
}

/// A list of texts as Python prints it: existing callers match these messages.
pub fn python_list<S: AsRef<str>>(items: &[S]) -> String {
    let quoted: Vec<String> = items
        .iter()
        .map(|s| {
            let s = s.as_ref().replace('\\', "\\\\");
            if s.contains('\'') && !s.contains('"') {
                format!("\"{s}\"")
            } else {
                format!("'{}'", s.replace('\'', "\\'"))
            }
        })
        .collect();
    format!("[{}]", quoted.join(", "))
}
