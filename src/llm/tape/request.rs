//! A request as it stands on a tape, and as it is shown where it differs.

use super::home::Home;
use crate::llm::redact::redact;
use crate::llm::{Message, Part, Request};

/// `request` without its directory, its pictures and what looks like a key.
pub(super) fn written(request: &Request, home: &Home) -> Request {
    let text = |text: &str| redact(&home.hide(text), None);
    let part = |part: &Part| match part {
        Part::Text { text: said } => Part::Text { text: text(said) },
        Part::Image { media_type, base64 } => Part::Image {
            media_type: media_type.clone(),
            base64: format!("blake3:{}", blake3::hash(base64.as_bytes()).to_hex()),
        },
    };
    let message = |m: &Message| Message { role: m.role, parts: m.parts.iter().map(part).collect() };
    Request {
        system: text(&request.system),
        messages: request.messages.iter().map(message).collect(),
        ..request.clone()
    }
}

/// A request line by line, for comparison.
pub(super) fn shown(request: &Request) -> Result<String, serde_json::Error> {
    let Request { model, system, messages, schema, sampling, max_output_tokens } = request;
    let mut lines =
        vec![format!("[model {model}]"), format!("[sampling {}]", serde_json::to_string(sampling)?)];
    lines.extend(max_output_tokens.map(|limit| format!("[max_output_tokens {limit}]")));
    lines.extend(schema.as_ref().map(|schema| format!("[schema {} {}]", schema.name, schema.schema)));
    lines.extend(["[system]".into(), system.clone()]);
    for message in messages {
        lines.push(format!("[{}]", serde_json::to_string(&message.role)?.trim_matches('"')));
        lines.extend(message.parts.iter().map(|part| match part {
            Part::Text { text } => text.clone(),
            Part::Image { media_type, base64 } => format!("[{media_type} {base64}]"),
        }));
    }
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::llm::{Role, Sampling, Schema};
    use serde_json::json;

    #[test]
    fn pictures_keys_and_directories_stay_off_the_tape() {
        let parts = vec![
            Part::Text { text: "In /home/ann/run the key sk-abcdef123456 was printed.".into() },
            Part::Image { media_type: "image/png".into(), base64: "iVBORw0KGgo=".into() },
        ];
        let request = Request {
            model: "m".into(),
            system: "You are the engineer agent.".into(),
            messages: vec![Message { role: Role::User, parts }, Message::assistant("ok")],
            schema: Some(Schema { name: "plan".into(), schema: json!({"type": "object"}) }),
            sampling: Sampling::default(),
            max_output_tokens: Some(7),
        };
        let text = shown(&written(&request, &Home::new("/home/ann/run".as_ref()))).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[2..5], ["[max_output_tokens 7]", r#"[schema plan {"type":"object"}]"#, "[system]"]);
        assert_eq!(lines[6..8], ["[user]", "In {work_dir} the key [redacted] was printed."]);
        assert!(lines[8].starts_with("[image/png blake3:") && !text.contains("iVBOR"), "{text}");
        assert_eq!(lines[9..], ["[assistant]", "ok"]);
    }
}
