//! From Python to the journal.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString,
    PyTuple, PyType,
};
use pyo3::{intern, prelude::*};
use serde_json::{Map, Value, json};

/// Levels of JSON; deeper containers are left out as opaque. Deltas may double them, see `journal::recovery`.
const DEPTH: usize = 250;

/// A value as the journal keeps it.
pub(in crate::bindings) fn encode(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    let mut encoder = Encoder::default();
    encoder.count(value, 0)?;
    encoder.value(value, 0)
}

/// The shared and the output dictionary of a context; keys that start with `_` are left out.
pub(in crate::bindings) fn encode_context(context: &Bound<'_, PyAny>) -> PyResult<Value> {
    let py = context.py();
    let both = PyDict::new(py);
    for (name, attribute) in [("shared", intern!(py, "shared_state")), ("output", intern!(py, "output_data"))]
    {
        let kept = PyDict::new(py);
        let section = context.getattr(attribute)?;
        for pair in section.call_method0(intern!(py, "items"))?.try_iter()? {
            let (key, item): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair?.extract()?;
            let private = key.cast::<PyString>().is_ok_and(|key| key.to_string_lossy().starts_with('_'));
            if !private {
                kept.set_item(key, item)?;
            }
        }
        both.set_item(name, kept)?;
    }
    encode(both.as_any())
}

#[derive(Default)]
struct Encoder {
    /// How often each container is met.
    met: HashMap<usize, u32>,
    /// The numbers of those that are met more than once, in the order in which they are written.
    numbers: HashMap<usize, usize>,
}

impl Encoder {
    /// Counts how often containers, arrays and objects are met, without going into one twice.
    fn count(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<()> {
        if depth > DEPTH || is_plain(value) {
            return Ok(());
        }
        let times = self.met.entry(value.as_ptr() as usize).or_default();
        *times += 1;
        if *times > 1 {
            return Ok(());
        }
        if let Ok(dict) = value.cast::<PyDict>() {
            for (key, item) in dict.iter() {
                self.count(&key, depth + 1)?;
                self.count(&item, depth + 1)?;
            }
        } else if is_container(value) {
            for item in value.try_iter()? {
                self.count(&item?, depth + 1)?;
            }
        }
        Ok(())
    }

    fn value(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
        if let Some(plain) = plain(value)? {
            return Ok(plain);
        }
        if depth > DEPTH {
            return Ok(opaque(value));
        }
        let address = value.as_ptr() as usize;
        if self.met.get(&address).is_some_and(|times| *times > 1) {
            if let Some(number) = self.numbers.get(&address) {
                return Ok(json!({"$ref": number}));
            }
            let number = self.numbers.len();
            self.numbers.insert(address, number);
            let content = self.container(value, depth + 2)?;
            // By key, so that growing content changes by its tail alone.
            return Ok(json!({"$shared": {number.to_string(): content}}));
        }
        self.container(value, depth)
    }

    fn container(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
        let kind = value.get_type();
        let exact = value.is_exact_instance_of::<PyDict>() || value.is_exact_instance_of::<PyList>();
        if exact || is_builtin(&kind) {
            return self.builtin(value, depth);
        }
        let hooks = [intern!(value.py(), "to_journal"), intern!(value.py(), "from_journal")];
        if kind.hasattr(hooks[0])? && kind.hasattr(hooks[1])? {
            let kept = self.value(&value.call_method0(hooks[0])?, depth + 2)?;
            return Ok(json!({"$object": [place(&kind)?, kept]}));
        }
        if let Some((tag, content)) = tagged(value)? {
            return Ok(json!({tag: content}));
        }
        // What derives from a type of Python's is kept as that.
        match self.builtin(value, depth + 2)? {
            Value::Object(lost) if lost.contains_key("$opaque") => Ok(Value::Object(lost)),
            content => Ok(json!({"$as": [place(&kind)?, content]})),
        }
    }

    /// A value as the builtin type that it is of, or that its class derives from.
    fn builtin(&mut self, value: &Bound<'_, PyAny>, depth: usize) -> PyResult<Value> {
        if let Ok(dict) = value.cast::<PyDict>() {
            return self.dict(dict, depth);
        }
        if let Ok(bytes) = value.cast::<PyByteArray>() {
            return Ok(json!({"$bytearray": BASE64.encode(bytes.to_vec())}));
        }
        let tag = if value.is_instance_of::<PyList>() {
            None
        } else if value.is_instance_of::<PyTuple>() {
            Some("$tuple")
        } else if value.is_instance_of::<PySet>() {
            Some("$set")
        } else if value.is_instance_of::<PyFrozenSet>() {
            Some("$frozenset")
        } else if is_deque(value) {
            None
        } else {
            return Ok(basic(value)?.unwrap_or_else(|| opaque(value)));
        };
        let mut items = Vec::new();
        for item in value.try_iter()? {
            items.push(self.value(&item?, depth + 1 + usize::from(tag.is_some()))?);
        }
        Ok(match tag {
            None => Value::Array(items),
            Some(tag) => json!({tag: items}),
        })
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>, depth: usize) -> PyResult<Value> {
        let plain = |key: &Bound<'_, PyAny>| {
            key.cast_exact::<PyString>().ok().and_then(|key| key.to_str().ok().map(str::to_owned))
        };
        let names: Option<Vec<String>> = dict.keys().iter().map(|key| plain(&key)).collect();
        if let Some(names) = names.filter(|names| !(names.len() == 1 && names[0].starts_with('$'))) {
            let mut map = Map::with_capacity(names.len());
            for (name, item) in names.into_iter().zip(dict.values()) {
                map.insert(name, self.value(&item, depth + 1)?);
            }
            return Ok(Value::Object(map));
        }
        let mut pairs = Vec::with_capacity(dict.len());
        for (key, item) in dict.iter() {
            pairs.push(json!([self.value(&key, depth + 3)?, self.value(&item, depth + 3)?]));
        }
        Ok(json!({"$dict": pairs}))
    }
}

fn is_plain(value: &Bound<'_, PyAny>) -> bool {
    value.is_none()
        || value.is_instance_of::<PyString>()
        || value.is_instance_of::<PyInt>()
        || value.is_instance_of::<PyFloat>()
        || value.is_instance_of::<PyBytes>()
}

fn is_container(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyDict>()
        || value.is_instance_of::<PyList>()
        || value.is_instance_of::<PyTuple>()
        || value.is_instance_of::<PySet>()
        || value.is_instance_of::<PyFrozenSet>()
        || is_deque(value)
}

fn is_deque(value: &Bound<'_, PyAny>) -> bool {
    value.get_type().fully_qualified_name().is_ok_and(|name| name.to_string_lossy() == "collections.deque")
}

/// Whether the class is of Python itself, so that a tag says it all.
fn is_builtin(kind: &Bound<'_, PyType>) -> bool {
    kind.module().is_ok_and(|module| module.to_string_lossy() == "builtins")
}

/// Values without parts, of Python's own types.
fn plain(value: &Bound<'_, PyAny>) -> PyResult<Option<Value>> {
    if value.is_none() {
        return Ok(Some(Value::Null));
    }
    if let Ok(flag) = value.cast_exact::<PyBool>() {
        return Ok(Some(flag.is_true().into()));
    }
    let exact = value.is_exact_instance_of::<PyString>()
        || value.is_exact_instance_of::<PyInt>()
        || value.is_exact_instance_of::<PyFloat>()
        || value.is_exact_instance_of::<PyBytes>()
        || value.is_exact_instance_of::<PyComplex>();
    if exact { basic(value) } else { Ok(None) }
}

/// A text or a number, also of a class that derives from that type.
fn basic(value: &Bound<'_, PyAny>) -> PyResult<Option<Value>> {
    let py = value.py();
    if let Ok(text) = value.cast::<PyString>() {
        // Lone surrogates have no place in JSON.
        if let Ok(text) = text.to_str() {
            return Ok(Some(text.into()));
        }
        let bytes = text.call_method1(intern!(py, "encode"), ("utf-8", "surrogatepass"))?;
        return Ok(Some(json!({"$str": BASE64.encode(bytes.cast::<PyBytes>()?.as_bytes())})));
    }
    if let Ok(number) = value.cast::<PyInt>() {
        return Ok(Some(match number.extract::<i64>() {
            Ok(number) => number.into(),
            Err(_) => json!({"$int": hex(number)?}),
        }));
    }
    if let Ok(number) = value.cast::<PyFloat>() {
        let number = number.value();
        return Ok(Some(match serde_json::Number::from_f64(number) {
            Some(number) => Value::Number(number),
            None => json!({"$float": number.to_string()}),
        }));
    }
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(Some(json!({"$bytes": BASE64.encode(bytes.as_bytes())})));
    }
    if let Ok(number) = value.cast::<PyComplex>() {
        let repr: String = number.repr()?.extract()?;
        return Ok(Some(json!({"$complex": repr})));
    }
    Ok(None)
}

// Decimal digits of long numbers are limited in Python; hexadecimal ones are not.
fn hex(number: &Bound<'_, PyInt>) -> PyResult<String> {
    number.call_method1(intern!(number.py(), "__format__"), ("x",))?.extract()
}

/// Values of a few types of the standard library and of numpy, as their own texts.
fn tagged(value: &Bound<'_, PyAny>) -> PyResult<Option<(&'static str, Value)>> {
    let py = value.py();
    let kind = value.get_type();
    let enumeration = py.import(intern!(py, "enum"))?;
    // Members of enumerations may be texts or numbers too.
    if kind.is_subclass(&enumeration.getattr(intern!(py, "Flag"))?)? {
        let bits: i64 = value.getattr(intern!(py, "value"))?.extract()?;
        return Ok(Some(("$flag", json!([place(&kind)?, bits]))));
    }
    if kind.is_subclass(&enumeration.getattr(intern!(py, "Enum"))?)? {
        let name: String = value.getattr(intern!(py, "name"))?.extract().unwrap_or_default();
        return Ok(Some(("$enum", json!([place(&kind)?, name]))));
    }
    let module: String = kind.module()?.extract()?;
    let name: String = kind.name()?.extract()?;
    let text =
        |method: &str| -> PyResult<Value> { Ok(value.call_method0(method)?.extract::<String>()?.into()) };
    Ok(match (module.as_str(), name.as_str()) {
        // The second of two equal times on the night when clocks go back: their text does not say it.
        ("datetime", "datetime" | "time") if value.getattr(intern!(py, "fold"))?.is_truthy()? => {
            Some(if name == "time" {
                ("$time", json!([text("isoformat")?]))
            } else {
                ("$datetime", json!([text("isoformat")?]))
            })
        }
        ("datetime", "datetime") => Some(("$datetime", text("isoformat")?)),
        ("datetime", "date") => Some(("$date", text("isoformat")?)),
        ("datetime", "time") => Some(("$time", text("isoformat")?)),
        ("datetime", "timedelta") => {
            let part = |name: &str| value.getattr(name)?.extract::<i64>();
            Some(("$timedelta", json!([part("days")?, part("seconds")?, part("microseconds")?])))
        }
        ("decimal", "Decimal") => Some(("$decimal", value.str()?.to_string().into())),
        ("uuid", "UUID") => Some(("$uuid", value.str()?.to_string().into())),
        ("pathlib" | "pathlib._local", "PosixPath" | "WindowsPath") => {
            Some(("$path", value.str()?.to_string().into()))
        }
        ("numpy", "ndarray") => {
            let dtype = value.getattr(intern!(py, "dtype"))?;
            // Arrays of objects hold references, not values.
            if dtype.getattr(intern!(py, "hasobject"))?.is_truthy()?
                || dtype.getattr("fields")?.is_truthy()?
            {
                return Ok(None);
            }
            let bytes = value.call_method0(intern!(py, "tobytes"))?;
            let shape: Vec<usize> = value.getattr(intern!(py, "shape"))?.extract()?;
            let dtype: String = dtype.getattr(intern!(py, "str"))?.extract()?;
            Some(("$ndarray", json!([dtype, shape, BASE64.encode(bytes.cast::<PyBytes>()?.as_bytes())])))
        }
        // Its arrays of other kinds are none of these: their values are not all there is to them.
        ("numpy", _) if value.is_instance(&py.import("numpy")?.getattr("generic")?)? => {
            let dtype = value.getattr(intern!(py, "dtype"))?;
            if dtype.getattr(intern!(py, "hasobject"))?.is_truthy()? {
                return Ok(None);
            }
            let bytes = value.call_method0(intern!(py, "tobytes"))?;
            let dtype: String = dtype.getattr(intern!(py, "str"))?.extract()?;
            Some(("$scalar", json!([dtype, BASE64.encode(bytes.cast::<PyBytes>()?.as_bytes())])))
        }
        _ => None,
    })
}

fn opaque(value: &Bound<'_, PyAny>) -> Value {
    let name = value.get_type().fully_qualified_name();
    json!({"$opaque": name.map(|n| n.to_string()).unwrap_or_default()})
}

/// `[module, qualified name]` of a class.
fn place(kind: &Bound<'_, PyType>) -> PyResult<Value> {
    Ok(json!([kind.module()?.extract::<String>()?, kind.qualname()?.extract::<String>()?]))
}
