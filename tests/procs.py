"""Custom phases from functions, executors of them, and processes to wait for."""

import asyncio
import os
import time
from pathlib import Path

from cmbagent.phases import OneShotPhase, OneShotPhaseConfig, Phase, PhaseConfig, PhaseResult, PhaseStatus
from cmbagent.testing import code
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

PATIENCE = 12
"""Seconds after which a test gives up on something that should happen soon."""


def done(context, **changes):
    return PhaseResult(status=PhaseStatus.COMPLETED, context=context, **changes)


class Do(Phase):
    """A phase that awaits a function of its context; `None` stands for a completed result."""

    def __init__(self, work, name="do", **config):
        self.name, self.work = name, work
        super().__init__(PhaseConfig(phase_type=name, **config))

    @property
    def phase_type(self):
        return self.name

    @property
    def display_name(self):
        return self.name

    async def execute(self, context):
        result = await self.work(context)
        return done(context) if result is None else result


def executor(work_dir, *phases, **kwargs):
    """An executor of phase objects; plain functions become phases."""
    kwargs.setdefault("api_keys", {"OPENAI": "sk-test"})
    made = WorkflowExecutor(WorkflowDefinition("w", "w"), "the task", str(work_dir), verbose=False, **kwargs)
    made.phases = [phase if isinstance(phase, Phase) else Do(phase) for phase in phases]
    return made


def run(main):
    """Runs a coroutine function to its end, or fails the test."""

    async def within_patience():
        async with asyncio.timeout(PATIENCE):
            return await main()

    return asyncio.run(within_patience())


def forever(seen):
    """A phase's work that notes that it began and that it was cancelled."""

    async def work(context):
        seen.append("sleeping")
        try:
            await asyncio.sleep(PATIENCE * 2)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    return work


def researcher():
    return OneShotPhase(OneShotPhaseConfig(agent="researcher"))


def engineer(**config):
    return OneShotPhase(OneShotPhaseConfig(agent="engineer", **config))


SLEEPER = """
import os, subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
with open("pids.tmp", "w") as file:
    file.write(f"{os.getpid()} {grandchild.pid}")
os.rename("pids.tmp", "pids")
time.sleep(600)
"""
"""A script that sleeps, with a grandchild in a session of its own, and tells both process ids."""


def sleeper():
    return code(SLEEPER, filename="sleeper.py")


def found(work_dir):
    """The process ids that the sleeper wrote below `work_dir`, or nothing yet."""
    return [int(pid) for file in Path(work_dir).rglob("pids") for pid in file.read_text().split()]


def wait_for(ask):
    """What `ask` says once that is true."""
    give_up = time.monotonic() + PATIENCE
    while not (answer := ask()):
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.01)
    return answer


async def wait_in_loop(ask):
    async with asyncio.timeout(PATIENCE):
        while not (answer := ask()):
            await asyncio.sleep(0.01)
    return answer


def alive(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # A zombie has ended.
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pids):
    assert pids
    wait_for(lambda: not any(alive(pid) for pid in pids))


def children(pid=None):
    """The living children of a process."""
    pid = pid or os.getpid()
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split() if alive(int(child))]
