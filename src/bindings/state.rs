//! A live `PhaseContext` behind the engine's `State` port.
//!
//! The dataclass owns the values: users mutate and rebind it, and identity of values is kept.

use std::any::Any;
use std::sync::Arc;

use pyo3::types::PyDict;
use pyo3::{intern, prelude::*};
use serde_json::{Map, Value};

use super::{convert, errors, snapshot};
use crate::engine::{Section, State};
use crate::error::Result;

/// A `PhaseContext`.
pub(super) struct PyState(pub(super) Py<PyAny>);

impl PyState {
    fn text(&self, attribute: &str) -> String {
        Python::attach(|py| {
            let value = self.0.bind(py).getattr(attribute);
            value.ok().filter(|v| !v.is_none()).map(|v| v.to_string()).unwrap_or_default()
        })
    }

    fn section<'py>(&self, py: Python<'py>, section: Section) -> PyResult<Bound<'py, PyAny>> {
        let context = self.0.bind(py);
        context.getattr(match section {
            Section::Shared => intern!(py, "shared_state"),
            Section::Input => intern!(py, "input_data"),
            Section::Output => intern!(py, "output_data"),
        })
    }
}

impl State for PyState {
    fn task(&self) -> String {
        self.text("task")
    }

    fn work_dir(&self) -> String {
        self.text("work_dir")
    }

    fn phase_id(&self) -> String {
        self.text("phase_id")
    }

    fn read(&self, section: Section, key: &str) -> Option<Value> {
        Python::attach(|py| {
            let dict = self.section(py, section).ok()?;
            let value = dict.call_method1(intern!(py, "get"), (key,)).ok()?;
            (!value.is_none()).then(|| convert::to_json(&value))
        })
    }

    fn write(&self, section: Section, key: &str, value: Value) -> Result<()> {
        Python::attach(|py| {
            let write = || self.section(py, section)?.set_item(key, convert::to_python(py, &value)?);
            write().map_err(|error: PyErr| errors::foreign(py, error))
        })
    }

    fn share(&self, values: Map<String, Value>) -> Result<()> {
        Python::attach(|py| {
            let share = || {
                let output = self.section(py, Section::Output)?;
                // A new one: the one that is there may be a dictionary of the user's own.
                let shared = PyDict::new(py);
                let before = output.call_method1(intern!(py, "get"), (intern!(py, "shared"),))?;
                if !before.is_none() {
                    shared.call_method1(intern!(py, "update"), (before,))?;
                }
                for (key, value) in &values {
                    shared.set_item(key, convert::to_python(py, value)?)?;
                }
                output.set_item(intern!(py, "shared"), shared)
            };
            share().map_err(|error: PyErr| errors::foreign(py, error))
        })
    }

    fn hand_over(&self, next_phase_id: &str) -> Result<Arc<dyn State>> {
        Python::attach(|py| {
            let next = self.0.bind(py).call_method1(intern!(py, "copy_for_next_phase"), (next_phase_id,));
            let next = next.map_err(|error| errors::foreign(py, error))?;
            Ok(Arc::new(Self(next.unbind())) as Arc<dyn State>)
        })
    }

    fn snapshot(&self) -> Result<Value> {
        Python::attach(|py| {
            snapshot::encode_context(self.0.bind(py)).map_err(|error| errors::foreign(py, error))
        })
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The context behind a state that is Python's.
pub(super) fn context<'py>(py: Python<'py>, state: &dyn State) -> PyResult<Bound<'py, PyAny>> {
    state
        .as_any()
        .downcast_ref::<PyState>()
        .map(|state| state.0.bind(py).clone())
        .ok_or_else(|| pyo3::exceptions::PyRuntimeError::new_err("the context is not a PhaseContext"))
}
