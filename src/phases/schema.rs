//! JSON Schema of settings, drawn from the structs that hold them. What it says of numbers and words is what
//! [`check`] holds settings to; types are serde's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::SecretString;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::exec::sandbox::Mode;

/// The largest whole number of a setting.
pub(super) const MOST: u32 = i32::MAX as u32;

/// The type of a setting.
pub(super) trait Kind {
    /// What values it takes.
    fn schema() -> Value;

    /// A value as JSON.
    fn plain(&self) -> Value;
}

/// Settings that belong together.
pub(super) trait Settings {
    /// All that is to be said of them: `type`, `description` and `properties`.
    fn schema() -> &'static Value;
}

/// What narrows a setting beyond its type.
pub(super) enum Rule {
    /// A number of at least this.
    AtLeast(u32),
    /// A number above this.
    Above(u32),
    /// One of these words.
    OneOf(&'static [&'static str]),
}

/// What is said of one setting.
pub(super) fn property<K: Kind>(text: &[&str], or_null: bool, rules: &[Rule], default: &K) -> Value {
    let mut entry = K::schema();
    if or_null {
        entry = optional(entry);
    }
    for rule in rules {
        match rule {
            Rule::AtLeast(least) => entry["minimum"] = json!(least),
            Rule::Above(bound) => entry["exclusiveMinimum"] = json!(bound),
            Rule::OneOf(words) => entry["enum"] = json!(words),
        }
    }
    entry["description"] = described(text).into();
    entry["default"] = default.plain();
    entry
}

/// The lines of a doc comment as one.
pub(super) fn described(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// Settings whose values keep to their schema, or what is wrong with the first that does not.
///
/// # Errors
/// [`Error::Configuration`] that names the setting, what was expected and what came.
pub(super) fn check(schema: &Value, settings: &Value) -> Result<()> {
    fault(schema, settings).map_or(Ok(()), |fault| Err(Error::Configuration(fault)))
}

fn fault(schema: &Value, settings: &Value) -> Option<String> {
    let properties = schema["properties"].as_object()?;
    settings.as_object()?.iter().find_map(|(name, value)| {
        let entry = properties.get(name)?;
        let wrong = |expected: String| Some(format!("{name}: expected {expected}, got {}", said(value)));
        if let Some(words) = entry["enum"].as_array()
            && value.is_string()
            && !words.contains(value)
        {
            let words: Vec<String> = words.iter().map(Value::to_string).collect();
            return wrong(format!("one of {}", words.join(", ")));
        }
        let number = value.as_f64();
        if let (Some(least), Some(number)) = (entry["minimum"].as_f64(), number)
            && number < least
        {
            return wrong(format!("at least {least}"));
        }
        if let (Some(bound), Some(number)) = (entry["exclusiveMinimum"].as_f64(), number)
            && number <= bound
        {
            return wrong(format!("more than {bound}"));
        }
        if let (Some(most), Some(number)) = (entry["maximum"].as_f64(), number)
            && number > most
        {
            return wrong(format!("at most {most}"));
        }
        // A list would be read field by field.
        if entry["properties"].is_object() && value.is_array() {
            return wrong("an object".into());
        }
        fault(entry, value).map(|fault| format!("{name}.{fault}"))
    })
}

/// A value in an error: a text may be long.
fn said(value: &Value) -> String {
    value.to_string().chars().take(40).collect()
}

/// The same, or nothing.
fn optional(mut entry: Value) -> Value {
    match entry["type"].take() {
        Value::String(one) => entry["type"] = json!([one, "null"]),
        Value::Array(mut several) => {
            several.push("null".into());
            entry["type"] = several.into();
        }
        // What takes any value takes nothing, too.
        _ => drop(entry.as_object_mut().and_then(|entry| entry.remove("type"))),
    }
    entry
}

macro_rules! kinds {
    ($($type:ty: $schema:expr;)+) => {
        $(impl Kind for $type {
            fn schema() -> Value {
                $schema
            }

            fn plain(&self) -> Value {
                json!(self)
            }
        })+
    };
}

kinds! {
    bool: json!({"type": "boolean"});
    u32: json!({"type": "integer", "minimum": 0, "maximum": MOST});
    u64: u32::schema();
    usize: u32::schema();
    f64: json!({"type": "number"});
    String: json!({"type": "string"});
    PathBuf: json!({"type": "string"});
    Value: json!({});
    Mode: json!({"type": "string", "enum": ["strict", "default", "off"]});
}

impl<T: Kind> Kind for Option<T> {
    fn schema() -> Value {
        optional(T::schema())
    }

    fn plain(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::plain)
    }
}

impl<T: Kind> Kind for Vec<T> {
    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }

    fn plain(&self) -> Value {
        self.iter().map(T::plain).collect()
    }
}

impl<V: Kind> Kind for BTreeMap<String, V> {
    fn schema() -> Value {
        json!({"type": "object", "additionalProperties": V::schema()})
    }

    fn plain(&self) -> Value {
        self.iter().map(|(name, value)| (name.clone(), value.plain())).collect::<Map<_, _>>().into()
    }
}

impl Kind for SecretString {
    fn schema() -> Value {
        String::schema()
    }

    /// A key is shown to nobody.
    fn plain(&self) -> Value {
        Value::Null
    }
}

/// Settings within settings; names that are not known are the user's own.
impl<S: Settings> Kind for S {
    fn schema() -> Value {
        S::schema().clone()
    }

    /// By default none is set.
    fn plain(&self) -> Value {
        json!({})
    }
}

/// A struct of settings, its defaults and its schema in one. After a field's type may stand `as "…"`, a
/// deserializer that takes nothing for empty, and in brackets what narrows it.
macro_rules! settings {
    (
        $(#[doc = $doc:literal])+ $name:ident {
            $(
                $(#[doc = $text:literal])+
                $field:ident: $type:ty $(as $with:literal)? $([$($rule:expr),+])? = $default:expr
            ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[doc = $text])+ $(#[serde(deserialize_with = $with)])? pub $field: $type,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }

        impl $crate::phases::schema::Settings for $name {
            fn schema() -> &'static serde_json::Value {
                use $crate::phases::schema::{Rule, described, property};
                static SCHEMA: std::sync::LazyLock<serde_json::Value> = std::sync::LazyLock::new(|| {
                    let by_default = $name::default();
                    let mut properties = serde_json::Map::new();
                    $({
                        let or_null: &[&str] = &[$($with)?];
                        let rules: &[Rule] = &[$($($rule),+)?];
                        let entry = property(&[$($text),+], !or_null.is_empty(), rules, &by_default.$field);
                        properties.insert(stringify!($field).into(), entry);
                    })+
                    serde_json::json!({
                        "type": "object", "description": described(&[$($doc),+]), "properties": properties,
                    })
                });
                &SCHEMA
            }
        }
    };
}
pub(super) use settings;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::{Value, json};

    use super::{MOST, fault};
    use crate::phases::{build, config_schema};

    const TYPES: [&str; 5] = ["planning", "control", "one_shot", "hitl_checkpoint", "idea_generation"];

    /// Values beside what the schema allows, and some that it allows.
    fn tried(entry: &Value) -> Vec<(Value, bool)> {
        let mut tried = vec![(entry["default"].clone(), true)];
        if let Some(least) = entry["minimum"].as_u64() {
            tried.push((json!(least), true));
            tried.push((json!(i64::try_from(least).unwrap() - 1), false));
        }
        if let Some(bound) = entry["exclusiveMinimum"].as_u64() {
            tried.extend([(json!(bound), false), (json!(bound + 1), true)]);
        }
        if let Some(most) = entry["maximum"].as_u64() {
            tried.extend([(json!(most), true), (json!(most + 1), false)]);
        }
        if let Some(words) = entry["enum"].as_array() {
            tried.extend(words.iter().map(|word| (word.clone(), true)));
            tried.push((json!("another word"), false));
        }
        // A list or a number fits none of the types that are not said.
        if let Some(kinds) = entry["type"].as_str().map(|kind| vec![kind.to_owned()]) {
            tried.push((json!(null), kinds.contains(&"null".to_owned())));
            tried.push((json!(["x"]), kinds.contains(&"array".to_owned())));
        }
        tried
    }

    #[test]
    fn what_the_schema_says_is_what_phases_are_held_to() {
        for phase_type in TYPES {
            let schema = config_schema(Some(phase_type)).unwrap();
            let properties = schema["properties"].as_object().unwrap();
            let params = properties["params"]["properties"].as_object().unwrap();
            let limits = crate::engine::Limits::schema();
            let own = properties.iter().filter(|(name, _)| {
                !["enabled", "max_retries"].contains(&name.as_str())
                    && (phase_type == "hitl_checkpoint" || *name != "timeout_seconds")
            });
            for (name, entry) in own {
                for (value, good) in tried(entry) {
                    let built = build(phase_type, json!({name: value}));
                    assert_eq!(built.is_ok(), good, "{phase_type}: {name}={value}");
                }
            }
            for (name, entry) in params.iter().filter(|(name, _)| !limits.contains_key(*name)) {
                for (value, good) in tried(entry) {
                    let built = build(phase_type, json!({"params": {name: value}}));
                    assert_eq!(built.is_ok(), good, "{phase_type}: params.{name}={value}");
                }
            }
        }
    }

    #[test]
    fn everything_is_described() {
        let base = config_schema(None).unwrap();
        for schema in TYPES.map(|kind| config_schema(Some(kind)).unwrap()) {
            assert!(schema["description"].as_str().unwrap().starts_with("Settings of the "));
            let properties = schema["properties"].as_object().unwrap();
            assert!(base["properties"].as_object().unwrap().keys().all(|name| properties.contains_key(name)));
            let params = properties["params"]["properties"].as_object().unwrap();
            for (name, entry) in properties.iter().chain(params) {
                assert!(entry["description"].as_str().unwrap().ends_with('.'), "{name}");
                assert!(entry.get("default").is_some(), "{name}");
            }
        }
        assert!(config_schema(Some("odd")).is_err());
    }

    #[test]
    fn a_fault_names_the_setting_what_was_expected_and_what_came() {
        let schema = config_schema(Some("control")).unwrap();
        let said = |settings: Value| fault(&schema, &settings).unwrap_or_default();
        assert_eq!(said(json!({"max_rounds": 0})), "max_rounds: expected at least 1, got 0");
        assert_eq!(
            said(json!({"max_rounds": u32::MAX})),
            format!("max_rounds: expected at most {MOST}, got {}", u32::MAX)
        );
        assert_eq!(
            said(json!({"params": {"script_memory_gb": 0}})),
            "params.script_memory_gb: expected more than 0, got 0"
        );
        assert_eq!(
            said(json!({"params": {"sandbox": "none"}})),
            r#"params.sandbox: expected one of "strict", "default", "off", got "none""#
        );
        assert_eq!(said(json!({"max_rounds": "3", "mine": 0, "step_number": null})), "", "types are serde's");
    }
}
