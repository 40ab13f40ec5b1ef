//! From an engineer's Markdown answer to what can be run: explanation, code, file name, status.

mod fences;
mod normalise;
mod scan;

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::pattern::pattern;
use fences::{Block, blocks, fence};
pub use normalise::normalise;
pub use scan::dedent;
use scan::{is_bare_script, is_whole};

/// An engineer's answer, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What the engineer says about the code, without headings.
    pub explanation: String,
    /// What changed against the last try, if it says so.
    pub modifications: Option<String>,
    /// The script, dedented, without its file name comment, ending in a line break.
    pub code: Option<String>,
    /// The path of the `# filename:` comment, unchecked (see [`crate::exec::confine`]).
    pub filename: Option<String>,
    /// Python blocks besides the one in `code`: more than none breaks the rule of one block.
    pub other_blocks: usize,
    /// The block has no closing fence: the answer was probably cut.
    pub unclosed: bool,
    /// Whether the sub-task is finished once the script succeeds.
    pub status: Status,
}

/// The engineer's word on its sub-task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status", content = "what")]
pub enum Status {
    /// Finished once the script succeeds; also what a missing line means.
    #[default]
    Finished,
    /// Work remains after it: what, in the engineer's words (may be empty).
    Remaining(String),
}

/// Takes an answer apart.
///
/// Fences may be of backticks or tildes, of any length, indented, tagged as Python or not at all.
/// A fence inside a triple-quoted string is text, unless that string would then never end.
/// Of several Python blocks the longest that is a whole script wins. An answer without any fence
/// counts as code only when every line of it reads as Python.
/// A leading `<think>` part is dropped.
pub fn answer(markdown: &str) -> Answer {
    let text = without_thoughts(&markdown.replace("\r\n", "\n")).to_owned();
    let lines: Vec<&str> = text.lines().collect();
    let blocks = blocks(&lines);
    let after_fences = blocks.last().map_or(0, |block| block.after);
    let (status, status_at) = status(&lines, after_fences);

    let scripts: Vec<&Block> =
        blocks.iter().filter(|block| block.python && !named(&block.code).1.trim().is_empty()).collect();
    let chosen = scripts.iter().max_by_key(|block| (is_whole(&block.code), block.code.len()));
    let Some(chosen) = chosen else {
        let body = &lines[..status_at.unwrap_or(lines.len())];
        // A lone fence that closes nothing is no line of the script.
        let body: Vec<&str> = body.iter().copied().filter(|line| fence(line).is_none()).collect();
        let body = body.join("\n");
        if blocks.is_empty() && is_bare_script(&body) {
            let (filename, code) = named(&body);
            return Answer { code: Some(code), filename, status, ..Answer::default() };
        }
        let (explanation, modifications) = prose(&lines, &blocks, status_at);
        return Answer { explanation, modifications, status, ..Answer::default() };
    };
    let (explanation, modifications) = prose(&lines, &blocks, status_at);
    let (filename, code) = named(&chosen.code);
    Answer {
        explanation,
        modifications,
        code: Some(code),
        filename,
        other_blocks: scripts.len() - 1,
        unclosed: chosen.unclosed,
        status,
    }
}

/// Takes the `# filename:` comment off the beginning of a script.
fn named(code: &str) -> (Option<String>, String) {
    static NAME: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)^\s*#\s*file\s*_?name\s*[:=]\s*(.*?)\s*$"));
    let mut name = None;
    let mut kept = Vec::new();
    let mut beginning = true;
    for line in code.trim_start_matches('\u{feff}').lines() {
        if beginning {
            if line.trim().is_empty() {
                continue;
            }
            if let Some(found) = NAME.captures(line) {
                let found = found[1].trim_matches(['"', '\'', '`', '<', '>', '*']).trim();
                if name.is_none() && !found.is_empty() {
                    name = Some(found.to_owned());
                }
                continue;
            }
            // The name may stand below a `#!` or coding line.
            beginning = line.starts_with("#!") || line.contains("coding:") && line.starts_with('#');
        }
        kept.push(line);
    }
    let mut code = kept.join("\n").trim_end().to_owned();
    code.push('\n');
    (name, code)
}

/// The status line among those from `from` on (the last such line), and where it stands.
fn status(lines: &[&str], from: usize) -> (Status, Option<usize>) {
    for (at, line) in lines.iter().enumerate().skip(from).rev() {
        if let Some(found) = status_line(line) {
            let status = match found {
                Status::Finished => Status::Finished,
                Status::Remaining(rest) => remaining(&rest, &lines[at + 1..]),
            };
            return (status, Some(at));
        }
    }
    (Status::Finished, None)
}

/// What this line says, if it is a status line.
fn status_line(line: &str) -> Option<Status> {
    static LINE: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^[\s>*_#`\-]*status[\s*_`]*[:=\-–—−：]+[\s*_`\x22']*",
            r"(?:(finished|completed?|done)\b",
            r"|(remaining|remains|unfinished|incomplete|in[ -]progress|not (?:yet )?(?:finished|complete|done))\b)",
            r"(.*)$"
        ))
    });
    let found = LINE.captures(line)?;
    Some(if found.get(1).is_some() { Status::Finished } else { Status::Remaining(trimmed(&found[3])) })
}

fn trimmed(text: &str) -> String {
    let text = text.trim_start_matches(|character: char| " \t*_`:=-–—−：,;\"'".contains(character));
    text.trim_end_matches(|character: char| " \t*_`\"'".contains(character)).to_owned()
}

/// What remains may go on below its line.
fn remaining(rest: &str, below: &[&str]) -> Status {
    let more = below.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && fence(line).is_none());
    let all: Vec<&str> = std::iter::once(rest).chain(more).filter(|part| !part.is_empty()).collect();
    let all = all.join(" ");
    let word = all.trim_end_matches(['.', '!']).to_lowercase();
    if matches!(word.as_str(), "none" | "nothing" | "n/a" | "nothing remains" | "no work") {
        return Status::Finished;
    }
    Status::Remaining(all)
}

/// A block without its end may have swallowed the status line.
fn without_status<'a, 'b>(lines: &'a [&'b str]) -> &'a [&'b str] {
    let last = lines.iter().rposition(|line| !line.trim().is_empty());
    match last {
        Some(last) if status_line(lines[last]).is_some() => &lines[..last],
        _ => lines,
    }
}

fn without_thoughts(text: &str) -> &str {
    let mut text = text.trim_start();
    for (open, close) in [("<think>", "</think>"), ("<thinking>", "</thinking>")] {
        while let Some(inside) = text.strip_prefix(open) {
            // Without its end there is nothing but thought.
            text = inside.split_once(close).map_or("", |(_, rest)| rest.trim_start());
        }
    }
    text
}

/// (explanation, modifications): the lines outside all blocks, sorted by their headings.
fn prose(lines: &[&str], blocks: &[Block], status_at: Option<usize>) -> (String, Option<String>) {
    static HEADING: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"(?i)^\s*(?:#{1,6}\s*)?(\*\*|__)?\s*",
            r"(code explanation|explanation|modifications?|changes|python code|code|python script|script)",
            r"\s*(:?)\s*(?:\*\*|__)?\s*(:?)\s*(.*)$"
        ))
    });
    let mut explanation = Vec::new();
    let mut modifications = Vec::new();
    let mut in_modifications = false;
    for (at, line) in lines.iter().enumerate() {
        if blocks.iter().any(|block| (block.first..block.after).contains(&at)) {
            // What follows the code is a remark on it, not on the changes.
            in_modifications = false;
            continue;
        }
        if status_at.is_some_and(|status| at >= status) || fence(line).is_some() {
            continue;
        }
        let heading = HEADING.captures(line).filter(|found| {
            let marked = found.get(1).is_some() || line.trim_start().starts_with('#');
            let colon = !found[3].is_empty() || !found[4].is_empty();
            colon || (marked && found[5].is_empty())
        });
        let line = match &heading {
            Some(found) => {
                let name = found[2].to_lowercase();
                in_modifications = name.starts_with("modification") || name == "changes";
                found.get(5).map_or("", |rest| rest.as_str())
            }
            None => line,
        };
        if in_modifications { modifications.push(line) } else { explanation.push(line) }
    }
    let modifications = modifications.join("\n").trim().to_owned();
    let word = modifications.trim_end_matches('.').to_lowercase();
    let said = !matches!(word.as_str(), "" | "none" | "n/a" | "no modifications");
    (explanation.join("\n").trim().to_owned(), said.then_some(modifications))
}

#[cfg(test)]
mod tests;
