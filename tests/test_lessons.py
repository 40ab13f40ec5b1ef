"""What goes wrong in the original and does not here; test_checks.py lists all of it with its tests."""

import asyncio
import importlib.metadata
import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest

import cmbagent
from cmbagent import deep_research, load_context, one_shot
from cmbagent.errors import LimitError
from cmbagent.testing import Fault, ModelServer, code, notes, plan, review
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor
from scripted import models, run, two_steps

THREE = [("engineer", "measure"), ("researcher", "interpret"), ("engineer", "tabulate")]


def test_lesson_02_few_dependencies():
    needed = [r for r in importlib.metadata.requires("cmbagent") if "extra ==" not in r]
    assert [re.split(r"\W", r)[0] for r in needed] == ["typer", "rich"]


def test_lesson_04_25_26_a_run_leaves_the_process_and_the_home_alone(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)

    def process():
        root = logging.root
        logs = (root.level, list(root.handlers), root.manager.disable, logging.getLogger("mine").level)
        return list(sys.path), dict(os.environ), Path.cwd(), logs

    with two_steps() as server, server.environment():
        before = process()
        for name in "ab":
            deep_research("t", work_dir=tmp_path / name, api_keys={"OPENAI": "x"})
        assert process() == before
    assert list(home.iterdir()) == []


def test_lesson_10_a_step_that_exhausts_its_attempts_says_so(tmp_path):
    bad = code("raise ValueError('mu out of range')", filename="bad.py")
    engineer = [code("print('a = 1')", filename="ok.py"), bad, bad, bad]
    opinion = "Cause: mu is negative.\nFix: take its absolute value."
    server = models(THREE[:1] * 2, engineer=engineer, second_opinion=opinion)
    result = run(server, deep_research, "t", work_dir=tmp_path, max_n_attempts=2)
    assert server.agents()[3:] == ["engineer", "engineer", "engineer", "second_opinion", "engineer"]
    assert "mu is negative" in server.prompts("engineer")[-1]
    assert result["status"] == "failed"
    assert "Step 2 failed after 3 attempts" in result["error"] and "mu out of range" in result["error"]
    assert [r["status"] for r in result["step_results"]] == ["completed", "failed"]
    assert result["final_context"]["current_status"] == "failed"
    assert result["execution_time_control"] > 0
    assert (tmp_path / "control" / "codebase" / "ok.py").exists()
    assert (tmp_path / "control" / "chats" / "chat_history_step_2.json").exists()
    mended = models([], engineer=code("print('b = 2')", filename="mended.py"))
    again = run(mended, deep_research, "t", work_dir=tmp_path, restart_at_step=2)
    assert (again["status"], mended.agents()) == ("completed", ["engineer"])
    assert "a = 1" in again["final_context"]["previous_steps_execution_summary"]


def test_lesson_10_the_second_opinion_is_no_condition(tmp_path, caplog):
    """Its model is often one that the caller has no key for."""
    bad = code("raise ValueError('mu out of range')", filename="bad.py")
    server = models(
        THREE[:1],
        engineer=[bad, bad, code("print('a = 1')", filename="ok.py")],
        second_opinion=Fault.status(401, "no such key"),
    )
    result = run(server, deep_research, "t", work_dir=tmp_path)
    assert result["status"] == "completed"
    assert "no second opinion" in caplog.text and "no such key" in caplog.text


def test_lesson_11_too_few_rounds_name_the_setting(tmp_path):
    with pytest.raises(RuntimeError, match=r"Phase planning failed: .*max_rounds=2") as caught:
        run(two_steps(), deep_research, "t", work_dir=tmp_path, max_rounds_planning=2)
    assert isinstance(caught.value.__cause__, LimitError)


@pytest.mark.parametrize("agent", ["planner", "plan_reviewer", "engineer", "researcher"])
def test_lesson_12_what_the_provider_says_is_told(tmp_path, agent):
    words = "This model's maximum context length is 8192 tokens, however you requested 9000."
    server = two_steps(**{agent: Fault.status(400, words)})
    with pytest.raises(cmbagent.CmbagentError) as caught:
        run(server, deep_research, "t", work_dir=tmp_path)
    assert words in str(caught.value) and agent in str(caught.value)
    # Not sent again: the same request gets the same answer.
    assert server.agents().count(agent) == 1


def test_lesson_13_a_limit_for_scripts(tmp_path):
    definition = WorkflowDefinition(
        id="w", name="W", phases=[{"type": "one_shot", "config": {"max_n_attempts": 0}}]
    )
    options = {"script_timeout_seconds": 1}
    server = ModelServer({"engineer": code("import time\ntime.sleep(600)", filename="long.py")})
    executor = WorkflowExecutor(definition, "t", tmp_path, {"OPENAI": "x"}, options=options)
    with server, server.environment(), pytest.raises(RuntimeError, match="Step 1 failed after 1 attempts"):
        executor.run_sync()
    assert "limit of 1 s" in executor.results[-1].error


def test_lesson_14_an_unknown_agent_in_a_plan(tmp_path):
    server = models([("wizard", "magic")])
    with pytest.raises(cmbagent.CmbagentError, match="wizard"):
        run(server, deep_research, "t", work_dir=tmp_path)
    assert set(server.agents()) == {"planner"}


def test_lesson_16_a_plan_reaches_control_as_it_was(tmp_path):
    sub_task = "compute **all** of it\n- Step 2: not a step\n\t* agent in charge: nobody"
    bullets = ["first\nsecond", "- Step 3: neither"]
    server = models([("engineer", sub_task, *bullets), ("researcher", "write")],
                    engineer=code("print(1)", filename="a.py"), researcher=notes("# R"))  # fmt: skip
    result = run(server, deep_research, "t", work_dir=tmp_path)
    server.assert_calls(["planner", "plan_reviewer", "planner", "engineer", "researcher"])
    assert result["plan"][0] == {
        "sub_task": sub_task, "sub_task_agent": "engineer", "bullet_points": bullets,
    }  # fmt: skip
    saved = json.loads((tmp_path / "planning" / "final_plan.json").read_text())["sub_tasks"]
    assert saved == result["plan"]
    assert "not a step" in server.prompts("engineer")[0]


@pytest.mark.parametrize(
    ("source", "status"),
    [
        ("print('All done, everything succeeded.')\nraise SystemExit(3)", "failed"),
        ("print('fit converged after 3 failed starts; 0 errors')", "completed"),
        ("pass", "completed"),  # suspect, but no try is left
    ],
)
def test_lesson_17_the_exit_code_decides_and_steps_are_counted(tmp_path, source, status):
    server = models(THREE[:1], engineer=code(source, filename="a.py"))
    result = run(server, deep_research, "t", work_dir=tmp_path, max_n_attempts=0)
    assert result["status"] == status
    assert result["final_context"]["number_of_steps_in_plan"] == len(result["plan"]) == 1
    server.assert_calls(["planner", "plan_reviewer", "planner", "engineer"])


@pytest.mark.parametrize("function", [deep_research, one_shot])
def test_lesson_18_inside_a_running_loop(tmp_path, function):
    async def notebook_cell():
        return function("t", work_dir=tmp_path, api_keys={"OPENAI": "x"})

    with two_steps() as server, server.environment():
        assert asyncio.run(notebook_cell())["status"] == "completed"


def test_lesson_20_27_six_calls_for_three_steps_and_a_review(tmp_path):
    server = models(THREE, engineer=code("print('x = 1')", filename="a.py"), researcher=notes("# R"))
    result = run(server, deep_research, "t", work_dir=tmp_path)
    server.assert_calls(["planner", "plan_reviewer", "planner", "engineer", "researcher", "engineer"])
    assert result["status"] == "completed"
    names = {m["name"] for m in result["planning_chat_history"] + result["chat_history"]}
    assert {"plan_setter", "plan_recorder", "control_starter", "executor_response_formatter"} <= names


def test_lesson_22_scripts_run_with_this_interpreter(tmp_path, monkeypatch):
    for name in ("python", "python3"):
        fake = tmp_path / "bin" / name
        fake.parent.mkdir(exist_ok=True)
        fake.write_text("#!/bin/sh\nexit 99\n")
        fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    source = "import sys\nprint('ran under', sys.executable, sys.prefix)"
    result = run(
        ModelServer({"engineer": code(source, filename="which.py")}), one_shot, "t", work_dir=tmp_path / "w"
    )
    told = next(m["content"] for m in result["chat_history"] if m["name"] == "engineer_nest")
    assert f"ran under {sys.executable} {sys.prefix}" in told


def test_lesson_32_prompts_are_the_same_in_every_run(tmp_path):
    prompts = []
    for name in "ab":
        server = models(THREE, engineer=code("print('x = 1')", filename="a.py"), researcher=notes("# R"))
        run(server, deep_research, "t", work_dir=tmp_path / name)
        prompts.append([(c.system + c.prompt).replace(str(tmp_path / name), "") for c in server.calls])
    assert prompts[0] == prompts[1]


def test_lesson_33_reports_of_the_same_second(tmp_path):
    """Four reports of calls that a step makes again are four files."""
    answers = {"planner": plan(*THREE), "plan_reviewer": review("Name the units.")}
    server = ModelServer(
        {**answers, "engineer": code("print(1)", filename="a.py"), "researcher": notes("# R")}
    )
    with server, server.environment():
        for _ in range(3):
            deep_research("t", work_dir=tmp_path, api_keys={"OPENAI": "x"}, restart_at_step=-1)
            deep_research("t", work_dir=tmp_path, api_keys={"OPENAI": "x"}, restart_at_step=1)
    kept = list(tmp_path.rglob("cost_report_step_1_*.json"))
    assert len(kept) == 6
    assert load_context(tmp_path / "context" / "context_step_3.pkl")["current_status"] == "completed"


def test_live_output_and_costs_are_shown(tmp_path, capsys):
    run(two_steps(), deep_research, "t", work_dir=tmp_path, verbose=True)
    shown = capsys.readouterr().out
    assert "power 4.25 K" in shown
    assert shown.index("planner") < shown.index("engineer") < shown.index("power 4.25 K")
    assert "sk-test" not in shown
