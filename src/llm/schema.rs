//! One JSON Schema, four dialects.
//!
//! Each provider takes another subset of JSON Schema. The functions here turn the plain schema of a
//! [`super::Schema`] into what a provider accepts; what it refuses is left out, because the answer is
//! checked afterwards anyway.

use serde_json::{Map, Value, json};

/// Keywords with schemas by name below them.
const NAMED: [&str; 2] = ["properties", "$defs"];

/// The schema for OpenAI's strict mode, or `None` when it cannot be said there (free-form objects).
///
/// Strict mode wants every property required and no others; an optional property becomes nullable,
/// and [`drop_nulls`] takes the nulls out of the answer again.
pub fn openai_strict(schema: &Value) -> Option<Value> {
    if has_free_object(schema) {
        return None;
    }
    Some(rewrite(schema, &|object| {
        for key in ["$schema", "default", "examples", "title"] {
            object.remove(key);
        }
        close(object, true);
    }))
}

/// The schema for Anthropic's `output_config.format`, which knows no ranges and no lengths.
pub fn anthropic(schema: &Value) -> Value {
    rewrite(schema, &|object| {
        for key in [
            "$schema",
            "default",
            "examples",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "uniqueItems",
        ] {
            object.remove(key);
        }
        close(object, false);
    })
}

/// The schema for Gemini's `responseSchema`, a subset of OpenAPI 3.0: types in capitals, `nullable`
/// in place of a null type, no `additionalProperties`, and the order of properties said aloud.
pub fn gemini(schema: &Value) -> Value {
    rewrite(schema, &|object| {
        for key in ["$schema", "additionalProperties", "default", "examples", "uniqueItems", "title"] {
            object.remove(key);
        }
        if let Some(value) = object.remove("const") {
            object.insert("enum".into(), json!([value]));
        }
        let types = match object.get("type") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let nullable = types.iter().any(|t| t == "null");
        if let Some(name) = types.iter().find(|t| *t != "null") {
            object.insert("type".into(), name.to_uppercase().into());
        }
        if nullable {
            object.insert("nullable".into(), true.into());
        }
        if let Some(properties) = object.get("properties").and_then(Value::as_object) {
            let order: Vec<_> = properties.keys().cloned().collect();
            object.insert("propertyOrdering".into(), json!(order));
        }
    })
}

/// The sentence that asks for the schema in words, for modes that only promise "some JSON".
pub fn in_words(schema: &Value) -> String {
    format!(
        "Answer with one JSON object and nothing else: no prose, no code fence. It must match this JSON Schema:\n{schema}"
    )
}

/// `text` without the nulls that strict mode made of optional properties; unchanged when there are
/// none or when it is no JSON.
pub fn drop_nulls(text: &str, schema: &Value) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
    if prune(&mut value, schema) { value.to_string() } else { text.to_owned() }
}

fn prune(value: &mut Value, schema: &Value) -> bool {
    match value {
        Value::Object(members) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return false };
            let required = required(schema);
            let before = members.len();
            members.retain(|name, member| {
                let optional = properties
                    .get(name)
                    .is_some_and(|p| !required.contains(&name.as_str()) && !takes_null(p));
                !(member.is_null() && optional)
            });
            let mut changed = members.len() != before;
            for (name, member) in members.iter_mut() {
                changed |= properties.get(name).is_some_and(|p| prune(member, p));
            }
            changed
        }
        Value::Array(items) => {
            let Some(schema) = schema.get("items") else { return false };
            items.iter_mut().fold(false, |changed, item| prune(item, schema) | changed)
        }
        _ => false,
    }
}

/// Applies `change` to `schema` and to every schema inside it, innermost first.
fn rewrite(schema: &Value, change: &dyn Fn(&mut Map<String, Value>)) -> Value {
    let Value::Object(object) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in object {
        let inner = match value {
            Value::Object(named) if NAMED.contains(&key.as_str()) => {
                Value::Object(named.iter().map(|(n, s)| (n.clone(), rewrite(s, change))).collect())
            }
            Value::Object(_) if matches!(key.as_str(), "items" | "additionalProperties") => {
                rewrite(value, change)
            }
            Value::Array(many) if matches!(key.as_str(), "anyOf" | "oneOf" | "allOf" | "prefixItems") => {
                many.iter().map(|s| rewrite(s, change)).collect()
            }
            _ => value.clone(),
        };
        out.insert(key.clone(), inner);
    }
    change(&mut out);
    Value::Object(out)
}

/// Forbids members that are not named; with `all_required`, also requires every named one.
fn close(object: &mut Map<String, Value>, all_required: bool) {
    let Some(Value::Object(properties)) = object.get("properties").cloned() else { return };
    object.insert("additionalProperties".into(), false.into());
    if !all_required {
        return;
    }
    let required: Vec<String> =
        required(&Value::Object(object.clone())).into_iter().map(str::to_owned).collect();
    let mut names = Vec::new();
    let mut wrapped = Map::new();
    for (name, property) in properties {
        let property = if required.contains(&name) { property } else { nullable(property) };
        names.push(Value::from(name.clone()));
        wrapped.insert(name, property);
    }
    object.insert("properties".into(), Value::Object(wrapped));
    object.insert("required".into(), Value::Array(names));
}

fn nullable(mut property: Value) -> Value {
    if takes_null(&property) {
        return property;
    }
    if property.get("const").is_some() || !property.get("type").is_some_and(Value::is_string) {
        return match property.get_mut("anyOf").and_then(Value::as_array_mut) {
            Some(many) => {
                many.push(json!({"type": "null"}));
                property
            }
            None => json!({"anyOf": [property, {"type": "null"}]}),
        };
    }
    let name = property["type"].take();
    property["type"] = json!([name, "null"]);
    if let Some(values) = property.get_mut("enum").and_then(Value::as_array_mut) {
        values.push(Value::Null);
    }
    property
}

fn takes_null(schema: &Value) -> bool {
    match schema.get("type") {
        Some(Value::String(one)) => one == "null",
        Some(Value::Array(many)) => many.iter().any(|t| t == "null"),
        _ => schema.get("anyOf").and_then(Value::as_array).is_some_and(|many| many.iter().any(takes_null)),
    }
}

fn required(schema: &Value) -> Vec<&str> {
    let names = schema.get("required").and_then(Value::as_array);
    names.map(|n| n.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// Whether some object of `schema` allows members that it does not name on purpose.
fn has_free_object(schema: &Value) -> bool {
    let Value::Object(object) = schema else { return false };
    let is_object = object.get("type").is_some_and(|t| t == "object");
    let open = match object.get("additionalProperties") {
        Some(Value::Bool(allowed)) => *allowed,
        Some(_) => true,
        None => false,
    };
    if is_object && (open || !object.contains_key("properties")) {
        return true;
    }
    object.iter().any(|(key, value)| match value {
        Value::Object(named) if NAMED.contains(&key.as_str()) => named.values().any(has_free_object),
        Value::Object(_) if key == "items" => has_free_object(value),
        Value::Array(many) if matches!(key.as_str(), "anyOf" | "oneOf" | "allOf") => {
            many.iter().any(has_free_object)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plan() -> Value {
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "steps": {"type": "array", "minItems": 1, "items": {
                    "type": "object",
                    "properties": {
                        "task": {"type": "string"},
                        "agent": {"type": "string", "enum": ["engineer", "researcher"]},
                        "note": {"type": "string", "default": ""}
                    },
                    "required": ["task"]
                }},
                "type": {"anyOf": [{"type": "string"}, {"type": "integer"}]}
            },
            "required": ["steps"]
        })
    }

    #[test]
    fn strict_mode_requires_everything_and_makes_optional_nullable() {
        let strict = openai_strict(&plan()).unwrap();
        assert_eq!(strict["required"], json!(["steps", "type"]));
        assert_eq!(strict["additionalProperties"], json!(false));
        assert_eq!(strict["properties"]["type"]["anyOf"][2], json!({"type": "null"}));
        let item = &strict["properties"]["steps"]["items"];
        assert_eq!(item["required"], json!(["task", "agent", "note"]));
        assert_eq!(item["properties"]["task"], json!({"type": "string"}));
        assert_eq!(
            item["properties"]["agent"],
            json!({"type": ["string", "null"], "enum": ["engineer", "researcher", null]})
        );
        assert_eq!(item["properties"]["note"], json!({"type": ["string", "null"]}));
        assert!(strict.get("$schema").is_none());
    }

    #[test]
    fn free_objects_have_no_strict_form() {
        for free in
            [json!({"type": "object"}), json!({"type": "object", "additionalProperties": {"type": "string"}})]
        {
            assert_eq!(openai_strict(&free), None);
            let outer = json!({"type": "object", "properties": {"a": {"type": "array", "items": free}}});
            assert_eq!(openai_strict(&outer), None);
        }
    }

    #[test]
    fn anthropic_knows_no_ranges_and_keeps_optional() {
        let schema = anthropic(&plan());
        assert!(schema["properties"]["steps"].get("minItems").is_none());
        assert_eq!(schema["required"], json!(["steps"]));
        assert_eq!(schema["properties"]["steps"]["items"]["additionalProperties"], json!(false));
    }

    #[test]
    fn gemini_has_capital_types_and_no_additional_properties() {
        let schema = gemini(&json!({
            "type": "object", "additionalProperties": false,
            "properties": {"a": {"type": ["string", "null"]}, "k": {"type": "string", "const": "x"}}
        }));
        assert_eq!(
            schema,
            json!({
                "type": "OBJECT",
                "properties": {"a": {"type": "STRING", "nullable": true}, "k": {"type": "STRING", "enum": ["x"]}},
                "propertyOrdering": ["a", "k"]
            })
        );
    }

    #[test]
    fn nulls_of_optional_properties_leave_the_answer() {
        let text = r#"{"steps":[{"task":"a","agent":null,"note":"b"}],"type":null}"#;
        assert_eq!(drop_nulls(text, &plan()), r#"{"steps":[{"task":"a","note":"b"}]}"#);
        let spaced = "{ \"steps\": [] }";
        assert_eq!(drop_nulls(spaced, &plan()), spaced);
        assert_eq!(drop_nulls("# Plan", &plan()), "# Plan");
    }
}
