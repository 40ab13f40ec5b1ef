//! Requests as they are sent and replies as they are understood, against files under `tests/golden/llm`.
//!
//! A case is `<provider>/<case>.request.json` (what we send), `<case>.stream.txt` (or `.reply.txt` for a reply in
//! one piece: what the server answers, written by hand) and `<case>.result.json` (what becomes of it).
//! `UPDATE_GOLDEN=1` writes the first and the last anew.

use std::path::{Path, PathBuf};

use cmbagent::llm::{Call, Message, Part, Role, Sampling, Schema};
use serde_json::{Value, json};

use super::server::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llm")
}

fn plain(model: &str) -> Call {
    let mut plain = call(model);
    plain.request.messages =
        vec![Message::user("What is 2 + 2?"), Message::assistant("4"), Message::user("And 3 + 3?")];
    plain
}

fn structured(model: &str) -> Call {
    let mut structured = call(model);
    structured.request.schema = Some(Schema {
        name: "plan".into(),
        schema: json!({
            "type": "object",
            "properties": {
                "sub_tasks": {"type": "array", "minItems": 1, "items": {
                    "type": "object",
                    "properties": {
                        "sub_task": {"type": "string", "description": "What to do"},
                        "sub_task_agent": {"type": "string", "enum": ["engineer", "researcher"]},
                        "weight": {"type": "number"}
                    },
                    "required": ["sub_task", "sub_task_agent"]
                }}
            },
            "required": ["sub_tasks"]
        }),
    });
    structured
}

fn image(model: &str) -> Call {
    let mut image = call(model);
    image.request.messages[0] = Message {
        role: Role::User,
        parts: vec![
            Part::Text { text: "Is this plot legible?".into() },
            Part::Image { media_type: "image/png".into(), base64: "iVBORw0KGgo=".into() },
        ],
    };
    image.request.max_output_tokens = Some(300);
    image
}

/// As the plot judge is asked: each picture after its name, and a structured answer.
fn plots(model: &str) -> Call {
    let mut plots = structured(model);
    let shown = |name: &str, media_type: &str| {
        let name = Part::Text { text: format!("{name}:") };
        [name, Part::Image { media_type: media_type.into(), base64: "iVBORw0KGgo=".into() }]
    };
    let mut parts = vec![Part::Text { text: "Judge these plots.".into() }];
    parts.extend(shown("data/fit_1.png", "image/png"));
    parts.extend(shown("data/photo.jpg", "image/jpeg"));
    plots.request.messages = vec![Message { role: Role::User, parts }];
    plots
}

fn reasoning(model: &str) -> Call {
    let mut reasoning = call(model);
    reasoning.request.sampling =
        Sampling { reasoning_effort: Some("high".into()), ..reasoning.request.sampling };
    reasoning
}

fn whole(model: &str) -> Call {
    let mut whole = plain(model);
    whole.options.stream = Some(false);
    whole
}

/// The request as far as it is ours to decide, with the key's place but not the key.
fn shown(seen: &Seen) -> Value {
    let headers: Vec<String> =
        ["authorization", "x-api-key", "anthropic-version", "x-goog-api-key", "content-type"]
            .iter()
            .filter_map(|name| Some(format!("{name}: {}", seen.header(name)?.replace(KEY, "KEY"))))
            .collect();
    json!({"target": seen.target, "headers": headers, "body": seen.body})
}

fn check(path: &Path, came: &Value) {
    let came = format!("{came:#}\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &came).unwrap();
    }
    let expected = std::fs::read_to_string(path)
        .unwrap_or_else(|e| panic!("{}: {e}; write it with UPDATE_GOLDEN=1", path.display()));
    assert_eq!(came, expected, "{}", path.display());
}

async fn case(provider_name: &str, name: &str, call: Call) {
    let file = |end: &str| folder().join(provider_name).join(format!("{name}.{end}"));
    let script = if call.options.stream == Some(false) {
        reply(200, "", &std::fs::read_to_string(file("reply.txt")).unwrap())
    } else {
        stream(&std::fs::read_to_string(file("stream.txt")).unwrap())
    };
    let server = Server::start(vec![script]).await;
    let (result, _) = run(&provider(&server), &call).await;
    let result = result.unwrap_or_else(|e| panic!("{provider_name}/{name}: {e}"));
    check(&file("request.json"), &shown(&server.seen()[0]));
    check(&file("result.json"), &serde_json::to_value(result).unwrap());
}

async fn cases(provider: &str, model: &str, reasoning_model: &str) {
    case(provider, "plain", plain(model)).await;
    case(provider, "structured", structured(model)).await;
    case(provider, "image", image(model)).await;
    case(provider, "plots", plots(model)).await;
    case(provider, "reasoning", reasoning(reasoning_model)).await;
    case(provider, "whole", whole(model)).await;
}

#[tokio::test]
async fn openai() {
    cases("openai", "gpt-4.1-2025-04-14", "o3-mini-2025-01-31").await;
}

#[tokio::test]
async fn anthropic() {
    cases("anthropic", "claude-sonnet-4-5", "claude-opus-4-8").await;
}

#[tokio::test]
async fn gemini() {
    cases("gemini", "gemini-2.5-flash", "gemini-3.8-flash").await;
}
