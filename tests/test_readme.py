"""The README's Python runs as it stands, against scripted models; its commands and links exist."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from cmbagent.cli import app
from cmbagent.cli._definition import find_workflow
from cmbagent.testing import ModelServer, code, notes, plan, review
from cmbagent.workflows import SYSTEM_WORKFLOWS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    line.partition("  #")[0].strip()
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
]
SCRIPT = {
    "planner": plan(("engineer", "Estimate pi."), ("researcher", "Report it.")),
    "plan_reviewer": review("Print the seed."),
    "engineer": code("print('pi = 3.14')", filename="pi.py"),
    "researcher": notes("# Pi\n\nIt is 3.14."),
}


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_a_block_of_python(number, tmp_path):
    with ModelServer(SCRIPT) as server:
        environment = {**os.environ, **server.variables, "CMBAGENT_QUIET": "1"}
        command = [sys.executable, "-W", "error", "-c", PYTHON[number]]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_the_phase_of_ones_own_runs_in_its_workflow(tmp_path):
    (block,) = [text for text in PYTHON if "ReportLastPhase" in text]
    run = """
from cmbagent.workflows import WorkflowExecutor
executor = WorkflowExecutor(workflow, "Estimate pi.", "out")
executor.run_sync()
print([result.status.value for result in executor.results])
"""
    with ModelServer(SCRIPT) as server:
        environment = {**os.environ, **server.variables, "CMBAGENT_QUIET": "1"}
        command = [sys.executable, "-c", block + run]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
    assert done.stdout.strip() == "['completed', 'completed', 'completed']", done.stderr


def test_commands_are_ones_there_are():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    seen = set()
    for line in COMMANDS:
        words = re.findall(r'"[^"]*"|\S+', line)
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
            seen.add("make")
        elif words[:1] == ["cmbagent"]:
            command = get_command(app).commands[words[1]]
            context = command.make_context(words[1], words[2:])
            if words[1] == "run":
                find_workflow(context.params["workflow"])
            seen.add("cmbagent " + words[1])
    verbs = {
        "run",
        "serve",
        "workflows",
        "runs",
        "show",
        "resume",
        "stop",
        "export",
        "prune",
        "doctor",
        "attach",
    }
    assert seen == {"make", *(f"cmbagent {verb}" for verb in verbs)}


def test_its_workflows_are_all_there_are():
    table = README[README.index("| workflow | phases |") :].partition("\n\n")[0]
    assert re.findall(r"`(\w+)`", table) == list(SYSTEM_WORKFLOWS)


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_price_table_of_the_readme_is_read(tmp_path):
    (table,) = [text for language, text in BLOCKS if language == "toml"]
    (tmp_path / "prices.toml").write_text(table, encoding="utf-8")
    program = "import cmbagent; cmbagent.one_shot('t', model='my-model', work_dir='out')"
    with ModelServer(SCRIPT) as server:
        environment = {
            **os.environ,
            **server.variables,
            "CMBAGENT_QUIET": "1",
            "CMBAGENT_PRICES": str(tmp_path / "prices.toml"),
        }
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    (report,) = (tmp_path / "out" / "cost").glob("*.json")
    rows = json.loads(report.read_text(encoding="utf-8"))
    assert server.calls[0].model == "my-model"
    assert any(row.get("Cost ($)") for row in rows), rows
