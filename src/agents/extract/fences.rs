//! The fenced blocks of a Markdown text, as models write them.

use super::scan::{Scan, dedent, is_bare_script};
use super::without_status;

/// A fenced block; `first` is the line of its opening fence, `after` the line behind its closing one.
pub(super) struct Block {
    pub(super) first: usize,
    pub(super) after: usize,
    pub(super) python: bool,
    pub(super) code: String,
    pub(super) unclosed: bool,
}

/// An opening or closing fence.
pub(super) struct Fence<'a> {
    mark: char,
    length: usize,
    info: &'a str,
}

/// The fence on this line, if it is one.
pub(super) fn fence(line: &str) -> Option<Fence<'_>> {
    let line = line.trim();
    let mark = line.chars().next().filter(|first| matches!(first, '`' | '~'))?;
    let length = line.chars().take_while(|character| *character == mark).count();
    let info = line[length..].trim();
    (length >= 3 && !info.contains('`')).then_some(Fence { mark, length, info })
}

impl Fence<'_> {
    fn tag(&self) -> String {
        let tag = self.info.trim_start_matches(['{', '.']);
        let end = tag.find(|character: char| !character.is_alphanumeric()).unwrap_or(tag.len());
        tag[..end].to_lowercase()
    }

    fn is_python(&self) -> bool {
        matches!(self.tag().as_str(), "python" | "py" | "python3" | "py3" | "ipython" | "ipython3")
    }

    /// A Markdown wrapper around the whole answer is no block of its own.
    fn is_wrapper(&self) -> bool {
        matches!(self.tag().as_str(), "markdown" | "md")
    }

    fn closes(&self, opening: &Fence) -> bool {
        self.mark == opening.mark && self.length >= opening.length && self.info.is_empty()
    }
}

/// All blocks of the text, in order.
pub(super) fn blocks(lines: &[&str]) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut wrapper: Option<Fence> = None;
    let mut at = 0;
    while at < lines.len() {
        let Some(opening) = fence(lines[at]) else {
            at += 1;
            continue;
        };
        if opening.is_wrapper() || wrapper.as_ref().is_some_and(|wrapper| opening.closes(wrapper)) {
            wrapper = opening.is_wrapper().then_some(opening);
            at += 1;
            continue;
        }
        let (first, mut opening, mut start) = (at, opening, at + 1);
        // A Python fence straight inside another fence: the inner one is meant.
        while let Some(inner) = lines.get(start).and_then(|line| fence(line)).filter(Fence::is_python) {
            (opening, start) = (inner, start + 1);
        }
        let (end, after) = ending(lines, start, &opening);
        let unclosed = end == lines.len();
        let body = if unclosed { without_status(&lines[start..end]) } else { &lines[start..end] };
        let code = dedent(&body.join("\n"));
        let python = if opening.tag().is_empty() { is_bare_script(&code) } else { opening.is_python() };
        let python = python && !code.trim().is_empty();
        if unclosed && !python && opening.info.is_empty() {
            // A lone fence, such as the outer one of two that opened at once.
            at = start;
            continue;
        }
        blocks.push(Block { first, after, python, code, unclosed });
        at = after.max(start);
    }
    blocks
}

/// (the line behind the block's last, the line where the search goes on).
fn ending(lines: &[&str], start: usize, opening: &Fence) -> (usize, usize) {
    let mut state = Scan::default();
    let mut doubtful = None;
    for (at, line) in lines.iter().enumerate().skip(start) {
        if let Some(found) = fence(line) {
            let closes = found.closes(opening);
            // A tagged fence in the middle of code: the closing one was forgotten.
            if (closes || found.is_python()) && !state.in_triple() {
                return (at, if closes { at + 1 } else { at });
            }
            if closes && doubtful.is_none() {
                doubtful = Some(at);
            }
        }
        // Quotes mean something in Python only.
        if opening.is_python() || opening.info.is_empty() {
            state.line(line);
        }
    }
    doubtful.map_or((lines.len(), lines.len()), |at| (at, at + 1))
}
