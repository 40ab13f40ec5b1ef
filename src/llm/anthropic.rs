//! The Anthropic Messages format.
//!
//! Shapes from the `anthropic` Python package 2.13 (`types/`); API version 2023-06-01.

use serde_json::{Map, Value, json};

use super::dialect::Shape;
use super::fault::Fault;
use super::schema;
use super::types::{Finish, Part, Role};
use super::wire::{Ask, Delta, Draft, count, put};

/// The value of the `anthropic-version` header.
pub(crate) const VERSION: &str = "2023-06-01";

pub(crate) fn url(base: &str) -> String {
    format!("{}/v1/messages", base.trim_end_matches("/v1"))
}

pub(crate) fn body(ask: &Ask<'_>) -> Value {
    let messages: Vec<Value> = ask
        .request
        .messages
        .iter()
        .map(|message| {
            let role = if message.role == Role::User { "user" } else { "assistant" };
            let mut content: Vec<Value> = message.parts.iter().filter_map(part).collect();
            if content.is_empty() {
                // Empty turns are refused.
                content.push(json!({"type": "text", "text": "(empty)"}));
            }
            json!({"role": role, "content": content})
        })
        .collect();

    let mut body = Map::new();
    body.insert("model".into(), ask.model.into());
    put(&mut body, "max_tokens", ask.limit());
    if !ask.request.system.trim().is_empty() {
        // The system prompt is the same for every call of an agent: cached, it costs a tenth.
        let block =
            json!({"type": "text", "text": ask.request.system, "cache_control": {"type": "ephemeral"}});
        body.insert("system".into(), json!([block]));
    }
    body.insert("messages".into(), messages.into());
    // Recent models refuse the two together.
    put(&mut body, "temperature", ask.temperature().map(|t| t.min(1.0)));
    put(&mut body, "top_p", ask.top_p().filter(|_| ask.temperature().is_none()));

    let mut output = Map::new();
    put(&mut output, "effort", ask.effort());
    if let Some(wanted) = &ask.request.schema {
        match ask.dialect.shape {
            Shape::Schema => {
                let format = json!({"type": "json_schema", "schema": schema::anthropic(&wanted.schema)});
                output.insert("format".into(), format);
            }
            Shape::Loose => {
                let tool = json!({
                    "name": wanted.name,
                    "description": "Takes the answer. Call it once, with the whole answer.",
                    "input_schema": wanted.schema,
                });
                body.insert("tools".into(), json!([tool]));
                body.insert("tool_choice".into(), json!({"type": "tool", "name": wanted.name}));
            }
            Shape::Plain => {}
        }
    }
    if !output.is_empty() {
        body.insert("output_config".into(), Value::Object(output));
    }
    if ask.dialect.stream {
        body.insert("stream".into(), true.into());
    }
    Value::Object(body)
}

fn part(part: &Part) -> Option<Value> {
    match part {
        Part::Text { text } if text.trim().is_empty() => None,
        Part::Text { text } => Some(json!({"type": "text", "text": text})),
        Part::Image { media_type, base64 } => Some(
            json!({"type": "image", "source": {"type": "base64", "media_type": media_type, "data": base64}}),
        ),
    }
}

pub(crate) fn event(draft: &mut Draft, value: &Value) -> Delta {
    let mut delta = Delta::default();
    match value["type"].as_str().unwrap_or_default() {
        "message_start" => {
            draft.identify(&value["message"], "id", "model");
            note_usage(draft, &value["message"]["usage"]);
        }
        "content_block_start" => {
            delta.alive = true;
            if value["content_block"]["type"] == "text" {
                value["content_block"]["text"].as_str().unwrap_or_default().clone_into(&mut delta.text);
            }
        }
        "content_block_delta" => {
            delta.alive = true;
            let inner = &value["delta"];
            match inner["type"].as_str().unwrap_or_default() {
                "text_delta" => inner["text"].as_str().unwrap_or_default().clone_into(&mut delta.text),
                "input_json_delta" => draft.json.push_str(inner["partial_json"].as_str().unwrap_or_default()),
                // Thinking, its signature and citations are no part of the answer.
                _ => {}
            }
        }
        "message_delta" => {
            note_stop(draft, &value["delta"]);
            note_usage(draft, &value["usage"]);
        }
        "message_stop" => draft.ended = true,
        // `ping`, `content_block_stop`, and events still to be invented.
        _ => {}
    }
    draft.text.push_str(&delta.text);
    delta
}

pub(crate) fn whole(draft: &mut Draft, value: &Value) -> Result<(), Fault> {
    let content = value
        .get("content")
        .and_then(Value::as_array)
        .ok_or_else(|| Fault::bad_reply("expected a message with `content`; the reply has none"))?;
    draft.identify(value, "id", "model");
    for block in content {
        match block["type"].as_str().unwrap_or_default() {
            "text" => draft.text.push_str(block["text"].as_str().unwrap_or_default()),
            "tool_use" => draft.json = block["input"].to_string(),
            _ => {}
        }
    }
    note_stop(draft, value);
    note_usage(draft, &value["usage"]);
    draft.finish.get_or_insert(Finish::Stop);
    Ok(())
}

fn note_stop(draft: &mut Draft, value: &Value) {
    draft.finish = match value["stop_reason"].as_str() {
        None => return,
        Some("max_tokens" | "model_context_window_exceeded") => Some(Finish::Length),
        Some("refusal") => {
            let details = &value["stop_details"];
            let words = details["explanation"].as_str().or_else(|| details["category"].as_str());
            Some(Finish::Refusal(words.unwrap_or("the model declined").to_owned()))
        }
        Some(_) => Some(Finish::Stop),
    };
}

/// Counts come at the start and, in total, at the end; what the end leaves out stays.
fn note_usage(draft: &mut Draft, usage: &Value) {
    if !usage.is_object() {
        return;
    }
    let mut known = draft.usage.unwrap_or_default();
    // Anthropic counts cached tokens beside the prompt's others, we count them among them.
    let plain = known.prompt_tokens.saturating_sub(known.cached_tokens).saturating_sub(draft.cache_writes);
    known.cached_tokens = count(usage, "/cache_read_input_tokens").unwrap_or(known.cached_tokens);
    draft.cache_writes = count(usage, "/cache_creation_input_tokens").unwrap_or(draft.cache_writes);
    let plain = count(usage, "/input_tokens").unwrap_or(plain);
    known.prompt_tokens = plain.saturating_add(known.cached_tokens).saturating_add(draft.cache_writes);
    known.completion_tokens = count(usage, "/output_tokens").unwrap_or(known.completion_tokens);
    known.reasoning_tokens =
        count(usage, "/output_tokens_details/thinking_tokens").unwrap_or(known.reasoning_tokens);
    draft.usage = Some(known);
}
