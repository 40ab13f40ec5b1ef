"""What programs get of the command: one JSON document on standard output, and an exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.main import get_command

from begun import begun
from cmbagent.cli import app
from cmbagent.cli._status import Exit, of_run
from cmbagent.phases import PhaseRegistry
from cmbagent.testing import ModelServer, code, notes, plan, review
from cmbagent.workflows import SYSTEM_WORKFLOWS

ROOT = Path(__file__).parent.parent
SCRIPT = {
    "planner": plan(("engineer", "Compute six times seven."), ("researcher", "Write it down.")),
    "plan_reviewer": review("Print the number."),
    "engineer": code("print('answer = 42')", filename="answer.py"),
    "researcher": notes("# Answer\n\nThe answer is 42."),
}
BROKEN = {**SCRIPT, "engineer": code("raise ValueError('no data')", filename="answer.py")}
COMMANDS = get_command(app).commands


@pytest.fixture
def told(invoke, store, tmp_path):
    """What a verb told programs, and what it told people."""

    def ask(*arguments, status=0, script=SCRIPT):
        with ModelServer(script) as server, server.environment():
            result = invoke(*arguments, "--json")
        assert result.exit_code == status, result.output
        return json.loads(result.stdout), result.stderr

    return ask


@pytest.fixture
def ran(told, tmp_path):
    return told("run", "deep_research", "Six times seven?", "--work-dir", tmp_path / "work")[0]


def test_every_verb_tells_programs():
    assert [name for name, each in COMMANDS.items() if "as_json" not in _names(each)] == []


def test_every_verb_and_option_has_a_help_text():
    for name, command in COMMANDS.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)


def _names(command):
    return [parameter.name for parameter in command.params]


def test_a_run(ran, told, store, tmp_path):
    (info,) = store.runs()
    assert ran["id"] == info.id
    assert (ran["status"], ran["exit_status"], ran["error"], ran["kept"]) == ("completed", 0, None, True)
    assert ran["work_dir"] == str(tmp_path / "work")
    assert ran["usage"]["calls"] == 5
    assert ran["phases"] == [
        {"type": kind, "status": "completed", "error": None} for kind in ("planning", "control")
    ]
    assert ran["seconds"] > 0


def test_progress_goes_to_standard_error(told, tmp_path):
    _, people = told("run", "one_shot", "Six times seven?", "--work-dir", tmp_path / "work")
    assert "answer = 42" in people
    _, people = told("run", "one_shot", "Six times seven?", "--work-dir", tmp_path / "work", "--quiet")
    assert people == ""


def test_a_run_that_fails_and_goes_on(told, store, tmp_path):
    arguments = ["--work-dir", tmp_path / "work", "--max-attempts", "0", "--quiet"]
    failed, people = told("run", "deep_research", "t", *arguments, status=1, script=BROKEN)
    assert (failed["status"], failed["exit_status"]) == ("failed", 1)
    assert failed["error"].startswith("Phase control failed")
    assert f"To go on: cmbagent resume {failed['id']}" in people
    resumed, _ = told("resume", failed["id"])
    assert (resumed["id"], resumed["status"]) == (failed["id"], "completed")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "deep_reserch", "t"), "Did you mean deep_research?"),
        (("run", "deep_research_hitl", "t"), "asks you questions"),
        (("show", "nine"), "has no run 'nine'"),
        (("phases", "controll"), "Did you mean control?"),
    ],
)
def test_wrong_usage(told, arguments, said):
    found, people = told(*arguments, status=2)
    assert set(found) == {"error", "exit_status"}
    assert said in found["error"]
    assert people == f"error: {found['error']}\n"
    assert found["exit_status"] == 2


def test_an_estimate(told, tmp_path):
    found, _ = told("run", "one_shot", "t", "--dry-run", "--work-dir", tmp_path)
    assert [call["agent"] for call in found["calls"]] == ["engineer"]
    assert found["cost_high"] > found["cost_low"] > 0


def test_lists(told, ran):
    assert [each["id"] for each in told("runs")[0]] == [ran["id"]]
    assert told("show", ran["id"])[0]["run"]["id"] == ran["id"]
    assert [each["id"] for each in told("workflows")[0]] == list(SYSTEM_WORKFLOWS)


def test_attach(told, ran):
    found, people = told("attach", ran["id"])
    assert (found["id"], found["status"], found["exit_status"]) == (ran["id"], "completed", 0)
    assert "answer = 42" in people


def test_answers_and_demands(told, invoke, store, tmp_path):
    journal = begun(store._core, "r1", {"workflow": {"id": "w", "phases": [{"type": "x"}]}}, str(tmp_path))
    assert told("stop", "r1")[0] == {"run": "r1", "demand": "stop"}
    journal.release()
    found, _ = told("cancel", "r1", status=4)
    assert "nothing to cancel" in found["error"]
    found, _ = told("approve", "r1", status=2)
    assert "no open question" in found["error"]


def test_archives(told, ran, invoke, tmp_path):
    found, _ = told("export", ran["id"], tmp_path / "run.zip")
    assert (found["run"], found["file"]) == (ran["id"], str(tmp_path / "run.zip"))
    assert found["bytes"] == (tmp_path / "run.zip").stat().st_size
    pruned, _ = told("prune", "--run", ran["id"])
    assert ([each["id"] for each in pruned["runs"]], pruned["deleted"]) == ([ran["id"]], False)
    assert told("prune", "--run", ran["id"], "--yes")[0]["deleted"] is True
    taken, _ = told("import", tmp_path / "run.zip", "--to", tmp_path / "new")
    assert (taken["id"], taken["imported"]) == (ran["id"], True)


def test_the_demo(told, monkeypatch, tmp_path):
    import cmbagent.demo

    monkeypatch.setattr(cmbagent.demo, "find_spec", lambda name: None)
    found, people = told("demo", "--work-dir", tmp_path, status=1)
    assert found == {"work_dir": str(tmp_path), "exit_status": 1}
    assert "not installed here" in people


# --- phases ---


def test_phases_and_their_settings(told, invoke):
    found, _ = told("phases")
    assert [each["type"] for each in found] == sorted(PhaseRegistry.list_all())
    one, _ = told("phases", "planning")
    assert one in found
    assert one["config_schema"]["properties"]["max_plan_steps"]["minimum"] == 1
    lines = invoke("phases").output.splitlines()
    assert [line.split()[0] for line in lines] == [each["type"] for each in found]
    page = invoke("phases", "hitl_checkpoint").output
    assert page.startswith("hitl_checkpoint: ")
    assert re.search(r'^default_on_timeout  one of "approve", "reject"', page, re.MULTILINE)
    assert re.search(r"^max_retries  integer, at least 0; default 0\n    How often", page, re.MULTILINE)


# --- statuses ---


def test_exit_statuses_are_told_in_one_voice():
    table = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8").partition("## Exit status")[2]
    rows = {int(number): words for number, words in re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)}
    assert rows == {int(each): each.meaning for each in Exit}
    told = get_command(app).epilog
    assert all(f"{each.value} {each.meaning}" in told for each in Exit)
    assert [of_run(word) for word in ("completed", "failed", "interrupted", "stopped")] == [0, 1, 75, 3]


# --- completion and cost of starting ---


def completed(words):
    """What a shell would offer after these words."""
    settings = {
        "_CMBAGENT_COMPLETE": "complete_bash",
        "COMP_WORDS": f"cmbagent {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    program = "import sys; sys.argv = ['cmbagent']; from cmbagent.cli import app; app(prog_name='cmbagent')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **settings}
    )
    return done.stdout.split()


def test_a_shell_completes(ran, store):
    assert completed("wor") == ["workflows"]
    assert completed("run deep_research_") == ["deep_research_hitl", "deep_research_full_hitl"]
    assert completed("phases idea") == ["idea_generation"]
    assert completed("show ") == [ran["id"]]
    assert completed(f"attach {ran['id'][:4]}") == [ran["id"]]
    assert completed("doctor --on") == ["--online"]


def test_a_shell_that_cannot_read_the_store_completes_nothing(monkeypatch, tmp_path):
    (tmp_path / "store.db").write_text("no database" * 1000)
    monkeypatch.setenv("CMBAGENT_STORE", str(tmp_path / "store.db"))
    assert completed("show ") == []


@pytest.mark.parametrize("arguments", ["--version", "--help", "workflows", "runs"])
def test_rich_is_loaded_when_something_is_drawn(store, arguments):
    program = (
        f"import sys; sys.argv = ['cmbagent', {arguments!r}]\n"
        "from cmbagent.cli import app\n"
        "try: app()\n"
        "finally: print([n for n in ('rich', 'cmbagent._core') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = done.stderr.splitlines()[-1]
    assert "rich" not in loaded
    if arguments == "--help":
        assert loaded == "[]"


def test_a_server_tells_where_it_listens(tmp_path):
    program = [
        sys.executable,
        "-m",
        "cmbagent",
        "serve",
        "--port",
        "0",
        "--json",
        "--root",
        str(tmp_path / "runs"),
    ]
    environment = {**os.environ, "CMBAGENT_STORE": str(tmp_path / "store.db")}
    with subprocess.Popen(
        program, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        try:
            told = json.loads("".join(iter(lambda: server.stdout.readline().decode(), "}\n")) + "}")
            with urllib.request.urlopen(f"{told['api']}/types") as answer:
                assert "planning" in answer.read().decode()
        finally:
            server.send_signal(signal.SIGINT)
        assert (told["token"], server.wait()) == (False, 0)
