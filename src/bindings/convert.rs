//! Values between Python and the engine.
//!
//! Users' containers go through a walker of bounded depth and size: what JSON cannot say becomes
//! `{"$opaque": "module.Type"}` and stays with its owner. pythonize serves single values that are ours.

use std::collections::HashSet;

use pyo3::ffi::PyObject;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use serde_json::{Map, Value, json};

/// How deep containers are looked into.
const DEPTH: usize = 100;
/// How many items of containers met before are looked at again: a few lists that hold one another
/// can stand for more values than memory holds.
const AGAIN: usize = 100_000;

/// A Python value as the engine sees it.
pub(super) fn to_json(value: &Bound<'_, PyAny>) -> Value {
    Walker { within: Vec::new(), met: HashSet::new(), left: AGAIN }.walk(value)
}

struct Walker {
    /// The containers on the way here, of which one may hold itself.
    within: Vec<*mut PyObject>,
    /// The containers met so far.
    met: HashSet<*mut PyObject>,
    /// How many items of these may still be looked at again.
    left: usize,
}

impl Walker {
    fn walk(&mut self, value: &Bound<'_, PyAny>) -> Value {
        if value.is_none() {
            return Value::Null;
        }
        if let Ok(flag) = value.cast_exact::<PyBool>() {
            return flag.is_true().into();
        }
        if let Ok(text) = value.cast::<PyString>() {
            return text.to_string_lossy().into_owned().into();
        }
        if let Ok(number) = value.cast::<PyInt>() {
            return number.extract::<i64>().map_or_else(|_| opaque(value), Into::into);
        }
        if let Ok(number) = value.cast::<PyFloat>() {
            return number
                .extract::<f64>()
                .ok()
                .and_then(serde_json::Number::from_f64)
                .map_or_else(|| opaque(value), Value::Number);
        }
        if self.within.len() >= DEPTH || self.within.contains(&value.as_ptr()) {
            return opaque(value);
        }
        self.within.push(value.as_ptr());
        let walked = self.container(value);
        self.within.pop();
        walked.unwrap_or_else(|| opaque(value))
    }

    /// A container's items; `None` for what is no container, or was met too often.
    fn container(&mut self, value: &Bound<'_, PyAny>) -> Option<Value> {
        if let Ok(list) = value.cast::<PyList>() {
            self.meet(value, list.len())?;
            return Some(list.iter().map(|item| self.walk(&item)).collect());
        }
        if let Ok(tuple) = value.cast::<PyTuple>() {
            self.meet(value, tuple.len())?;
            return Some(tuple.iter().map(|item| self.walk(&item)).collect());
        }
        let dict = value.cast::<PyDict>().ok()?;
        self.meet(value, dict.len())?;
        // A copy: asking for the name of a type may run code that changes the dictionary.
        let mut map = Map::new();
        for (key, item) in dict.copy().ok()?.iter() {
            if let Ok(key) = key.cast::<PyString>() {
                map.insert(key.to_string_lossy().into_owned(), self.walk(&item));
            }
        }
        Some(Value::Object(map))
    }

    fn meet(&mut self, container: &Bound<'_, PyAny>, items: usize) -> Option<()> {
        if !self.met.insert(container.as_ptr()) {
            self.left = self.left.checked_sub(items.max(1))?;
        }
        Some(())
    }
}

fn opaque(value: &Bound<'_, PyAny>) -> Value {
    let name = value.get_type().fully_qualified_name();
    json!({"$opaque": name.map(|n| n.to_string()).unwrap_or_default()})
}

/// A value of the engine as plain Python.
pub(super) fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(pythonize::pythonize(py, value)?)
}
