//! Errors of the engine as Python exceptions, and back.

use std::sync::Arc;

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;

use crate::error::{Error, Meaning};
use crate::exec::ExecError;
use crate::llm::LlmErrorKind;

/// An exception of the caller's code, on its way through the engine.
pub(super) fn foreign(py: Python<'_>, error: PyErr) -> Error {
    let meaning = if !error.is_instance_of::<PyException>(py) {
        Meaning::Exit
    } else if is_a(py, &error, "RunStoppedError") {
        Meaning::Stop
    } else if is_a(py, &error, "OverLimitError") {
        Meaning::Limit
    } else {
        Meaning::Failure
    };
    // `str()` of a user's exception may raise.
    let text = error.value(py).str().map_or_else(|_| String::new(), |text| text.to_string_lossy().into());
    let name = || error.get_type(py).name().map_or_else(|_| String::new(), |name| name.to_string());
    let text = if text.is_empty() { name() } else { text };
    Error::Foreign { text, object: Arc::new(error), meaning }
}

fn is_a(py: Python<'_>, error: &PyErr, class: &str) -> bool {
    let class = py.import(intern!(py, "cmbagent.errors")).and_then(|m| m.getattr(class));
    class.is_ok_and(|class| error.matches(py, class).unwrap_or(false))
}

/// Says on an exception of a custom phase where it was raised.
pub(super) fn note(py: Python<'_>, error: &PyErr, text: &str) {
    // Cancellations and exits belong to the program, not to the phase.
    if !error.is_instance_of::<PyException>(py) {
        return;
    }
    let exception = error.value(py);
    let noted = exception.getattr(intern!(py, "__notes__")).and_then(|notes| notes.contains(text));
    if !noted.unwrap_or(false) {
        // An exception that refuses notes is raised without one.
        let _ = exception.call_method1(intern!(py, "add_note"), (text,));
    }
}

/// The exception a caller gets. Those of a custom phase come back as the same object.
pub(super) fn to_exception(py: Python<'_>, error: &Error) -> PyErr {
    if let Error::Foreign { object, .. } = error
        && let Some(original) = object.downcast_ref::<PyErr>()
    {
        return original.clone_ref(py);
    }
    build(py, error).unwrap_or_else(|failure| failure)
}

fn build(py: Python<'_>, error: &Error) -> PyResult<PyErr> {
    let class = py.import(intern!(py, "cmbagent.errors"))?.getattr(class_name(error))?;
    let exception = class.call1((error.to_string(),))?;
    if let Error::Model { error, agent, phase, step } = error {
        exception.setattr("model", &error.model)?;
        exception.setattr("agent", agent)?;
        exception.setattr("phase", phase)?;
        exception.setattr("step", (*step > 0).then_some(*step))?;
        exception.setattr("status", error.status)?;
    }
    let exception = PyErr::from_value(exception);
    if let Error::PhaseFailed { cause: Some(cause), .. } = error {
        exception.set_cause(py, Some(to_exception(py, cause)));
    }
    Ok(exception)
}

fn class_name(error: &Error) -> &'static str {
    match error {
        Error::Configuration(_) | Error::Execution(ExecError::Confinement(_)) => "ConfigurationError",
        Error::MissingFile(_) => "MissingFileError",
        Error::Validation { .. } => "PhaseValidationError",
        Error::PhaseFailed { .. } => "PhaseFailedError",
        Error::Model { error, .. } => model_class(error.kind),
        Error::Execution(_) => "ExecutionError",
        Error::Limit(_) => "LimitError",
        Error::OverLimit(_) => "OverLimitError",
        Error::Download(_) => "DownloadError",
        Error::WorkDir(_) => "WorkDirError",
        Error::Stopped(_) => "RunStoppedError",
        Error::Timeout(_) => "PhaseTimeoutError",
        Error::Journal(_) => "JournalError",
        Error::Foreign { .. } => "CmbagentError",
    }
}

fn model_class(kind: LlmErrorKind) -> &'static str {
    match kind {
        LlmErrorKind::MissingKey => "MissingKeyError",
        LlmErrorKind::Authentication => "AuthenticationError",
        LlmErrorKind::ModelNotFound => "ModelNotFoundError",
        LlmErrorKind::BadRequest => "BadRequestError",
        LlmErrorKind::ContextLength => "ContextLengthError",
        LlmErrorKind::RateLimit => "RateLimitError",
        LlmErrorKind::Server => "ServerError",
        LlmErrorKind::Connection => "ModelConnectionError",
        LlmErrorKind::Timeout => "ModelTimeoutError",
        LlmErrorKind::BadReply => "BadReplyError",
        LlmErrorKind::Refusal => "RefusalError",
        LlmErrorKind::Incomplete => "IncompleteAnswerError",
        LlmErrorKind::Tape => "TapeError",
        LlmErrorKind::Cancelled => "RunStoppedError",
    }
}
