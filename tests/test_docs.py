"""Every block of the README and of the documentation runs, against scripted models; links lead somewhere."""

import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from typer.main import get_command

from cmbagent.cli import app
from cmbagent.testing import ModelServer, code, ideas, notes, plan, review
from cmbagent.workflows import SYSTEM_WORKFLOWS
from pages import EXAMPLE, ROOT, blocks, check, pages, text_of
from papers import pdf, serve

PAGES = pages()
BLOCKS = [block for page in PAGES for block in blocks(page)]
# What does not run, and why.
NOT_RUN = {
    ("README.md", "1f3a stands for a run of the reader's"): 1,
    ("docs/local-models.md", "a server of the reader's"): 3,
}
SUMMARY = {
    "title": "Dust", "authors": ["A. One"], "date": "2024", "journal": "", "abstract": "Dust.",
    "keywords": [], "key_findings": [], "scientific_software": [], "data_sources": [], "data_sets": [],
    "data_analysis_methods": [],
}  # fmt: skip
PI = """
import random

random.seed(7)
n = 200_000
p = sum(random.random() ** 2 + random.random() ** 2 < 1 for _ in range(n)) / n
print(f"seed = 7, points = {n}, pi = {4 * p:.4f} +- {4 * (p * (1 - p) / n) ** 0.5:.4f}")
"""
# A script that comes to its end only after it was killed once.
KILLED = """
import time
from pathlib import Path

begun = Path("data", "begun")
if not begun.exists():
    begun.touch()
    print("0", "points", flush=True)
    time.sleep(3600)
"""
IDEAS = [("Needles", "Drop needles on a floor."), ("Darts", "Throw darts at a square.")]
# What the models of every page say.
SCRIPT = {
    "planner": plan(
        ("engineer", "Estimate pi from 200000 random points.", "Print the estimate with its error."),
        ("researcher", "Report the estimate.", "Quote it as printed."),
    ),
    "plan_reviewer": review("Set the seed and print it."),
    "engineer": lambda call: code((KILLED if "billion" in call.prompt else "") + PI, filename="pi.py"),
    "researcher": notes("# Estimating pi\n\nWith 200000 points pi = 3.1420 +- 0.0037."),
    "idea_maker": lambda call: ideas(*IDEAS[1:] if "Select the best" in call.prompt else IDEAS),
    "idea_hater": {"critiques": [{"title": "Darts", "weaknesses": "done before"}]},
    "reader": {"papers": ["2007.01650"]},
    "list_keywords_finder": lambda call: {"keywords": re.findall(r"^- (.+)$", call.prompt, re.MULTILINE)[:1]},
    "aas_keyword_finder": {"keywords": ["Cosmology"]},
    "summarizer": SUMMARY,
}


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """The environment of a reader who tries the pages: models, papers, a home and a port of their own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ModelServer(SCRIPT) as server, serve(monkeypatch) as papers:
        papers.files["/pdf/2401.01234"] = pdf("Dust shines.")
        for name in ("here", "home"):
            (tmp_path / name).mkdir()
        # As in a checkout.
        (tmp_path / "here" / "examples").symlink_to(ROOT / "examples")
        yield {
            **os.environ,
            **server.variables,
            "CMBAGENT_QUIET": "1",
            "CMBAGENT_STORE": str(tmp_path / "store.db"),
            "HOME": str(tmp_path / "home"),
            "OPENAI_API_KEY": "sk-test",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "100",
            "REST_URL": f"http://127.0.0.1:{port}",
            "ROOT": str(ROOT),
            "SCRATCH": str(tmp_path / "scratch"),
        }
        assert server.errors == []


@pytest.mark.parametrize("page", PAGES)
def test_a_page(page, reader, tmp_path):
    command = [sys.executable, "-W", "error", str(ROOT / "tests" / "pages.py"), page]
    with (tmp_path / "errors").open("w+") as errors:
        process = subprocess.Popen(
            command, cwd=tmp_path / "here", env=reader, stderr=errors, start_new_session=True
        )
        try:
            status = process.wait(timeout=300)
        finally:
            # Also what its blocks have left running.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        errors.seek(0)
        assert (text := errors.read(), status) == ("", 0), text


def test_nothing_else_is_left_out():
    assert Counter((block.page, block.not_run) for block in BLOCKS if block.not_run) == NOT_RUN


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_well_formed(block):
    check(block)


def test_every_example_is_shown():
    shown = {example[1] for block in BLOCKS if (example := EXAMPLE.fullmatch(block.text))}
    assert shown == {f"examples/{path.name}" for path in ROOT.glob("examples/*.py")} - {"examples/offline.py"}


@pytest.mark.parametrize("name", ["phases", "workflows"])
def test_the_reference_has_all_that_is_public(name):
    page = (ROOT / "docs" / "reference" / f"{name}.md").read_text()
    public = {each for each in importlib.import_module(f"cmbagent.{name}").__all__ if not each.isupper()}
    assert public - set(re.findall(r"\w+", page)) == set()


def test_commands_that_are_not_run_are_ones_there_are():
    lines = [line for each in BLOCKS if each.not_run for line in each.text.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("cmbagent")]
    assert commands
    for _, verb, *arguments in commands:
        get_command(app).commands[verb].make_context(verb, arguments)


def test_old_and_new_come_in_pairs():
    words = re.findall(r"^(Before|Now):$", (ROOT / "docs" / "migration.md").read_text(), re.MULTILINE)
    assert words == ["Before", "Now"] * 6
    old_and_new = [each for each in BLOCKS if each.page == "docs/migration.md" and each.language == "python"]
    assert len(old_and_new) == len(words)


def test_the_workflows_of_the_readme_are_all_there_are():
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("| workflow | phases |") :].partition("\n\n")[0]
    assert re.findall(r"`(\w+)`", table) == list(SYSTEM_WORKFLOWS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)[#)]", text_of(page))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_a_price_table_is_read(reader, tmp_path):
    for block in BLOCKS:
        if block.language == "toml":
            (tmp_path / "prices.toml").write_text(block.text)
            (model,) = tomllib.loads(block.text)["models"]
            program = f"import cmbagent; cmbagent.one_shot('t', model={model!r}, work_dir='out')"
            environment = {**reader, "CMBAGENT_PRICES": str(tmp_path / "prices.toml")}
            subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
            (report,) = (tmp_path / "out" / "cost").glob("*.json")
            assert json.loads(report.read_text())[0]["Cost ($)"] > 0
            shutil.rmtree(tmp_path / "out")
