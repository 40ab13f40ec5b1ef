#![allow(clippy::unwrap_used)]
use super::*;

fn code(markdown: &str) -> String {
    answer(markdown).code.unwrap_or_else(|| panic!("no code in {markdown:?}"))
}

#[test]
fn an_answer_as_asked_for() {
    let told = answer(
        "**Code Explanation:**\n\nFits a line.\n\n**Modifications:** the units.\n\n**Python Code:**\n\n\
         ```python\n# filename: codebase/fit.py\nimport math\nprint(math.pi)\n```\n\nStatus: remaining — plot the fit.\n",
    );
    assert_eq!(told.explanation, "Fits a line.");
    assert_eq!(told.modifications.as_deref(), Some("the units."));
    assert_eq!(told.code.as_deref(), Some("import math\nprint(math.pi)\n"));
    assert_eq!(told.filename.as_deref(), Some("codebase/fit.py"));
    assert_eq!((told.other_blocks, told.unclosed), (0, false));
    assert_eq!(told.status, Status::Remaining("plot the fit.".to_owned()));
}

#[test]
fn fences_of_all_kinds() {
    let body = "import a\nprint(1)\n";
    for (open, close) in [
        ("```python", "```"),
        ("```Python", "```"),
        ("``` py", "```"),
        ("~~~python3", "~~~"),
        ("````python", "````"),
        ("```", "```"),
        ("```{.python}", "```"),
        ("```python title=\"x.py\"", "````"),
        ("  ```python", "  ```"),
        ("```markdown\n```python", "```\n```"),
        ("```\n```python", "```\n```"),
        ("````markdown\nText\n```python", "```\n````"),
    ] {
        let told = answer(&format!("Text.\n{open}\n{body}{close}\nStatus: remaining: x\n"));
        assert_eq!(told.code.as_deref(), Some(body), "{open}");
        assert_eq!(told.status, Status::Remaining("x".to_owned()), "{open}");
        assert_eq!(told.other_blocks, 0, "{open}");
    }
}

#[test]
fn an_indented_block_is_dedented() {
    assert_eq!(
        code("1. Do\n   ```python\n   if a:\n       b()\n   import x\n   ```\n"),
        "if a:\n    b()\nimport x\n"
    );
}

#[test]
fn a_fence_in_a_docstring_does_not_end_the_block() {
    let script =
        "def f():\n    '''Example:\n```python\nf()\n```\n'''\n    return \"\"\"\n```\n\"\"\"\nprint(f())\n";
    let told = answer(&format!("```python\n{script}```\nDone.\nStatus: finished"));
    assert_eq!(told.code.as_deref(), Some(script));
    assert_eq!(told.other_blocks, 0);
}

#[test]
fn a_string_that_never_ends_does_not_swallow_the_answer() {
    let told = answer("```python\nprint('''open)\n```\nText.\n\nStatus: remaining: rest");
    assert_eq!(told.code.as_deref(), Some("print('''open)\n"));
    assert_eq!(told.status, Status::Remaining("rest".to_owned()));
    assert_eq!(told.explanation, "Text.");
}

#[test]
fn the_longest_whole_script_wins_and_the_others_are_reported() {
    let fragment = "x = compute(a,\n".repeat(9);
    let told = answer(&format!(
        "```bash\npip install {long}\n```\n```python\nimport a\n```\n```python\nimport a\nprint(a)\n```\n```python\n{fragment}```",
        long = "x".repeat(400)
    ));
    assert_eq!(told.code.as_deref(), Some("import a\nprint(a)\n"));
    assert_eq!(told.other_blocks, 2);
    let elided = "import a\n# ... rest of the code unchanged\nprint(1); print(2); print(3)\n";
    assert_eq!(code(&format!("```python\n{elided}```\n```python\nimport b\n```")), "import b\n");
}

#[test]
fn output_and_data_blocks_are_not_code() {
    let told = answer("It prints\n```\nchi2 = 3.2 at the minimum\n```\n```json\n{\"a\": 1}\n```\n");
    assert_eq!((told.code, told.other_blocks), (None, 0));
    assert_eq!(told.explanation, "It prints");
}

#[test]
fn quotes_in_another_language_hide_no_fence() {
    let told = answer("```bash\necho \"\"\"\n```\n```python\nimport a\n```\n");
    assert_eq!(told.code.as_deref(), Some("import a\n"));
}

#[test]
fn an_unclosed_block_is_told() {
    let told = answer("Text\n```python\nimport a\nprint(a)\n\nStatus: finished\n");
    assert_eq!(told.code.as_deref(), Some("import a\nprint(a)\n"));
    assert!(told.unclosed);
}

#[test]
fn a_forgotten_closing_fence_before_the_next_block() {
    let told = answer("```python\nimport a\nprint(a, 1)\n```python\nimport b\n```\n");
    assert_eq!(told.code.as_deref(), Some("import a\nprint(a, 1)\n"));
    assert_eq!((told.other_blocks, told.unclosed), (1, false));
}

#[test]
fn a_bare_script_counts_only_when_it_clearly_is_one() {
    let script = "\"\"\"Fit.\"\"\"\nimport numpy as np\n\nx, y = np.ones(3), 2\ndata['a'] = f(\n    x,\n)\nif x:\n    y += 1\nelse:\n    pass\nprint(x)\n";
    let told = answer(&format!("{script}\nStatus: remaining: plot"));
    assert_eq!(told.code.as_deref(), Some(script));
    assert_eq!(told.status, Status::Remaining("plot".to_owned()));
    assert_eq!(answer("import a\nprint(a)\n```\n").code.as_deref(), Some("import a\nprint(a)\n"));
    for text in [
        "I will import the data.\nimport numpy as np\n",
        "from the plot we see a line",
        "Sorry, I cannot do that.",
        "",
        "# Heading\n",
    ] {
        assert_eq!(answer(text).code, None, "{text:?}");
    }
}

#[test]
fn file_names() {
    for (first, name) in [
        ("# filename: a.py", Some("a.py")),
        ("#Filename : `b.py`", Some("b.py")),
        ("#!/usr/bin/env python\n# filename: c.py", Some("c.py")),
        ("\n# file_name: \"d e.py\"", Some("d e.py")),
        ("# filename:", None),
        ("# reads the filename: given", None),
    ] {
        assert_eq!(
            answer(&format!("```python\n{first}\nimport a\n```")).filename.as_deref(),
            name,
            "{first}"
        );
    }
    assert_eq!(answer("```python\nimport a\n# filename: late.py\n```").filename, None);
}

#[test]
fn status_lines() {
    let remains = |what: &str| Status::Remaining(what.to_owned());
    for (line, expected) in [
        ("Status: finished", Status::Finished),
        ("**Status:** Finished.", Status::Finished),
        ("STATUS - DONE", Status::Finished),
        ("Status: remaining: fit the tail", remains("fit the tail")),
        ("**Status: remaining — fit the tail**", remains("fit the tail")),
        ("- **Status**: `remaining` – fit the tail", remains("fit the tail")),
        ("status: Remaining\n\nfit the\ntail", remains("fit the tail")),
        ("Status: not finished; fit the tail", remains("fit the tail")),
        ("Status: remaining: none.", Status::Finished),
        ("Status: remaining: one\nStatus: finished", Status::Finished),
        ("The status of the fit is remaining", Status::Finished),
        ("", Status::Finished),
    ] {
        assert_eq!(answer(&format!("```python\nimport a\n```\n{line}\n")).status, expected, "{line}");
    }
    let before = answer("Status: remaining: x\n```python\nimport a\nprint('Status: remaining')\n```\n");
    assert_eq!(before.status, Status::Finished, "only the end of an answer counts");
}

#[test]
fn thoughts_are_never_code() {
    let told = answer(
        "<think>\n```python\nimport os\nos.remove('x'); print('a longer block')\n```\n</think>\n```python\nimport a\n```",
    );
    assert_eq!((told.code.as_deref(), told.other_blocks), (Some("import a\n"), 0));
    assert_eq!(answer("<think>```python\nimport a\n```").code, None);
}

#[test]
fn headings_in_other_dress() {
    let told = answer(
        "## Explanation\nWhat it does.\n### Modifications\n- a\n- b\n### Code\n```python\nimport a\n```\nIt runs fast.",
    );
    assert_eq!(told.explanation, "What it does.\n\nIt runs fast.");
    assert_eq!(told.modifications.as_deref(), Some("- a\n- b"));
    assert_eq!(answer("Modifications: None\n```python\nimport a\n```").modifications, None);
    assert_eq!(
        answer("Code explanations are short.\n```python\nimport a\n```").explanation,
        "Code explanations are short."
    );
}

#[test]
fn no_text_whatever_makes_it_panic() {
    const PARTS: &[&str] = &[
        "```",
        "```python",
        "~~~",
        "````md",
        "\n",
        "\n",
        "\n",
        "    ",
        "\t",
        "'''",
        "\"\"\"",
        "\"",
        "'",
        "\\",
        "#",
        "# filename: ",
        "é",
        "\u{201c}",
        "\u{201d}",
        "\u{a0}",
        "\r",
        "\u{1b}[",
        "Status: remaining",
        "**Modifications:**",
        "import a",
        "x = 1",
        "def f():",
        "(",
        ")",
        "…",
        "<think>",
        "</think>",
        "9|█/1%",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..3000 {
        let text: String = (0..random.usize(0..24)).map(|_| PARTS[random.usize(0..PARTS.len())]).collect();
        let told = answer(&text);
        if let Some(code) = &told.code {
            assert!(!code.trim().is_empty() && code.ends_with('\n'), "{text:?}");
            assert!(normalise(code).ends_with('\n'), "{text:?}");
        }
        let cleaned = crate::exec::clean::clean(&text);
        assert_eq!(crate::exec::clean::clean(&cleaned), cleaned, "{text:?}");
    }
}
