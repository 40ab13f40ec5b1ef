//! The limits of a run or a phase, as they are set.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// What a run or a phase may take. What is `None` has no limit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// Dollars.
    pub max_cost: Option<f64>,
    /// Tokens of prompts and answers together.
    pub max_tokens: Option<u64>,
    /// Calls of models.
    pub max_llm_calls: Option<u64>,
    /// Seconds, without those that humans take.
    pub max_wall_seconds: Option<f64>,
    /// What happens at a limit.
    pub on_limit: OnLimit,
    /// What a model without a price means for `max_cost`.
    pub unpriced: Unpriced,
}

/// What happens when a call does not fit within a limit, its answer shortened or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OnLimit {
    /// The run stops; it can be resumed with a higher limit.
    #[default]
    Stop,
    /// A human is asked whether the limit is to be raised.
    Ask,
    /// This model is asked instead; the run stops when that does not fit either.
    Cheaper(String),
}

/// What a model without a price means for a limit in dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Unpriced {
    /// The run stops before it is called.
    #[default]
    Stop,
    /// It costs no dollars, only tokens.
    CountTokens,
}

/// The settings that are limits.
pub const NAMES: [&str; 7] =
    ["max_cost", "max_tokens", "max_llm_calls", "max_wall_seconds", "on_limit", "cheaper_model", "unpriced"];

impl Limits {
    /// The JSON Schema of each setting, by its name.
    pub fn schema() -> Map<String, Value> {
        let entry = |(name, kind, text): (&str, Value, &str)| {
            let mut entry = kind;
            entry["description"] = text.into();
            entry["default"] = Value::Null;
            (name.to_owned(), entry)
        };
        let amount = json!({"type": ["number", "null"], "minimum": 0});
        let count = json!({"type": ["integer", "null"], "minimum": 0});
        [
            ("max_cost", amount.clone(), "Most dollars that the phase may cost."),
            ("max_tokens", count.clone(), "Most tokens of its prompts and answers together."),
            ("max_llm_calls", count, "Most calls of models."),
            ("max_wall_seconds", amount, "Most seconds it may take, without those that humans take."),
            ("on_limit", words(&["stop", "ask", "cheaper"]), "What happens at a limit; unset: `stop`."),
            (
                "cheaper_model",
                json!({"type": ["string", "null"]}),
                "The model that is asked at a limit, with `on_limit` `cheaper`.",
            ),
            (
                "unpriced",
                words(&["stop", "count-tokens"]),
                "What a model without a price means for `max_cost`; unset: `stop`.",
            ),
        ]
        .into_iter()
        .map(entry)
        .collect()
    }

    /// Reads the limits among `settings`; whatever else is there is none of theirs.
    ///
    /// # Errors
    /// [`Error::Configuration`] that names the setting, what was expected and what came.
    pub fn of(settings: &Value) -> Result<Self> {
        let Value::Object(settings) = settings else { return Ok(Self::default()) };
        let cheaper = word(settings, "cheaper_model")?;
        let on_limit = match (word(settings, "on_limit")?, cheaper) {
            (None | Some("stop"), None) => OnLimit::Stop,
            (Some("ask"), None) => OnLimit::Ask,
            (None | Some("cheaper"), Some(model)) => OnLimit::Cheaper(model.to_owned()),
            (Some("cheaper"), None) => {
                return Err(Error::Configuration(
                    "on_limit=\"cheaper\" needs the name of a model in cheaper_model".into(),
                ));
            }
            (Some("stop" | "ask"), Some(_)) => {
                return Err(Error::Configuration(
                    "cheaper_model has an effect only with on_limit=\"cheaper\": leave one of them out"
                        .into(),
                ));
            }
            (Some(other), _) => {
                return Err(unusable("on_limit", "\"stop\", \"ask\" or \"cheaper\"", &Value::from(other)));
            }
        };
        let unpriced = match word(settings, "unpriced")? {
            None | Some("stop") => Unpriced::Stop,
            Some("count-tokens") => Unpriced::CountTokens,
            Some(other) => {
                return Err(unusable("unpriced", "\"stop\" or \"count-tokens\"", &Value::from(other)));
            }
        };
        Ok(Self {
            max_cost: amount(settings, "max_cost", "a number of dollars, 0 or more")?,
            max_tokens: count(settings, "max_tokens")?,
            max_llm_calls: count(settings, "max_llm_calls")?,
            max_wall_seconds: amount(settings, "max_wall_seconds", "a number of seconds, 0 or more")?,
            on_limit,
            unpriced,
        })
    }

    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        self.max_cost.is_none()
            && self.max_tokens.is_none()
            && self.max_llm_calls.is_none()
            && self.max_wall_seconds.is_none()
    }
}

fn words(words: &[&str]) -> Value {
    let or_none: Vec<Option<&str>> = words.iter().copied().map(Some).chain([None]).collect();
    json!({"type": ["string", "null"], "enum": or_none})
}

fn given<'a>(settings: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    settings.get(name).filter(|value| !value.is_null())
}

fn word<'a>(settings: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>> {
    let Some(value) = given(settings, name) else { return Ok(None) };
    let text = value.as_str().filter(|text| !text.trim().is_empty());
    text.map(Some).ok_or_else(|| unusable(name, "a word", value))
}

fn amount(settings: &Map<String, Value>, name: &str, expected: &str) -> Result<Option<f64>> {
    let Some(value) = given(settings, name) else { return Ok(None) };
    let number = value.as_f64().filter(|number| *number >= 0.0);
    number.map(Some).ok_or_else(|| unusable(name, expected, value))
}

fn count(settings: &Map<String, Value>, name: &str) -> Result<Option<u64>> {
    let Some(value) = given(settings, name) else { return Ok(None) };
    value.as_u64().map(Some).ok_or_else(|| unusable(name, "a whole number, 0 or more", value))
}

fn unusable(name: &str, expected: &str, came: &Value) -> Error {
    Error::Configuration(format!("{name} must be {expected}; it is {came}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn limits_are_read_among_other_settings() {
        let settings = json!({"max_cost": 2, "max_llm_calls": 7, "files": "plain", "max_tokens": null});
        let limits = Limits::of(&settings).unwrap();
        assert_eq!((limits.max_cost, limits.max_llm_calls, limits.max_tokens), (Some(2.0), Some(7), None));
        assert!(Limits::of(&json!({"files": "plain"})).unwrap().is_none());
        let cheaper = Limits::of(&json!({"max_cost": 1, "cheaper_model": "small"})).unwrap();
        assert_eq!(cheaper.on_limit, OnLimit::Cheaper("small".into()));
    }

    #[test]
    fn what_the_schema_says_is_what_is_read() {
        let schema = Limits::schema();
        assert_eq!(schema.keys().collect::<Vec<_>>(), NAMES);
        for (name, entry) in &schema {
            let of = |value: Value| Limits::of(&json!({name: value}));
            for word in entry["enum"].as_array().into_iter().flatten().filter(|word| **word != "cheaper") {
                assert!(of(word.clone()).is_ok(), "{name}={word}");
            }
            if entry["enum"].is_array() {
                assert!(of(json!("other")).is_err(), "{name}");
            }
            if entry["minimum"] == 0 {
                assert!(of(json!(0)).is_ok() && of(json!(-1)).is_err(), "{name}");
                assert_eq!(of(json!(0.5)).is_ok(), entry["type"][0] == "number", "{name}");
            }
            assert_eq!(of(entry["default"].clone()).unwrap(), Limits::default(), "{name}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (settings, words) in [
            (json!({"max_cost": -1}), "max_cost must be a number of dollars"),
            (json!({"max_cost": "2"}), "it is \"2\""),
            (json!({"max_tokens": 1.5}), "max_tokens must be a whole number"),
            (json!({"max_wall_seconds": true}), "max_wall_seconds must be a number of seconds"),
            (json!({"on_limit": "halt"}), "on_limit must be"),
            (json!({"on_limit": "cheaper"}), "cheaper_model"),
            (json!({"on_limit": "ask", "cheaper_model": "m"}), "cheaper_model"),
            (json!({"unpriced": "free"}), "count-tokens"),
        ] {
            let error = Limits::of(&settings).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
