//! Just enough of Python's lexical rules to tell code, strings and comments apart.

use std::sync::LazyLock;

use regex::Regex;

use crate::pattern::pattern;

/// The state after the characters seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Inside a string: its quote, and whether it is a triple one.
    pub(super) string: Option<(char, bool)>,
    /// Open brackets.
    pub(super) depth: i32,
    /// Whether the last line ended in a backslash.
    pub(super) continued: bool,
}

impl Scan {
    /// Whether a line break here is inside a triple-quoted string.
    pub(super) fn in_triple(&self) -> bool {
        matches!(self.string, Some((_, true)))
    }

    /// Whether a new logical line begins here.
    pub(super) fn at_statement(&self) -> bool {
        self.string.is_none() && self.depth == 0 && !self.continued
    }

    /// Goes over one line (without its line break).
    pub(super) fn line(&mut self, line: &str) {
        self.continued = false;
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let width = first.len_utf8();
            match self.string {
                Some(_) if first == '\\' => {
                    let escaped = rest[width..].chars().next().map_or(0, char::len_utf8);
                    self.continued = escaped == 0;
                    rest = &rest[width + escaped..];
                    continue;
                }
                Some((quote, true)) if opens_triple(rest, quote) => {
                    self.string = None;
                    rest = &rest[3..];
                    continue;
                }
                Some((quote, false)) if first == quote => self.string = None,
                Some(_) => {}
                None => match first {
                    '#' => break,
                    '\'' | '"' => {
                        let triple = opens_triple(rest, first);
                        self.string = Some((first, triple));
                        rest = &rest[if triple { 3 } else { 1 }..];
                        continue;
                    }
                    '(' | '[' | '{' => self.depth += 1,
                    ')' | ']' | '}' => self.depth -= 1,
                    '\\' if rest.len() == 1 => self.continued = true,
                    _ => {}
                },
            }
            rest = &rest[width..];
        }
        // A plain string ends with its line unless a backslash joins the next one.
        if matches!(self.string, Some((_, false))) && !self.continued {
            self.string = None;
        }
    }
}

fn opens_triple(text: &str, quote: char) -> bool {
    text.chars().take_while(|character| *character == quote).take(3).count() == 3
}

/// The state after a whole text.
pub(super) fn scan(code: &str) -> Scan {
    let mut state = Scan::default();
    code.lines().for_each(|line| state.line(line));
    state
}

/// Removes the indentation that all lines share (lines inside triple-quoted strings do not count).
pub fn dedent(code: &str) -> String {
    let mut state = Scan::default();
    let mut shared: Option<&str> = None;
    for line in code.lines() {
        let counts = !state.in_triple() && !line.trim().is_empty();
        state.line(line);
        if counts {
            let indent = &line[..line.len() - line.trim_start_matches([' ', '\t']).len()];
            let common = shared.map_or(indent.len(), |shared| {
                shared.bytes().zip(indent.bytes()).take_while(|(one, two)| one == two).count()
            });
            shared = Some(&indent[..common]);
        }
    }
    let shared = shared.unwrap_or_default();
    code.lines()
        .map(|line| line.strip_prefix(shared).unwrap_or_else(|| line.trim_start_matches([' ', '\t'])))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Whether a block looks like a script and not like a fragment of one.
pub(super) fn is_whole(code: &str) -> bool {
    static ELISION: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?im)^\s*(#\s*)?(\.\.\.|…)\s*\(?(rest|remaining|existing|same|previous|unchanged|your code)\b",
        )
    });
    let acts = code.lines().any(|line| {
        ["import ", "from ", "def ", "class ", "if __name__", "print(", "with ", "for "]
            .iter()
            .any(|start| line.starts_with(start))
    });
    acts && scan(code).at_statement() && !ELISION.is_match(code)
}

/// Whether every top-level line reads as Python and at least one could be nothing else.
pub(super) fn is_bare_script(text: &str) -> bool {
    static STATEMENT: LazyLock<Regex> = LazyLock::new(|| {
        pattern(concat!(
            r"^(?:#|@\w|[)\]}]|[rRbBfFuU]{0,2}['\x22]",
            r"|(?:import|from|def|class|async|with|for|while|if|elif|try|except|return|raise|assert|del|global)\s.*\S",
            r"|(?:else|try|finally)\s*:|pass\b|break\b|continue\b",
            r"|[\w.]+(?:\[[^\]]*\])?(?:\s*,\s*[\w.]+)*\s*(?:=[^=]|[-+*/%&|^@]=|//=|\*\*=|\()",
            r"|\w+\s*:\s*[\w.\[\], ]+\s*=)"
        ))
    });
    static CERTAIN: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?m)^(?:import [\w., ]+$|import \w[\w.]* as \w+|from [\w.]+ import |def \w+\(.*\).*:|class \w+.*:|print\()",
        )
    });
    let mut state = Scan::default();
    for line in text.lines() {
        let top = state.at_statement() && !line.starts_with([' ', '\t']) && !line.trim().is_empty();
        if top && !STATEMENT.is_match(line) {
            return false;
        }
        state.line(line);
    }
    state.at_statement() && CERTAIN.is_match(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_comments_and_brackets() {
        assert!(scan("x = '''open").in_triple());
        assert!(scan("x = 'it''s' # '''\ny = \"\"\"a\n\"\"\"").at_statement());
        assert!(scan(r#"x = r"\"; y = '''"#).at_statement(), "an escaped quote does not close");
        assert!(scan("x = 'never closed").at_statement());
        assert!(!scan("f(1,").at_statement());
        assert!(!scan("x = 1 + \\").at_statement());
        assert!(scan("x = 'a\\\nb'").at_statement());
        assert!(scan("x = \"\"\"say \\\"\"\" still\"\"\"").at_statement());
    }

    #[test]
    fn dedent_leaves_strings_alone() {
        let code = "   def f():\n       '''doc\n  odd'''\n       return 1";
        assert_eq!(dedent(code), "def f():\n    '''doc\nodd'''\n    return 1");
        assert_eq!(dedent("a\n  b"), "a\n  b");
    }
}
