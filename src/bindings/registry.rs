//! The registry behind `cmbagent.phases.PhaseRegistry`.

use pyo3::prelude::*;
use std::sync::{Mutex, PoisonError};

use super::errors;
use crate::engine::registry;

/// Phase classes by type, in the order of their registration.
#[pyclass(frozen, module = "cmbagent._core")]
#[derive(Default)]
pub(super) struct Registry(Mutex<registry::Registry<Py<PyAny>>>);

impl Registry {
    fn inner(&self) -> std::sync::MutexGuard<'_, registry::Registry<Py<PyAny>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Registry {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Adds a class; one of the same type is replaced where it stands.
    fn register(&self, phase_type: &str, cls: Py<PyAny>) {
        self.inner().register(phase_type, cls);
    }

    /// The class of a type; ValueError lists what there is.
    fn get(&self, py: Python<'_>, phase_type: &str) -> PyResult<Py<PyAny>> {
        let registry = self.inner();
        registry
            .get(phase_type)
            .map(|cls| cls.clone_ref(py))
            .map_err(|error| errors::to_exception(py, &error))
    }

    /// All types, in order.
    fn list_all(&self) -> Vec<String> {
        self.inner().types().into_iter().map(str::to_owned).collect()
    }

    /// Whether there is such a type.
    fn is_registered(&self, phase_type: &str) -> bool {
        self.inner().types().contains(&phase_type)
    }

    /// Forgets all types.
    fn clear(&self) {
        self.inner().clear();
    }
}
