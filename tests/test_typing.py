"""The types as a user's own checker sees them: the installed package, from a directory that is not ours."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

PHASE = '''
"""The specification's phase, with what a user may override and call."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, List

from cmbagent.approvals import QueueApprovalManager
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.phases.base import Phase, PhaseConfig, PhaseContext, PhaseResult, PhaseStatus
from cmbagent.phases.registry import PhaseRegistry
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor


@dataclass
class ValidationPhaseConfig(PhaseConfig):
    phase_type: str = "validation"
    validation_rules: List[str] = field(default_factory=list)


@PhaseRegistry.register("validation")
class ValidationPhase(Phase):
    config_class = ValidationPhaseConfig

    @property
    def phase_type(self) -> str:
        return "validation"

    @property
    def display_name(self) -> str:
        return "Validation"

    def can_skip(self, context: PhaseContext) -> bool:
        return super().can_skip(context) or not self.config.validation_rules

    def validate_input(self, context: PhaseContext) -> list[str]:
        return [] if context.task else ["Task is required"]

    def get_output_schema(self) -> dict[str, Any]:
        return {"type": "object"}

    async def execute(self, context: PhaseContext) -> PhaseResult:
        text: str = await context.run.call("Is it valid?", agent="validator")
        looked: list[str] = await context.run.observe("rules", lambda: list(self.config.validation_rules))
        context.output_data = {"validated": True, "text": text, "looked": looked}
        return PhaseResult(status=PhaseStatus.COMPLETED, context=context)


PhaseRegistry.register_class("validation", ValidationPhase)

workflow = WorkflowDefinition(id="v", name="V", phases=[{"type": "planning"}, {"type": "validation"}])
executor = WorkflowExecutor(
    workflow=workflow,
    task="My task",
    work_dir="./output",
    api_keys={"OPENAI": "k"},
    callbacks=WorkflowCallbacks(on_progress=lambda message, data: None),
    approval_manager=QueueApprovalManager(),
)


async def main() -> None:
    result = await executor.run()
    steps: list[dict[str, Any]] = result.plan or []
    print(steps, [each.status.value for each in executor.results], result.phase_timings["total"])
    async for kind, data in executor.events():
        print(kind.upper(), data.get("seq"))


if __name__ == "__main__":
    handle = executor.start()
    print(handle.done(), handle.result().task)
    asyncio.run(main())
'''

MISTAKES = """
from cmbagent.phases import Phase, PhaseConfig, PhaseContext, PhaseResult, PhaseStatus, PlanningPhaseConfig
from cmbagent.workflows import WorkflowExecutor

PlanningPhaseConfig(max_plan_steps="three")
PlanningPhaseConfig(max_steps=3)
WorkflowExecutor("deep_research", "t", ".").run_sync()
PhaseResult(status="completed", context=None)


class Sync(Phase):
    def execute(self, context: PhaseContext) -> PhaseResult:
        return PhaseResult(PhaseStatus.COMPLETED, context)
"""


def check(directory):
    """What mypy says of all files of a directory, by the interpreter the package is installed in."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-color-output", "."]
    # Of the user's settings none counts, and of ours neither.
    command += ["--config-file=", "--cache-dir", str(directory / ".mypy_cache")]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def users_directory(tmp_path_factory):
    """The examples, copied away, and a phase of a user's own."""
    directory = tmp_path_factory.mktemp("user")
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, directory)
    (directory / "validation.py").write_text(PHASE)
    return directory


def test_examples_and_a_users_phase_are_strictly_typed(users_directory):
    done = check(users_directory)
    assert done.returncode == 0, done.stdout + done.stderr
    files = len(list(users_directory.glob("*.py")))
    assert f"no issues found in {files} source files" in done.stdout


def test_a_users_mistakes_are_found(users_directory):
    """Were the package untyped for users, everything would pass."""
    (users_directory / "mistakes.py").write_text(MISTAKES)
    try:
        done = check(users_directory)
    finally:
        (users_directory / "mistakes.py").unlink()
    told = [line for line in done.stdout.splitlines() if line.startswith("mistakes.py:")]
    for line, words in [
        (5, 'expected "int"'),
        (6, 'Unexpected keyword argument "max_steps"'),
        (7, 'expected "WorkflowDefinition"'),
        (8, 'expected "PhaseStatus"'),
        (8, 'expected "PhaseContext"'),
        (12, 'of "execute" incompatible with return type "Coroutine'),
    ]:
        assert any(each.startswith(f"mistakes.py:{line}:") and words in each for each in told), (line, told)
