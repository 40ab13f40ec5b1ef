//! Values between Python and the engine.
//!
//! Users' containers go through a walker of bounded depth: what JSON cannot say becomes
//! `{"$opaque": "module.Type"}` and stays with its owner. pythonize serves single values that are ours.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};
use serde_json::{Map, Value, json};

/// Deeper containers are taken for cycles.
const DEPTH: usize = 100;

/// A Python value as the engine sees it.
pub(super) fn to_json(value: &Bound<'_, PyAny>) -> Value {
    walk(value, 0)
}

fn walk(value: &Bound<'_, PyAny>, depth: usize) -> Value {
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
    if depth >= DEPTH {
        return opaque(value);
    }
    if let Ok(list) = value.cast::<PyList>() {
        return list.iter().map(|item| walk(&item, depth + 1)).collect();
    }
    if let Ok(tuple) = value.cast::<PyTuple>() {
        return tuple.iter().map(|item| walk(&item, depth + 1)).collect();
    }
    if let Ok(dict) = value.cast::<PyDict>() {
        let mut map = Map::new();
        for (key, item) in dict.iter() {
            if let Ok(key) = key.cast::<PyString>() {
                map.insert(key.to_string_lossy().into_owned(), walk(&item, depth + 1));
            }
        }
        return Value::Object(map);
    }
    opaque(value)
}

fn opaque(value: &Bound<'_, PyAny>) -> Value {
    let name = value.get_type().fully_qualified_name();
    json!({"$opaque": name.map(|n| n.to_string()).unwrap_or_default()})
}

/// A value of the engine as plain Python.
pub(super) fn to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(pythonize::pythonize(py, value)?)
}
