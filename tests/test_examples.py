"""The examples run to their end against scripted models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
EXPECTED = {
    "workflow": "results in ",
    "own_phase": "['completed', 'completed', 'completed']",
    "functions": "# The golden ratio",
    "literature_review": "papers: ['2007.01650']",
}


def test_every_example_is_tried():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*EXPECTED, "offline"}


@pytest.mark.parametrize("name", EXPECTED)
def test_example(name, tmp_path):
    environment = {**os.environ, "CMBAGENT_QUIET": "1"}
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--offline"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert EXPECTED[name] in done.stdout
