"""Runs that outlive their terminal, and watching a run of any process."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.main import get_command

from cmbagent.cli import _detach, app
from cmbagent.cli._follow import BACK_BYTES, Follower
from cmbagent.testing import ModelServer, code, notes, plan, review
from procs import PATIENCE, alive, wait_for, wait_until_gone
from terminals import Terminal

PLAN = plan(("engineer", "Compute six times seven."), ("researcher", "Write it down."))
WAITS = """
import pathlib, time
print("row 1", flush=True)
while not pathlib.Path("../../go").exists():
    time.sleep(0.01)
print("answer = 42")
"""
SCRIPT = {
    "planner": PLAN,
    "plan_reviewer": review("Print the number."),
    "engineer": code(WAITS, filename="waits.py"),
    "researcher": notes("# Answer\n\nThe answer is 42."),
}


class Scene:
    """A server of models, commands that ask it, and terminals; the planner answers when `go` is set."""

    def __init__(self, stack, work_dir):
        self.go = threading.Event()
        self.work_dir = work_dir
        self.stack = stack
        self.server = stack.enter_context(ModelServer({**SCRIPT, "planner": self._plan}))
        stack.callback(self.go.set)

    def _plan(self, call):
        self.go.wait(PATIENCE * 3)
        return PLAN

    def let_script_end(self):
        (self.work_dir.parent / "go").touch()

    def command(self, *arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "cmbagent", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=PATIENCE * 3,
            env={**os.environ, **self.server.variables, **environment},
        )

    def terminal(self, *arguments, **options):
        made = Terminal(*arguments, **self.server.variables, **options)
        self.stack.callback(made.close)
        return made

    def detached(self, workflow="deep_research", *options, **environment):
        """What the command told of a run that it has left to a process of its own."""
        arguments = ["run", workflow, "Six times seven?", "--work-dir", self.work_dir]
        done = self.command(*arguments, "--detach", "--json", *options, **environment)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        self.stack.callback(end, told["pid"])
        return told


def end(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def scene(store, tmp_path):
    with contextlib.ExitStack() as stack:
        yield Scene(stack, tmp_path / "work")


# --- run --detach ---


def test_a_detached_run_is_told_and_goes_on_without_its_command(scene, store, invoke):
    told = scene.detached()
    assert set(told) == {"id", "pid", "work_dir", "log"}
    info = store.run(told["id"])
    assert (info.owner["pid"], info.status, info.task) == (told["pid"], "running", "Six times seven?")
    assert os.getsid(told["pid"]) == told["pid"]
    scene.go.set()
    scene.let_script_end()
    result = invoke("attach", told["id"])
    assert result.exit_code == 0, result.output
    assert "answer = 42" in result.output
    wait_until_gone([told["pid"]])
    log = Path(told["log"])
    assert log == scene.work_dir / _detach.LOG
    assert log.stat().st_mode & 0o777 == 0o600
    assert "Completed in " in log.read_text()


def test_a_detached_run_outlives_a_lost_connection_and_is_answered_from_a_new_one(scene, store):
    arguments = ["run", "deep_research_hitl", "Six times seven?", "--work-dir", scene.work_dir, "--detach"]
    first = scene.terminal(*arguments)
    first.until(lambda text: "cmbagent attach" in text)
    (info,) = store.runs()
    scene.stack.callback(end, info.owner["pid"])
    first.hang_up()
    watching = scene.terminal("attach", info.id[:8])
    watching.until(lambda text: "thinking" in text)
    watching.hang_up()
    assert alive(info.owner["pid"])
    scene.go.set()
    wait_for(lambda: store.run(info.id).status == "waiting_approval")
    again = scene.terminal("attach", info.id[:8], rows=40)
    again.until(lambda text: "approve / reject / modify >" in text)
    assert "✓ Planning in " in again.text
    again.send("approve\n")
    again.until(lambda text: "│ row 1" in text)
    scene.let_script_end()
    assert again.end() == 0
    assert "decided: approve" in again.text
    assert store.run(info.id).status == "completed"


def test_what_cannot_begin_is_told_at_once(scene, store):
    where = ["--work-dir", scene.work_dir, "--detach"]
    unknown = scene.command("run", "deep_reserch", "t", *where)
    assert (unknown.returncode, "Did you mean deep_research?" in unknown.stderr) == (2, True)
    nowhere = scene.command("run", "deep_research", "t", *where, CMBAGENT_STORE=":memory:")
    assert nowhere.returncode == 2
    assert "--detach needs a store" in nowhere.stderr
    assert not scene.work_dir.exists()
    first = scene.detached()
    second = scene.command("run", "deep_research", "t", *where, "--json")
    assert second.returncode != 0
    assert first["id"] in second.stderr
    told = json.loads(second.stdout)
    assert told["exit_status"] == second.returncode
    assert first["id"] in told["error"]
    assert [info.id for info in store.runs()] == [first["id"]]


def test_a_run_goes_on_detached(scene, store):
    told = scene.detached()
    os.kill(told["pid"], signal.SIGKILL)
    wait_for(lambda: store.run(told["id"]).status == "interrupted")
    done = scene.command("resume", told["id"][:8], "--detach", "--json")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    scene.stack.callback(end, again["pid"])
    assert again["id"] == told["id"]
    assert store.run(told["id"]).owner["pid"] == again["pid"] != told["pid"]
    scene.go.set()
    scene.let_script_end()
    attached = scene.command("attach", told["id"])
    assert attached.returncode == 0, attached.stderr
    assert "Resumed: what is finished is not repeated" in attached.stdout


@pytest.mark.parametrize(
    ("word", "passed"), [("", "queue"), ("ask", "queue"), ("approve", "approve"), ("reject", "reject")]
)
def test_who_answers_a_detached_run(monkeypatch, word, passed):
    monkeypatch.setenv("CMBAGENT_HITL", word)
    assert _detach.hitl() == passed
    assert type(_detach.manager()).__name__ == (
        "QueueApprovalManager" if passed == "queue" else "AutoApprovalManager"
    )


def test_the_words_of_a_command_are_passed_on():
    command = get_command(app).commands["run"]
    given = [
        "deep_research", "--a task", "--work-dir", "w", "--detach", "--json", "--max-cost", "1.5", "--resume",
        "--fallback-model", "a", "--fallback-model", "b", "--n-plan-reviews", "0",
    ]  # fmt: skip
    given = [*given[:1], *given[2:], "--", given[1]]
    context = command.make_context("run", list(given))
    words = _detach.arguments(context, "the-id")
    again = command.make_context("run", words[1:])
    changed = {"detach": False, "as_json": False, "run_id": "the-id"}
    assert again.params == {**context.params, **changed}
    assert (again.params["n_plan_reviews"], again.params["fallback_model"]) == (0, ["a", "b"])


# --- attach ---


def test_ctrl_c_leaves_a_run_that_goes_on(scene, store):
    told = scene.detached()
    terminal = scene.terminal("attach", told["id"])
    terminal.until(lambda text: "thinking" in text)
    terminal.send("\x03")
    assert terminal.end() == 130
    assert f"Left. The run goes on; to watch it again: cmbagent attach {told['id']}" in terminal.text
    assert store.run(told["id"]).owner["pid"] == told["pid"]


def test_what_a_script_prints_is_shown_while_it_runs(scene):
    scene.go.set()
    told = scene.detached()
    terminal = scene.terminal("attach", told["id"], "--plain")
    terminal.until(lambda text: "row 1" in text)
    scene.let_script_end()
    assert terminal.end() == 0
    assert terminal.text.count("row 1\n") == 1
    assert "    row 1\n    answer = 42\n  ran in " in terminal.text


def test_a_question_without_a_terminal_is_told_and_answered_elsewhere(scene, store):
    scene.go.set()
    told = scene.detached("deep_research_hitl")
    wait_for(lambda: store.run(told["id"]).status == "waiting_approval")
    attached = subprocess.Popen(
        [sys.executable, "-m", "cmbagent", "attach", told["id"], "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    scene.stack.callback(attached.kill)
    while not (line := attached.stderr.readline()).startswith("The run asks: "):
        assert line, "the question was not told"
    assert scene.command("reject", told["id"]).returncode == 0
    output, _ = attached.communicate(timeout=PATIENCE)
    assert attached.returncode == 1
    assert (json.loads(output)["status"], json.loads(output)["exit_status"]) == ("failed", 1)


def test_a_question_that_is_answered_elsewhere_is_put_no_longer(scene, store):
    scene.go.set()
    told = scene.detached("deep_research_hitl")
    terminal = scene.terminal("attach", told["id"], rows=40)
    terminal.until(lambda text: "approve / reject / modify >" in text)
    assert scene.command("approve", told["id"]).returncode == 0
    terminal.until(lambda text: "│ row 1" in text)
    assert "It was answered elsewhere" in terminal.text
    scene.let_script_end()
    assert terminal.end() == 0


@pytest.mark.parametrize(
    ("status", "expected"),
    [("completed", 0), ("failed", 1), ("stopped", 3), ("cancelled", 3), ("waiting_approval", 3)],
)
def test_the_exit_status_is_the_run_s_own(invoke, store, tmp_path, status, expected):
    from cmbagent.phases import PhaseResult, PhaseStatus
    from procs import executor

    async def ends(context):
        if status in ("stopped", "cancelled"):
            (made.stop if status == "stopped" else made.cancel)()
            return None
        return PhaseResult(status=PhaseStatus(status), context=context, error="no data")

    async def more(context):
        return None

    made = executor(tmp_path / "work", ends, more)
    made.workflow.phases = [{"type": "do"}, {"type": "do"}]
    with contextlib.suppress(RuntimeError):
        made.run_sync()
    assert store.runs()[0].status == status
    result = invoke("attach", made.context.run_id)
    assert result.exit_code == expected, result.output
    quiet = invoke("attach", made.context.run_id, "--quiet")
    assert (quiet.exit_code, len(quiet.output.splitlines())) == (expected, 1)
    if status != "completed":
        assert f"To go on: cmbagent resume {made.context.run_id}" in result.stderr


def test_a_killed_run_is_told_as_interrupted(scene, store, invoke):
    told = scene.detached()
    os.kill(told["pid"], signal.SIGKILL)
    wait_for(lambda: store.run(told["id"]).status == "interrupted")
    result = invoke("attach", told["id"])
    assert result.exit_code == 75
    assert "is interrupted. To go on" in result.stderr


# --- following ---


class Kept:
    """A store with one run's events."""

    def __init__(self, *events):
        self.kept = [(kind, {"seq": seq, **data}) for seq, (kind, data) in enumerate(events, 1)]

    def events(self, run_id, start, limit):
        return self.kept[start - 1 :][:limit]


def printed(follower):
    return "".join(data["text"] for kind, data in follower.look() if kind == "script_output")


def test_the_log_of_a_script_is_read_as_it_grows(tmp_path):
    log = tmp_path / "a.log"
    kept = Kept(("script_started", {"log_path": str(log)}))
    follower = Follower(kept, "r1")
    assert printed(follower) == ""
    whole = "χ² = 1\n".encode()
    log.write_bytes(whole[:1])
    assert printed(follower) == ""
    log.write_bytes(whole)
    assert printed(follower) == "χ² = 1\n"
    log.write_bytes(whole + b"x" * 3 * BACK_BYTES + b"end")
    flood = printed(follower)
    assert len(flood) == BACK_BYTES
    assert flood.endswith("end")
    kept.kept.append(("script_finished", {"seq": 2, "output": "all of it"}))
    assert printed(follower) == ""


def test_output_that_could_not_be_followed_comes_at_the_end():
    kept = Kept(
        ("script_started", {"log_path": "/nowhere/a.log"}), ("script_finished", {"output": "answer = 42"})
    )
    kinds = [kind for kind, _ in Follower(kept, "r1").look()]
    assert kinds == ["script_started", "script_output", "script_finished"]


def test_pages_of_events_are_read_to_the_end(monkeypatch):
    monkeypatch.setattr("cmbagent.cli._follow.PAGE", 2)
    follower = Follower(Kept(*[("warning", {})] * 5), "r1")
    assert [data["seq"] for _, data in follower.look()] == [1, 2, 3, 4, 5]
    assert list(follower.look()) == []
