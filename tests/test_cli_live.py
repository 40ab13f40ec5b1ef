"""What a run draws on a terminal, seen as a terminal shows it."""

import contextlib
import io
import re
import threading

import pytest

from cmbagent.cli import _live
from cmbagent.cli._board import PHASES, Board
from cmbagent.cli._live import LiveDisplay
from cmbagent.testing import ModelServer, code, notes, plan, review
from procs import PATIENCE
from terminals import Terminal

PLAN = plan(("engineer", "Compute six times seven."), ("researcher", "Write it down."))
ROWS = """
import pathlib, time
for n in range(12):
    print("row", n, flush=True)
while not pathlib.Path("../../go").exists():
    time.sleep(0.01)
print("answer = 42")
"""
SCRIPT = {
    "planner": PLAN,
    "plan_reviewer": review("Print the number."),
    "engineer": code(ROWS, filename="rows.py"),
    "researcher": notes("# Answer\n\nThe answer is 42."),
}
RULE = "─" * 40


@pytest.fixture
def on_terminal(store, tmp_path):
    """Starts runs on terminals; their planner answers when `on_terminal.go` is set."""
    go = threading.Event()

    def planner(call):
        go.wait(PATIENCE * 3)
        return PLAN

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ModelServer({**SCRIPT, "planner": planner}))
        stack.callback(go.set)

        def start(workflow, *options, **settings):
            arguments = ["run", workflow, "Six times seven?", "--work-dir", tmp_path / "work", *options]
            made = Terminal(*arguments, **server.variables, **settings)
            stack.callback(made.close)
            return made

        start.go = go
        start.let_script_end = lambda: (tmp_path / "go").touch()
        yield start


def rows(terminal):
    """What is drawn below the last rule; nothing when nothing is."""
    lines = terminal.lines
    at = [number for number, line in enumerate(lines) if line.startswith(RULE)]
    assert len(at) <= 1, "\n".join(lines)
    return [line for line in lines[at[0] + 1 :] if line] if at else []


def test_where_the_run_stands_is_drawn_in_place_and_what_lasts_scrolls_by(on_terminal):
    terminal = on_terminal("deep_research")
    terminal.until(lambda text: "thinking" in text)
    head, phases, doing = rows(terminal)
    assert head.startswith("Deep Research · ")
    assert " · 0 model calls · 0 + 0 tokens, $0.0000" in head
    assert phases.split() == ["●", "Planning", "○", "control"]
    assert "planner · gpt-4.1-2025-04-14 · thinking · " in doing
    on_terminal.go.set()
    terminal.until(lambda text: "row 11" in text)
    head, phases, step, doing, *output = rows(terminal)
    assert " · 4 model calls · " in head
    assert phases.split()[0] == "✓"
    assert phases.split()[-2:] == ["●", "Execution"]
    assert step == "  Step 1 of 2 · engineer · Compute six times seven."
    assert "running codebase/rows.py · " in doing
    assert output == [f"    │ row {n}" for n in range(6, 12)]
    on_terminal.let_script_end()
    assert terminal.end() == 0
    assert rows(terminal) == []
    assert not terminal.screen.cursor.hidden
    text = terminal.text
    assert "✓ Planning in " in text
    assert "✓ Execution in " in text
    assert "  2. researcher: Write it down." in text
    assert "codebase/rows.py ran in " in text
    assert "\n    row 5\n" in text
    assert "row 4\n" not in text
    assert re.search(r"^    row 11\n    answer = 42\n(.*\n)*?  completed in ", text, re.MULTILINE), text
    assert text.splitlines()[-1].startswith("Results: ")
    for passing in ("thinking", RULE, "running"):
        assert passing not in text


def test_a_question_has_the_terminal_to_itself(on_terminal):
    on_terminal.go.set()
    terminal = on_terminal("deep_research_hitl", rows=40)
    terminal.until(lambda text: "approve / reject / modify >" in text)
    terminal.read(0.5)
    assert rows(terminal) == []
    assert terminal.lines[terminal.screen.cursor.y].startswith("approve / reject / modify >")
    terminal.send("approve\n")
    terminal.until(lambda text: "row 11" in text)
    assert rows(terminal)[1].split()[-2:] == ["●", "Execution"]
    on_terminal.let_script_end()
    assert terminal.end() == 0
    assert "approve / reject / modify > approve\n  decided: approve\n" in terminal.text


def test_ctrl_c_ends_the_run_and_leaves_a_clean_terminal(on_terminal, store):
    on_terminal.go.set()
    terminal = on_terminal("deep_research")
    terminal.until(lambda text: "row 11" in text)
    terminal.send("\x03")
    assert terminal.end() == 130
    (info,) = store.runs()
    assert rows(terminal) == []
    assert terminal.text.endswith(f"Interrupted. To go on: cmbagent resume {info.id}")
    assert not terminal.screen.cursor.hidden


def test_a_terminal_that_changes_its_width(on_terminal):
    on_terminal.go.set()
    terminal = on_terminal("deep_research", columns=120)
    terminal.until(lambda text: "row 11" in text)
    assert max(map(len, rows(terminal))) <= _live.WIDTH
    terminal.resize(50)
    terminal.until(lambda _: RULE + "─" * 9 in terminal.lines)
    assert rows(terminal)[0].endswith("…")
    terminal.resize(140)
    terminal.until(lambda _: "─" * (_live.WIDTH - 1) in terminal.lines)
    assert len(rows(terminal)) == 10
    on_terminal.let_script_end()
    assert terminal.end() == 0


def test_a_lost_terminal_ends_the_run_which_can_be_resumed(on_terminal, store):
    on_terminal.go.set()
    terminal = on_terminal("deep_research")
    terminal.until(lambda text: "row 11" in text)
    assert terminal.hang_up() != 0
    (info,) = store.runs()
    assert (info.status, info.resumable) == ("interrupted", True)


@pytest.mark.parametrize(
    ("options", "settings"),
    [(["--plain"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"}), ([], {"PYTHONIOENCODING": "ascii"})],
)
def test_line_by_line_where_nothing_can_be_drawn_or_nobody_wants_it(on_terminal, options, settings):
    on_terminal.go.set()
    terminal = on_terminal("deep_research", *options, **settings)
    terminal.until(lambda text: "row 11" in text)
    assert rows(terminal) == []
    on_terminal.let_script_end()
    assert terminal.end() == 0
    assert all(f"row {n}\n" in terminal.text for n in range(12))
    assert b"\x1b[1A" not in terminal.written


# --- without a terminal ---

RUN = {
    "run_id": "r1",
    "at": 100.0,
    "work_dir": "/w",
    "workflow_name": "W",
    "phases": ["planning", "control"],
}


def board(*events, phases=None):
    made = Board()
    made.event("run_started", {**RUN, **({"phases": phases} if phases else {})})
    for kind, data in events:
        made.event(kind, {"run_id": "r1", "at": 101.0, **data})
    return made


def texts(made, now=163.0, width=80):
    return [row.plain for row in made.rows(now, width)][1:]


def test_words_of_the_board():
    usage = {"calls": 1, "prompt_tokens": 7, "completion_tokens": 3, "cost": 0.5, "unpriced_models": []}
    made = board(
        ("phase_started", {"phase_index": 0, "display_name": "Planning"}),
        ("call_finished", {"usage": usage}),
        ("phase_finished", {"phase_index": 0, "status": "failed", "seconds": 2.0}),
        ("phase_skipped", {"phase_index": 1, "display_name": "Execution"}),
        ("run_paused", {}),
    )
    assert texts(made) == [
        "W · r1 · 1 min 03 s · 1 model call · 7 + 3 tokens, $0.5000",
        "  ✗ Planning 2.00 s   ○ Execution",
        "  paused: `cmbagent resume` lets it go on",
    ]


def test_what_goes_on_is_told_with_its_time():
    call = {"agent": "engineer", "model": "m"}
    steps = [("call_started", call), ("call_text", {**call, "delta": "abc"}), ("call_retry", call)]
    told = [texts(board(*steps[: n + 1]))[-1].partition("engineer")[2] for n in range(3)]
    assert told == [
        " · m · thinking · 62 s",
        " · m · writing, 3 characters · 62 s",
        " · m · trying again · 62 s",
    ]
    assert "cmbagent approve r1" in texts(board(("approval_requested", {})))[-1]


def test_many_phases_are_counted():
    kinds = [f"p{n}" for n in range(PHASES + 1)]
    made = board(
        ("phase_restored", {"phase_index": 0}),
        ("phase_started", {"phase_index": 1, "display_name": "Second"}),
        phases=kinds,
    )
    assert texts(made)[1] == f"  ✓ 1 of {PHASES + 1} phases   ● Second"


def test_runs_that_phases_make_are_not_taken_for_the_run():
    made = board(("phase_started", {"phase_index": 0, "display_name": "Planning"}))
    before = texts(made)
    made.event("run_started", {**RUN, "run_id": "child", "workflow_name": "Child"})
    made.event("phase_started", {"run_id": "child", "phase_index": 0, "display_name": "Other"})
    assert texts(made) == before


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.fixture
def display(monkeypatch):
    """A display that draws when it is told to, and not by the clock."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(_live, "FRAMES_A_SECOND", 0.001)
    made = LiveDisplay(Screen())
    yield made
    made.close()


def test_events_that_stream_write_nothing_themselves(display):
    display.event("run_started", RUN)
    before = display._stream.getvalue()
    display.event("call_started", {"run_id": "r1", "agent": "a", "model": "m"})
    for _ in range(1000):
        display.event("call_text", {"run_id": "r1", "agent": "a", "delta": "x"})
        display.event("script_output", {"run_id": "r1", "text": "row\n"})
    assert display._stream.getvalue() == before
    assert _live.FRAMES_A_SECOND <= 10


def test_output_may_not_steer_the_terminal(display):
    display.event("run_started", RUN)
    display.event("script_started", {"run_id": "r1", "file": "a.py"})
    display.event("script_output", {"run_id": "r1", "text": "\x1b[2Jcleared\x07\n10 %\r20 %"})
    frame = [row.plain for row in display._frame().renderables]
    assert frame[-2:] == ["    │ cleared", "    │ 20 %"]


def test_a_terminal_that_has_gone_ends_the_display_alone(display):
    display.event("run_started", RUN)

    def gone(*_):
        raise OSError(5, "Input/output error")

    display._stream.write = gone
    display.event("warning", {"run_id": "r1", "message": "m"})
    display.event("warning", {"run_id": "r1", "message": "m"})
    display.close()


def test_a_display_that_is_held_is_drawn_again_by_the_last_that_held_it(display):
    display.event("run_started", RUN)
    with display.hold():
        with display.hold():
            assert display._live is None
        assert display._live is None
    assert display._live is not None
    display.event("run_finished", {"run_id": "r1", "status": "completed", "seconds": 1.0, "usage": {}})
    with display.hold():
        pass
    assert display._live is None
