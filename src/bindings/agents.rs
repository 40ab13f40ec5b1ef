//! The agents and the context that runs begin with, for programs that look them up.

use pyo3::prelude::*;
use serde_json::{Value, json};

use super::convert;
use crate::agents::context::{Seed, initial};
use crate::agents::roster;

/// The context that runs begin with, with all keys.
#[pyfunction]
pub(super) fn initial_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    convert::to_python(py, &Value::Object(initial(&Seed::default())))
}

/// The agents, in order: `name`, `abilities`, `model` (by default) and `can_step`.
#[pyfunction]
#[pyo3(name = "roster")]
pub(super) fn agent_roster(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let agents = roster::roster().iter().map(|agent| {
        json!({
            "name": agent.name, "abilities": agent.abilities, "model": agent.model,
            "can_step": agent.can_step,
        })
    });
    convert::to_python(py, &agents.collect())
}
