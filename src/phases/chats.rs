//! `chat_output_*.json`: a conversation with what it had cost by its end.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::reports;
use super::step::Done;
use super::workspace::Workspace;
use crate::engine::Run;
use crate::engine::ledger::{Line, report};
use crate::error::Result;

const COLUMNS: [&str; 6] =
    ["Agent", "Model", "Cost ($)", "Prompt Tokens", "Completion Tokens", "Total Tokens"];

/// Writes the messages with one time stamp and the cost columns; tool calls have no content.
pub(super) async fn write(run: &Run, path: &Path, messages: &[Value], lines: &[Line]) -> Result<()> {
    let stamp = run.stamp(run.now().await?);
    let digits = |range: std::ops::Range<usize>| stamp.get(range).unwrap_or_default();
    let timestamp = format!(
        "{}-{}-{} {}:{}:{}",
        digits(0..4),
        digits(4..6),
        digits(6..8),
        digits(9..11),
        digits(11..13),
        digits(13..15)
    );
    let rows = report(lines);
    let cost: Map<String, Value> = COLUMNS
        .iter()
        .map(|column| {
            let values: Vec<&Value> = rows[..rows.len() - 1].iter().map(|row| &row[column]).collect();
            (column.trim_end_matches(" ($)").to_owned(), json!(values))
        })
        .collect();
    let chat: Vec<Value> = messages
        .iter()
        .map(|message| {
            let content =
                if message.get("tool_calls").is_some() { &Value::Null } else { &message["content"] };
            json!({"name": message["name"], "content": content, "timestamp": timestamp, "cost": cost})
        })
        .collect();
    reports::json(path, &chat, 2)
}

/// Writes the nested chats of a step's tries, one file a try, and returns their paths.
pub(super) async fn nested(
    run: &Run,
    space: &Workspace,
    done: &Done,
    lines: &[Line],
) -> Result<Vec<PathBuf>> {
    let step = done.record.number;
    let mut written = Vec::new();
    for (index, messages) in done.nested.iter().enumerate() {
        let name = format!("chats/nested_chat_output_engineer_step_{step}_attempt_{}.json", index + 1);
        let chat = space.root.join(name);
        write(run, &chat, messages, lines).await?;
        written.push(chat);
    }
    Ok(written)
}
