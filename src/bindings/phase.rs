//! Phases of Python behind the engine's `Phase` port, and the built-in ones for Python.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::types::{PyBool, PyDict, PyString};
use pyo3::{intern, prelude::*};
use serde_json::Value;

use super::aio::Awaitable;
use super::bridge::Bridge;
use super::door::RunHandle;
use super::state::{PyState, context};
use super::{convert, errors, services};
use crate::engine::{Control, Limits, Outcome, Phase, PhaseStatus, Run, Settings, State};
use crate::error::{Error, Result};
use crate::journal::MemoryJournal;
use crate::phases;

/// Seconds, some thirty years, from which on a time limit is none.
const NO_LIMIT: f64 = 1e9;

/// A live phase object. Its own methods are always asked; only an `execute` that is the built-in's
/// runs natively.
pub(super) struct PyPhase {
    pub(super) object: Py<PyAny>,
    pub(super) bridge: Bridge,
    pub(super) callbacks: Py<PyAny>,
    pub(super) approval_manager: Option<Py<PyAny>>,
    phase_type: String,
    native: bool,
}

impl PyPhase {
    pub(super) fn new(
        object: &Bound<'_, PyAny>,
        bridge: &Bridge,
        callbacks: Py<PyAny>,
        approval_manager: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        Ok(Self {
            phase_type: object.getattr(intern!(object.py(), "phase_type"))?.extract()?,
            native: is_native(object)?,
            object: object.clone().unbind(),
            bridge: bridge.clone(),
            callbacks,
            approval_manager,
        })
    }

    fn ask<T>(&self, ask: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Result<T> {
        Python::attach(|py| ask(self.object.bind(py)).map_err(|error| errors::foreign(py, error)))
    }

    /// Seconds the phase may take; the default is a marked int that sets no limit.
    fn limit(&self, config: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
        let py = config.py();
        let Some(limit) = optional(config, intern!(py, "timeout_seconds"))? else { return Ok(None) };
        let default =
            py.import(intern!(py, "cmbagent.phases.base"))?.getattr(intern!(py, "DefaultSeconds"))?;
        if limit.is_instance(&default)? {
            return Ok(None);
        }
        let number = if limit.is_instance_of::<PyBool>() { None } else { limit.extract::<f64>().ok() };
        match number {
            Some(seconds) if seconds > 0.0 => Ok((seconds < NO_LIMIT).then_some(seconds)),
            _ => Err(self.unusable("timeout_seconds", "a number of seconds above 0, or None", &limit)),
        }
    }

    fn retries(&self, config: &Bound<'_, PyAny>) -> PyResult<u32> {
        let Some(retries) = optional(config, intern!(config.py(), "max_retries"))? else { return Ok(0) };
        retries.extract().map_err(|_| self.unusable("max_retries", "an int of 0 or more", &retries))
    }

    fn unusable(&self, setting: &str, expected: &str, came: &Bound<'_, PyAny>) -> PyErr {
        let came = came.repr().map_or_else(|_| "something else".into(), |text| text.to_string());
        PyValueError::new_err(format!(
            "phase {}: {setting} must be {expected}; it is {came}",
            self.phase_type
        ))
    }

    /// An exception that the phase raised, with a note that says where.
    fn raised(&self, py: Python<'_>, run: &Run, error: PyErr) -> Error {
        let again =
            if run.phase_try() > 0 { format!(", try {}", run.phase_try() + 1) } else { String::new() };
        let text = format!(
            "raised in phase {:?} (number {} of the workflow, counted from 0{again}) of run {}",
            self.phase_type,
            run.phase_index(),
            run.id(),
        );
        errors::note(py, &error, &text);
        errors::foreign(py, error)
    }

    /// The context as the phase gets it: with the caller's callbacks and approval manager.
    fn equip(&self, py: Python<'_>, state: &dyn State) -> PyResult<()> {
        let context = context(py, state)?;
        context.setattr(intern!(py, "callbacks"), &self.callbacks)?;
        if let Some(manager) = &self.approval_manager {
            context
                .getattr(intern!(py, "shared_state"))?
                .set_item(intern!(py, "_approval_manager"), manager)?;
        }
        Ok(())
    }
}

impl Phase for PyPhase {
    fn phase_type(&self) -> &str {
        &self.phase_type
    }

    fn display_name(&self) -> String {
        self.ask(|phase| phase.getattr("display_name")?.extract()).unwrap_or_else(|_| self.phase_type.clone())
    }

    fn config(&self) -> Value {
        let mut fields = Python::attach(|py| fields(self.object.bind(py)));
        if let Value::Object(map) = &mut fields {
            // `params` is the user's own and may hold keys.
            map.remove("params");
        }
        fields
    }

    fn settings(&self) -> Result<Settings> {
        self.ask(|phase| {
            let config = phase.getattr(intern!(phase.py(), "config"))?;
            // There the setting is the time a human has.
            let waits_for_humans = self.phase_type == "hitl_checkpoint";
            let timeout_seconds = if waits_for_humans { None } else { self.limit(&config)? };
            let params = optional(&config, intern!(phase.py(), "params"))?;
            let limits = params.map(|params| Limits::of(&convert::to_json(&params)));
            let limits = limits.transpose().map_err(|error| errors::to_exception(phase.py(), &error))?;
            let limits = limits.unwrap_or_default();
            Ok(Settings { timeout_seconds, max_retries: self.retries(&config)?, limits })
        })
    }

    fn can_skip(&self, state: &dyn State) -> Result<bool> {
        self.ask(|phase| {
            let py = phase.py();
            phase.call_method1(intern!(py, "can_skip"), (context(py, state)?,))?.is_truthy()
        })
    }

    fn validate_input(&self, state: &dyn State) -> Result<Vec<String>> {
        self.ask(|phase| {
            let py = phase.py();
            phase.call_method1(intern!(py, "validate_input"), (context(py, state)?,))?.extract()
        })
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.bridge.idle())
    }

    fn execute<'a>(&'a self, run: &'a Run, state: Arc<dyn State>) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            self.ask(|phase| self.equip(phase.py(), state.as_ref()))?;
            if self.native {
                let phase = self.ask(build)?;
                return natively(&self.object, phase.as_ref(), run, state).await;
            }
            let coroutine = self.ask(|phase| {
                let py = phase.py();
                let current = py.import(intern!(py, "cmbagent._current"))?;
                let manager = self.approval_manager.as_ref().map(|manager| manager.clone_ref(py));
                let handle = RunHandle::new(run, &self.phase_type, state.as_ref(), Some(phase), manager);
                let (handle, context) = (Py::new(py, handle)?, context(py, state.as_ref())?);
                Ok(current.call_method1(intern!(py, "within"), (handle, phase, context))?.unbind())
            })?;
            let result = tokio::select! {
                biased;
                result = self.bridge.drive(coroutine) => result,
                // The coroutine that is given up sees CancelledError where it waits.
                () = run.control().cut() => return Err(run.control().error()),
            };
            Python::attach(|py| {
                let outcome = result.and_then(|result| outcome(result.bind(py), &self.phase_type));
                outcome.map_err(|error| self.raised(py, run, error))
            })
        })
    }
}

/// Reads what a custom phase returned.
fn outcome(result: &Bound<'_, PyAny>, phase_type: &str) -> PyResult<Outcome> {
    let py = result.py();
    let parts = || -> PyResult<(String, Bound<'_, PyAny>, Option<String>)> {
        let status = result.getattr(intern!(py, "status"))?;
        let word = status.getattr(intern!(py, "value")).unwrap_or(status);
        let error = result.getattr(intern!(py, "error"))?;
        let error = if error.is_none() { None } else { Some(error.str()?.to_string()) };
        let context = result.getattr(intern!(py, "context"))?;
        // What the next phase is handed.
        context.getattr(intern!(py, "copy_for_next_phase"))?;
        Ok((word.extract()?, context, error))
    };
    let (word, context, error) = parts().map_err(|_| {
        PyTypeError::new_err(format!(
            "phase {phase_type}: execute() must return a PhaseResult(status=…, context=…), it returned {}",
            result.get_type().name().map(|n| n.to_string()).unwrap_or_default()
        ))
    })?;
    let status = PhaseStatus::parse(&word).ok_or_else(|| {
        PyTypeError::new_err(format!("phase {phase_type}: {word:?} is not a value of PhaseStatus"))
    })?;
    let state: Arc<dyn State> = Arc::new(PyState(context.unbind()));
    let object = Some(Arc::new(result.clone().unbind()) as _);
    let chat_history = match filled(result, intern!(py, "chat_history")) {
        Some(chat) => convert::to_json(&chat).as_array().cloned().unwrap_or_default(),
        None => Vec::new(),
    };
    let timing = filled(result, intern!(py, "timing"));
    let timing = timing.and_then(|timing| timing.extract::<HashMap<String, f64>>().ok());
    let timing = timing.into_iter().flatten().collect();
    Ok(Outcome { error, chat_history, timing, object, ..Outcome::new(status, state) })
}

/// An attribute that is there and holds something.
fn filled<'py>(result: &Bound<'py, PyAny>, name: &Bound<'py, PyString>) -> Option<Bound<'py, PyAny>> {
    result.getattr(name).ok().filter(|value| value.is_truthy().unwrap_or(false))
}

/// The `PhaseResult` of an outcome: the phase's own, else a new one.
pub(super) fn result<'py>(py: Python<'py>, outcome: &Outcome) -> PyResult<Bound<'py, PyAny>> {
    if let Some(object) = outcome.object.as_ref().and_then(|o| o.downcast_ref::<Py<PyAny>>()) {
        return Ok(object.bind(py).clone());
    }
    let base = py.import(intern!(py, "cmbagent.phases.base"))?;
    let fields = PyDict::new(py);
    fields.set_item("status", status(py, outcome.status)?)?;
    fields.set_item("context", context(py, outcome.state.as_ref())?)?;
    fields.set_item("error", &outcome.error)?;
    fields.set_item("chat_history", convert::to_python(py, &Value::Array(outcome.chat_history.clone()))?)?;
    let timing = PyDict::new(py);
    for (name, seconds) in &outcome.timing {
        timing.set_item(name, seconds)?;
    }
    fields.set_item("timing", timing)?;
    base.getattr(intern!(py, "PhaseResult"))?.call((), Some(&fields))
}

fn status(py: Python<'_>, status: PhaseStatus) -> PyResult<Bound<'_, PyAny>> {
    py.import(intern!(py, "cmbagent.phases.base"))?
        .getattr(intern!(py, "PhaseStatus"))?
        .call1((status.as_str(),))
}

fn optional<'py>(
    config: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    // Any object serves as a config, and one that lacks a setting leaves it unset.
    let value = match config.getattr(name) {
        Err(error) if error.is_instance_of::<PyAttributeError>(config.py()) => return Ok(None),
        value => value?,
    };
    Ok((!value.is_none()).then_some(value))
}

/// Whether an object's `execute` is the built-in phases' own.
fn is_native(object: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = object.py();
    let execute = intern!(py, "execute");
    let built_in =
        py.import(intern!(py, "cmbagent.phases._builtin"))?.getattr(intern!(py, "BuiltinPhase"))?;
    // Looked up on the object, whose own attribute may stand in for the method.
    let function = object.getattr(execute)?.getattr(intern!(py, "__func__"));
    Ok(function.is_ok_and(|function| built_in.getattr(execute).is_ok_and(|own| function.is(own))))
}

/// The native phase behind a built-in's Python object, with its configuration of now.
fn build(object: &Bound<'_, PyAny>) -> PyResult<Box<dyn Phase>> {
    let py = object.py();
    let name: String = object.getattr(intern!(py, "_native_type"))?.extract()?;
    phases::build(&name, fields(object)).map_err(|error| errors::to_exception(py, &error))
}

/// Runs a native phase and keeps its Python object's status up to date.
async fn natively(
    object: &Py<PyAny>,
    phase: &dyn Phase,
    run: &Run,
    state: Arc<dyn State>,
) -> Result<Outcome> {
    let mark = |now: PhaseStatus| {
        Python::attach(|py| object.bind(py).setattr(intern!(py, "_status"), status(py, now)?))
            .map_err(|error| Python::attach(|py| errors::foreign(py, error)))
    };
    mark(PhaseStatus::Running)?;
    let ended = phase.execute(run, state).await;
    mark(ended.as_ref().map_or(PhaseStatus::Failed, |outcome| outcome.status))?;
    ended
}

/// Executes a built-in phase on a context, as `await phase.execute(context)` does.
///
/// Within a custom phase of a workflow it belongs to that run; else it is a run of its own.
#[pyfunction]
pub(super) fn execute_builtin(phase: &Bound<'_, PyAny>, context: &Bound<'_, PyAny>) -> PyResult<Awaitable> {
    let py = phase.py();
    let bridge = Bridge::default();
    let native = build(phase)?;
    let current = py.import(intern!(py, "cmbagent._current"))?;
    let handle = current.call_method0(intern!(py, "get"))?;
    let run = if let Ok(handle) = handle.cast::<RunHandle>() {
        let manager = approval_manager(context)?;
        handle
            .get()
            .run
            .nested(native.phase_type())
            .asking(Arc::new(super::approvals::PyApprovals { manager, bridge: bridge.clone() }))
    } else {
        let keys = current.call_method1(intern!(py, "keys"), (context.getattr(intern!(py, "api_keys"))?,))?;
        let listener = current.call_method1(intern!(py, "listener"), (context,))?;
        let manager = approval_manager(context)?;
        let journal = Arc::<MemoryJournal>::default();
        let services = services::build(py, &bridge, keys.unbind(), manager, listener.unbind(), journal)?;
        let id: String = context.getattr(intern!(py, "run_id"))?.str()?.to_string();
        let run = Run::new(id, services, Control::default());
        run.map_err(|error| errors::to_exception(py, &error))?.at_phase(0, 0, native.phase_type())
    };
    let control = run.control().clone();
    let object = phase.clone().unbind();
    let state: Arc<dyn State> = Arc::new(PyState(context.clone().unbind()));
    Ok(Awaitable::new(bridge, control, async move {
        let ended = natively(&object, native.as_ref(), &run, state.clone()).await;
        let outcome = match ended {
            Err(error) if error.ends_run() || matches!(error, Error::Foreign { .. }) => Err(error),
            Err(error) => Ok(Outcome::failed(state, error.to_string())),
            Ok(outcome) => Ok(outcome),
        };
        Python::attach(|py| match outcome {
            Ok(outcome) => Ok(result(py, &outcome)?.unbind()),
            Err(error) => Err(errors::to_exception(py, &error)),
        })
    }))
}

/// The fields of a phase's configuration as they are now.
pub(super) fn fields(phase: &Bound<'_, PyAny>) -> Value {
    let py = phase.py();
    let read = || phase.getattr(intern!(py, "config"))?.getattr(intern!(py, "__dict__"));
    // A configuration of another kind has none.
    read().map(|fields| convert::to_json(&fields)).unwrap_or_default()
}

pub(super) fn approval_manager(context: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    let py = context.py();
    let shared = context.getattr(intern!(py, "shared_state"))?;
    let manager = shared.call_method1(intern!(py, "get"), (intern!(py, "_approval_manager"),))?;
    Ok((!manager.is_none()).then(|| manager.unbind()))
}

/// What is wrong with a built-in phase's input, a sentence each.
#[pyfunction]
pub(super) fn validate_builtin(
    phase: &Bound<'_, PyAny>,
    context: &Bound<'_, PyAny>,
) -> PyResult<Vec<String>> {
    let state = PyState(context.clone().unbind());
    build(phase)?.validate_input(&state).map_err(|error| errors::to_exception(phase.py(), &error))
}

/// The JSON Schema of a built-in phase's configuration; without a type, of what all phases' have.
#[pyfunction]
#[pyo3(signature = (phase_type = None))]
pub(super) fn config_schema<'py>(py: Python<'py>, phase_type: Option<&str>) -> PyResult<Bound<'py, PyAny>> {
    let schema = phases::config_schema(phase_type).map_err(|error| errors::to_exception(py, &error))?;
    convert::to_python(py, &schema)
}
