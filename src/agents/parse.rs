//! What models answer, read: JSON wherever it stands in the text, else the Markdown layouts.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::PlanStep;
use super::ideas::{Critique, Idea};
use super::judgement::Verdict;
use crate::llm::think;
use crate::pattern::pattern;

static HEADER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)^(\s*)(?:[-*+]\s+|#+\s*)?\**(?:step|idea)\s*#?\s*\d+\**\s*(?:[:.)]|$)\s*\**\s*(.*)$")
});
static FIELD: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)^(\s*)(?:[-*+]\s+)?\**(sub[-_ ]?task[-_ ]agent|sub[-_ ]?task|agent(?:[ _]in[ _]charge)?|bullet[-_ ]?points?|instructions?)\**\s*:\s*\**\s*(.*)$",
    )
});
static VERDICT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?im)^\W*verdict\W*\s*(continue|retry)\b"));
static BULLET: LazyLock<Regex> = LazyLock::new(|| pattern(r"^(\s*)(?:[-*+•]|\d+[.)])\s+(.*)$"));

/// The first JSON object in an answer.
pub fn object(text: &str) -> Result<Value, String> {
    let whole = |value: &Value| {
        if value.is_object() { Ok(value.clone()) } else { Err("Expected a JSON object.".to_owned()) }
    };
    json(&think::strip(text), &whole)
        .map_err(|why| why.unwrap_or_else(|| "Expected a JSON object; the answer holds none.".to_owned()))
}

/// A planner's answer as steps.
///
/// Accepts a list of steps or an object that holds one under `sub_tasks`, `steps` or `plan`, then the
/// Markdown plan layouts. The error says what was expected and what came, fit for a repair turn.
pub fn plan(text: &str) -> Result<Vec<PlanStep>, String> {
    let text = think::strip(text);
    let complaint = match json(&text, &plan_of) {
        Ok(steps) => return Ok(steps),
        Err(complaint) => complaint,
    };
    let steps = markdown_plan(&text);
    if !steps.is_empty() {
        return complete(steps);
    }
    Err(complaint.unwrap_or_else(|| {
        r#"Expected JSON {"sub_tasks": [{"bullet_points": [...], "sub_task": "...", "sub_task_agent": "..."}]}; the answer has neither that nor a list of steps."#.to_owned()
    }))
}

/// A plan that is already a JSON value: from a file, a caller or a human's edit.
pub fn plan_of(value: &Value) -> Result<Vec<PlanStep>, String> {
    match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| step_of(i + 1, v)).collect(),
        Value::Object(map) => ["sub_tasks", "steps", "plan", "final_plan"]
            .iter()
            .find_map(|k| map.get(*k).filter(|v| v.is_array() || v.is_object()))
            .map_or_else(|| Err("Expected the key `sub_tasks` with a list of steps.".to_owned()), plan_of),
        other => Err(format!("Expected a list of steps, got {}.", kind(other))),
    }
}

/// A plan reviewer's answer as recommendations.
pub fn review(text: &str) -> Result<Vec<String>, String> {
    let text = think::strip(text);
    let complaint = match json(&text, &review_of) {
        Ok(items) => return Ok(items),
        Err(complaint) => complaint,
    };
    // The lines of a broken JSON answer would pass for paragraphs.
    let items = if looks_json(&text) { Vec::new() } else { markdown_review(&text) };
    if items.is_empty() {
        return Err(complaint.unwrap_or_else(|| {
            r#"Expected JSON {"recommendations": ["...", ...]}; the answer holds no recommendation."#
                .to_owned()
        }));
    }
    Ok(items)
}

/// An idea_maker's answer as ideas.
pub fn ideas(text: &str) -> Result<Vec<Idea>, String> {
    let text = think::strip(text);
    let shape = |v: &Value| items_of::<Idea>(v, "ideas", "title", |i| &i.title);
    json(&text, &shape).or_else(|complaint| {
        let found = markdown_titles(&text);
        if found.is_empty() {
            return Err(complaint.unwrap_or_else(|| missing("ideas", "title")));
        }
        let idea = |(title, bullets): (String, Vec<String>)| Idea {
            title,
            description: bullets.join("\n"),
            ..Idea::default()
        };
        Ok(found.into_iter().map(idea).collect())
    })
}

/// An idea_hater's answer as critiques.
pub fn critique(text: &str) -> Result<Vec<Critique>, String> {
    let text = think::strip(text);
    let shape = |v: &Value| items_of::<Critique>(v, "critiques", "title", |c| &c.title);
    json(&text, &shape).or_else(|complaint| {
        let found = markdown_titles(&text);
        if found.is_empty() {
            return Err(complaint.unwrap_or_else(|| missing("critiques", "title")));
        }
        let critique = |(title, bullets): (String, Vec<String>)| Critique {
            title,
            weaknesses: bullets.join("\n"),
            ..Critique::default()
        };
        Ok(found.into_iter().map(critique).collect())
    })
}

/// A plot judge's answer, plot by plot.
///
/// Accepts an object with the list `plots`, else prose with a line `Verdict: continue` or `retry`, whose bullets
/// then are the problems.
pub fn judgement(text: &str) -> Result<Vec<Verdict>, String> {
    let text = think::strip(text);
    let shape = |v: &Value| items_of::<Verdict>(v, "plots", "plot", |p| &p.plot);
    let mut verdicts = json(&text, &shape).or_else(|complaint| {
        let said = VERDICT.captures(&text).filter(|_| complaint.is_none());
        let Some(said) = said else {
            let expected =
                r#"Expected JSON {"plots": [{"plot", "criteria", "problems", "fixes", "verdict"}]}"#;
            return Err(complaint.unwrap_or_else(|| format!("{expected}; the answer has none.")));
        };
        let bullets =
            text.lines().filter_map(|line| BULLET.captures(line).map(|c| c[2].trim_end().to_owned()));
        let plot = "the plots".to_owned();
        Ok(vec![Verdict {
            plot,
            problems: bullets.collect(),
            verdict: said[1].to_owned(),
            ..Verdict::default()
        }])
    })?;
    for verdict in &mut verdicts {
        verdict.verdict = verdict.verdict.trim().to_lowercase();
        match verdict.verdict.as_str() {
            "continue" => {}
            "retry" if !verdict.problems.is_empty() => {}
            "retry" => return Err(format!("{}: `retry` needs at least one problem.", verdict.plot)),
            other => {
                return Err(format!(
                    "{}: the verdict is `continue` or `retry`, not {other:?}.",
                    verdict.plot
                ));
            }
        }
    }
    Ok(verdicts)
}

/// The first JSON value in `text` that `shape` accepts; else the complaint about the first that had a
/// brace or bracket of its own, if any.
fn json<T>(text: &str, shape: &dyn Fn(&Value) -> Result<T, String>) -> Result<T, Option<String>> {
    let mut complaint = None;
    // Asked once: many lone braces would have the rest of the text searched for each of them.
    let last_key = text.rfind("\":");
    let mut at = 0;
    while let Some(offset) = text[at..].find(['{', '[']) {
        at += offset;
        let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => {
                match shape(&value) {
                    Ok(found) => return Ok(found),
                    // `[1]` and the like in prose are no attempt at an answer.
                    Err(why) if value.is_object() => complaint = complaint.or(Some(why)),
                    Err(_) => {}
                }
                at += values.byte_offset();
            }
            Some(Err(error)) => {
                if complaint.is_none() && text[at..].starts_with('{') && last_key.is_some_and(|key| key > at)
                {
                    complaint = Some(format!("The JSON cannot be read: {error}."));
                }
                at += 1;
            }
            None => at += 1,
        }
    }
    Err(complaint)
}

fn looks_json(text: &str) -> bool {
    let inner = text.trim_start_matches('`');
    inner.strip_prefix("json").unwrap_or(inner).trim_start().starts_with(['{', '['])
}

fn step_of(number: usize, value: &Value) -> Result<PlanStep, String> {
    let Value::Object(map) = value else {
        return Err(format!("Step {number}: expected an object, got {}.", kind(value)));
    };
    let text = |keys: &[&str]| {
        let found = keys.iter().find_map(|k| map.get(*k).and_then(Value::as_str));
        found.filter(|s| !s.trim().is_empty()).map(str::to_owned)
    };
    let lack = |what: &str| format!("Step {number} has no `{what}`.");
    let bullets = ["bullet_points", "bullets", "instructions"].iter().find_map(|k| map.get(*k));
    Ok(PlanStep {
        bullet_points: bullets.map(lines_of).unwrap_or_default(),
        sub_task: text(&["sub_task", "subtask", "sub-task", "task", "title", "description"])
            .ok_or_else(|| lack("sub_task"))?,
        sub_task_agent: text(&["sub_task_agent", "agent", "agent_in_charge", "agent in charge"])
            .map(|a| agent_name(&a))
            .ok_or_else(|| lack("sub_task_agent"))?,
    })
}

fn lines_of(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::String(text) => {
            let bullet =
                |l: &str| BULLET.captures(l).map_or_else(|| l.trim().to_owned(), |c| c[2].to_owned());
            text.lines().map(bullet).filter(|l| !l.is_empty()).collect()
        }
        _ => Vec::new(),
    }
}

fn review_of(value: &Value) -> Result<Vec<String>, String> {
    let list = match value {
        Value::Object(map) => map.get("recommendations").or_else(|| map.get("review")),
        list => Some(list),
    };
    let items: Vec<String> = match list {
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(Value::String(text)) => vec![text.clone()],
        _ => Vec::new(),
    };
    let items: Vec<String> = items.into_iter().filter(|r| !r.trim().is_empty()).collect();
    if items.is_empty() {
        return Err("Expected the key `recommendations` with at least one text.".to_owned());
    }
    Ok(items)
}

fn items_of<T: serde::de::DeserializeOwned>(
    value: &Value,
    key: &str,
    name: &str,
    title: fn(&T) -> &String,
) -> Result<Vec<T>, String> {
    let list = value.get(key).unwrap_or(value);
    if !list.is_array() {
        return Err(missing(key, name));
    }
    let items: Vec<T> =
        serde_json::from_value(list.clone()).map_err(|e| format!("`{key}` cannot be read: {e}."))?;
    match items.iter().position(|i| title(i).trim().is_empty()) {
        Some(i) => Err(format!("Item {} of `{key}` has no `{name}`.", i + 1)),
        None if items.is_empty() => Err(missing(key, name)),
        None => Ok(items),
    }
}

fn missing(key: &str, name: &str) -> String {
    format!("Expected JSON with the key `{key}` and a list of at least one object with a `{name}`.")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// An agent's name as models write it, as the roster spells it.
fn agent_name(text: &str) -> String {
    let marks = |c: char| c.is_whitespace() || matches!(c, '`' | '*' | '"' | '\'' | '.');
    let plain = text.to_lowercase();
    let plain = plain.trim_matches(marks);
    let plain = plain.strip_suffix(" agent").unwrap_or(plain);
    plain.strip_prefix("the ").unwrap_or(plain).trim_matches(marks).replace([' ', '-'], "_")
}

fn complete(steps: Vec<PlanStep>) -> Result<Vec<PlanStep>, String> {
    for (i, step) in steps.iter().enumerate() {
        let lack = if step.sub_task.is_empty() {
            "sub-task"
        } else if step.sub_task_agent.is_empty() {
            "agent"
        } else {
            continue;
        };
        return Err(format!("Step {} has no {lack}.", i + 1));
    }
    Ok(steps)
}

/// Where the lines that follow belong.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Title,
    SubTask,
    Bullets,
    Elsewhere,
}

/// The Markdown plan layouts: `- Step 1:` with `* sub-task:`, `* agent:` or `* agent in charge:`,
/// `* bullet points:` or `* instructions:`; bold and case are free.
fn markdown_plan(text: &str) -> Vec<PlanStep> {
    let mut steps: Vec<PlanStep> = Vec::new();
    let mut place = Place::Elsewhere;
    // A line indented deeper than its field is that field's content, whatever it looks like.
    let mut depth = usize::MAX;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let inside = place == Place::Bullets && indent > depth;
        if let Some(found) = HEADER.captures(line).filter(|_| !inside) {
            let title = found[2].trim_matches(['*', ' ']).to_owned();
            steps.push(PlanStep { sub_task: title, ..PlanStep::default() });
            (place, depth) = (Place::Title, usize::MAX);
            continue;
        }
        let Some(step) = steps.last_mut() else { continue };
        if let Some(found) = FIELD.captures(line).filter(|_| !inside) {
            depth = indent;
            let rest = found[3].trim().trim_start_matches("**").trim();
            let field = found[2].to_lowercase();
            if field.contains("agent") {
                step.sub_task_agent = agent_name(rest);
                place = Place::Elsewhere;
            } else if field.starts_with("sub") {
                rest.clone_into(&mut step.sub_task);
                place = Place::SubTask;
            } else {
                place = Place::Bullets;
                if !rest.is_empty() {
                    step.bullet_points.push(rest.to_owned());
                }
            }
        } else if place == Place::Bullets {
            if let Some(found) = BULLET.captures(line) {
                step.bullet_points.push(found[2].trim_end().to_owned());
            } else if let Some(last) = step.bullet_points.last_mut().filter(|_| !line.trim().is_empty()) {
                *last += "\n";
                *last += line.trim();
            }
        } else if place == Place::SubTask && !line.trim().is_empty() {
            step.sub_task += "\n";
            step.sub_task += line.trim();
        }
    }
    steps
}

/// Bullets after the header `Recommendations:`, else its paragraphs.
fn markdown_review(text: &str) -> Vec<String> {
    let lower = text.to_ascii_lowercase();
    let Some(at) = lower.find("recommendation") else { return Vec::new() };
    let after = &text[at..];
    let Some((_, rest)) = after.split_once('\n') else { return Vec::new() };
    let mut items: Vec<String> = Vec::new();
    let bullets = rest.lines().any(|l| BULLET.is_match(l));
    let mut open = false;
    for line in rest.lines() {
        let bullet = BULLET.captures(line).map(|c| c[2].trim_end().to_owned());
        match (bullet, line.trim().is_empty()) {
            (Some(item), _) => (items.push(item), open = true).1,
            (None, true) => open = open && bullets,
            (None, false) if open => {
                if let Some(last) = items.last_mut() {
                    *last += "\n";
                    *last += line.trim();
                }
            }
            (None, false) if bullets => {}
            (None, false) => (items.push(line.trim().to_owned()), open = true).1,
        }
    }
    items
}

/// `- Idea 1:` / `* title` / `- bullet` as titles with bullets.
fn markdown_titles(text: &str) -> Vec<(String, Vec<String>)> {
    let mut items: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(found) = HEADER.captures(line) {
            items.push((found[2].trim_matches(['*', ' ']).to_owned(), Vec::new()));
            continue;
        }
        let Some((title, bullets)) = items.last_mut() else { continue };
        let Some(found) = BULLET.captures(line) else { continue };
        let content = found[2].trim_end().to_owned();
        if title.is_empty() { *title = content } else { bullets.push(content) }
    }
    items.retain(|(title, _)| !title.is_empty());
    items
}
