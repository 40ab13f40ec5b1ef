"""Programs that a batch system or Ctrl-C ends: what they say, and what can be gone on with."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cmbagent import _preempt
from cmbagent.testing import Fault, ModelServer, code, notes
from procs import PATIENCE, children, executor, found, sleeper, wait_for, wait_until_gone

HERE = Path(__file__).parent
BOTH = [signal.SIGTERM, signal.SIGUSR1]


class Program:
    """A program in which a run goes on."""

    def __init__(self, server, work_dir, what, how, *options, **environment):
        self.what, self.work_dir = what, work_dir
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "host.py"), what, how, str(work_dir), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **server.variables, "PYTHONPATH": str(HERE), **environment},
            start_new_session=True,
        )
        if what == "model":
            self.until(lambda: server.calls)
        elif what == "script":
            self.until(lambda: found(work_dir))
        else:
            while self.process.stdout.readline() not in ("begun\n", ""):
                pass
        self.pids = [*found(work_dir), *children(self.process.pid)]

    def until(self, ask):
        wait_for(lambda: ask() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()

    def end(self, number):
        """The exit status and the standard error after this signal."""
        self.process.send_signal(number)
        _, error = self.process.communicate(timeout=PATIENCE)
        if self.what == "script":
            assert len(self.pids) == 3, "script, grandchild, supervisor"
            wait_until_gone(self.pids)
        return self.process.returncode, error


@pytest.fixture
def program(tmp_path):
    with contextlib.ExitStack() as stack:

        def start(what, how="run_sync", *options, **environment):
            answer = {"model": Fault.hang(), "script": sleeper()}.get(what, "text")
            server = stack.enter_context(ModelServer({"engineer": answer}))
            made = Program(server, tmp_path / "work", what, how, *options, **environment)
            stack.callback(made.process.kill)
            return made

        yield start


@pytest.mark.parametrize("how", ["run_sync", "nested"])
@pytest.mark.parametrize("what", ["model", "script", "sleeps"])
@pytest.mark.parametrize("number", BOTH)
def test_preempted_run_ends_in_order_and_asks_to_be_queued_again(program, store, number, what, how):
    status, error = program(what, how).end(number)
    assert (status, error) == (75, "")
    (info,) = store.runs()
    assert (info.status, info.owner, info.resumable) == ("interrupted", None, True)
    finished = [data for kind, data in store.events(info.id) if kind == "run_finished"]
    assert [data["status"] for data in finished] == ["interrupted"]
    assert finished[0]["error"] == "the run was interrupted: its process was told to end"


@pytest.mark.parametrize("what", ["stubborn", "spins"])
def test_phase_that_does_not_let_go_is_left(program, store, what):
    status, error = program(what).end(signal.SIGTERM)
    assert (status, error) == (75, "")
    assert [info.status for info in store.runs()] == ["interrupted"]


def test_it_says_how_to_go_on(program, store):
    status, error = program("model", "run_sync", "shown").end(signal.SIGUSR1)
    (info,) = store.runs()
    assert (status, error) == (75, f"Interrupted by SIGUSR1. To go on: cmbagent.resume({info.id!r})\n")


def test_what_is_not_kept_ends_as_ever(program):
    status, error = program("script", "run_sync", "shown", CMBAGENT_STORE=":memory:").end(signal.SIGTERM)
    assert (status, error) == (-signal.SIGTERM, "")


def test_a_handler_of_the_programs_own_stays(program, store):
    assert program("model", "run_sync", "own").end(signal.SIGTERM)[0] == 9


def test_handlers_are_there_only_while_a_run_is_waited_for(tmp_path, store):
    seen = []

    async def work(context):
        seen.extend(signal.getsignal(number) for number in BOTH)

    before = [signal.getsignal(number) for number in BOTH]
    executor(tmp_path / "a", work).run_sync()
    assert before == [signal.SIG_DFL, signal.SIG_DFL]
    assert all(callable(handler) for handler in seen)
    assert len(seen) == 2
    seen.clear()
    assert [signal.getsignal(number) for number in BOTH] == before
    asyncio.run(executor(tmp_path / "b", work).run())
    assert seen == before


TWICE = """
import time
from pathlib import Path
if not Path("partial").exists():
    Path("partial").write_text("half")
    time.sleep(600)
print("found", Path("partial").read_text())
"""


class Command:
    """`cmbagent run` in a process of its own."""

    def __init__(self, server, workflow, work_dir):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cmbagent", "run", workflow, "task", "--work-dir", str(work_dir), "-q"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **server.variables},
        )

    def end(self, number):
        self.process.send_signal(number)
        return self.process.communicate(timeout=PATIENCE)[1], self.process.returncode


def test_script_cut_short_runs_again_and_finds_its_files(invoke, store, tmp_path):
    with ModelServer({"engineer": code(TWICE, filename="twice.py")}) as server:
        command = Command(server, "one_shot", tmp_path / "work")
        wait_for(lambda: list(tmp_path.rglob("partial")) or command.process.poll() is not None)
        assert command.end(signal.SIGUSR1)[1] == 75
        with server.environment():
            done = invoke("resume", tmp_path / "work")
    assert done.exit_code == 0, done.output
    assert server.agents() == ["engineer"]
    assert "cut short before, now again: a script" in done.output
    assert "found half" in done.output
    page = invoke("show", store.runs()[0].id).output
    assert "cut short, then done again: execute" in page


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_line_says_how_to_go_on_and_goes_on(invoke, store, tmp_path, number):
    with ModelServer({"researcher": [Fault.hang(), notes("# It\n\n42.")]}) as server:
        command = Command(server, "one_shot_researcher", tmp_path / "work")
        wait_for(lambda: server.calls or command.process.poll() is not None)
        error, status = command.end(number)
        (info,) = store.runs()
        words = {signal.SIGTERM: "Interrupted by SIGTERM", signal.SIGINT: "Interrupted"}[number]
        assert error == f"{words}. To go on: cmbagent resume {info.id}\n"
        assert status == {signal.SIGTERM: 75, signal.SIGINT: 130}[number]
        assert info.status == {signal.SIGTERM: "interrupted", signal.SIGINT: "cancelled"}[number]
        with server.environment():
            again = ["run", "one_shot_researcher", "task", "--work-dir", tmp_path / "work"]
            done = invoke(*again, "--resume")
        assert done.exit_code == 0, done.output
        assert server.agents() == ["researcher", "researcher"]
        assert [info.status for info in store.runs()] == ["completed"]


@pytest.mark.parametrize("how", ["run_sync", "asyncio", "nested"])
def test_ctrl_c_in_a_script_says_how_to_go_on_once(program, store, how):
    status, error = program("model", how, "shown").end(signal.SIGINT)
    (info,) = store.runs()
    assert status == -signal.SIGINT
    assert error.count(f"Interrupted. To go on: cmbagent.resume({info.id!r})\n") == 1
    assert error.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize("options", [(), ("shown",)])
def test_ctrl_c_says_nothing_where_nothing_is_shown_or_kept(program, options):
    environment = {"CMBAGENT_STORE": ":memory:"} if options else {}
    error = program("model", "run_sync", *options, **environment).end(signal.SIGINT)[1]
    assert "To go on" not in error


def test_the_grace_is_within_five_seconds():
    assert _preempt.GRACE_SECONDS < 5
    assert _preempt.REQUEUE == os.EX_TEMPFAIL
    assert not re.search("KILL", " ".join(number.name for number in _preempt.SIGNALS))
