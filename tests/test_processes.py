"""Programs that run workflows and are interrupted, killed, forked, or simply end."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cmbagent.errors import ForkError
from cmbagent.phases import OneShotPhase, PhaseContext
from cmbagent.testing import Fault, ModelServer, code
from procs import PATIENCE, children, executor, found, run, sleeper, wait_for, wait_until_gone

HERE = Path(__file__).parent
NOISE = (
    "panicked",
    "Fatal Python",
    "never awaited",
    "Exception ignored",
    "rust",
    "RuntimeWarning",
    "Segmentation",
)


class Host:
    """A host program that has begun the work it is to be ended in."""

    def __init__(self, what, how, work_dir, server):
        self.what, self.work_dir = what, work_dir
        environment = {**os.environ, **server.variables, "PYTHONPATH": str(HERE)}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "host.py"), what, how, str(work_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            # As in a terminal: Ctrl-C reaches the whole group.
            start_new_session=True,
        )
        if what == "model":
            self.until(lambda: server.calls)
        elif what == "script":
            self.until(lambda: found(work_dir))
        else:
            assert self.process.stdout.readline() == "begun\n"
        self.pids = [*found(work_dir), *children(self.process.pid)]

    def until(self, ask):
        wait_for(lambda: ask() or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()

    def interrupt(self):
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self):
        """The exit status and the standard error."""
        _, error = self.process.communicate(timeout=PATIENCE)
        if self.what == "script":
            assert len(self.pids) == 3, "script, grandchild, supervisor"
            wait_until_gone(self.pids)
        for word in NOISE:
            assert word not in error, error
        return self.process.returncode, error


@pytest.fixture
def host(tmp_path):
    """Starts host programs, and kills those that are left."""
    with contextlib.ExitStack() as stack:

        def start(what, how="run_sync"):
            answer = {"model": Fault.hang(), "script": sleeper()}.get(what, "text")
            server = stack.enter_context(ModelServer({"engineer": answer}))
            made = Host(what, how, tmp_path, server)
            stack.enter_context(made.process)
            stack.callback(made.process.kill)
            return made

        yield start


# --- signals ---


@pytest.mark.parametrize("how", ["run_sync", "asyncio", "nested"])
@pytest.mark.parametrize("what", ["model", "script", "sleeps"])
def test_ctrl_c_ends_the_program_and_its_scripts(host, what, how):
    program = host(what, how)
    program.interrupt()
    status, error = program.end()
    # Python ends itself by the signal, which a shell shows as 130.
    assert status == -signal.SIGINT
    assert error.rstrip().endswith("KeyboardInterrupt")


@pytest.mark.parametrize(
    ("what", "how"), [("stubborn", "run_sync"), ("stubborn", "nested"), ("blocks", "run_sync")]
)
def test_second_ctrl_c_ends_what_the_first_one_did_not(host, what, how):
    program = host(what, how)
    program.interrupt()
    assert program.process.stdout.readline() == "cancelled\n"
    program.interrupt()
    assert program.end()[0] == -signal.SIGINT


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
@pytest.mark.parametrize("how", ["run_sync", "nested"])
def test_killed_program_leaves_no_process(host, number, how):
    program = host("script", how)
    program.process.send_signal(number)
    assert program.end()[0] == -number


# --- the interpreter's end ---


@pytest.mark.parametrize("what", ["model", "script", "sleeps", "blocks", "spins"])
def test_program_that_ends_while_a_run_goes_on_in_a_thread(host, what):
    program = host(what, "daemon")
    program.process.stdin.write("\n")
    program.process.stdin.flush()
    status, error = program.end()
    assert (status, error) == (0, "")


@pytest.mark.parametrize("what", ["model", "script", "sleeps"])
def test_program_that_ends_with_half_a_run_left(host, what):
    program = host(what, "left")
    program.process.stdin.write("\n")
    program.process.stdin.flush()
    assert program.end()[0] == 0


STRICT = """
import asyncio, gc, sys
from procs import engineer, executor
work_dir = sys.argv[1]

async def again(context):
    await asyncio.sleep(0)

async def main():
    ran = executor(work_dir + "/b", engineer(), again)
    await ran.run()
    return ran.outcome

ran = executor(work_dir + "/a", engineer(), again)
ran.run_sync()
nested = asyncio.run(main())

async def late():
    task = asyncio.create_task(executor(work_dir + "/c", engineer()).run())
    await asyncio.sleep(0)

asyncio.run(late())
gc.collect()
print(ran.outcome, nested)
"""


def test_nothing_to_warn_of_in_development_mode(tmp_path):
    script = {"engineer": code("print('ok')", filename="a.py")}
    with ModelServer(script) as server:
        ended = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", STRICT, str(tmp_path)],
            env={**os.environ, **server.variables, "PYTHONPATH": str(HERE)},
            capture_output=True,
            text=True,
            timeout=PATIENCE * 2,
        )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "completed completed\n", "")


# --- forks ---


async def nothing(context):
    pass


def attempt(work_dir, how, sender):
    import asyncio

    try:
        if how == "run_sync":
            executor(work_dir, nothing).run_sync()
        elif how == "await":
            asyncio.run(executor(work_dir, nothing).run())
        else:
            context = PhaseContext("w", "r", "p", "task", str(work_dir))
            asyncio.run(OneShotPhase().execute(context))
    except BaseException as error:
        sender.send(error)
    else:
        sender.send(None)


def in_child(method, work_dir, how):
    methods = multiprocessing.get_context(method)
    receiver, sender = methods.Pipe(duplex=False)
    process = methods.Process(target=attempt, args=(str(work_dir), how, sender), daemon=True)
    process.start()
    try:
        assert receiver.poll(PATIENCE), "the child hangs"
        return receiver.recv()
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("how", ["run_sync", "await", "phase"])
def test_fork_of_a_process_that_ran_something_gets_a_plain_error(tmp_path, how):
    run(executor(tmp_path, nothing).run)
    error = in_child("fork", tmp_path, how)
    assert isinstance(error, ForkError)
    assert "get_context('spawn')" in str(error)
    # The parent is none the worse for it.
    run(executor(tmp_path, nothing).run)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_spawned_worker_runs(tmp_path, method):
    run(executor(tmp_path, nothing).run)
    assert in_child(method, tmp_path, "run_sync") is None


FORK_FIRST = """
import multiprocessing, sys
from host import spawned
import cmbagent, cmbagent.workflows
with multiprocessing.get_context("fork").Pool(2) as pool:
    print(pool.map(spawned, [sys.argv[1] + "/a", sys.argv[1] + "/b"]))
"""


def test_fork_before_the_first_run_is_fine(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", FORK_FIRST, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (ended.stdout, ended.stderr) == ("['completed', 'completed']\n", "")


# --- import ---

IMPORT = """
import json, logging, os, signal, sys, threading, warnings

def state():
    root = logging.getLogger()
    return {
        "handlers": [repr(handler) for handler in root.handlers],
        "levels": [root.level, root.manager.disable, logging.raiseExceptions],
        "path": list(sys.path),
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "signals": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "threads": len(os.listdir("/proc/self/task")),
        "hooks": [repr(hook) for hook in (sys.excepthook, sys.unraisablehook, threading.excepthook)],
        "filters": [repr(entry) for entry in warnings.filters],
        "files": sorted(os.listdir("/proc/self/fd")),
    }

class Watched(dict):
    pass

before, modules = state(), set(sys.modules)
import cmbagent
only = set(sys.modules) - modules
import cmbagent.callbacks, cmbagent.cmbagent, cmbagent.errors, cmbagent.phases, cmbagent.workflows
import cmbagent.workflows.legacy, cmbagent.testing
after = state()
third_party = sorted(
    name for name in only
    if "site-packages" in (getattr(sys.modules[name], "__file__", None) or "")
)
changed = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
print(json.dumps([changed, third_party]))
"""


def test_import_has_no_side_effects(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    kept = home / "cmbagent_output"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT],
        env={
            **os.environ,
            "HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "OPENAI_API_KEY": "sk-x",
        },
        cwd=home,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.stderr == ""
    assert json.loads(ended.stdout) == [{}, []]
    assert sorted(tmp_path.rglob("*")) == before
