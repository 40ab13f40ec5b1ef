//! From the journal to Python.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pyo3::exceptions::PyValueError;
use pyo3::types::{
    PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyTuple,
};
use pyo3::{intern, prelude::*};
use serde_json::{Map, Value};

use crate::bindings::convert;

/// A value of the journal as Python, and the paths of what could not be kept: those are left out of
/// dictionaries and `None` elsewhere.
pub(in crate::bindings) fn decode<'py>(
    py: Python<'py>,
    value: &Value,
) -> PyResult<(Bound<'py, PyAny>, Vec<String>)> {
    let mut decoder = Decoder { py, shared: HashMap::new(), holes: HashMap::new(), lost: Vec::new() };
    let value = decoder.value(value, "")?;
    Ok((value.unwrap_or_else(|| py.None().into_bound(py)), decoder.lost))
}

/// By the number of a container that is not yet made: dictionaries, and the keys under which it belongs there.
type Holes<'py> = HashMap<u64, Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>>;

struct Decoder<'py> {
    py: Python<'py>,
    shared: HashMap<u64, Bound<'py, PyAny>>,
    /// Where those belong that are being made: a tuple may hold a list that holds the tuple.
    holes: Holes<'py>,
    lost: Vec<String>,
}

impl<'py> Decoder<'py> {
    /// The value, or `None` when it was not kept.
    fn value(&mut self, value: &Value, path: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = self.py;
        Ok(Some(match value {
            Value::Array(items) => {
                let list = PyList::empty(py);
                self.fill_list(&list, items, path)?;
                list.into_any()
            }
            Value::Object(map) => {
                if map.len() == 1
                    && let Some((tag, content)) = map.iter().next().filter(|(key, _)| key.starts_with('$'))
                {
                    return self.tagged(tag, content, path);
                }
                let dict = PyDict::new(py);
                self.fill_dict(&dict, map, path)?;
                dict.into_any()
            }
            plain => convert::to_python(py, plain)?,
        }))
    }

    /// Whether an item is something that is still being made: it is then put there later.
    fn leave_hole(&mut self, item: &Value, container: &Bound<'py, PyAny>, key: &Bound<'py, PyAny>) -> bool {
        let number = item.as_object().filter(|map| map.len() == 1).and_then(|map| map.get("$ref")?.as_u64());
        let Some(holes) = number.and_then(|number| self.holes.get_mut(&number)) else { return false };
        holes.push((container.clone(), key.clone()));
        true
    }

    fn fill_list(&mut self, list: &Bound<'py, PyList>, items: &[Value], path: &str) -> PyResult<()> {
        for (index, item) in items.iter().enumerate() {
            if self.leave_hole(item, list.as_any(), index.into_pyobject(self.py)?.as_any()) {
                list.append(self.py.None())?;
                continue;
            }
            let item = self.value(item, &format!("{path}[{index}]"))?;
            list.append(item)?;
        }
        Ok(())
    }

    fn fill_dict(&mut self, dict: &Bound<'py, PyDict>, map: &Map<String, Value>, path: &str) -> PyResult<()> {
        for (key, item) in map {
            let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            if self.leave_hole(item, dict.as_any(), key.into_pyobject(self.py)?.as_any()) {
                dict.set_item(key, self.py.None())?;
                continue;
            }
            if let Some(item) = self.value(item, &below)? {
                dict.set_item(key, item)?;
            }
        }
        Ok(())
    }

    fn items(&mut self, content: &Value, path: &str) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let items = content.as_array().into_iter().flatten().enumerate();
        let mut values = Vec::new();
        for (index, item) in items {
            let item = self.value(item, &format!("{path}[{index}]"))?;
            values.push(item.unwrap_or_else(|| self.py.None().into_bound(self.py)));
        }
        Ok(values)
    }

    fn tagged(&mut self, tag: &str, content: &Value, path: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = self.py;
        let text = || content.as_str().unwrap_or_default();
        let bytes = |text: &str| BASE64.decode(text).map_err(|e| PyValueError::new_err(e.to_string()));
        let made = |module: &str, name: &str, method: &str| {
            py.import(module)?.getattr(name)?.call_method1(method, (text(),))
        };
        Ok(Some(match tag {
            "$opaque" => {
                self.lost.push(format!("{path} ({})", text()));
                return Ok(None);
            }
            "$shared" => return self.shared_container(content, path),
            "$ref" => match content.as_u64().and_then(|number| self.shared.get(&number)) {
                Some(known) => known.clone(),
                None => return Err(PyValueError::new_err(format!("{path}: a reference to nothing"))),
            },
            "$dict" => {
                let dict = PyDict::new(py);
                self.fill_pairs(&dict, content, path)?;
                dict.into_any()
            }
            "$tuple" => PyTuple::new(py, self.items(content, path)?)?.into_any(),
            "$set" => PySet::new(py, self.items(content, path)?)?.into_any(),
            "$frozenset" => PyFrozenSet::new(py, self.items(content, path)?)?.into_any(),
            "$bytes" => PyBytes::new(py, &bytes(text())?).into_any(),
            "$bytearray" => PyByteArray::new(py, &bytes(text())?).into_any(),
            "$str" => PyBytes::new(py, &bytes(text())?)
                .call_method1(intern!(py, "decode"), ("utf-8", "surrogatepass"))?,
            "$int" => py.get_type::<PyInt>().call1((text(), 16))?,
            "$float" => py.get_type::<PyFloat>().call1((text(),))?,
            "$complex" => py.get_type::<PyComplex>().call1((text(),))?,
            "$date" => made("datetime", "date", "fromisoformat")?,
            "$datetime" | "$time" => {
                let text = content.as_str().or_else(|| content[0].as_str()).unwrap_or_default();
                let class = py.import("datetime")?.getattr(&tag[1..])?;
                let time = class.call_method1("fromisoformat", (text,))?;
                if content.is_array() {
                    let second = PyDict::new(py);
                    second.set_item("fold", 1)?;
                    time.call_method("replace", (), Some(&second))?
                } else {
                    time
                }
            }
            "$timedelta" => {
                let parts = PyTuple::new(py, self.items(content, path)?)?;
                py.import("datetime")?.getattr("timedelta")?.call1(parts)?
            }
            "$decimal" => py.import("decimal")?.getattr("Decimal")?.call1((text(),))?,
            "$uuid" => py.import("uuid")?.getattr("UUID")?.call1((text(),))?,
            "$path" => py.import("pathlib")?.getattr("Path")?.call1((text(),))?,
            "$ndarray" | "$scalar" => {
                let Ok(numpy) = py.import("numpy") else {
                    self.lost.push(format!("{path} (numpy is not installed)"));
                    return Ok(None);
                };
                let data = content.as_array().and_then(|parts| parts.last()).and_then(Value::as_str);
                let buffer = PyByteArray::new(py, &bytes(data.unwrap_or_default())?);
                // Over a bytearray, so that it can be written to.
                let flat =
                    numpy.call_method1("frombuffer", (buffer, content[0].as_str().unwrap_or_default()))?;
                if tag == "$scalar" {
                    flat.get_item(0)?
                } else {
                    let shape = PyTuple::new(py, self.items(&content[1], path)?)?;
                    flat.call_method1("reshape", (shape,))?
                }
            }
            "$enum" => {
                return self.known(content, path, |class, name| class.getattr(name.extract::<String>()?));
            }
            "$flag" => return self.known(content, path, |class, bits| class.call1((bits,))),
            "$as" => return self.derived(content, path),
            "$object" => {
                return self.known(content, path, |class, kept| {
                    class.call_method1(intern!(class.py(), "from_journal"), (kept,))
                });
            }
            _ => return Err(PyValueError::new_err(format!("{path}: the unknown tag {tag}"))),
        }))
    }

    /// A list or dictionary that is met more than once: known before it is filled, for it may hold itself.
    fn shared_container(&mut self, content: &Value, path: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = self.py;
        let Some((number, content)) = content.as_object().and_then(|map| map.iter().next()) else {
            return Err(PyValueError::new_err(format!("{path}: a container without content")));
        };
        let number = number.parse().unwrap_or_default();
        match content {
            Value::Array(items) => {
                let list = PyList::empty(py);
                self.shared.insert(number, list.clone().into_any());
                self.fill_list(&list, items, path)?;
                Ok(Some(list.into_any()))
            }
            Value::Object(map) if map.len() != 1 || !map.keys().all(|key| key.starts_with('$')) => {
                let dict = PyDict::new(py);
                self.shared.insert(number, dict.clone().into_any());
                self.fill_dict(&dict, map, path)?;
                Ok(Some(dict.into_any()))
            }
            Value::Object(map) if map.contains_key("$dict") => {
                let dict = PyDict::new(py);
                self.shared.insert(number, dict.clone().into_any());
                self.fill_pairs(&dict, &map["$dict"], path)?;
                Ok(Some(dict.into_any()))
            }
            other => {
                self.holes.insert(number, Vec::new());
                let value = self.value(other, path)?;
                let holes = self.holes.remove(&number).unwrap_or_default();
                if let Some(value) = &value {
                    for (container, key) in &holes {
                        container.set_item(key, value)?;
                    }
                    self.shared.insert(number, value.clone());
                }
                Ok(value)
            }
        }
    }

    fn fill_pairs(&mut self, dict: &Bound<'py, PyDict>, content: &Value, path: &str) -> PyResult<()> {
        for pair in content.as_array().into_iter().flatten() {
            let below = format!("{path}[{}]", pair[0]);
            let Some(key) = self.value(&pair[0], &below)? else { continue };
            if self.leave_hole(&pair[1], dict.as_any(), &key) {
                dict.set_item(key, self.py.None())?;
            } else if let Some(item) = self.value(&pair[1], &below)? {
                dict.set_item(key, item)?;
            }
        }
        Ok(())
    }

    /// A value of a class that derives from a builtin type, where that class says how it is made; else
    /// the builtin value alone.
    fn derived(&mut self, content: &Value, path: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(plain) = self.value(&content[1], path)? else { return Ok(None) };
        let name = |index: usize| content[0][index].as_str().unwrap_or_default();
        let made = match (name(0), name(1)) {
            ("collections", "OrderedDict" | "Counter" | "deque") => Some(intern!(self.py, "__call__")),
            _ => Some(intern!(self.py, "_make")),
        };
        let class = class(self.py, content).ok();
        let made = class.zip(made).filter(|(class, maker)| class.hasattr(*maker).unwrap_or(false));
        if let Some((class, maker)) = made {
            return class.call_method1(maker, (plain,)).map(Some);
        }
        let now = plain.get_type().name()?;
        self.lost.push(format!("{path} ({}.{}, now a plain {now})", name(0), name(1)));
        Ok(Some(plain))
    }

    /// Something that its own class makes; lost when there is no such class any more.
    fn known(
        &mut self,
        content: &Value,
        path: &str,
        make: impl FnOnce(&Bound<'py, PyAny>, Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = self.py;
        let part = |index: usize| content[0][index].as_str().unwrap_or_default();
        let kept = self.value(&content[1], path)?.unwrap_or_else(|| py.None().into_bound(py));
        match class(py, content).and_then(|class| make(&class, kept)) {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                self.lost.push(format!("{path} ({}.{}: {error})", part(0), part(1)));
                Ok(None)
            }
        }
    }
}

/// The class at `[module, qualified name]`, the first part of `content`.
fn class<'py>(py: Python<'py>, content: &Value) -> PyResult<Bound<'py, PyAny>> {
    let part = |index: usize| content[0][index].as_str().unwrap_or_default();
    let mut found = py.import(part(0))?.into_any();
    for name in part(1).split('.') {
        found = found.getattr(name)?;
    }
    Ok(found)
}
