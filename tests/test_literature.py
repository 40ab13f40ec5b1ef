"""Citations for a LaTeX file, against a local arXiv."""

import pytest

from cmbagent.errors import BadReplyError
from cmbagent.literature import process_tex_file_with_references
from papers import serve

PAPER = r"""\documentclass{article}
\newcommand{\T}{T}
This line is no prose yet.
\begin{document}
\title{Dust}
\begin{abstract}
We measure dust.
\end{abstract}
\section{Introduction}
% a comment
Dust is cold, see the table.
\begin{equation}
x = 1
\end{equation}
$y = 2$
\begin{itemize}
\item a point
\end{itemize}
It is seen at high frequencies \citep[1]{Old2001}.
Nobody knows why.
\end{document}
"""


@pytest.fixture
def arxiv(monkeypatch):
    with serve(monkeypatch) as papers:
        for number, key in (("2401.01234", "One2024"), ("astro-ph/0601001", "Two2006")):
            papers.files[f"/bibtex/{number}"] = f"@article{{{key},\n  title={{T}}\n}}\n".encode()
        papers.files["/bibtex/2402.00001"] = b"<html>no entry"
        yield papers


def test_markers_become_citations_and_entries(arxiv, tmp_path):
    tex, bib = tmp_path / "main.tex", tmp_path / "out" / "bibliography.bib"
    tex.write_text(PAPER, encoding="utf-8")
    asked = []

    def search(paragraph):
        asked.append(paragraph.strip())
        if "cold" in paragraph:
            text = "Dust is cold[1][2], see the table [1]."
            return text, ["https://arxiv.org/abs/2401.01234", "https://arxiv.org/pdf/astro-ph/0601001"]
        if "seen" in paragraph:
            addresses = [
                "http://arxiv.org/html/2401.01234", "https://arxiv.org/abs/2402.00001",
                "https://arxiv.org/abs/2403.00001", "https://example.org/x",
            ]  # fmt: skip
            return (
                r"It is seen at high frequencies \citep[1]{Old2001} [1][2], too [3][4], and [9].",
                addresses,
            )
        return None, []

    with pytest.warns(UserWarning, match="goes on without") as caught:
        assert process_tex_file_with_references(str(tex), str(bib), search) is None
    assert asked == [
        "Dust is cold, see the table.",
        r"It is seen at high frequencies \citep[1]{Old2001}.",
        *["Nobody knows why."] * 2,
    ]
    lines = tex.read_text(encoding="utf-8").splitlines()
    changed = [line for line in lines if line not in PAPER.splitlines()]
    assert changed == [
        r"Dust is cold \citep{Two2006,One2024}, see the table \citep{One2024}.",
        r"It is seen at high frequencies \citep[1]{Old2001} \citep{One2024}, too, and [9].",
    ]
    assert len(lines) == len(PAPER.splitlines())
    assert bib.read_text() == "@article{One2024,\n  title={T}\n}\n\n@article{Two2006,\n  title={T}\n}\n"
    assert arxiv.asked.count("/bibtex/2401.01234") == 1
    told = " ".join(str(warning.message) for warning in caught)
    for sign in ("holds no entry", "2403.00001 could not be downloaded", "example.org/x, which is no paper"):
        assert sign in told


def test_a_limit_of_paragraphs_and_what_is_no_answer(arxiv, tmp_path):
    tex = tmp_path / "part.tex"
    tex.write_text("First.\nSecond.\nThird.")
    asked = []

    def search(paragraph):
        asked.append(paragraph)
        return paragraph, []

    process_tex_file_with_references(tex, tmp_path / "b.bib", search, nparagraphs=1)
    assert asked == ["Second.\n"] and tex.read_text() == "First.\nSecond.\nThird."
    with pytest.raises(BadReplyError, match=r"returned a int for line 2; expected the paragraph"):
        process_tex_file_with_references(tex, tmp_path / "b.bib", lambda paragraph: 3)
    with pytest.raises(ZeroDivisionError):
        process_tex_file_with_references(tex, tmp_path / "b.bib", lambda paragraph: 1 / 0)
    assert tex.read_text() == "First.\nSecond.\nThird."
    with pytest.raises(FileNotFoundError, match="there is no file"):
        process_tex_file_with_references(tmp_path / "none.tex", tmp_path / "b.bib", search)
