//! Models over HTTP: one file a wire format, and what they share.
//!
//! * The port: [`Provider`], with [`types`] free of any format. Implementations: [`http`], [`scripted`], and
//!   [`tape`], which records another one or answers in its place; [`place`] is where in a run a call is made.
//! * On the way out: [`routing`] (which provider, address and key), `profile` (what is known of the model),
//!   `dialect` (what its server does not understand), [`schema`] (structured answers).
//! * The formats: `openai`, `anthropic`, `gemini`; `wire` is what they share.
//! * On the way back: `receive`, [`sse`], [`think`]; `fault` when it fails (in the words of `said`), [`retry`] when it may go better.
//! * Documents: [`fetch`] downloads them, [`ocr`] reads PDFs.
//! * Beside it: [`pricing`], [`quote`] (what a call will take), [`traffic`] (rates, and providers that are down) and [`redact`].

mod anthropic;
mod dialect;
mod fault;
pub mod fetch;
mod gemini;
pub mod http;
pub mod ocr;
mod openai;
pub mod place;
pub mod pricing;
mod profile;
pub mod quote;
mod receive;
pub mod redact;
pub mod retry;
pub mod routing;
mod said;
pub mod schema;
pub mod scripted;
mod spent;
pub mod sse;
pub mod tape;
pub mod think;
pub mod traffic;
pub mod types;
mod wire;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use http::HttpProvider;
use ocr::{Paper, Reading};
pub use place::Place;
pub use pricing::Prices;
pub use quote::Quote;
pub use receive::{Patience, fold};
pub use scripted::ScriptedProvider;
pub use types::{Finish, Message, Part, Reply, Request, Role, Sampling, Schema, Usage};

/// The port through which the engine reaches models.
///
/// Implementations: [`http::HttpProvider`] (real providers), [`tape::Recorder`] and [`tape::Player`] (tapes) and
/// [`scripted::ScriptedProvider`] (tests).
pub trait Provider: Send + Sync {
    /// Makes one call, with the retries it needs, and returns the folded answer.
    ///
    /// `watch` is told of words as they arrive and of retries. Dropping the future abandons the call.
    fn call<'a>(&'a self, call: &'a Call, watch: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>>;
    /// The longest prompt `model` takes in tokens, when known.
    fn window(&self, _model: &str) -> Option<u32> {
        None
    }
    /// What a call will take at most, as far as that is known.
    fn quote(&self, request: &Request) -> Quote {
        Quote::of(request, None)
    }
    /// Whether `model` takes pictures, when known.
    fn vision(&self, _model: &str) -> Option<bool> {
        None
    }
    /// Whether there is a key, or a server that needs none, for `model`. Asked on the caller's thread.
    fn reaches(&self, _model: &str, _options: &CallOptions) -> bool {
        true
    }
    /// Has a model read a PDF, with the retries it needs; `watch` is told where a tape has another one there.
    /// Dropping the future abandons it.
    fn read_pdf<'a>(
        &'a self,
        paper: &'a Paper,
        _watch: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<Reading, LlmError>> {
        let (path, model) = (paper.path.display(), paper.request.model.clone());
        let message = format!("{model} cannot read {path} here: this provider reads no PDFs");
        let error = LlmError { kind: LlmErrorKind::BadRequest, message, status: None, model };
        Box::pin(std::future::ready(Err(error)))
    }
    /// The provider of a run that is made at `place` within this one's and would use `own`: a tape is one for all.
    fn within(&self, _place: &Place, own: Arc<dyn Provider>) -> Arc<dyn Provider> {
        own
    }
}

/// A call as the engine hands it to a [`Provider`].
#[derive(Debug, Clone)]
pub struct Call {
    /// What is said.
    pub request: Request,
    /// Where it goes and who pays, when the agent's configuration says so.
    pub options: CallOptions,
    /// The agent that speaks: named in errors and events.
    pub agent: String,
    /// Where in the run it is made.
    pub place: Place,
    /// Cancels the call.
    pub cancel: CancellationToken,
}

/// Per-agent settings of a call (`agent_llm_configs`); everything is optional.
#[derive(Debug, Clone, Default)]
pub struct CallOptions {
    /// `openai`, `anthropic` or `google`/`gemini`; else the model's name decides.
    pub api_type: Option<String>,
    /// Base URL that replaces the provider's own and its `*_BASE_URL` variable.
    pub base_url: Option<String>,
    /// A key of this agent alone; else [`Keys`] is asked for the provider's.
    pub api_key: Option<SecretString>,
    /// Whether to stream; `None` means yes.
    pub stream: Option<bool>,
    /// Seconds one call may take over all its tries.
    pub deadline_seconds: Option<f64>,
    /// Models to ask in turn when this one cannot be reached.
    pub fallbacks: Vec<String>,
    /// Whether not to wait for a provider that is down, since another model is asked then.
    pub fail_fast: bool,
}

impl CallOptions {
    /// The options of a call to another model, which is reached by its own name.
    #[must_use]
    pub fn elsewhere(&self) -> Self {
        Self { stream: self.stream, deadline_seconds: self.deadline_seconds, ..Self::default() }
    }
}

/// Where API keys come from; asked only for the provider a call names.
pub trait Keys: Send + Sync {
    /// The key stored under `OPENAI`, `ANTHROPIC` or `GEMINI`; `None` when missing or empty.
    fn get(&self, name: &str) -> Option<SecretString>;
}

/// What a call reports while it runs.
pub trait Watch: Send + Sync {
    /// More text of the answer has come.
    fn text(&self, delta: &str);
    /// What the try under way has used so far, as far as that is known; the reply's own usage replaces it.
    fn spent(&self, _usage: &Usage) {}
    /// A try failed and another follows after `wait_seconds`; `reason` is redacted. Text told so far is void.
    ///
    /// `tries` counts the failed tries. A server that is asked anew in simpler terms does not count as one.
    fn retry(&self, reason: &str, wait_seconds: f64, tries: u32);
    /// The call is not the one that is on the tape; `diff` shows what they say and may be empty.
    fn differs(&self, _what: &str, _diff: &str) {}
}

/// Why a call failed for good.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct LlmError {
    /// What kind of failure it is.
    pub kind: LlmErrorKind,
    /// What happened, what was expected and what to do, with the provider's own words, redacted.
    pub message: String,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
    /// The model that was asked.
    pub model: String,
}

impl LlmErrorKind {
    /// Whether another model may well answer: this one's provider is down, too busy or too slow.
    pub fn is_elsewhere_better(self) -> bool {
        matches!(self, Self::RateLimit | Self::Server | Self::Connection | Self::Timeout)
    }
}

/// Kinds of failed calls; each has its exception class in Python.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LlmErrorKind {
    /// No key for the provider.
    MissingKey,
    /// 401 or 403.
    Authentication,
    /// 404: no such model or address.
    ModelNotFound,
    /// 400 or 422 that no dialect cures.
    BadRequest,
    /// The prompt does not fit the model, or the server cut it silently.
    ContextLength,
    /// 429 until the deadline or the last try.
    RateLimit,
    /// 5xx or 529 until the deadline or the last try.
    Server,
    /// No connection, or lost while talking.
    Connection,
    /// The deadline passed, or the stream stalled for good.
    Timeout,
    /// The reply could not be understood.
    BadReply,
    /// The model or a filter declined.
    Refusal,
    /// The answer was empty, or cut at the output limit, also when asked again.
    Incomplete,
    /// The tape lacks the call, differs from it under `strict`, or cannot be written.
    Tape,
    /// The run was cancelled.
    Cancelled,
}
