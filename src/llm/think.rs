//! Takes the thinking out of answers of models that put it into their text.
//!
//! Local servers without a reasoning parser return `<think>…</think>` (DeepSeek, Qwen, …): without the
//! opening tag when the chat template has already said it, without the closing one when the answer was cut.

const TAGS: [(&str, &str); 2] = [("<think>", "</think>"), ("<thinking>", "</thinking>")];

/// `text` without its thinking. Fenced code, inline code and JSON stay as they are.
pub fn strip(text: &str) -> String {
    if text.trim_start().starts_with(['{', '[']) {
        return text.to_owned();
    }
    let mut rest = without_headless(text);
    let mut kept = String::new();
    while let Some((at, open, close)) = first_open(rest) {
        let inside = &rest[at + open.len()..];
        let Some(end) = inside.find(close) else {
            // Cut while thinking, so no answer follows. Anywhere but in front the tag is only a word.
            if kept.trim().is_empty() && rest[..at].trim().is_empty() {
                rest = "";
            }
            break;
        };
        kept.push_str(&rest[..at]);
        rest = &inside[end + close.len()..];
    }
    kept.push_str(rest);
    if kept.len() == text.len() { kept } else { kept.trim_start().to_owned() }
}

/// Drops everything up to a closing tag that has no opening one in front of it.
fn without_headless(text: &str) -> &str {
    let close = TAGS.iter().filter_map(|(_, close)| Some((find_outside_code(text, close)?, *close))).min();
    match (close, first_open(text)) {
        (Some((at, close)), open) if open.is_none_or(|(open, ..)| at < open) => &text[at + close.len()..],
        _ => text,
    }
}

fn first_open(text: &str) -> Option<(usize, &'static str, &'static str)> {
    TAGS.iter().filter_map(|(open, close)| Some((find_outside_code(text, open)?, *open, *close))).min()
}

/// Where `needle` first stands outside fenced and inline code.
fn find_outside_code(text: &str, needle: &str) -> Option<usize> {
    // Nearly every answer has no tag at all.
    text.find(needle)?;
    let mut fence: Option<(char, usize)> = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        let mark = trimmed.chars().next().filter(|c| matches!(c, '`' | '~'));
        let run = mark.map_or(0, |m| trimmed.chars().take_while(|c| *c == m).count());
        match (fence, mark) {
            (Some((open, width)), Some(m)) if m == open && run >= width && run == trimmed.len() => {
                fence = None;
            }
            (None, Some(m)) if run >= 3 => fence = Some((m, run)),
            (None, _) => {
                let free = |at: &usize| line[..*at].matches('`').count() % 2 == 0;
                if let Some(at) = line.match_indices(needle).map(|(at, _)| at).find(free) {
                    return Some(start + at);
                }
            }
            _ => {}
        }
        start += line.len();
    }
    None
}

/// Holds back thinking at the front of an answer while it streams.
#[derive(Debug, Default)]
pub struct LiveFilter {
    state: State,
    held: String,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum State {
    /// Nothing but white space and perhaps half a tag so far.
    #[default]
    Undecided,
    /// Inside thinking that this tag closes.
    Thinking(&'static str),
    /// The answer itself: everything passes.
    Answer,
}

impl LiveFilter {
    /// Takes the next words and returns those that belong to the answer.
    pub fn push(&mut self, delta: &str) -> String {
        if self.state == State::Answer {
            return delta.to_owned();
        }
        self.held.push_str(delta);
        if self.state == State::Undecided {
            let front = self.held.trim_start();
            if let Some((open, close)) = TAGS.iter().find(|(open, _)| front.starts_with(open)) {
                self.state = State::Thinking(close);
                self.held = front[open.len()..].to_owned();
            } else if TAGS.iter().any(|(open, _)| open.starts_with(front)) {
                return String::new();
            } else {
                self.state = State::Answer;
                return std::mem::take(&mut self.held);
            }
        }
        if let State::Thinking(close) = self.state
            && let Some(at) = self.held.find(close)
        {
            let rest = self.held[at + close.len()..].trim_start().to_owned();
            self.state = State::Answer;
            self.held.clear();
            return rest;
        }
        String::new()
    }

    /// What is still held back when the answer ends undecided.
    pub fn finish(&mut self) -> String {
        if self.state == State::Undecided { std::mem::take(&mut self.held) } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinking_goes_and_the_answer_stays() {
        for (text, kept) in [
            ("<think>\nhm\n</think>\n\nThe answer.", "The answer."),
            ("<thinking>a</thinking>b", "b"),
            ("hm, so\n</think>\nThe answer.", "The answer."),
            ("  <think>cut while thinking", ""),
            ("one <think>x</think>two <think>y</think>three", "one two three"),
            ("<think>```python\nx\n```</think>\n```python\ny\n```", "```python\ny\n```"),
            ("no thinking\n  at all", "no thinking\n  at all"),
            ("the word <think> alone", "the word <think> alone"),
        ] {
            assert_eq!(strip(text), kept, "{text}");
        }
    }

    #[test]
    fn code_and_json_are_left_alone() {
        for text in [
            "```python\ns = '<think>a</think>'\n```\n",
            "~~~~\n</think>\n~~~\n~~~~\nend",
            "the tags `<think>` and `</think>` in prose",
            "{\"a\": \"<think>b</think>\"}",
        ] {
            assert_eq!(strip(text), text);
        }
    }

    #[test]
    fn live_words_skip_leading_thinking_however_cut() {
        for (text, shown) in [
            ("<think>hm</think>\n\nThe <b>answer", "The <b>answer"),
            ("<thinking>hm</thinking>x", "x"),
            ("<table>", "<table>"),
            ("<thi", "<thi"),
            ("<think>never ends", ""),
        ] {
            for size in 1..=text.len() {
                let mut filter = LiveFilter::default();
                let mut out = String::new();
                for chunk in text.as_bytes().chunks(size) {
                    out.push_str(&filter.push(std::str::from_utf8(chunk).unwrap_or_default()));
                }
                out.push_str(&filter.finish());
                assert_eq!(out.trim_start(), shown, "{text} in pieces of {size}");
            }
        }
    }
}
