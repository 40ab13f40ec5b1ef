//! The Gemini generateContent format.
//!
//! Shapes from the `google-genai` Python package 3.6 (`types.py`), API version v1beta.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::dialect::Shape;
use super::fault::Fault;
use super::schema;
use super::types::{Finish, Part, Role, Usage};
use super::wire::{Ask, Delta, Draft, count, put};

pub(crate) fn url(base: &str, model: &str, stream: bool) -> String {
    let versioned = base.rsplit('/').next().is_some_and(|end| matches!(end, "v1" | "v1beta" | "v1alpha"));
    let version = if versioned { "" } else { "/v1beta" };
    let folder = if model.contains('/') { "" } else { "models/" };
    let verb = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    format!("{base}{version}/{folder}{}:{verb}", encoded(model))
}

/// A model's name as a piece of a path.
fn encoded(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

pub(crate) fn body(ask: &Ask<'_>) -> Value {
    let mut system = ask.request.system.clone();
    let mut config = Map::new();
    put(&mut config, "temperature", ask.temperature());
    put(&mut config, "topP", ask.top_p());
    put(&mut config, "maxOutputTokens", ask.limit());
    put(&mut config, "thinkingConfig", ask.effort().and_then(|effort| thinking(ask.model, effort)));
    if let Some(wanted) = &ask.request.schema {
        if ask.dialect.shape != Shape::Plain {
            config.insert("responseMimeType".into(), "application/json".into());
        }
        match ask.dialect.shape {
            Shape::Schema => {
                config.insert("responseSchema".into(), schema::gemini(&wanted.schema));
            }
            Shape::Loose => system = format!("{system}\n\n{}", schema::in_words(&wanted.schema)),
            Shape::Plain => {}
        }
    }

    let contents: Vec<Value> = ask
        .request
        .messages
        .iter()
        .map(|message| {
            let role = if message.role == Role::User { "user" } else { "model" };
            json!({"role": role, "parts": message.parts.iter().map(part).collect::<Vec<_>>()})
        })
        .collect();

    let mut body = Map::new();
    if !system.trim().is_empty() {
        body.insert("systemInstruction".into(), json!({"parts": [{"text": system}]}));
    }
    body.insert("contents".into(), contents.into());
    if !config.is_empty() {
        body.insert("generationConfig".into(), Value::Object(config));
    }
    Value::Object(body)
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text { text } => json!({"text": text}),
        Part::Image { media_type, base64 } => json!({"inlineData": {"mimeType": media_type, "data": base64}}),
    }
}

/// Models before 3 take a budget in tokens, later ones a level. The budgets are those of Google's own
/// OpenAI-compatible endpoint.
fn thinking(model: &str, effort: &str) -> Option<Value> {
    let rest = model.to_lowercase();
    let generation = rest.split("gemini-").nth(1)?;
    if generation.starts_with("1.") || generation.starts_with("2.0") {
        return None;
    }
    if !generation.starts_with("2.") {
        return Some(json!({"thinkingLevel": effort.to_uppercase()}));
    }
    let budget = match effort {
        "none" => 0,
        "minimal" | "low" => 1_024,
        "medium" => 8_192,
        _ => 24_576,
    };
    Some(json!({"thinkingBudget": budget}))
}

pub(crate) fn event(draft: &mut Draft, value: &Value) -> Result<Delta, Fault> {
    draft.identify(value, "responseId", "modelVersion");
    note_usage(draft, value);
    if let Some(reason) = value.pointer("/promptFeedback/blockReason").and_then(Value::as_str) {
        let words =
            value.pointer("/promptFeedback/blockReasonMessage").and_then(Value::as_str).unwrap_or_default();
        draft.finish =
            Some(Finish::Refusal(format!("the prompt was blocked: {reason} {words}").trim().to_owned()));
        return Ok(Delta::default());
    }
    let mut delta = Delta::default();
    let Some(candidate) = value.pointer("/candidates/0") else { return Ok(delta) };
    for part in candidate.pointer("/content/parts").and_then(Value::as_array).into_iter().flatten() {
        delta.alive = true;
        if part.get("thought").is_none_or(|t| t != true) {
            delta.text.push_str(part["text"].as_str().unwrap_or_default());
        }
    }
    draft.text.push_str(&delta.text);
    if let Some(reason) = candidate["finishReason"].as_str() {
        let words = candidate["finishMessage"].as_str().unwrap_or_default();
        draft.finish = Some(finish(reason, words)?);
    }
    Ok(delta)
}

pub(crate) fn whole(draft: &mut Draft, value: &Value) -> Result<(), Fault> {
    // A stream asked for without `alt=sse` comes as one list.
    let pieces = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
    for piece in pieces {
        event(draft, piece)?;
    }
    if draft.finish.is_none() && draft.text.is_empty() {
        return Err(Fault::bad_reply("expected `candidates` with a text; the reply has none"));
    }
    draft.finish.get_or_insert(Finish::Stop);
    Ok(())
}

fn finish(reason: &str, words: &str) -> Result<Finish, Fault> {
    match reason {
        "STOP" | "FINISH_REASON_UNSPECIFIED" => Ok(Finish::Stop),
        "MAX_TOKENS" | "CONTINUATION" => Ok(Finish::Length),
        "OTHER" | "MALFORMED_RESPONSE" | "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" => {
            Err(Fault::bad_reply(format!("the model broke off: {reason} {words}")))
        }
        // SAFETY, RECITATION, LANGUAGE, BLOCKLIST, PROHIBITED_CONTENT, SPII and their successors.
        _ => Ok(Finish::Refusal(format!("{reason} {words}").trim().to_owned())),
    }
}

fn note_usage(draft: &mut Draft, value: &Value) {
    let Some(usage) = value.get("usageMetadata").filter(|u| u.is_object()) else { return };
    let tokens = |pointer: &str| count(usage, pointer).unwrap_or(0);
    let thoughts = tokens("/thoughtsTokenCount");
    draft.usage = Some(Usage {
        prompt_tokens: tokens("/promptTokenCount"),
        completion_tokens: tokens("/candidatesTokenCount").saturating_add(thoughts),
        cached_tokens: tokens("/cachedContentTokenCount"),
        reasoning_tokens: thoughts,
        cost: None,
    });
}
