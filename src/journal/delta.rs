//! What changed between two values, by key path: an appended list or an extended text stores only
//! its tail, an object only the keys that changed.
//!
//! A delta is a JSON value: `null` (nothing changed), `{"=": value}` (replaced),
//! `{"+": tail}` (a list or a text got longer), `{"~": {key: delta}, "-": [keys]}` (an object's keys).

use serde_json::{Map, Value, json};

/// What turns `old` into `new`.
pub fn diff(old: &Value, new: &Value) -> Value {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => objects(before, after),
        (Value::Array(before), Value::Array(after)) => {
            if after.len() >= before.len() && after[..before.len()] == before[..] {
                return tail(after.len() > before.len(), || json!(&after[before.len()..]));
            }
            json!({"=": new})
        }
        (Value::String(before), Value::String(after)) => match after.strip_prefix(before.as_str()) {
            Some(rest) => tail(!rest.is_empty(), || json!(rest)),
            None => json!({"=": new}),
        },
        _ if old == new => Value::Null,
        _ => json!({"=": new}),
    }
}

fn tail(any: bool, rest: impl FnOnce() -> Value) -> Value {
    if any { json!({"+": rest()}) } else { Value::Null }
}

fn objects(before: &Map<String, Value>, after: &Map<String, Value>) -> Value {
    let gone: Vec<&String> = before.keys().filter(|key| !after.contains_key(*key)).collect();
    let mut changed = Map::new();
    for (key, value) in after {
        let delta = before.get(key).map_or_else(|| json!({"=": value}), |old| diff(old, value));
        if !delta.is_null() {
            changed.insert(key.clone(), delta);
        }
    }
    // The order of keys is part of a value: Python's dictionaries keep it.
    let kept = before.keys().filter(|key| after.contains_key(*key));
    let order = kept.chain(after.keys().filter(|key| !before.contains_key(*key)));
    if !order.eq(after.keys()) {
        return json!({"=": after});
    }
    match (gone.is_empty(), changed.is_empty()) {
        (true, true) => Value::Null,
        (true, false) => json!({"~": changed}),
        (false, _) => json!({"~": changed, "-": gone}),
    }
}

/// The value that `delta` turns `old` into; `None` when it does not belong to `old`.
pub fn apply(old: Value, delta: &Value) -> Option<Value> {
    let Value::Object(parts) = delta else { return delta.is_null().then_some(old) };
    if let Some(new) = parts.get("=") {
        return Some(new.clone());
    }
    match (old, parts.get("+"), parts.get("~")) {
        (Value::String(mut text), Some(Value::String(rest)), _) => {
            text.push_str(rest);
            Some(Value::String(text))
        }
        (Value::Array(mut items), Some(Value::Array(rest)), _) => {
            items.extend(rest.iter().cloned());
            Some(Value::Array(items))
        }
        (Value::Object(mut map), None, Some(Value::Object(changed))) => {
            for key in parts.get("-").and_then(Value::as_array).into_iter().flatten() {
                map.shift_remove(key.as_str()?);
            }
            for (key, delta) in changed {
                let old = map.get_mut(key).map(Value::take).unwrap_or_default();
                let new = apply(old, delta)?;
                map.insert(key.clone(), new);
            }
            Some(Value::Object(map))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::{apply, diff};

    #[test]
    fn a_delta_turns_the_old_into_the_new() {
        let values = [
            json!(null),
            json!(1),
            json!(1.5),
            json!(true),
            json!(""),
            json!("ab"),
            json!("abc"),
            json!("xbc"),
            json!([]),
            json!([1]),
            json!([1, [2]]),
            json!([2, 1]),
            json!({}),
            json!({"a": 1}),
            json!({"a": 1, "b": {"c": "x"}}),
            json!({"b": {"c": "xy", "d": [1]}, "a": 1}),
            json!({"b": {}}),
            json!({"=": 1, "+": [2], "~": {"-": 3}}),
            json!({"-": ["a"]}),
        ];
        for old in &values {
            for new in &values {
                let delta = diff(old, new);
                let made = apply(old.clone(), &delta).unwrap();
                assert_eq!(made, *new, "{old} -> {new} by {delta}");
                assert_eq!(made.to_string(), new.to_string(), "keys keep their order");
            }
        }
    }

    #[test]
    fn growth_costs_its_tail_alone() {
        let old = json!({"text": "a".repeat(1000), "list": vec![0; 1000], "n": 1});
        let mut longer = vec![0; 1000];
        longer.push(1);
        let new = json!({"text": "a".repeat(1000) + "b", "list": longer, "n": 1});
        assert_eq!(diff(&old, &new), json!({"~": {"text": {"+": "b"}, "list": {"+": [1]}}}));
        assert_eq!(diff(&new, &new), Value::Null);
    }

    #[test]
    fn a_delta_of_something_else_is_refused() {
        assert_eq!(apply(json!(1), &json!({"+": "x"})), None);
        assert_eq!(apply(json!([1]), &json!("nonsense")), None);
    }
}
