//! The parts of an engineer's answer around its code.

use std::sync::LazyLock;

use regex::Regex;

use super::parse;

/// What the engineer says of the step once its script has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// The step is finished; also when the line is missing.
    Finished,
    /// Work remains, in its words.
    Remaining(String),
}

static STATUS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?im)^[\s>*_`-]*status[*_`]*\s*:[\s*_`]*(finished|completed?|done|remaining|remains)\b[\s*_`]*:?\s*(.*)$")
        .expect("valid pattern")
});
static SECTION: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^[#\s]*\**(code explanation|explanation|modifications?|python code|code|status)\b\**\s*:\s*\**\s*(.*)$")
        .expect("valid pattern")
});

/// The `Status:` line of an answer: the last one outside its code.
pub fn status(answer: &str) -> Status {
    let text = prose(answer);
    match STATUS.captures_iter(&text).last() {
        Some(found) if found[1].to_lowercase().starts_with("remain") => {
            let what = found[2].trim().trim_matches(['*', '_', '`', '.', '<', '>']).trim();
            // `remaining: nothing` is said by models that mean finished.
            if ["nothing", "none", "-", "n/a", ""].contains(&what.to_lowercase().as_str()) {
                Status::Finished
            } else {
                Status::Remaining(what.to_owned())
            }
        }
        _ => Status::Finished,
    }
}

/// The explanation: what follows `Code Explanation:`, else all prose before the code.
pub fn explanation(answer: &str) -> String {
    let text = prose(answer);
    section(&text, "explanation").unwrap_or_else(|| {
        let before = text.split('\u{0}').next().unwrap_or_default();
        before.lines().filter(|l| !SECTION.is_match(l)).collect::<Vec<_>>().join("\n").trim().to_owned()
    })
}

/// What follows `Modifications:`; `None` when absent, blank or a mere `none`.
pub fn modifications(answer: &str) -> Option<String> {
    let text = section(&prose(answer), "modification")?;
    let plain = text.trim_matches(['.', '*', ' ', '(', ')']).to_lowercase();
    (!["", "none", "n/a", "no modifications", "not applicable"].contains(&plain.as_str())).then_some(text)
}

/// The answer with its fenced blocks replaced by a mark.
fn prose(answer: &str) -> String {
    let mut out = String::new();
    let mut fence: Option<String> = None;
    for line in parse::spoken(answer).lines() {
        let trimmed = line.trim_start();
        let ticks: String = trimmed.chars().take_while(|c| *c == '`').collect();
        match &fence {
            Some(open) if ticks.len() >= open.len() && trimmed.trim_end() == ticks => fence = None,
            Some(_) => {}
            None if ticks.len() >= 3 => {
                out.push_str("\u{0}\n");
                fence = Some(ticks);
            }
            None => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

fn section(text: &str, name: &str) -> Option<String> {
    let mut found: Option<Vec<&str>> = None;
    for line in text.lines() {
        if line.starts_with('\u{0}') {
            if found.is_some() {
                break;
            }
            continue;
        }
        match (SECTION.captures(line), &mut found) {
            (Some(_), Some(_)) => break,
            (Some(head), None) if head[1].to_lowercase().contains(name) => {
                found = Some(vec![head.get(2).map_or("", |m| m.as_str())]);
            }
            (None, Some(lines)) => lines.push(line),
            _ => {}
        }
    }
    found.map(|lines| lines.join("\n").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "**Code Explanation:**\n\nFits a line.\nUnits: s.\n\n**Modifications:** fixed the sign\n\n\
        **Python Code:**\n\n```python\n# filename: a.py\nprint('Status: remaining: x')\n```\n\nStatus: remaining: the plot.";

    #[test]
    fn reads_the_parts() {
        assert_eq!(explanation(ANSWER), "Fits a line.\nUnits: s.");
        assert_eq!(modifications(ANSWER).as_deref(), Some("fixed the sign"));
        assert_eq!(status(ANSWER), Status::Remaining("the plot".into()));
    }

    #[test]
    fn a_status_inside_code_does_not_count() {
        assert_eq!(status("```python\nStatus: remaining: x\n```"), Status::Finished);
        assert_eq!(status("**Status:** finished"), Status::Finished);
        assert_eq!(status("Status: remaining: nothing"), Status::Finished);
        assert_eq!(status("**Status: remaining: fit model B**"), Status::Remaining("fit model B".into()));
    }

    #[test]
    fn without_headers_the_prose_before_the_code_explains() {
        assert_eq!(explanation("It adds.\n```python\n1+1\n```\nafter"), "It adds.");
        assert_eq!(modifications("**Modifications:** None.\n"), None);
    }
}
