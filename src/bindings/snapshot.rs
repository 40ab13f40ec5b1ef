//! Values of Python for the journal, and back: what JSON cannot say is tagged and comes back as it was.
//!
//! A tag is an object with one key that starts with `$`. What no tag can say becomes
//! `{"$opaque": "module.Type"}` and is lost to a later life, which names it. A class with the methods
//! `to_journal(self)` and `from_journal(cls, value)` says itself what is kept of it.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pyo3::exceptions::PyValueError;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString,
    PyTuple, PyType,
};
use pyo3::{intern, prelude::*};
use serde_json::{Map, Value, json};

/// Levels of JSON; deeper containers are left out as opaque. Deltas may double them, see `journal::recovery`.
const DEPTH: usize = 250;

/// A value as the journal keeps it.
pub(super) fn encode(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    let mut encoder = Encoder::default();
    encoder.count(value, 0)?;
    encoder.value(value, 0)
}

/// The shared and the output dictionary of a context; keys that start with `_` are left out.
pub(super) fn encode_context(context: &Bound<'_, PyAny>) -> PyResult<Value> {
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

/// A value of the journal as Python, and the paths of what could not be kept: those are left out of
/// dictionaries and `None` elsewhere.
pub(super) fn decode<'py>(py: Python<'py>, value: &Value) -> PyResult<(Bound<'py, PyAny>, Vec<String>)> {
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
            plain => super::convert::to_python(py, plain)?,
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
