"""Every block of Python in the pages about earlier versions and about papers runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cmbagent.testing import ModelServer, code, notes, plan, review
from papers import pdf, serve

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("migration", "papers")
BLOCKS = {
    f"{page}-{number}": block
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"^```python\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL), 1
    )
}
SUMMARY = {
    "title": "Dust", "authors": ["A. One"], "date": "2024", "journal": "", "abstract": "Dust.",
    "keywords": [], "key_findings": [], "scientific_software": [], "data_sources": [], "data_sets": [],
    "data_analysis_methods": [],
}  # fmt: skip
SCRIPT = {
    "planner": plan(("engineer", "Estimate pi."), ("researcher", "Report it.")),
    "plan_reviewer": review("Print the seed."),
    "engineer": code("print('pi = 3.14')", filename="pi.py"),
    "researcher": notes("# Pi\n\nIt is 3.14."),
    "list_keywords_finder": lambda call: {"keywords": re.findall(r"^- (.+)$", call.prompt, re.MULTILINE)[:1]},
    "aas_keyword_finder": {"keywords": ["Cosmology"]},
    "summarizer": SUMMARY,
}
# What the last line of some blocks prints.
PRINTED = {
    "migration-2": "[]",
    "migration-12": "2",
    "papers-1": "{'Cosmology': 'http://astrothesaurus.org/uat/343'}",
    "papers-2": "- Abstract: Dust.",
    "papers-3": "['Dust']",
}


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block(name, tmp_path, monkeypatch):
    with ModelServer(SCRIPT) as server, serve(monkeypatch) as papers:
        papers.files["/pdf/2401.01234"] = pdf("Dust shines.")
        environment = {**os.environ, **server.variables, "CMBAGENT_QUIET": "1", "OPENAI_API_KEY": "sk-test"}
        command = [sys.executable, "-W", "error", "-c", BLOCKS[name]]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")
    last = done.stdout.strip().splitlines()[-1]
    assert last and PRINTED.get(name, "") in last
    assert server.errors == []


def test_old_and_new_come_in_pairs():
    words = re.findall(r"^(Before|Now):$", (DOCS / "migration.md").read_text(), re.MULTILINE)
    assert words == ["Before", "Now"] * (len(words) // 2)
    assert len(words) == len([name for name in BLOCKS if name.startswith("migration")]) == 12
    assert set(PRINTED) <= set(BLOCKS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", (DOCS / f"{page}.md").read_text())
    assert [link for link in links if not (DOCS / link).exists()] == []
