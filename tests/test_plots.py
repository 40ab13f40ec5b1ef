"""Plots before models that take pictures, in all three wire formats."""

import struct
import zlib

import pytest

from cmbagent import one_shot, planning_and_control_context_carryover
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.testing import Fault, code, judgement, notes
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor
from scripted import models, run


def png(width, height):
    """A black picture."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * (width + 1) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def plot(name, width=40, height=30, filename="plot.py"):
    return code(
        f"""
        from pathlib import Path

        Path("data").mkdir(exist_ok=True)
        Path("data/{name}").write_bytes({png(width, height)!r})
        print("data/{name} shows a power of 4.25 K")
        """,
        filename=filename,
    )


def size(picture):
    return struct.unpack(">II", picture[16:24])


@pytest.mark.parametrize("judge", ["gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro"])
def test_plots_are_judged_and_mended(tmp_path, judge):
    server = models(
        [],
        engineer=[plot("a.png", 3000, 1500), plot("b.png")],
        plot_judge=[judgement(("data/a.png", "the axis has no units")), judgement("data/b.png")],
    )
    keys = {"OPENAI": "x", "ANTHROPIC": "x", "GEMINI": "x"}
    settings = {"evaluate_plots": True, "max_n_plot_evals": 2, "plot_judge_model": judge}
    result = run(server, one_shot, "t", work_dir=tmp_path, api_keys=keys, **settings)
    server.assert_calls(["engineer", "plot_judge", "engineer", "plot_judge"])
    calls = [call for call in server.calls if call.agent == "plot_judge"]
    assert [call.model for call in calls] == [judge, judge]
    assert [size(picture) for picture in calls[0].pictures] == [(1568, 784)]
    assert calls[1].pictures == [png(40, 30)]
    assert "data/a.png: the axis has no units" in server.prompts("engineer")[1]
    context = result["final_context"].data
    assert (context["n_attempts"], context["n_plot_evals"], context["vlm_verdict"]) == (0, 2, "continue")
    assert context["displayed_images"][-2:] == [str(tmp_path / "data" / name) for name in ("a.png", "b.png")]
    assert result["status"] == "completed"
    names = [message["name"] for message in result["chat_history"]]
    assert names.count("plot_judge") == 2 and names.count("plot_debugger") == 1


def test_the_default_judge_is_one_that_sees(tmp_path):
    server = models([], engineer=plot("a.png"), plot_judge=judgement("data/a.png"))
    run(server, one_shot, "t", work_dir=tmp_path, evaluate_plots=True, engineer_model="claude-sonnet-4-5",
        api_keys={"ANTHROPIC": "x"})  # fmt: skip
    assert [call.model for call in server.calls] == ["claude-sonnet-4-5"] * 2


def test_a_judge_that_is_down_costs_a_warning(tmp_path):
    told = []
    server = models([], engineer=plot("a.png"), plot_judge=Fault.status(401))
    result = run(
        server, one_shot, "t", work_dir=tmp_path, evaluate_plots=True,
        callbacks=WorkflowCallbacks(on_progress=lambda message, _: told.append(message)),
    )  # fmt: skip
    assert result["status"] == "completed"
    assert any(message.startswith("plots are accepted unjudged: ") for message in told)


def test_in_a_plan_every_step_is_judged_and_the_researcher_sees_the_plots(tmp_path):
    server = models(
        [("engineer", "plot"), ("engineer", "plot again"), ("researcher", "write")],
        engineer=[plot("a.png", filename="a.py"), plot("b.png", filename="b.py")],
        plot_judge=[judgement("data/a.png"), judgement("data/b.png")],
        researcher=notes("# Report\n\nThe power is 4.25 K."),
    )
    run(server, planning_and_control_context_carryover, "t", work_dir=tmp_path, evaluate_plots=True)
    calls = [call for call in server.calls if call.agent == "plot_judge"]
    assert [len(call.pictures) for call in calls] == [1, 1]
    (researcher,) = [call for call in server.calls if call.agent == "researcher"]
    assert researcher.pictures == [png(40, 30)] * 2
    assert "Attached plots, in this order: data/a.png, data/b.png" in researcher.prompt


def test_steps_with_a_human_are_judged_too(tmp_path):
    phases = [
        {"type": "planning", "config": {"n_plan_reviews": 0}},
        {"type": "hitl_control", "config": {"approval_mode": "on_error", "evaluate_plots": True}},
    ]
    workflow = WorkflowDefinition(id="w", name="W", phases=phases)
    server = models([("engineer", "plot")], engineer=plot("a.png"), plot_judge=judgement("data/a.png"))
    with server, server.environment():
        WorkflowExecutor(workflow, "t", tmp_path, {"OPENAI": "x"}).run_sync()
    server.assert_calls(["planner", "engineer", "plot_judge"])
