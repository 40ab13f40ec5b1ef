//! `previous_steps_execution_summary`: a `### Step n` block for each finished step, written and read back.

use std::sync::LazyLock;

use regex::Regex;

use super::{PlanStep, ScriptRecord, StepRecord, formats, notes};
use crate::pattern::pattern;

static HEADER: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^### Step (\d+)[ \t]*\r?$"));
static EXECUTED: LazyLock<Regex> = LazyLock::new(|| {
    // Greedy up to the last rule: code or output may themselves hold fences and rules.
    pattern(
        r"(?s)The executed code was:\s*```python\r?\n(.*?)\r?\n```\s*={20,}\s*The output of the executed code was:\s*(.*)$",
    )
});
static FILE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^#\s*filename:\s*(\S+)"));
static RESULTS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[Ee]xecution results:\s*(?:Execution output: ?)?"));
static RULE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s*={20,}\s*$"));
static NOTES: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?s)```[ \t]*markdown[ \t]*\r?\n(.*)\r?\n[ \t]*```"));
static NOTES_FILE: LazyLock<Regex> = LazyLock::new(|| pattern(r"^\s*<!--\s*filename:\s*(\S+?)\s*-->"));

/// A step's block: its header and its content, stripped.
pub fn block(record: &StepRecord) -> String {
    format!("### Step {}\n{}", record.number, content(record).trim())
}

/// All blocks joined by a blank line; a single newline when nothing has finished.
pub fn summary(records: &[StepRecord]) -> String {
    if records.is_empty() {
        return "\n".to_owned();
    }
    records.iter().map(block).collect::<Vec<_>>().join("\n\n")
}

/// What the transcript shows of the step: `engineer_nest`, the formatted notes, or the list of ideas.
pub fn content(record: &StepRecord) -> String {
    let scripts: Vec<String> = record
        .scripts
        .iter()
        .map(|s| formats::executed(&s.file, &s.code, &formats::executor(true, &s.output)).trim().to_owned())
        .collect();
    if !scripts.is_empty() {
        return scripts.join("\n\n");
    }
    match (&record.notes, &record.notes_file) {
        (Some(text), Some(file)) => formats::notes(file, text),
        (Some(text), None) => text.clone(),
        (None, _) => record.summary.clone().unwrap_or_default(),
    }
}

/// The records that a summary tells of, also one the original wrote.
///
/// `plan` gives agent and sub-task; what cannot be read finer stays whole in `summary`.
pub fn parse(text: &str, plan: &[PlanStep]) -> Vec<StepRecord> {
    let mut starts: Vec<(usize, usize, usize)> = Vec::new();
    for found in HEADER.captures_iter(text) {
        let (Some(whole), Ok(number)) = (found.get(0), found[1].parse::<usize>()) else { continue };
        let follows = starts.last().is_none_or(|(last, _, body)| {
            number == last + 1
                && (opens_record(&text[whole.end()..]) || !within_notes(&text[*body..whole.start()]))
        });
        if follows {
            starts.push((number, whole.start(), whole.end()));
        }
    }
    let ends = starts.iter().skip(1).map(|s| s.1).chain([text.len()]);
    starts.iter().zip(ends).map(|((n, _, from), to)| record(*n, text[*from..to].trim(), plan)).collect()
}

fn opens_record(rest: &str) -> bool {
    let rest = rest.trim_start();
    ["The executed code was:", "**Markdown:**", "**Ideas**", "**IDEA CRITIQUE**"]
        .iter()
        .any(|o| rest.starts_with(o))
}

/// Whether notes have been opened whose closing fence has not come: a heading of theirs is no new step.
fn within_notes(block: &str) -> bool {
    let block = block.trim();
    block.starts_with("**Markdown:**") && !block.ends_with("```")
}

fn record(number: usize, content: &str, plan: &[PlanStep]) -> StepRecord {
    let step = number.checked_sub(1).and_then(|i| plan.get(i));
    let mut record = StepRecord {
        number,
        sub_task: step.map(|s| s.sub_task.clone()).unwrap_or_default(),
        agent: step.map(|s| s.sub_task_agent.clone()).unwrap_or_default(),
        ..StepRecord::default()
    };
    let mut agent = |name: &str| {
        if record.agent.is_empty() {
            name.clone_into(&mut record.agent);
        }
    };
    if content.contains("The executed code was:") {
        let scripts: Vec<ScriptRecord> = content
            .split("The executed code was:")
            .skip(1)
            .filter_map(|part| executed(&format!("The executed code was:{part}")))
            .collect();
        if !scripts.is_empty() {
            agent("engineer");
            record.scripts = scripts;
            return record;
        }
    } else if let Some(found) = NOTES.captures(content) {
        agent("researcher");
        record.notes_file = NOTES_FILE.captures(&found[1]).map(|c| c[1].to_owned());
        record.notes = Some(notes::body(&found[1]));
        return record;
    } else if let Some(name) = [("**Ideas**", "idea_maker"), ("**IDEA CRITIQUE**", "idea_hater")]
        .iter()
        .find(|(header, _)| content.starts_with(header))
        .map(|(_, name)| *name)
    {
        agent(name);
        record.notes = Some(content.to_owned());
        return record;
    }
    record.summary = Some(content.to_owned());
    record
}

fn executed(text: &str) -> Option<ScriptRecord> {
    let found = EXECUTED.captures(text)?;
    let file = FILE.captures(&found[1]).map_or_else(String::new, |c| c[1].to_owned());
    let output = RULE.replace(&found[2], "");
    Some(ScriptRecord {
        file,
        code: formats::without_file_name(&found[1]).to_owned(),
        output: RESULTS.replace(&output, "").into_owned(),
        ..ScriptRecord::default()
    })
}
