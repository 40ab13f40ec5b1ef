//! What later steps are told of earlier ones, within a budget of characters.
//!
//! Outputs and notes of all steps go in first, whole. Then code, newest first; older code shrinks to its
//! outline. Only when outputs and notes alone exceed the budget are they shortened, oldest first.

use super::{Product, ScriptRecord, StepRecord, excerpt};
use crate::exec::Check;

/// The smallest budget in characters: below it numbers of early steps would be lost.
pub const MIN_BUDGET: usize = 60_000;

/// Characters of carry-over for a model whose prompts may have `window` tokens: half of them, at
/// three characters a token, and never less than [`MIN_BUDGET`].
pub fn budget(window: Option<u32>) -> usize {
    window.map_or(MIN_BUDGET, |tokens| (tokens as usize * 3 / 2).max(MIN_BUDGET))
}

/// Carry-over as text, and what had to be shortened for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carry {
    /// The text; blank when no step has finished.
    pub text: String,
    /// What was shortened, oldest first: `output of codebase/step_1.py`. Outlined code does not count.
    pub shortened: Vec<String>,
}

/// How much of a script's code is told.
#[derive(Clone, Copy, PartialEq)]
enum Code {
    Whole,
    Outline,
    Signatures,
}

/// One output or notes text, with its place and what names it.
struct Piece {
    step: usize,
    heading: String,
    text: String,
    whole: String,
    engineer: bool,
}

/// Tells `records` within `budget` characters.
///
/// `outputs_first` puts what engineers' scripts printed before all else, and shortens it last: the report
/// at the end of a plan is made of it.
pub fn carry(records: &[StepRecord], budget: usize, outputs_first: bool) -> Carry {
    let mut pieces: Vec<Piece> = records.iter().flat_map(pieces_of).collect();
    let scripts: Vec<(usize, &ScriptRecord)> =
        records.iter().flat_map(|r| r.scripts.iter().map(move |s| (r.number, s))).collect();
    let mut forms = vec![Code::Outline; scripts.len()];

    let told = |pieces: &[Piece]| pieces.iter().map(|p| length(&told_piece(p))).sum::<usize>();
    let listed = |forms: &[Code]| {
        scripts.iter().zip(forms).map(|((n, s), f)| length(&told_code(*n, s, *f))).sum::<usize>()
    };

    let mut spent = told(&pieces) + listed(&forms);
    if spent > budget {
        forms.fill(Code::Signatures);
        spent = told(&pieces) + listed(&forms);
    }
    let mut shortened = Vec::new();
    if spent > budget {
        shortened = shorten(&mut pieces, spent - budget, budget, outputs_first);
    } else {
        for (i, (n, script)) in scripts.iter().enumerate().rev() {
            let whole = length(&told_code(*n, script, Code::Whole));
            let more = whole.saturating_sub(length(&told_code(*n, script, forms[i])));
            if spent + more > budget {
                break;
            }
            spent += more;
            forms[i] = Code::Whole;
        }
    }

    // Step by step, code before output, so that the next step's prompt begins as this one's did.
    let mut parts: Vec<((bool, usize, bool), String)> =
        pieces.iter().map(|p| ((outputs_first && !p.engineer, p.step, true), told_piece(p))).collect();
    parts.extend(
        scripts.iter().zip(&forms).map(|((n, s), f)| ((outputs_first, *n, false), told_code(*n, s, *f))),
    );
    parts.sort_by_key(|(place, _)| *place);
    let text: String = parts.into_iter().map(|(_, text)| text).collect();
    Carry { text: text.trim_end().to_owned(), shortened }
}

fn pieces_of(record: &StepRecord) -> Vec<Piece> {
    let piece = |heading: String, text: &str, whole: String, engineer| Piece {
        step: record.number,
        heading,
        text: text.to_owned(),
        whole,
        engineer,
    };
    let mut pieces: Vec<Piece> = record
        .scripts
        .iter()
        .map(|s| {
            let log = s.log.clone().unwrap_or_else(|| format!("the log of {}", s.file));
            piece(format!("output of {}", s.file), &s.output, log, true)
        })
        .collect();
    if let Some(notes) = &record.notes {
        let file = record.notes_file.clone();
        let heading =
            file.as_ref().map_or_else(|| format!("by the {}", record.agent), |f| format!("notes {f}"));
        pieces.push(piece(heading, notes, file.unwrap_or_else(|| "the run's record".to_owned()), false));
    }
    if pieces.is_empty()
        && let Some(summary) = &record.summary
    {
        pieces.push(piece(
            "summary".to_owned(),
            summary,
            "the run's record".to_owned(),
            record.agent == "engineer",
        ));
    }
    if let Some(first) = pieces.first_mut()
        && !record.sub_task.is_empty()
    {
        first.heading = format!("{} (sub-task: {})", first.heading, record.sub_task);
    }
    pieces
}

/// Takes about `excess` characters out of `pieces`, oldest first; returns what was shortened.
fn shorten(pieces: &mut [Piece], excess: usize, budget: usize, outputs_first: bool) -> Vec<String> {
    // Every piece keeps a share that holds its ends and its values.
    let least = (budget / (2 * pieces.len().max(1))).min(4_000);
    let mut order: Vec<usize> = (0..pieces.len()).collect();
    order.sort_by_key(|&i| (outputs_first && pieces[i].engineer, pieces[i].step));
    let mut left = excess;
    let mut shortened = Vec::new();
    for i in order {
        if left == 0 {
            break;
        }
        let piece = &mut pieces[i];
        let before = length(&piece.text);
        let target = before.saturating_sub(left).max(least);
        if target >= before {
            continue;
        }
        piece.text = excerpt::excerpt(&piece.text, target, &piece.whole);
        left = left.saturating_sub(before.saturating_sub(length(&piece.text)));
        shortened.push(format!("step {}: {}", piece.step, piece.heading));
    }
    shortened
}

fn told_piece(piece: &Piece) -> String {
    format!("## Step {}, {}\n{}\n\n", piece.step, piece.heading, fenced("", &piece.text))
}

fn told_code(step: usize, script: &ScriptRecord, form: Code) -> String {
    match form {
        Code::Whole => {
            format!("## Step {step}, code of {}\n{}\n\n", script.file, fenced("python", &script.code))
        }
        Code::Outline => format!("## Step {step}, {}\n\n", outline(&script.file, &script.outline, true)),
        Code::Signatures => format!("## Step {step}, {}\n\n", outline(&script.file, &script.outline, false)),
    }
}

/// A module's listing: file, what defines it, docstrings where wanted, the compiler's complaint if any.
pub fn outline(file: &str, check: &Check, docstrings: bool) -> String {
    let mut lines = vec![format!("outline of {file}")];
    let doc = |text: &Option<String>| {
        let told = text.as_ref().filter(|t| docstrings && !t.trim().is_empty());
        told.map(|t| format!("    {}", t.trim().replace('\n', "\n    ")))
    };
    lines.extend(doc(&check.doc));
    lines.extend(check.error.as_ref().map(|e| format!("    cannot be compiled: {}", e.trim())));
    for function in &check.functions {
        lines.push(format!("- {}", function.signature));
        lines.extend(doc(&function.doc));
    }
    lines.join("\n")
}

/// The listings of several scripts, with their docstrings.
pub fn outlines<'a>(scripts: impl IntoIterator<Item = &'a ScriptRecord>) -> String {
    let all: Vec<String> =
        scripts.into_iter().map(|script| outline(&script.file, &script.outline, true)).collect();
    all.join("\n\n")
}

/// `text` in a fence that is longer than any run of backticks in it.
pub fn fenced(language: &str, text: &str) -> String {
    let mut longest = 2;
    let mut run = 0;
    for c in text.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(longest + 1);
    format!("{fence}{language}\n{}\n{fence}", text.trim_end())
}

/// The files of the run, one a line: path, size, step, columns and rows of tables, what a plot shows.
pub fn manifest(products: &[Product]) -> String {
    let line = |p: &Product| {
        let columns = p.columns.as_ref().filter(|c| !c.is_empty());
        let columns = columns.map(|c| format!("; columns {}", c.join(", "))).unwrap_or_default();
        let rows =
            p.rows.map(|r| format!("; {r} {}", if r == 1 { "row" } else { "rows" })).unwrap_or_default();
        let shows = p.description.as_ref().filter(|d| !d.trim().is_empty());
        let shows = shows.map(|d| format!(": {}", d.trim())).unwrap_or_default();
        format!("- {} ({}, step {}){columns}{rows}{shows}", p.path, size(p.bytes), p.step)
    };
    products.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Bytes as people say them.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // Precision beyond 53 bits does not matter for three shown digits.
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn length(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Function;

    fn record(number: usize, output: &str, code: &str) -> StepRecord {
        let outline = Check {
            functions: vec![Function { signature: format!("f{number}(x)"), doc: Some("Doc of it.".into()) }],
            ..Check::default()
        };
        StepRecord {
            number,
            agent: "engineer".into(),
            sub_task: format!("task {number}"),
            scripts: vec![ScriptRecord {
                file: format!("codebase/step_{number}.py"),
                code: code.into(),
                output: output.into(),
                outline,
                log: Some(format!("logs/step_{number}.log")),
            }],
            ..StepRecord::default()
        }
    }

    #[test]
    fn small_steps_are_told_whole() {
        let told =
            carry(&[record(1, "a = 1", "print(1)"), record(2, "b = 2", "print(2)")], MIN_BUDGET, false);
        for part in ["a = 1", "b = 2", "print(1)", "print(2)"] {
            assert!(told.text.contains(part), "{part}");
        }
        assert!(told.shortened.is_empty());
    }

    #[test]
    fn old_code_gives_way_to_outputs() {
        let code = "x = 1\n".repeat(6_000);
        let told = carry(&[record(1, "a = 1", &code), record(2, "b = 2", &code)], MIN_BUDGET, false);
        assert!(told.text.contains("outline of codebase/step_1.py"));
        assert!(told.text.contains("- f1(x)\n    Doc of it."));
        assert!(told.text.contains("code of codebase/step_2.py"));
        assert!(told.text.contains("a = 1"));
        assert!(told.shortened.is_empty());
        assert!(told.text.chars().count() <= MIN_BUDGET);
    }

    #[test]
    fn only_then_are_outputs_shortened_oldest_first() {
        let output =
            format!("{}sigma8 = 0.811\n{}", "words only\n".repeat(2_000), "words only\n".repeat(2_000));
        let told = carry(&[record(1, &output, "c"), record(2, &output, "c")], MIN_BUDGET, false);
        assert!(told.text.chars().count() <= MIN_BUDGET);
        assert_eq!(told.shortened.len(), 1);
        assert!(told.shortened[0].contains("step 1: output of codebase/step_1.py"), "{:?}", told.shortened);
        assert!(told.text.contains("logs/step_1.log"));
        assert_eq!(told.text.matches("sigma8 = 0.811").count(), 2);
    }

    #[test]
    fn a_report_hears_outputs_before_notes() {
        let notes = StepRecord {
            number: 1,
            agent: "researcher".into(),
            notes: Some("N".into()),
            notes_file: Some("n.md".into()),
            ..StepRecord::default()
        };
        let told = carry(&[notes, record(2, "b = 2", "c")], MIN_BUDGET, true);
        assert!(told.text.find("b = 2") < told.text.find("notes n.md"));
    }

    #[test]
    fn fences_outgrow_their_content() {
        assert_eq!(fenced("", "a ```` b"), "`````\na ```` b\n`````");
    }

    #[test]
    fn sizes_are_said_in_units() {
        assert_eq!(size(12), "12 B");
        assert_eq!(size(1_500), "1.5 kB");
        assert_eq!(size(16_000_000_000), "16.0 GB");
    }
}
