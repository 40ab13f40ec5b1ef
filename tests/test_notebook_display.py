"""What notebooks show of workflows, results, contexts and runs."""

import base64
import io
import logging
import os
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from cmbagent import _html, _notebook
from cmbagent._notebook import NotebookDisplay, Progress
from cmbagent.display import Display, make_display
from cmbagent.phases import PhaseContext, PhaseResult, PhaseStatus, WorkflowContext
from cmbagent.workflows import SYSTEM_WORKFLOWS, WorkflowDefinition

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
EVIL = "<script>alert('x')</script>\"&"
KEY = "sk-secret-0123456789"


class Page(HTMLParser):
    """The elements of a page, its words, and whether everything that was opened was closed."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.images, self.words = [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag == "img":
            self.images.append(dict(attributes)["src"])
        elif tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words += data + "\n"


def workflow(**changes):
    phases = [
        {"type": "planning", "config": {"max_plan_steps": 3, "params": {"key": KEY}}},
        {"type": "control", "config": {"enabled": False}},
        {"type": "idea_generation"},
    ]
    return WorkflowDefinition(**{"id": "w", "name": "Mine", "description": "d", "phases": phases, **changes})


def context(work_dir, **changes):
    state = {
        "plan": [
            {"sub_task": "compute", "sub_task_agent": "engineer", "bullet_points": ["the spectrum"]},
            {"sub_task": "write", "sub_task_agent": "researcher", "bullet_points": []},
        ],
        "total_steps": 2,
        "current_step": 1,
        "step_results": [{"step": 1, "status": "completed", "execution_time": 2.5, "summary": "4.25 K"}],
        "phase_timings": {"phase_0_planning": 1.0, "total": 75.0},
        "output_files": [str(work_dir / "data" / "plot.png"), str(work_dir / "notes.md")],
        "approvals": [{"phase_id": "phase_1", "approval_status": "approved", "user_feedback": "go on"}],
        "metadata": {
            "phase_1_control": {
                "final_context": {
                    "cost_dataframe": [
                        {"Agent": "engineer", "Model": "m", "Cost ($)": 0.25, "Prompt Tokens": 1234,
                         "Completion Tokens": 5},
                        {"Agent": "researcher", "Model": "local", "Cost ($)": None, "Prompt Tokens": 1,
                         "Completion Tokens": 2},
                        {"Agent": "Total", "Model": None, "Cost ($)": 0.25},
                    ]
                }
            }
        },
    }  # fmt: skip
    return WorkflowContext("w", "r1", "the task", str(work_dir), {"OPENAI": KEY}, **{**state, **changes})


def with_plot(work_dir, content=PIXEL):
    (work_dir / "data").mkdir()
    (work_dir / "data" / "plot.png").write_bytes(content)
    return work_dir


def result(work_dir, **changes):
    whole = context(work_dir)
    output = {
        "shared": {"plan_steps": whole.plan},
        "step_results": whole.step_results,
        "output_files": whole.output_files,
        **whole.metadata["phase_1_control"],
    }
    made = PhaseContext("w", "r1", "phase_1_control", "t", str(work_dir), api_keys={"OPENAI": KEY})
    made.output_data = output
    return PhaseResult(
        **{"status": PhaseStatus.COMPLETED, "context": made, "timing": {"total": 3.0}, **changes}
    )


# --- definitions ---


def test_workflow_is_a_chain_of_its_phases():
    page = Page(workflow()._repr_html_())
    for words in ("Mine", "planning", "max plan steps: 3", "switched off", "idea generation"):
        assert words in page.words
    assert page.words.count("→") == 2
    assert KEY not in page.words


def test_workflow_as_a_mermaid_graph():
    assert workflow()._repr_markdown_().splitlines() == [
        "**Mine** (w)",
        "",
        "d",
        "",
        "```mermaid",
        "flowchart LR",
        '    p1["planning<br/>max plan steps: 3"]',
        '    p2["control<br/>switched off"]',
        '    p3["idea generation"]',
        "    p1 --> p2",
        "    p2 --> p3",
        "```",
    ]


def test_nothing_in_a_name_leaves_the_graph():
    evil = workflow(name=f"a`{EVIL}", description="*b*", phases=[{"type": 'x"] --> y\n```'}])
    shown = evil._repr_markdown_()
    assert '    p1["x#34;#93; --#62; y#10;#96;#96;#96;"]' in shown
    assert shown.startswith("**a\\`\\<script\\>")
    assert "\\*b\\*" in shown


@pytest.mark.parametrize("each", SYSTEM_WORKFLOWS.values(), ids=lambda each: each.id)
def test_every_workflow_of_the_package_is_shown(each):
    assert Page(each._repr_html_()).words.count("→") == len(each.phases) - 1
    assert each._repr_markdown_().count("-->") == len(each.phases) - 1


# --- results and contexts ---


def test_context_shows_plan_steps_costs_files_and_plots(tmp_path):
    page = Page(context(with_plot(tmp_path))._repr_html_())
    for words in (
        "Run of w", "the task", "step 1 of 2", "1 min 15 s", "compute", "• the spectrum", "completed",
        "2.50 s", "4.25 K", "write", "approved", "go on", "engineer", "1,234", "$0.2500", "no price",
        "phase_0_planning", "Files (2)", "notes.md", str(tmp_path),
    ):  # fmt: skip
        assert words in page.words, words
    assert page.images == ["data:image/png;base64," + base64.b64encode(PIXEL).decode()]
    assert "Total" not in page.words


def test_result_shows_how_the_phase_ended(tmp_path):
    shown = result(with_plot(tmp_path), status=PhaseStatus.FAILED, error="no data", chat_history=[{}])
    page = Page(shown._repr_html_())
    for words in ("phase_1_control", "failed", "no data", "3.00 s", "1 message", "compute", "$0.2500"):
        assert words in page.words, words
    assert len(page.images) == 1


def test_costs_of_steps_are_added_up(tmp_path):
    def step(number, cost):
        row = {"Agent": "engineer", "Model": "m", "Cost ($)": cost}
        return {"step": number, "context": {"cost_dataframe": [row, {**row, "Agent": "Total"}]}}

    steps = [step(1, 0.25), step(2, 0.5)]
    last = steps[1]["context"]
    shown = context(tmp_path, metadata={"p": {"step_results": steps, "final_context": last}})
    words = Page(shown._repr_html_()).words
    assert [words.count(cost) for cost in ("$0.2500", "$0.5000", "$0.7500")] == [1, 1, 1]


def test_no_key_is_shown(tmp_path):
    assert KEY not in context(tmp_path)._repr_html_() + result(tmp_path)._repr_html_()


def test_everything_is_escaped(tmp_path):
    file = tmp_path / "<img src=x onerror=y>.png"
    file.write_bytes(PIXEL)
    evil = context(
        tmp_path,
        plan=[{"sub_task": EVIL, "sub_task_agent": EVIL, "bullet_points": [EVIL]}],
        step_results=[{"step": 1, "status": EVIL, "summary": EVIL}],
        approvals=[{"phase_id": EVIL, "approval_status": EVIL, "user_feedback": EVIL}],
        phase_timings={EVIL: 1.0},
        metadata={EVIL: {"result": {"cost_dataframe": [{"Agent": EVIL, "Model": EVIL, "Cost ($)": EVIL}]}}},
        output_files=[str(file), EVIL],
    )
    evil.workflow_id = evil.task = evil.run_id = EVIL
    pages = [Page(evil._repr_html_()), Page(result(tmp_path, error=EVIL)._repr_html_())]
    pages.append(Page(workflow(name=EVIL, phases=[{"type": EVIL, "config": {EVIL: EVIL}}])._repr_html_()))
    for page in pages:
        assert "script" not in page.tags
        assert EVIL in page.words
    assert pages[0].tags.count("img") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": "a text", "step_results": None, "step_summaries": None, "output_files": None},
        {"plan": [1, None], "step_results": [3, {"step": "x"}, {"step": 7}], "output_files": [None, 3]},
        {"metadata": {"p": None, "q": {"result": 3}, "r": {"result": {"cost_dataframe": [4]}}}},
        {"plan": [{"bullet_points": 3, "sub_task": object()}], "phase_timings": {"a": None, "total": "x"}},
    ],
)
def test_odd_values_are_no_error(tmp_path, changes):
    assert "Run of w" in Page(context(tmp_path, **changes)._repr_html_()).words


def test_costs_in_a_data_frame(tmp_path):
    frame = SimpleNamespace(to_dict=lambda how: [{"Agent": "a", "Model": "m", "Cost ($)": 1}])
    shown = context(tmp_path, metadata={"p": {"result": {"cost_dataframe": frame}}})
    assert "$1.0000" in Page(shown._repr_html_()).words


def test_pictures_over_the_limits_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(_html, "THUMBNAIL_BYTES", 100)
    monkeypatch.setattr(_html, "THUMBNAILS_BYTES", 150)
    sizes = {"a.png": 100, "b.png": 101, "c.jpg": 50, "d.svg": 1}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)
    page = Page(_html.thumbnails([tmp_path / name for name in [*sizes, "gone.gif", "e.txt"]]))
    assert [image.split(";")[0] for image in page.images] == ["data:image/png", "data:image/jpeg"]
    assert "b.png, d.svg, gone.gif" in page.words
    assert "e.txt" not in page.words


def test_directory_is_no_picture(tmp_path):
    (tmp_path / "a.png").mkdir()
    assert _html.image_bytes(tmp_path / "a.png", 10) is None


# --- runs ---


class Publisher:
    def __init__(self, error=None):
        self.shown, self.error = [], error

    def publish(self, data, metadata=None, *, transient=None, update=False):
        if self.error:
            raise self.error
        self.shown.append((data, (transient or {}).get("display_id"), update))

    @property
    def progress(self):
        return [data["text/plain"] for data, display_id, _ in self.shown if display_id]

    @property
    def plots(self):
        return [data for data, display_id, _ in self.shown if not display_id]


def show(*events, publisher=None):
    publisher, out = publisher or Publisher(), io.StringIO()
    display = NotebookDisplay(publisher, out)
    for kind, data in events:
        display.event(kind, data)
    return publisher, out.getvalue()


USAGE = {"calls": 1, "prompt_tokens": 3, "completion_tokens": 4, "cost": 0.5, "unpriced_models": []}
STARTED = ("run_started", {"at": 1.0, "workflow_name": "W", "work_dir": "/w", "phases": ["a", "b"]})
EVENTS = [
    STARTED,
    ("phase_started", {"at": 1.0, "phase": "b", "phase_index": 1, "display_name": "Work"}),
    ("step_started", {"at": 2.0, "number": 2, "total": 2, "sub_task": "s", "step_agent": "engineer"}),
    ("call_started", {"at": 2.0, "agent": "engineer", "model": "m"}),
    ("call_finished", {"at": 3.0, "agent": "engineer", "model": "m", "seconds": 1.0, "usage": USAGE}),
    ("script_started", {"at": 3.0, "file": "a.py", "code": "", "limit_seconds": None}),
    ("script_finished", {"at": 5.0, "file": "a.py", "success": True, "seconds": 2.0}),
    ("run_finished", {"at": 6.0, "status": "completed", "seconds": 5.0, "usage": USAGE}),
]


def test_progress_is_one_display_that_changes():
    publisher, lines = show(*EVENTS)
    assert len({display_id for _, display_id, _ in publisher.shown}) == 1
    assert [update for _, _, update in publisher.shown] == [False] + [True] * (len(EVENTS) - 1)
    assert publisher.progress == [
        "W · running · starting · 0.00 s",
        "W · running · Work · 0.00 s",
        "W · running · Work · step 2 of 2 · 1.00 s",
        "W · running · Work · step 2 of 2 · engineer is thinking · 1.00 s",
        "W · running · Work · step 2 of 2 · 1 model call · $0.5000 · 2.00 s",
        "W · running · Work · step 2 of 2 · running a.py · 1 model call · $0.5000 · 2.00 s",
        "W · running · Work · step 2 of 2 · 1 model call · $0.5000 · 4.00 s",
        "W · completed · 1 model call · $0.5000 · 5.00 s",
    ]
    assert "Completed in 5.00 s" in lines


def test_bar_fills():
    progress, filled = Progress(), []
    for kind, data in EVENTS:
        progress.event(kind, data)
        filled.append(progress.fraction())
    assert filled == [0.0, 0.5, 0.75, 0.75, 0.75, 0.75, 0.75, 1.0]
    assert "width:100%" in progress.html()


def test_streams_do_not_flood_the_page(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(_notebook.time, "monotonic", lambda: now[0])
    text = ("call_text", {"agent": "engineer", "delta": "abc"})
    publisher, _ = show(STARTED, text, text, text)
    assert len(publisher.progress) == 1
    display = NotebookDisplay(publisher, io.StringIO())
    for _ in range(3):
        display.event(*text)
        now[0] += 1
    assert publisher.progress[-1] == "Run · running · engineer is writing, 9 characters · 0.00 s"


def test_progress_is_escaped():
    publisher, _ = show(("run_started", {"workflow_name": EVIL}), ("call_started", {"agent": EVIL}))
    for data, _, _ in publisher.shown:
        assert "script" not in Page(data["text/html"]).tags


def test_plots_are_shown_once_each(tmp_path):
    plot, drawing = tmp_path / "plot.png", tmp_path / "drawing.svg"
    plot.write_bytes(PIXEL)
    drawing.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>x</script></svg>")
    files = [str(plot), str(drawing), str(tmp_path / "a.csv"), str(tmp_path / "gone.png")]
    script = ("script_finished", {"success": True, "files": files})
    step = ("step_finished", {"status": "completed", "files": files})
    publisher, _ = show(("run_started", {"work_dir": str(tmp_path)}), script, step)
    first, second = publisher.plots
    assert first == {"text/plain": "plot.png", "image/png": base64.b64encode(PIXEL).decode()}
    assert Page(second["text/html"]).images[0].startswith("data:image/svg+xml;base64,")
    assert "script" not in Page(second["text/html"]).tags


def test_plot_that_was_made_anew_is_shown_anew(tmp_path):
    plot = tmp_path / "plot.png"
    publisher, out = Publisher(), io.StringIO()
    display = NotebookDisplay(publisher, out)
    for content in (b"one", b"two"):
        plot.write_bytes(content)
        # Clocks of file systems are coarse.
        os.utime(plot, ns=(0, len(publisher.plots)))
        display.event("script_finished", {"success": True, "files": [str(plot)]})
    assert [base64.b64decode(data["image/png"]) for data in publisher.plots] == [b"one", b"two"]


def test_plot_too_large_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(_notebook, "PLOT_BYTES", 10)
    (tmp_path / "plot.png").write_bytes(b"x" * 11)
    publisher, lines = show(("script_finished", {"success": True, "files": [str(tmp_path / "plot.png")]}))
    assert publisher.plots == []
    assert "too large" in lines


def test_kernel_that_takes_no_displays_gets_lines(caplog):
    with caplog.at_level(logging.WARNING, logger="cmbagent.run"):
        _, lines = show(*EVENTS, publisher=Publisher(OSError("no socket")))
    assert "Completed in 5.00 s" in lines
    assert len(caplog.records) == 1


def test_host_decides_on_the_display(monkeypatch):
    assert type(make_display(True)) is Display
    publisher = Publisher()
    shell = SimpleNamespace(kernel=SimpleNamespace(shell=SimpleNamespace(display_pub=publisher)))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert isinstance(make_display(True), NotebookDisplay)
    assert make_display(False) is None
    terminal = SimpleNamespace(get_ipython=lambda: SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", terminal)
    assert type(make_display(True)) is Display


def test_displays_import_no_notebook():
    program = """
import sys
from cmbagent.workflows import get_workflow
from cmbagent.display import make_display
get_workflow("one_shot")._repr_html_(); make_display(True)
assert "IPython" not in sys.modules and "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
