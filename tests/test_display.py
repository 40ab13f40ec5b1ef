"""What the display shows, and what it must not."""

import io
import sys

import pytest

from cmbagent.display import (
    CODE_LINES,
    OUTPUT_LINES,
    TAIL_LINES,
    Display,
    make_display,
    seconds_text,
    usage_text,
)

USAGE = {
    "calls": 2,
    "prompt_tokens": 1234,
    "completion_tokens": 56,
    "cached_tokens": 0,
    "reasoning_tokens": 0,
    "cost": 0.0123,
    "unpriced_models": [],
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Counting(io.StringIO):
    writes = 0

    def write(self, text):
        self.writes += 1
        return super().write(text)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("NO_COLOR", "CMBAGENT_QUIET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def shown(*events, stream=None):
    out = stream or io.StringIO()
    display = Display(out)
    for kind, data in events:
        display.event(kind, data)
    return out.getvalue()


RUN = (
    "run_started",
    {"run_id": "r1", "work_dir": "/w", "workflow_name": "Deep Research", "phases": ["planning", "control"]},
)


def test_make_display(monkeypatch):
    assert make_display(False) is None
    assert isinstance(make_display(None), Display)
    monkeypatch.setenv("CMBAGENT_QUIET", "1")
    assert make_display(None) is None
    assert isinstance(make_display(True), Display)
    monkeypatch.setenv("CMBAGENT_QUIET", "0")
    assert isinstance(make_display(None), Display)


def test_a_run_in_plain_text():
    steps = [
        {"sub_task": "Fit the data.", "sub_task_agent": "engineer", "bullet_points": ["Use least squares."]}
    ]
    text = shown(
        RUN,
        ("phase_started", {"phase": "planning", "display_name": "Planning"}),
        ("call_started", {"agent": "planner", "model": "m", "prompt_characters": 9}),
        ("call_text", {"agent": "planner", "delta": "{"}),
        ("call_finished", {"agent": "planner", "model": "m", "seconds": 3.21, "usage": USAGE, "text": "{}"}),
        ("plan_ready", {"steps": steps, "seconds": 4.0, "path": "/w/planning/final_plan.json"}),
        ("file_written", {"path": "/w/planning/final_plan.json", "what": "plan"}),
        ("step_started", {"number": 1, "total": 1, "sub_task": "Fit the data.", "step_agent": "engineer"}),
        (
            "script_started",
            {
                "file": "/w/control/codebase/fit.py",
                "attempt": 1,
                "attempts": 4,
                "limit_seconds": None,
                "code": "# filename: fit.py\nx = 1\nprint(x)",
            },
        ),
        ("script_output", {"text": "chi2 = 1"}),
        ("script_output", {"text": ".5\nnext"}),
        (
            "script_finished",
            {
                "file": "/w/control/codebase/fit.py",
                "success": True,
                "exit": "exit status 0",
                "seconds": 0.5,
                "log_path": "/w/l",
            },
        ),
        (
            "step_finished",
            {
                "number": 1,
                "total": 1,
                "status": "completed",
                "seconds": 61,
                "files": ["/w/control/data/a.csv", "/w/control/logs/1.log", "/elsewhere/b"],
            },
        ),
        ("run_finished", {"status": "completed", "seconds": 75.0, "usage": USAGE, "error": None}),
    )
    assert text.splitlines() == [
        "Deep Research · planning → control · run r1",
        "Work directory: /w",
        "",
        "Planning",
        "  planner · m · 3.21 s · 1,234 + 56 tokens, $0.0123",
        "  Plan, made in 4.00 s:",
        "  1. engineer: Fit the data.",
        "       - Use least squares.",
        "  → planning/final_plan.json",
        "",
        "Step 1 of 1 · engineer · Fit the data.",
        "  running control/codebase/fit.py (no time limit)",
        "  │ x = 1",
        "  │ print(x)",
        "    chi2 = 1.5",
        "    next",
        "  ran in 0.50 s",
        "  → control/data/a.csv",
        "  → /elsewhere/b",
        "  completed in 1 min 01 s",
        "",
        "Completed in 1 min 15 s: 2 model calls, 1,234 + 56 tokens, $0.0123",
        "Results: /w",
    ]


def test_one_write_an_event():
    out = Counting()
    shown(
        RUN,
        ("warning", {"message": "a"}),
        ("run_finished", {"status": "completed", "seconds": 1, "usage": USAGE}),
        stream=out,
    )
    assert out.writes == 3


def test_failures_say_why():
    text = shown(
        (
            "script_started",
            {"file": "f.py", "attempt": 2, "attempts": 4, "limit_seconds": 60.0, "code": "boom"},
        ),
        ("script_finished", {"success": False, "exit": "exit status 1", "seconds": 1.0, "log_path": "f.log"}),
        ("call_retry", {"agent": "engineer", "reason": "status 429", "wait_seconds": 2.0, "tries": 2}),
        ("step_finished", {"status": "failed", "seconds": 2.0, "error": "no data", "files": []}),
        (
            "phase_finished",
            {"phase": "control", "status": "failed", "error": "Step 1 failed after 4 attempts"},
        ),
        (
            "run_finished",
            {"status": "failed", "seconds": 3.0, "usage": USAGE, "error": "Phase control failed"},
        ),
    )
    assert "try 2 of 4, limit 1 min 00 s" in text
    assert "failed in 1.00 s (exit status 1); log: f.log" in text
    assert "status 429; trying again in 2.00 s" in text
    assert "failed in 2.00 s: no data" in text
    assert "control failed: Step 1 failed after 4 attempts" in text
    assert "Failed in 3.00 s" in text
    assert "Phase control failed" in text


def test_code_is_shortened_and_shown_once():
    code = "\n".join(f"line_{n}" for n in range(40))
    start = (
        "script_started",
        {"file": "c.py", "attempt": 1, "attempts": 4, "limit_seconds": None, "code": code},
    )
    text = shown(start, start)
    assert text.count("line_0") == 1
    assert f"line_{CODE_LINES - 1}\n" in text
    assert f"line_{CODE_LINES}\n" not in text
    assert f"… {40 - CODE_LINES} more lines in c.py" in text


def test_progress_lines_show_their_last_state_and_escapes_are_removed():
    text = shown(
        ("script_started", {"file": "c.py", "code": ""}),
        ("script_output", {"text": "10%\r20%"}),
        ("script_output", {"text": "\r100%\n\x1b[31mred\x1b[0m \x1b]0;title\x07\n"}),
    )
    assert text.endswith("    100%\n    red\n")
    assert "\x1b" not in text


def test_a_flood_is_cut_and_its_end_is_shown():
    text = shown(
        ("script_started", {"file": "c.py", "code": ""}),
        ("script_output", {"text": "row\n" * (OUTPUT_LINES + 70)}),
        ("script_output", {"text": "KeyError: 'flux'\n"}),
        (
            "script_finished",
            {
                "success": True,
                "seconds": 1.0,
                "log_path": "c.log",
                "output": "row\n" * 470 + "\x1b[1mKeyError: 'flux'\n",
            },
        ),
    )
    assert text.count("row") == OUTPUT_LINES + TAIL_LINES - 1
    assert "… all of the output is in c.log; it ends with:\n    row\n" in text
    assert text.endswith("    row\n    KeyError: 'flux'\n  ran in 1.00 s\n")


def test_what_lasts_tells_how_long_on_a_terminal(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    now = [100.0]
    monkeypatch.setattr("cmbagent.display.time.monotonic", lambda: now[0])
    ticks = []

    class Loop:
        def call_later(self, seconds, call):
            ticks.append(call)
            return self

        def cancel(self):
            ticks.clear()

    monkeypatch.setattr("asyncio.get_running_loop", Loop)

    def pass_seconds(seconds):
        now[0] += seconds
        ticks.pop()()

    out = Terminal()
    display = Display(out)
    display.event("script_started", {"file": "fit.py", "code": ""})
    pass_seconds(1)
    pass_seconds(90)
    assert out.getvalue().endswith("  running fit.py · 1 s\r\x1b[K  running fit.py · 1 min 31 s")
    display.event("script_output", {"text": "40 %"})
    pass_seconds(1)
    assert out.getvalue().endswith("    40 % · 1 min 32 s")
    display.event("script_finished", {"success": True, "seconds": 92.0})
    assert not ticks
    display.event("call_started", {"agent": "engineer", "model": "m"})
    pass_seconds(5)
    assert out.getvalue().endswith("  engineer · m · thinking … · 5 s")
    display.event("run_finished", {"status": "failed", "seconds": 92.0})
    assert not ticks


def test_an_interrupted_run_is_not_called_failed():
    ended = {"phase": "control", "status": "failed", "error": "the run was interrupted"}
    finished = {"seconds": 3.0, "usage": USAGE, "error": "the run was interrupted"}
    text = shown(RUN, ("phase_finished", ended), ("run_finished", finished | {"status": "cancelled"}))
    assert "failed" not in text
    assert text.count("the run was interrupted") == 1
    told = finished | {"status": "cancelled", "error": "CancelledError"}
    assert "CancelledError" not in shown(RUN, ("phase_finished", ended), ("run_finished", told))
    text = shown(RUN, ("phase_finished", ended), ("run_finished", finished | {"status": "failed"}))
    assert "control failed: the run was interrupted\n\nFailed in" in text
    assert text.count("the run was interrupted") == 1
    # A phase that is tried again, and one that runs by itself.
    again = ("phase_started", {"phase": "control", "display_name": "Execution"})
    assert "control failed: the run was interrupted\n\nExecution" in shown(
        RUN, ("phase_finished", ended), again
    )
    assert shown(("phase_finished", ended)) == "control failed: the run was interrupted\n"


def test_results_are_named_where_there_are_any(tmp_path):
    finished = ("run_finished", {"status": "failed", "seconds": 0.0, "usage": USAGE, "error": "no task"})
    start = ("run_started", {"work_dir": str(tmp_path / "none")})
    assert "Results" not in shown(start, finished)
    assert f"Results: {tmp_path}\n" in shown(("run_started", {"work_dir": str(tmp_path)}), finished)


def test_a_terminal_gets_colours_and_a_status_line_that_is_replaced(monkeypatch):
    out = Terminal()
    call = {"agent": "planner", "model": "m", "seconds": 1.0, "usage": USAGE}
    shown(("call_started", call), ("call_finished", call), stream=out)
    assert "thinking" in out.getvalue()
    assert "\r\x1b[K" in out.getvalue()
    assert "\x1b[36mplanner\x1b[0m" in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    shown(("call_started", call), ("call_finished", call), stream=out)
    assert "thinking" in out.getvalue()
    assert "\x1b[36m" not in out.getvalue()


def test_a_pipe_gets_no_status_line():
    assert (
        shown(("call_started", {"agent": "planner", "model": "m"}), ("call_text", {"delta": "secret words"}))
        == ""
    )


def test_neither_prompts_nor_answers_are_shown():
    text = shown(
        (
            "run_started",
            {"run_id": "r", "work_dir": "/w", "workflow_name": "W", "phases": [], "task": "PRIVATE TASK"},
        ),
        ("message", {"name": "engineer", "role": "user", "content": "PRIVATE PROMPT"}),
        (
            "call_finished",
            {"agent": "engineer", "model": "m", "seconds": 1.0, "usage": USAGE, "text": "PRIVATE ANSWER"},
        ),
    )
    assert "PRIVATE" not in text


def test_approvals():
    text = shown(
        (
            "approval_requested",
            {"message": "Go on?", "options": ["approve", "reject"], "checkpoint_type": "custom"},
        ),
        ("approval_received", {"resolution": "approve"}),
    )
    assert "Waiting for a decision: custom" in text
    assert "decided: approve" in text


def test_plots_and_documentation():
    text = shown(
        ("plots_judged", {"plots": ["a.png"], "verdict": "retry", "problems": ["a.png: no \x1b[2Junits"]}),
        ("plots_judged", {"plots": ["a.png"], "verdict": "accepted", "reason": "the limit is reached"}),
        ("documentation_read", {"library": "camb", "source": "version 1.6.0, https://x"}),
    )
    assert text == (
        "  plots: retry\n    a.png: no units\n  plots: accepted, the limit is reached\n"
        "  documentation of camb: version 1.6.0, https://x\n"
    )


def test_unknown_kinds_and_private_names_are_passed_over():
    assert shown(("nothing_of_the_kind", {}), ("write", {}), ("cost", {"total_cost": 1.0})) == ""


def test_usage_without_a_price():
    assert (
        usage_text(USAGE | {"cost": None, "unpriced_models": ["mine"]}) == "1,234 + 56 tokens, unpriced: mine"
    )
    assert (
        usage_text(USAGE | {"cost": 0.5, "unpriced_models": ["mine"]})
        == "1,234 + 56 tokens, $0.5000, unpriced: mine"
    )
    assert usage_text(USAGE | {"cost": 1234.5}) == "1,234 + 56 tokens, $1,234.50"


def test_seconds():
    cases = [
        (0.417, "0.42 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (245, "4 min 05 s"),
        (7384, "2 h 03 min"),
    ]
    assert [seconds_text(value) for value, _ in cases] == [text for _, text in cases]


def test_a_stream_that_knows_little():
    raw = io.BytesIO()
    shown(("warning", {"message": "µK"}), stream=(out := Ascii(raw)))
    out.flush()
    assert raw.getvalue() == b"  warning: ?K\n"


class Ascii(io.TextIOWrapper):
    def __init__(self, raw):
        super().__init__(raw, encoding="ascii")

    def getvalue(self):
        return ""


def test_an_audience_that_left_does_not_stop_the_run():
    out = io.StringIO()
    display = Display(out)
    out.close()
    display.event("warning", {"message": "a"})
    display.event("warning", {"message": "b"})


def test_stdout_is_looked_up_at_each_event(monkeypatch):
    display = Display()
    late = io.StringIO()
    monkeypatch.setattr(sys, "stdout", late)
    display.event("warning", {"message": "late"})
    assert "late" in late.getvalue()
