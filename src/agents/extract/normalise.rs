//! Typographic repairs to code that does not compile as it stands.

use super::scan::{Scan, dedent};

/// Undoes what word processors and chat windows do to code: curly quotes that delimit strings,
/// unusual blanks, dashes for minus signs, invisible characters, tabs in the indentation.
/// What stands inside ordinary strings and comments stays as written.
///
/// To be tried second: code that compiles is never to be touched.
pub fn normalise(code: &str) -> String {
    let mut state = Scan::default();
    let mut lines = Vec::new();
    for line in dedent(code).lines() {
        let line = if state.string.is_some() { line.to_owned() } else { repaired(&spaced(line)) };
        // A line that continues a string is only followed, never changed.
        state.line(&line);
        lines.push(line);
    }
    let mut code = lines.join("\n");
    code.push('\n');
    code
}

/// The line with its indentation in blanks.
fn spaced(line: &str) -> String {
    let body = line.trim_start_matches(|character: char| character.is_whitespace() || invisible(character));
    let indent = &line[..line.len() - body.len()];
    let width: usize = indent
        .chars()
        .map(|character| match character {
            '\t' => 4,
            other if invisible(other) => 0,
            _ => 1,
        })
        .sum();
    " ".repeat(width) + body
}

/// The line with everything outside strings and comments in plain characters.
fn repaired(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let tail = &rest[first.len_utf8()..];
        if first == '#' {
            out.push_str(rest);
            break;
        }
        if matches!(first, '\'' | '"') {
            let end = string_end(rest, first);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        if let Some((plain, closers)) = curly(first) {
            out.push(plain);
            rest = tail;
            if let Some(end) = tail.find(closers) {
                out.push_str(&tail[..end].replace(plain, &format!("\\{plain}")));
                out.push(plain);
                rest = &tail[end + tail[end..].chars().next().map_or(0, char::len_utf8)..];
            }
            continue;
        }
        match first {
            '\u{2010}'..='\u{2015}' | '\u{2212}' => out.push('-'),
            '\u{2026}' => out.push_str("..."),
            '\u{ff08}' => out.push('('),
            '\u{ff09}' => out.push(')'),
            '\u{ff0c}' => out.push(','),
            '\u{ff1a}' => out.push(':'),
            '\u{d7}' => out.push('*'),
            '\u{f7}' => out.push('/'),
            other if invisible(other) => {}
            other if other.is_whitespace() => out.push(' '),
            other => out.push(other),
        }
        rest = tail;
    }
    out
}

/// Where the string that `text` begins with ends, at the latest with the text.
fn string_end(text: &str, quote: char) -> usize {
    let triple = quote.to_string().repeat(3);
    let closing = if text.starts_with(&triple) { triple.as_str() } else { &triple[..1] };
    let mut at = closing.len();
    while let Some(next) = text[at..].chars().next() {
        if text[at..].starts_with(closing) {
            return at + closing.len();
        }
        at += next.len_utf8();
        if next == '\\' {
            at += text[at..].chars().next().map_or(0, char::len_utf8);
        }
    }
    text.len()
}

/// The plain form of a curly opening quote, and what may close it.
fn curly(character: char) -> Option<(char, &'static [char])> {
    match character {
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{ff02}' => {
            Some(('"', &['\u{201c}', '\u{201d}', '\u{ff02}']))
        }
        '\u{2018}' | '\u{2019}' | '\u{201a}' => Some(('\'', &['\u{2018}', '\u{2019}'])),
        _ => None,
    }
}

fn invisible(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typography_outside_strings_becomes_plain() {
        assert_eq!(normalise("x\u{a0}= 1 \u{2212} 2\u{200b}"), "x = 1 - 2\n");
        assert_eq!(
            normalise("print(\u{201c}it's \"so\"\u{201d}, \u{2018}b\u{2019})"),
            "print(\"it's \\\"so\\\"\", 'b')\n"
        );
        assert_eq!(normalise("\tif x:\n\t\ty = 1"), "if x:\n    y = 1\n");
    }

    #[test]
    fn strings_and_comments_stay_as_written() {
        for code in [
            "s = '\u{201c}a\u{201d} \u{2212}' # \u{2014} c\u{a0}\n",
            "'''\u{2026}\n\t\u{201c}kept\u{201d}\n'''\n",
            "s = 'a\\'\u{201c}' + \"\"\"\u{2014}\"\"\"\n",
        ] {
            assert_eq!(normalise(code), code);
        }
    }
}
