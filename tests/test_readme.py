"""The Python blocks of the README run as they stand, with scripted models."""

import re
from pathlib import Path

import pytest

from cmbagent.testing import ModelServer, code, notes, plan, review

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
SCRIPT = {
    "planner": plan(("engineer", "Compute.", "print it"), ("researcher", "Report.", "quote it")),
    "plan_reviewer": review("Print units."),
    "engineer": code("print('golden ratio = 1.618033988750')", filename="compute.py"),
    "researcher": notes("# Report\n\nThe ratio is 1.618033988750."),
}


def test_there_are_blocks():
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[0][:40])
def test_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ModelServer(SCRIPT) as server, server.environment():
        exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
