//! Output as prompts quote it: what a terminal would show, said once, and no longer than needed.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::LazyLock;

use regex::Regex;

use super::pattern;

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

/// Shortens a text to at most `max_chars` characters: its head and its tail, and of the middle
/// those lines that bear numbers (named ones first), with a note of how much was left out.
///
/// The tail gets more than the head: results and tracebacks stand at the end.
pub fn excerpt(text: &str, max_chars: usize) -> String {
    let total = text.chars().count();
    if total <= max_chars {
        return text.to_owned();
    }
    // Room for the two notes; below it there is only room for the end itself.
    let Some(room) = max_chars.checked_sub(160).filter(|room| *room >= 200) else {
        let from = text.char_indices().rev().nth(max_chars.saturating_sub(1)).map_or(0, |(at, _)| at);
        return if max_chars == 0 { String::new() } else { text[from..].to_owned() };
    };
    let head = head(text, room * 3 / 10);
    let tail = tail(&text[head.len()..], room * 4 / 10);
    let middle = &text[head.len()..text.len() - tail.len()];
    let spared = head.chars().count() + tail.chars().count();
    let numbers = numbers(middle, room - spared);
    let left_out = total - spared - numbers.iter().map(|line| line.chars().count() + 1).sum::<usize>();
    let mut out = head.trim_end_matches('\n').to_owned();
    if numbers.is_empty() {
        let _ = writeln!(out, "\n[… {left_out} characters left out …]");
    } else {
        let _ = writeln!(out, "\n[… {left_out} characters left out; lines with numbers among them: …]");
        out.push_str(&numbers.join("\n"));
        out.push_str("\n[… the end of the output: …]\n");
    }
    out.push_str(tail.trim_start_matches('\n'));
    out
}

/// The longest beginning within `limit` characters, up to a line break if one is near.
fn head(text: &str, limit: usize) -> &str {
    let end = text.char_indices().nth(limit).map_or(text.len(), |(at, _)| at);
    let cut = &text[..end];
    match cut.rfind('\n') {
        Some(at) if at >= end / 2 => &cut[..=at],
        _ => cut,
    }
}

/// The longest end within `limit` characters, from a line's beginning if one is near.
fn tail(text: &str, limit: usize) -> &str {
    let start = text.char_indices().rev().nth(limit.saturating_sub(1)).map_or(0, |(at, _)| at);
    let cut = &text[start..];
    match cut.find('\n') {
        Some(at) if at < cut.len() / 2 => &cut[at + 1..],
        _ => cut,
    }
}

/// Number-bearing lines within `limit` characters, in their order; a line that names its number
/// (`chi2 = 3.2`) goes before one that does not (a row of a table).
fn numbers(text: &str, limit: usize) -> Vec<&str> {
    const LONGEST: usize = 300;
    let lines: Vec<&str> = text.lines().collect();
    let bears = |line: &str| line.len() <= LONGEST && line.bytes().any(|byte| byte.is_ascii_digit());
    let names = |line: &str| line.contains(['=', ':']) && line.chars().any(char::is_alphabetic);
    let mut chosen = Vec::new();
    let mut left = limit;
    for named in [true, false] {
        for (at, line) in lines.iter().enumerate() {
            let cost = line.chars().count() + 1;
            if bears(line) && names(line) == named && cost <= left {
                left -= cost;
                chosen.push(at);
            }
        }
    }
    chosen.sort_unstable();
    chosen.into_iter().map(|at| lines[at]).collect()
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

    #[test]
    fn an_excerpt_keeps_head_tail_and_the_numbers_between() {
        let filler = "words without any figure in them\n".repeat(200);
        let text = format!("HEAD\n{filler}row 17\nchi2 = 3.25 (mean)\n{filler}TAIL = 4\n");
        let short = excerpt(&text, 1500);
        assert!(short.chars().count() <= 1500, "{}", short.chars().count());
        assert!(short.starts_with("HEAD\n") && short.ends_with("TAIL = 4\n"));
        assert!(short.contains("\nrow 17\nchi2 = 3.25 (mean)\n") && short.contains("characters left out"));
        assert_eq!(excerpt("short", 5), "short");
    }

    #[test]
    fn an_excerpt_never_exceeds_its_limit() {
        let texts = ["é".repeat(5000), "a = 1\n".repeat(3000), format!("{}\n9", "x".repeat(9000))];
        for text in &texts {
            for limit in [0, 1, 7, 160, 359, 360, 361, 1000, 4999] {
                let short = excerpt(text, limit);
                assert!(short.chars().count() <= limit, "{limit}: {}", short.chars().count());
                assert!(text.ends_with(&short[short.char_indices().next_back().map_or(0, |(at, _)| at)..]));
            }
        }
    }

    #[test]
    fn named_numbers_win_over_rows_when_room_is_short() {
        let rows = "0.1 0.2 0.3\n".repeat(500);
        let text = format!("{}\n{rows}H0 = 67.4 km/s/Mpc\n{rows}{}", "h".repeat(2000), "t".repeat(2000));
        assert!(excerpt(&text, 900).contains("H0 = 67.4 km/s/Mpc"));
    }
}
