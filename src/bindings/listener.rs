//! Those who watch a run from Python: callbacks, display, logging.

use pyo3::exceptions::PyException;
use pyo3::{intern, prelude::*};

use super::bridge::Bridge;
use super::convert;
use crate::engine::{Event, Listener};

/// A `cmbagent._events.Listener`. It swallows its hooks' errors itself; what it still raises goes
/// to `sys.unraisablehook`, for a watcher must not end a run. An interrupt or an exit does end it.
pub(super) struct PyListener {
    pub(super) listener: Py<PyAny>,
    pub(super) bridge: Bridge,
}

impl PyListener {
    fn ask<T>(&self, ask: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<T>) -> Option<T> {
        Python::attach(|py| {
            let listener = self.listener.bind(py);
            let raised = |error: PyErr| {
                if error.is_instance_of::<PyException>(py) {
                    error.write_unraisable(py, Some(listener));
                } else {
                    self.bridge.interrupt(error);
                }
            };
            ask(listener).map_err(raised).ok()
        })
    }
}

impl Listener for PyListener {
    fn event(&self, event: &Event) {
        self.ask(|listener| {
            let py = listener.py();
            let data = convert::to_python(py, &serde_json::Value::Object(event.data.clone()))?;
            listener.call_method1(intern!(py, "event"), (&event.kind, data)).map(drop)
        });
    }

    fn should_continue(&self) -> bool {
        self.ask(|listener| listener.call_method0(intern!(listener.py(), "should_continue"))?.is_truthy())
            .unwrap_or(true)
    }

    fn pause(&self) {
        self.ask(|listener| listener.call_method0(intern!(listener.py(), "pause")).map(drop));
    }
}
