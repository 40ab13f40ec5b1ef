//! Output as prompts quote it: what a terminal would show, said once.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use crate::pattern::pattern;

/// Repeated groups of up to this many lines are counted.
const LONGEST_GROUP: usize = 6;
/// A group is counted from this many occurrences on.
const FEWEST: usize = 3;

/// Cleans a script's output: terminal codes removed, carriage-return progress reduced to its last
/// state, progress bars on lines of their own likewise, repeated lines and groups of lines counted,
/// runs of blank lines shortened to one.
///
/// Nothing that differs in a number is taken for a repetition. The full text stays in the log file.
pub fn clean(output: &str) -> String {
    let plain = without_codes(output);
    let mut lines: Vec<Cow<str>> = Vec::new();
    for line in plain.split('\n') {
        let line = last_state(line);
        let blank = line.is_empty();
        match lines.last_mut() {
            Some(last) if blank && last.is_empty() => {}
            // The bar's last state is the one that counts.
            Some(last) if is_bar(&line) && is_bar(last) => *last = line,
            None if blank => {}
            _ => lines.push(line),
        }
    }
    let mut text = counted(&lines).join("\n");
    text.truncate(text.trim_end().len());
    text
}

/// Removes ANSI escape sequences.
fn without_codes(text: &str) -> Cow<'_, str> {
    static CODES: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"\x1b\[[0-?]*[ -/]*[@-~]",            // colours, cursor
            r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)", // titles, links
            r"|\x1b[PX^_][^\x1b]*\x1b\\",          // strings
            r"|\x1b[ -/]+[0-~]|\x1b[0-Z\\^_`-~]"   // character sets and single codes
        ))
    });
    CODES.replace_all(text, "")
}

/// What one line shows after its carriage returns and backspaces, without control characters.
fn last_state(line: &str) -> Cow<'_, str> {
    let shown = line.split('\r').rev().find(|part| !part.trim().is_empty()).unwrap_or_default();
    let shown = shown.trim_end();
    if !shown.chars().any(|character| character.is_control() && character != '\t') {
        return Cow::Borrowed(shown);
    }
    let mut kept = String::with_capacity(shown.len());
    for character in shown.chars() {
        match character {
            '\u{8}' => {
                kept.pop();
            }
            '\t' => kept.push('\t'),
            other if other.is_control() => {}
            other => kept.push(other),
        }
    }
    kept.truncate(kept.trim_end().len());
    Cow::Owned(kept)
}

fn is_bar(line: &str) -> bool {
    static BAR: LazyLock<Regex> = LazyLock::new(|| {
        pattern(r"\d%\|.*\|\s*[\d.]+\w?/[\d.]+|\d+/\d+ \[[=>.# \-━]{5,}\]|[█▏▎▍▌▋▊▉━]{5,}.*\d%?")
    });
    BAR.is_match(line)
}

/// Replaces repetitions of groups of lines by the group and its count.
fn counted<'a>(lines: &[Cow<'a, str>]) -> Vec<Cow<'a, str>> {
    let mut out = Vec::with_capacity(lines.len());
    let mut at = 0;
    while at < lines.len() {
        let found = (1..=LONGEST_GROUP).find_map(|length| {
            let group = lines.get(at..at + length)?;
            let times =
                1 + lines[at + length..].chunks_exact(length).take_while(|next| *next == group).count();
            (times >= FEWEST).then_some((length, times))
        });
        let Some((length, times)) = found else {
            out.push(lines[at].clone());
            at += 1;
            continue;
        };
        out.extend_from_slice(&lines[at..at + length]);
        out.push(Cow::Owned(match length {
            1 => format!("[the line above came {times} times]"),
            _ => format!("[the {length} lines above came {times} times]"),
        }));
        at += length * times;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_codes_go() {
        assert_eq!(
            clean("\x1b[1;31mred\x1b[0m \x1b]8;;http://a\x07link\x1b]8;;\x07 \x1b(Bx\x07"),
            "red link x"
        );
        assert_eq!(clean("a\u{8}b\tc\0"), "b\tc");
    }

    #[test]
    fn progress_is_reduced_to_its_last_state() {
        assert_eq!(clean("start\r\n 10%\r 50%\r100% done\r\nend\r\n"), "start\n100% done\nend");
        assert_eq!(clean("fit: 3\r   \r\nx"), "fit: 3\nx");
        let bars = " 10%|█   | 1/10 [00:01]\n 20%|██  | 2/10 [00:02]\n100%|████| 10/10 [00:09]\nchi2 = 3\n";
        assert_eq!(clean(bars), "100%|████| 10/10 [00:09]\nchi2 = 3");
    }

    #[test]
    fn repetitions_are_counted_and_numbers_are_not_taken_for_one() {
        assert_eq!(clean(&"same\n".repeat(40)), "same\n[the line above came 40 times]");
        assert_eq!(clean("a\na\nb"), "a\na\nb");
        let warning = "x.py:3: RuntimeWarning: divide\n  y = 1 / x\n".repeat(5);
        assert_eq!(
            clean(&format!("{warning}end")),
            "x.py:3: RuntimeWarning: divide\n  y = 1 / x\n[the 2 lines above came 5 times]\nend"
        );
        let rows = "chi2 = 1\nchi2 = 2\nchi2 = 3\nchi2 = 4";
        assert_eq!(clean(rows), rows);
        assert_eq!(clean("\n\na\n\n\n\nb\n\n"), "a\n\nb");
    }
}
