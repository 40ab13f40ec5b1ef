//! The texts that callers parse: plan, review, executed code, notes, ideas, status.
//!
//! Blanks are significant throughout; the forms are those of the original package.

use super::PlanStep;
use super::ideas::{Critique, Idea};
use super::notes;

/// A plan, as in `final_plan` of the context and in the transcript.
pub fn plan(steps: &[PlanStep]) -> String {
    let told = |(i, step): (usize, &PlanStep)| {
        let bullets = if step.bullet_points.is_empty() {
            String::new()
        } else {
            format!("\n\t* instructions:\n{}", instructions(&step.bullet_points))
        };
        format!(
            "\n- Step {}:\n\t* sub-task: {}\n\t* agent in charge: {}\n{bullets}",
            i + 1,
            step.sub_task,
            step.sub_task_agent
        )
    };
    let steps: Vec<String> = steps.iter().enumerate().map(told).collect();
    format!("\n**PLAN**\n{}\n        ", steps.concat())
}

/// What the agent in charge is told to do, as in `current_instructions`: the bullets, else the sub-task.
pub fn current_instructions(step: &PlanStep) -> String {
    if step.bullet_points.is_empty() { step.sub_task.clone() } else { instructions(&step.bullet_points) }
}

/// Bullets, one a line.
pub fn instructions(bullets: &[String]) -> String {
    bullets.iter().map(|b| format!("\t\t- {b}\n")).collect::<Vec<_>>().concat()
}

/// A review, as in `recommendations` of the context and in the transcript.
pub fn review(recommendations: &[String]) -> String {
    let items: Vec<String> = recommendations.iter().map(|r| format!("\n{r}\n")).collect();
    format!("\n**Recommendations:**\n{}\n\n            ", items.concat())
}

/// The engineer's answer, formatted: explanation, modifications if any, code under its file name.
pub fn engineer(explanation: &str, modifications: Option<&str>, file: &str, code: &str) -> String {
    let modifications = modifications
        .filter(|m| !m.trim().is_empty())
        .map(|m| format!("**Modifications:**\n\n{m}\n\n"))
        .unwrap_or_default();
    format!(
        "**Code Explanation:**\n\n{explanation}\n\n{modifications}**Python Code:**\n\n{}",
        script(file, code)
    )
}

/// What the executor says of a script's output; only the capital letter tells success from failure.
pub fn executor(success: bool, output: &str) -> String {
    if success {
        format!("Execution results:\n\nExecution output: {output}")
    } else {
        format!("execution results:\nExecution output: {output}")
    }
}

/// What was executed and what came out: the content of `engineer_nest`.
pub fn executed(file: &str, code: &str, executor: &str) -> String {
    let rule = format!("{}    ", "=".repeat(48));
    format!(
        "\nThe executed code was:\n\n{}\n\n{rule}\n\nThe output of the executed code was:\n\n{executor}\n\n{rule}\n{}",
        script(file, code),
        " ".repeat(24)
    )
}

/// Notes in their fence: the content of `researcher_response_formatter`.
pub fn notes(file: &str, body: &str) -> String {
    format!("**Markdown:**\n\n```markdown\n{}\n```", note_file(file, body))
}

/// The notes' file: the file name comment, then the body, without a final newline.
pub fn note_file(file: &str, body: &str) -> String {
    format!("<!-- filename: {file} -->\n{}", notes::body(body))
}

/// Ideas: the content of `idea_maker_nest`.
pub fn ideas(ideas: &[Idea]) -> String {
    titled("Ideas", ideas.iter().map(|i| (i.title.as_str(), i.bullets())))
}

/// A critique: the content of `idea_hater_nest`.
pub fn critique(critiques: &[Critique]) -> String {
    titled("IDEA CRITIQUE", critiques.iter().map(|c| (c.title.as_str(), c.bullets())))
}

/// How far the plan is, as the control agent says it.
///
/// `status` is `in progress`, `completed` or `failed`; `last` is what the text ends with.
pub fn status(number: usize, of: usize, step: &PlanStep, status: &str, last: &str) -> String {
    let icon = match status {
        "completed" => " ✅",
        "failed" => " ❌",
        _ => " ⏳",
    };
    format!(
        "\n**Step number:** {number} out of {of}.\n \n**Sub-task:** {}\n \n**Agent in charge of sub-task:** `{}`\n \n**Instructions:**\n \n{}\n \n**Status:** {status}{icon}{last}",
        step.sub_task,
        step.sub_task_agent,
        current_instructions(step)
    )
}

fn script(file: &str, code: &str) -> String {
    format!("```python\n# filename: {file}\n{}\n```", without_file_name(code).trim_end())
}

/// `code` without a leading `# filename:` line.
pub fn without_file_name(code: &str) -> &str {
    let trimmed = code.trim_start_matches(['\n', '\r']);
    let (first, rest) = trimmed.split_once('\n').unwrap_or((trimmed, ""));
    let comment = first.trim_start().strip_prefix('#').map(str::trim_start);
    if comment.is_some_and(|c| c.to_lowercase().starts_with("filename:")) { rest } else { code }
}

fn titled<'a>(header: &str, items: impl Iterator<Item = (&'a str, Vec<String>)>) -> String {
    let told = |(i, (title, bullets)): (usize, (&str, Vec<String>))| {
        format!("\n- Idea {}:\n\t* {title}\n{}", i + 1, instructions(&bullets))
    };
    let items: Vec<String> = items.enumerate().map(told).collect();
    format!("\n**{header}**\n{}\n        ", items.concat())
}
