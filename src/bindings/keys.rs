//! API keys of the caller: any object with `__getitem__`, asked only for the provider in use.

use pyo3::prelude::*;
use secrecy::SecretString;

use crate::llm::Keys;

/// The caller's `api_keys`.
pub(super) struct PyKeys(pub(super) Py<PyAny>);

impl Keys for PyKeys {
    fn get(&self, name: &str) -> Option<SecretString> {
        // A missing name raises KeyError in a dict and AttributeError in other callers' key managers.
        Python::attach(|py| {
            let key: Option<String> = self.0.bind(py).get_item(name).ok()?.extract().ok()?;
            key.filter(|key| !key.trim().is_empty()).map(SecretString::from)
        })
    }
}
