//! What an error body says, whichever provider wrote it.

use std::time::Duration;

use serde_json::Value;

use super::retry::seconds;

/// What an error body says, whichever provider wrote it.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) message: String,
    pub(crate) kind: String,
    pub(crate) code: String,
    pub(crate) param: Option<String>,
    pub(crate) wait: Option<Duration>,
}

impl Said {
    pub(crate) fn find(value: &Value) -> Option<Self> {
        let value = match value {
            Value::Array(many) => many.first()?,
            one => one,
        };
        let error = value.get("error").filter(|e| !e.is_null()).unwrap_or(value);
        if let Some(message) = error.as_str() {
            return Some(Self { message: message.into(), ..Self::default() });
        }
        let text = |name: &str| match error.get(name) {
            Some(Value::String(s)) => s.clone(),
            Some(Value::Number(n)) => n.to_string(),
            _ => String::new(),
        };
        let message = match error.get("message").or_else(|| error.get("detail")) {
            Some(Value::String(s)) => s.clone(),
            Some(Value::Array(items)) => validation(items),
            _ => return None,
        };
        let kind = if text("status").is_empty() { text("type") } else { text("status") };
        let details = error.get("details").and_then(Value::as_array);
        // Gemini says how long to wait in the body: `"retryDelay": "34s"`.
        let wait = details
            .into_iter()
            .flatten()
            .find_map(|d| seconds(d.get("retryDelay")?.as_str()?.trim_end_matches('s').parse().ok()?));
        Some(Self {
            message,
            kind,
            code: text("code"),
            param: Some(text("param")).filter(|p| !p.is_empty()),
            wait,
        })
    }

    pub(crate) fn plain(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        // A page for people says little; its title says it all.
        let title = text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
        let message = match title {
            Some((title, _)) => title.to_owned(),
            None => text.chars().take(300).collect(),
        };
        Self { message, ..Self::default() }
    }

    /// The status an error object stands for when it came under a 200.
    pub(crate) fn status(&self) -> u16 {
        if let Ok(code @ 400..=599) = self.code.parse() {
            return code;
        }
        let names = format!("{} {}", self.kind, self.code).to_lowercase();
        let table = [
            ("overloaded", 529),
            ("insufficient_quota", 429),
            ("rate_limit", 429),
            ("resource_exhausted", 429),
            ("invalid_request", 400),
            ("invalid_argument", 400),
            ("context_length_exceeded", 400),
            ("content_filter", 400),
            ("authentication", 401),
            ("unauthenticated", 401),
            ("permission", 403),
            ("not_found", 404),
            ("billing", 402),
            ("request_too_large", 413),
            ("unavailable", 503),
            ("timeout", 504),
            ("deadline_exceeded", 504),
        ];
        table.iter().find(|(name, _)| names.contains(name)).map_or(500, |(_, status)| *status)
    }
}

/// A validation report such as FastAPI's: places and messages, never the offending input, which is the prompt.
fn validation(items: &[Value]) -> String {
    let line = |item: &Value| {
        let place: Vec<String> = item
            .get("loc")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned))
            .collect();
        let message = item.get("msg").and_then(Value::as_str).unwrap_or("not valid");
        format!("{}: {message}", place.join("."))
    };
    items.iter().map(line).collect::<Vec<_>>().join("; ")
}
