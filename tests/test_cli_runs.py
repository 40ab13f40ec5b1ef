"""The verbs over runs that are kept."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from begun import begun
from cmbagent.approvals import choice
from cmbagent.cli import resume as resume_module
from cmbagent.testing import ModelServer, code, notes, plan, review
from procs import PATIENCE, wait_for

PLAN = plan(("engineer", "Compute six times seven."), ("researcher", "Write it down."))
SCRIPT = {
    "planner": PLAN,
    "plan_reviewer": review("Print the number."),
    "engineer": code("print('answer = 42')", filename="answer.py"),
    "researcher": notes("# Answer\n\nThe answer is 42."),
}
BROKEN = {**SCRIPT, "engineer": code("raise ValueError('no data')", filename="answer.py")}


@pytest.fixture
def failed(invoke, store, tmp_path):
    """The id of a run whose engineer gave up."""
    with ModelServer(BROKEN) as server, server.environment():
        arguments = ["--work-dir", tmp_path / "work", "--max-attempts", "0", "--quiet"]
        assert invoke("run", "deep_research", "Six times seven?", *arguments).exit_code == 1
    (info,) = store.runs()
    return info.id


def going_on(invoke, *arguments, **options):
    """What `cmbagent resume` said, and which agents it asked."""
    with ModelServer(SCRIPT) as server, server.environment():
        result = invoke("resume", *arguments, **options)
    return result, server.agents()


# --- resume ---


def test_resume_goes_on_at_the_step_that_failed(invoke, store, failed):
    result, agents = going_on(invoke, failed[:6])
    assert result.exit_code == 0, result.output
    assert agents == ["engineer", "researcher"]
    assert "Resumed: what is finished is not repeated" in result.output
    assert re.search(r"Planning.*: taken up as it was", result.output)
    assert store.run(failed).status == "completed"


def test_a_phase_without_steps_that_failed_is_done_anew(invoke, store, tmp_path):
    arguments = ["--work-dir", tmp_path / "work", "--max-attempts", "0", "--quiet"]
    with ModelServer(BROKEN) as server, server.environment():
        assert invoke("run", "one_shot", "Six times seven?", *arguments).exit_code == 1
    (info,) = store.runs()
    result, agents = going_on(invoke, info.id)
    assert (result.exit_code, agents) == (0, ["engineer"])


def test_resume_of_a_directory(invoke, failed, tmp_path):
    result, agents = going_on(invoke, tmp_path / "work", "--quiet")
    assert (result.exit_code, agents) == (0, ["engineer", "researcher"])
    assert len(result.output.splitlines()) == 1


def test_resume_without_a_name_names_the_newest_and_asks(invoke, monkeypatch, store, failed):
    result, agents = going_on(invoke)
    assert (result.exit_code, agents) == (2, [])
    assert f"Name the run, or say --yes to the newest: {failed} (deep_research, failed" in result.stderr
    monkeypatch.setattr(choice, "is_interactive", lambda: True)
    result, agents = going_on(invoke, input="n\n")
    assert (result.exit_code, agents) == (1, [])
    assert f"Resume {failed}" in result.output
    result, agents = going_on(invoke, input="y\n")
    assert (result.exit_code, agents) == (0, ["engineer", "researcher"])
    result, _ = going_on(invoke, "--yes")
    assert result.exit_code == 2
    assert "has no run that can be resumed" in result.stderr


@pytest.mark.parametrize("arguments", [("resume", "nine"), ("show", "nine"), ("stop", "nine")])
def test_a_run_that_is_not_there(invoke, store, arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert (
        result.stderr
        == f"error: the store {store.path} has no run 'nine'; `cmbagent runs` lists those it has\n"
    )


def test_a_run_with_phases_of_the_users_own_is_resumed_in_their_program(invoke, store, tmp_path):
    about = {"workflow": {"id": "w", "name": "w", "phases": [{"type": "theirs"}]}, "task": "t"}
    begun(store._core, "r1", about, str(tmp_path / "work")).release()
    result = invoke("resume", "r1")
    assert result.exit_code == 2
    assert "only your own program knows: theirs" in result.stderr
    assert "cmbagent.resume('r1')" in result.stderr


def test_resume_needs_the_keys_again(invoke, failed):
    result = invoke("resume", failed)
    assert result.exit_code == 2
    assert "set OPENAI_API_KEY" in result.stderr
    assert resume_module.missing_keys.__module__ == "cmbagent.cli._definition"


def test_nothing_is_kept_in_memory(invoke, monkeypatch):
    monkeypatch.setenv("CMBAGENT_STORE", ":memory:")
    result = invoke("runs")
    assert result.exit_code == 2
    assert "CMBAGENT_STORE is :memory:" in result.stderr


# --- runs, show, prune ---


def test_an_empty_store_is_no_failed_search(invoke, store):
    result = invoke("runs")
    assert result.exit_code == 0
    assert result.stderr == f"No run yet in {store.path}.\n"
    assert invoke("runs", "--status", "failed").stderr == f"No such run in {store.path}.\n"


def test_runs_tells_small_costs(invoke, store, tmp_path):
    with ModelServer(SCRIPT) as server, server.environment():
        assert invoke("run", "one_shot", "Seven?", "--work-dir", tmp_path / "a").exit_code == 0
    cost = json.loads(invoke("runs", "--json").output)[0]["usage"]["cost"]
    assert 0 < cost < 0.01
    assert f" ${cost:.4f} " in invoke("runs").output


def test_runs_as_a_table_and_as_json(invoke, store, failed, tmp_path):
    with ModelServer(SCRIPT) as server, server.environment():
        assert invoke("run", "one_shot", "Seven\x1b[31m\ntimes?", "--work-dir", tmp_path / "b").exit_code == 0
    lines = invoke("runs").output.splitlines()
    assert lines[0].split() == ["RUN", "STATUS", "WORKFLOW", "CHANGED", "COST", "TASK"]
    assert [line.split()[1] for line in lines[1:]] == ["completed", "failed"]
    assert "Seven [31m times?" in lines[1]
    assert failed.startswith(lines[2].split()[0])
    listed = json.loads(invoke("runs", "--json").output)
    assert [each["status"] for each in listed] == ["completed", "failed"]
    assert [each["resumable"] for each in listed] == [False, True]
    assert listed[1]["usage"]["calls"] == 4


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (["--status", "failed"], 1),
        (["--status", "failed", "--status", "completed"], 1),
        (["--status", "completed"], 0),
        (["--workflow", "deep_research"], 1),
        (["--workflow", "one_shot"], 0),
        (["--days", "1"], 1),
        (["--days", "0"], 0),
        (["--work-dir", "work"], 1),
        (["--work-dir", "elsewhere"], 0),
    ],
)
def test_filters_of_runs(invoke, monkeypatch, failed, tmp_path, filters, count):
    monkeypatch.chdir(tmp_path)
    assert len(json.loads(invoke("runs", "--json", *filters).output)) == count


def test_a_filter_for_no_status(invoke, store):
    result = invoke("runs", "--status", "done")
    assert result.exit_code == 2
    assert "'done' is no status; there are: pending, running" in result.stderr


def test_runs_of_phases_are_listed_when_asked_for(invoke, store, tmp_path):
    begun(store._core, "above", {"task": "t"}, str(tmp_path)).release()
    begun(store._core, "below", {"task": "t"}, str(tmp_path), parent="above", root="above").release()
    assert len(json.loads(invoke("runs", "--json").output)) == 1
    assert len(json.loads(invoke("runs", "--json", "--all").output)) == 2


def test_show_tells_what_happened_and_why_it_failed(invoke, failed):
    page = invoke("show", failed).output
    lines = page.splitlines()
    assert lines[0] == f"Run {failed} · deep_research · failed"
    assert lines[1] == "Task: Six times seven?"
    assert re.search(r"^Spent: 4 model calls, [\d,]+ \+ [\d,]+ tokens, \$", page, re.MULTILINE)
    assert re.search(r"^Planning.* · completed · .*\$", page, re.MULTILINE)
    assert re.search(r"^    planner · \S+ · .* tokens", page, re.MULTILINE)
    assert re.search(
        r"^  Step 1 of 2 · engineer · failed · .* · Compute six times seven\.", page, re.MULTILINE
    )
    assert re.search(r"^    script codebase/answer.py · failed \(.*1.*\)", page, re.MULTILINE)
    assert "  planning/final_plan.json" in lines
    assert re.search(r"^Why it ended: Phase control failed: .*no data", page, re.MULTILINE)
    assert lines[-1] == f"To go on: cmbagent resume {failed}"


def test_show_after_a_resume(invoke, failed):
    assert going_on(invoke, failed)[0].exit_code == 0
    page = invoke("show", failed).output
    assert ", resumed 1 time\n" in page
    assert re.search(r"^Planning.* · completed, taken up · ", page, re.MULTILINE)
    assert "Why it ended" not in page
    assert "To go on" not in page
    found = json.loads(invoke("show", failed, "--json").output)
    assert [life["status"] for life in found["lives"]] == ["failed", "completed"]
    steps = [entry for entry in found["phases"][1]["entries"] if entry["what"] == "step"]
    assert [(step["number"], step["status"]) for step in steps][-2:] == [(1, "completed"), (2, "completed")]
    assert found["unfinished"] == []
    assert any(path.endswith("answer.md") for path in found["files"])


def test_prune_shows_and_deletes_only_when_told(invoke, store, failed, tmp_path):
    shown = invoke("prune", "--run", failed[:5])
    assert shown.exit_code == 0
    assert failed in shown.output
    assert "Nothing was deleted: --yes deletes the records of 1 run." in shown.output
    assert len(store.runs()) == 1
    assert "nothing to delete" in invoke("prune", "--older-than", "1", "--yes").output
    done = invoke("prune", "--older-than", "0", "--yes")
    assert "Deleted the records of 1 run" in done.output
    assert store.runs() == []
    assert (tmp_path / "work" / "planning" / "final_plan.json").is_file()
    assert invoke("prune").exit_code == 2


def test_prune_takes_the_runs_of_phases_along(invoke, store, tmp_path):
    begun(store._core, "above", {"task": "t"}, str(tmp_path)).release()
    begun(store._core, "below", {"task": "t"}, str(tmp_path), parent="above", root="above").release()
    begun(store._core, "other", {"task": "t"}, str(tmp_path)).release()
    assert "the records of 2 runs" in invoke("prune", "--run", "above", "--yes").output
    assert [info.id for info in store.runs()] == ["other"]


# --- runs in other processes ---


class Elsewhere:
    """`cmbagent` in a process of its own."""

    def __init__(self, server, *arguments, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cmbagent", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **server.variables, **environment},
        )

    def end(self):
        output, error = self.process.communicate(timeout=PATIENCE * 3)
        return self.process.returncode, output, error


@pytest.fixture
def elsewhere(tmp_path):
    """Starts commands; their planner answers when `elsewhere.go` is set."""
    go = threading.Event()

    def planner(call):
        go.wait(PATIENCE * 3)
        return PLAN

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ModelServer({**SCRIPT, "planner": planner}))
        stack.callback(go.set)

        def start(*arguments, **environment):
            made = Elsewhere(server, *arguments, "--work-dir", tmp_path / "work", **environment)
            stack.callback(made.process.kill)
            return made

        start.go, start.server = go, server
        yield start


def under_way(elsewhere, store, made):
    """The run, once its planner has been asked."""
    wait_for(lambda: elsewhere.server.calls or made.process.poll() is not None)
    assert made.process.poll() is None, made.end()
    (info,) = store.runs()
    assert info.status == "running"
    assert info.owner["pid"] == made.process.pid
    return info.id


def test_stop_from_elsewhere(invoke, store, elsewhere):
    made = elsewhere("run", "deep_research", "task")
    run = under_way(elsewhere, store, made)
    assert invoke("prune", "--run", run, "--yes").exit_code == 4
    taken = invoke("resume", run)
    assert taken.exit_code == 4 or "No key" in taken.stderr
    assert invoke("stop", run).exit_code == 0
    # The demand is looked for four times a second.
    wait_for(
        lambda: store.run(run).status == "stopping" or elsewhere.go.wait(1) or elsewhere.go.set() or True
    )
    elsewhere.go.set()
    status, _, error = made.end()
    assert status == 3, error
    assert error.endswith(f"The run was stopped.\nTo go on: cmbagent resume {run}\n")
    assert store.run(run).status == "stopped"
    late = invoke("stop", run)
    assert late.exit_code == 4
    assert "no process runs it, so there is nothing to stop" in late.stderr
    assert going_on(invoke, run)[1] == ["engineer", "researcher"]


def test_cancel_from_elsewhere(invoke, store, elsewhere):
    made = elsewhere("run", "deep_research", "task")
    run = under_way(elsewhere, store, made)
    assert invoke("cancel", run[:7]).exit_code == 0
    status, _, error = made.end()
    assert status == 3, error
    assert error.endswith(f"error: the run was cancelled\nTo go on: cmbagent resume {run}\n")
    assert store.run(run).status == "cancelled"
    assert "Cut short:\n  a call of planner" in invoke("show", run).output


def test_pause_from_elsewhere_and_resume(invoke, store, elsewhere):
    made = elsewhere("run", "deep_research", "task")
    run = under_way(elsewhere, store, made)
    assert invoke("pause", run).exit_code == 0
    threading.Timer(1, elsewhere.go.set).start()
    wait_for(lambda: store.run(run).status == "paused")
    resumed = invoke("resume", run)
    assert (
        resumed.output
        == f"Run {run} goes on, in process {made.process.pid} on {store.run(run).owner['host']}.\n"
    )
    status, output, error = made.end()
    assert status == 0, error
    assert "paused" in output
    assert "continued" in output


def test_killed_run_is_interrupted_and_resumed(invoke, store, elsewhere):
    made = elsewhere("run", "deep_research", "task")
    run = under_way(elsewhere, store, made)
    made.process.send_signal(signal.SIGKILL)
    made.end()
    assert [each["status"] for each in json.loads(invoke("runs", "--json").output)] == ["interrupted"]
    page = invoke("show", run).output
    assert page.startswith(f"Run {run} · deep_research · interrupted\n")
    assert "Cut short:\n  a call of planner" in page
    result, agents = going_on(invoke, run)
    assert result.exit_code == 0, result.output
    assert agents == ["planner", "plan_reviewer", "planner", "engineer", "researcher"]
    assert "cut short before, now again: a model call" in result.output


def test_a_question_is_answered_from_another_process(invoke, store, elsewhere):
    elsewhere.go.set()
    made = elsewhere("run", "deep_research_hitl", "task", CMBAGENT_HITL="queue")
    wait_for(
        lambda: (store.runs() and store.questions(store.runs()[0].id)) or made.process.poll() is not None
    )
    assert made.process.poll() is None, made.end()
    (info,) = store.runs()
    wait_for(lambda: store.run(info.id).status == "waiting_approval")
    page = invoke("show", info.id).output
    assert "Running now:\n  a question" in page
    assert f"To answer: cmbagent approve {info.id}" in page
    wrong = invoke("answer", info.id, "perhaps")
    assert wrong.exit_code == 2
    assert "'perhaps' is none of the options" in wrong.stderr
    assert invoke("approve", info.id, "--question", "9").exit_code == 2
    done = invoke("approve", info.id, "--feedback", "Use SI units.")
    assert (done.exit_code, done.output) == (0, f"Answered approve to run {info.id}; it goes on.\n")
    status, _, error = made.end()
    assert status == 0, error
    assert "Use SI units." in elsewhere.server.prompts("engineer")[0]
    again = invoke("approve", info.id)
    assert again.exit_code == 2
    assert "has no open question" in again.stderr


def test_a_question_is_answered_while_nobody_runs_the_run(invoke, store, elsewhere):
    elsewhere.go.set()
    made = elsewhere("run", "deep_research_hitl", "task", CMBAGENT_HITL="queue")
    wait_for(
        lambda: (store.runs() and store.questions(store.runs()[0].id)) or made.process.poll() is not None
    )
    made.process.kill()
    made.end()
    (info,) = store.runs()
    unanswered = invoke("resume", info.id)
    assert unanswered.exit_code == 2
    assert f"Answer it with cmbagent approve {info.id}" in unanswered.stderr
    rejected = invoke("reject", info.id)
    assert rejected.output == f"Answered reject to run {info.id}; to go on: cmbagent resume {info.id}.\n"
    result, agents = going_on(invoke, info.id)
    assert result.exit_code == 1, result.output
    assert agents == []
    assert store.run(info.id).status == "failed"
