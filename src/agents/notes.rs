//! A researcher's answer turned into a file name and a body.

use std::sync::LazyLock;

use crate::pattern::pattern;
use regex::Regex;

static COMMENT: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^\s*<!--\s*filename:\s*([^>]*?)\s*-->[ \t]*\r?\n?"));
static HEADING: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^#{1,6}[ \t]+(.+?)[ \t]*#*$"));

/// Extensions of text files that a name may have.
const TEXTS: [&str; 6] = ["md", "markdown", "txt", "rst", "tex", "html"];

/// File name and body of a researcher's answer.
///
/// `wanted` is `researcher_filename`; a sentence in it means that the name is free. The name is then the
/// answer's own, else its first heading, else `notes.md`. It is a bare name that is not in `taken`.
pub fn notes(answer: &str, wanted: Option<&str>, taken: &[String]) -> (String, String) {
    let text = unfenced(answer);
    let own = COMMENT.captures(text).map(|c| c[1].to_owned());
    let body = body(answer);
    let heading = || HEADING.captures(&body).map(|c| slug(&c[1]));
    let name = wanted
        .and_then(file_name)
        .or_else(|| own.as_deref().and_then(file_name))
        .or_else(|| heading().filter(|h| !h.is_empty()).map(|h| format!("{h}.md")))
        .unwrap_or_else(|| "notes.md".to_owned());
    (unique(&name, taken), body)
}

/// The text alone: one outer fence, the file name comment and outer blank lines removed.
pub fn body(answer: &str) -> String {
    let mut text = unfenced(answer);
    while let Some(comment) = COMMENT.find(text) {
        text = &text[comment.end()..];
    }
    let text = unfenced(text);
    let text = COMMENT.replace(text, "");
    text.trim_start_matches(['\n', '\r']).trim_end().to_owned()
}

/// `wanted` as a bare name when it is a name and not a sentence; a stem gets the extension `.md`.
///
/// Directories are dropped and characters that file systems dislike replaced, so the result stays where
/// it is put.
pub fn file_name(wanted: &str) -> Option<String> {
    let wanted = wanted.trim().trim_matches(['"', '\'', '`']);
    let words: Vec<&str> = wanted.split_whitespace().collect();
    // `Save the text as results.md` names its file last.
    let wanted = if words.len() > 3 { words.last().copied().unwrap_or_default() } else { wanted };
    let base = wanted.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let extension =
        base.rsplit_once('.').map(|(_, e)| e).filter(|e| TEXTS.contains(&e.to_lowercase().as_str()));
    // A sentence has blanks and no extension; a name with blanks has one.
    if base.is_empty() || base.len() > 120 || (extension.is_none() && words.len() > 1) {
        return None;
    }
    let stem = extension.map_or(base, |e| &base[..base.len() - e.len() - 1]);
    let safe: String = stem
        .chars()
        .map(|c| if c.is_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' })
        .collect();
    let safe = safe.trim_matches(['.', '_']);
    (!safe.is_empty()).then(|| format!("{safe}.{}", extension.unwrap_or("md")))
}

/// `name`, or the first of `stem_2`, `stem_3`, … with its extension that is not in `taken`.
fn unique(name: &str, taken: &[String]) -> String {
    let free = |candidate: &str| !taken.iter().any(|t| t.eq_ignore_ascii_case(candidate));
    if free(name) {
        return name.to_owned();
    }
    let (stem, extension) = name.rsplit_once('.').unwrap_or((name, "md"));
    // One more candidate than there are names taken: one of them is free.
    let mut candidates = (2..taken.len() + 3).map(|n| format!("{stem}_{n}.{extension}"));
    candidates.find(|n| free(n)).unwrap_or_else(|| name.to_owned())
}

fn slug(heading: &str) -> String {
    let plain: String =
        heading.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    let words: Vec<&str> = plain.split('_').filter(|w| !w.is_empty()).take(8).collect();
    words.join("_")
}

/// The inside of a fence that encloses the whole text, or the text.
fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let text = text.strip_prefix("**Markdown:**").map_or(text, str::trim_start);
    let ticks = text.len() - text.trim_start_matches('`').len();
    if ticks < 3 {
        return text;
    }
    let fence = &text[..ticks];
    let Some((info, inner)) = text[ticks..].split_once('\n') else { return text };
    // A text that merely begins with a code block (```python … ```) and goes on is no enclosing fence.
    if !matches!(info.trim().to_lowercase().as_str(), "" | "markdown" | "md") {
        return text;
    }
    let Some(inner) = inner.strip_suffix(fence) else { return text };
    let closed = inner.is_empty() || inner.ends_with('\n');
    if closed && pairs(inner, ticks, !info.trim().is_empty()) { inner } else { text }
}

/// Whether the fences inside pair up among themselves, so that the outer two belong together.
///
/// Only shorter fences or those that name a language surely open; a bare one may as well be the close of
/// the outer fence, unless that says what it is (`named`).
fn pairs(inner: &str, ticks: usize, named: bool) -> bool {
    let mut open = false;
    for line in inner.lines().map(str::trim) {
        let run = line.len() - line.trim_start_matches('`').len();
        if run < 3 || run < ticks {
            continue;
        }
        let bare = line.len() == run;
        if open != bare && !(bare && named) {
            return false;
        }
        open = !open;
    }
    !open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_one_outer_fence_and_the_comment() {
        let answer = "```markdown\n<!-- filename: a b.md -->\n# Title\n\n```python\nx\n```\nend\n```";
        let (name, body) = notes(answer, None, &[]);
        assert_eq!(name, "a_b.md");
        assert_eq!(body, "# Title\n\n```python\nx\n```\nend");
    }

    #[test]
    fn two_blocks_are_not_one_fence() {
        let text = "```\na\n```\nmiddle\n```\nb\n```";
        assert_eq!(body(text), text);
    }

    #[test]
    fn the_wanted_name_wins_when_it_is_a_name() {
        assert_eq!(notes("# T", Some("agenticai_report"), &[]).0, "agenticai_report.md");
        assert_eq!(
            notes("# The Big *Result*", Some("choose a fitting name for it"), &[]).0,
            "the_big_result.md"
        );
        assert_eq!(notes("text", None, &[]).0, "notes.md");
    }

    #[test]
    fn names_are_unique_and_confined() {
        let taken = ["r.md".to_owned(), "r_2.md".to_owned()];
        assert_eq!(notes("x", Some("r.md"), &taken).0, "r_3.md");
        assert_eq!(file_name("../../etc/passwd").as_deref(), Some("passwd.md"));
        assert_eq!(file_name("..").as_deref(), None);
        assert_eq!(file_name("Save the text as results.md").as_deref(), Some("results.md"));
        assert_eq!(file_name("a suitable name for the notes"), None);
        assert_eq!(file_name("report.txt").as_deref(), Some("report.txt"));
        assert_eq!(file_name("survey_v1.2").as_deref(), Some("survey_v1.2.md"));
        assert_eq!(file_name("a/.hidden.md").as_deref(), Some("hidden.md"));
    }
}
