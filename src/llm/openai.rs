//! The OpenAI Chat Completions format.
//!
//! Shapes from the `openai` Python package 3.57 (`types/chat`), and the additions of servers that speak the
//! format: `reasoning_content` or `reasoning` beside `content`, content as a list of parts, an error in a choice.

use serde_json::{Map, Value, json};

use super::dialect::{Limit, Shape};
use super::fault::Fault;
use super::schema;
use super::types::{Finish, Part, Role, Schema, Usage};
use super::wire::{Ask, Delta, Draft, count, put, text_only};

pub(crate) fn url(base: &str) -> String {
    if base.ends_with("/chat/completions") { base.to_owned() } else { format!("{base}/chat/completions") }
}

pub(crate) fn body(ask: &Ask<'_>) -> Value {
    let format = ask.request.schema.as_ref().and_then(|schema| response_format(schema, ask.dialect.shape));
    let mut system = ask.request.system.clone();
    if let (Some(schema), Some("json_object")) =
        (&ask.request.schema, format.as_ref().and_then(|f| f["type"].as_str()))
    {
        system = format!("{system}\n\n{}", schema::in_words(&schema.schema));
    }
    let mut messages = Vec::new();
    if !system.trim().is_empty() {
        messages.push(json!({"role": "system", "content": system}));
    }
    for message in &ask.request.messages {
        let role = if message.role == Role::User { "user" } else { "assistant" };
        // Plain strings where possible: many servers know no parts.
        let content =
            text_only(message).map_or_else(|| message.parts.iter().map(part).collect(), Value::from);
        messages.push(json!({"role": role, "content": content}));
    }

    let mut body = Map::new();
    body.insert("model".into(), ask.model.into());
    body.insert("messages".into(), messages.into());
    put(&mut body, "response_format", format);
    put(&mut body, "temperature", ask.temperature());
    put(&mut body, "top_p", ask.top_p());
    let usual = (ask.profile.o_series && ask.dialect.effort).then_some("medium");
    put(&mut body, "reasoning_effort", ask.effort().or(usual));
    let name = if ask.dialect.limit == Limit::Tokens { "max_tokens" } else { "max_completion_tokens" };
    put(&mut body, name, ask.limit());
    if ask.dialect.stream {
        body.insert("stream".into(), true.into());
        if ask.dialect.stream_options {
            body.insert("stream_options".into(), json!({"include_usage": true}));
        }
    }
    Value::Object(body)
}

fn part(part: &Part) -> Value {
    match part {
        Part::Text { text } => json!({"type": "text", "text": text}),
        Part::Image { media_type, base64 } => {
            json!({"type": "image_url", "image_url": {"url": format!("data:{media_type};base64,{base64}")}})
        }
    }
}

fn response_format(wanted: &Schema, shape: Shape) -> Option<Value> {
    match shape {
        Shape::Schema => {
            let strict = schema::openai_strict(&wanted.schema);
            let format = json!({
                "name": wanted.name,
                "strict": strict.is_some(),
                "schema": strict.as_ref().unwrap_or(&wanted.schema),
            });
            Some(json!({"type": "json_schema", "json_schema": format}))
        }
        Shape::Loose => Some(json!({"type": "json_object"})),
        Shape::Plain => None,
    }
}

pub(crate) fn event(draft: &mut Draft, value: &Value) -> Result<Delta, Fault> {
    draft.identify(value, "id", "model");
    note_usage(draft, value);
    let Some(choice) = first_choice(value) else { return Ok(Delta::default()) };
    let delta = choice.get("delta").or_else(|| choice.get("message")).unwrap_or(&Value::Null);
    take(draft, choice, delta)
}

pub(crate) fn whole(draft: &mut Draft, value: &Value) -> Result<(), Fault> {
    draft.identify(value, "id", "model");
    note_usage(draft, value);
    let choice = first_choice(value)
        .ok_or_else(|| Fault::bad_reply("expected a chat completion with `choices`; the reply has none"))?;
    let message = choice.get("message").or_else(|| choice.get("delta")).unwrap_or(&Value::Null);
    take(draft, choice, message)?;
    // Some servers leave the reason out of a reply that is whole.
    draft.finish.get_or_insert(Finish::Stop);
    Ok(())
}

fn first_choice(value: &Value) -> Option<&Value> {
    let choices = value.get("choices")?.as_array()?;
    choices.iter().find(|c| c.get("index").and_then(Value::as_u64).unwrap_or(0) == 0)
}

/// Takes a message or a delta of one.
fn take(draft: &mut Draft, choice: &Value, message: &Value) -> Result<Delta, Fault> {
    if let Some(fault) = Fault::of_object(choice, None) {
        return Err(fault);
    }
    let filled = |name: &str| message.get(name).and_then(Value::as_str).filter(|s| !s.is_empty());
    let text = match message.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            parts.iter().filter(|p| p["type"] == "text").filter_map(|p| p["text"].as_str()).collect()
        }
        _ => String::new(),
    };
    draft.text.push_str(&text);
    draft.refusal.push_str(filled("refusal").unwrap_or_default());
    let reasons = filled("reasoning_content").or_else(|| filled("reasoning")).is_some();
    match choice.get("finish_reason").and_then(Value::as_str) {
        None | Some("") => {}
        Some("length" | "max_tokens") => draft.finish = Some(Finish::Length),
        Some("content_filter") => {
            draft.finish = Some(Finish::Refusal("stopped by the content filter".into()));
        }
        Some("error") => return Err(Fault::bad_reply("the model broke off with an error")),
        Some(_) => draft.finish = Some(Finish::Stop),
    }
    Ok(Delta { alive: reasons || !text.is_empty(), text })
}

fn note_usage(draft: &mut Draft, value: &Value) {
    let Some(usage) = value.get("usage").filter(|u| u.is_object()) else { return };
    let tokens = |pointer: &str| count(usage, pointer).unwrap_or(0);
    draft.cache_writes = tokens("/prompt_tokens_details/cache_write_tokens");
    draft.usage = Some(Usage {
        prompt_tokens: tokens("/prompt_tokens"),
        completion_tokens: tokens("/completion_tokens"),
        cached_tokens: tokens("/prompt_tokens_details/cached_tokens"),
        reasoning_tokens: tokens("/completion_tokens_details/reasoning_tokens"),
        cost: None,
    });
}
