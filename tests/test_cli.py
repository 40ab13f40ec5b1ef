"""The command line, run in-process; runs of workflows talk to a scripted model server."""

import json
import os
import re
import subprocess
import sys

import pytest

import cmbagent
from cmbagent.cli import run as run_module
from cmbagent.cli._definition import configured
from cmbagent.testing import ModelServer, code, notes, plan, review
from cmbagent.workflows import SYSTEM_WORKFLOWS, WorkflowDefinition

PLAN = plan(("engineer", "Compute six times seven."), ("researcher", "Write it down."))
SCRIPT = {
    "planner": PLAN,
    "plan_reviewer": review("Print the number."),
    "engineer": code("print('answer = 42')", filename="answer.py"),
    "researcher": notes("# Answer\n\nThe answer is 42."),
}


def test_version(invoke):
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output.strip() == f"cmbagent {cmbagent.__version__}"


def test_the_command_is_a_module_too():
    done = subprocess.run(
        [sys.executable, "-m", "cmbagent", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("cmbagent ")


def test_a_warning_shows_no_source(tmp_path):
    (tmp_path / "damaged.db").write_text("no store " * 1000)
    command = [sys.executable, "-m", "cmbagent", "run", "one_shot", "Seven?", "--work-dir", tmp_path / "work"]
    with ModelServer(SCRIPT) as server:
        environment = {**os.environ, **server.variables, "CMBAGENT_STORE": str(tmp_path / "damaged.db")}
        done = subprocess.run([*command, "--quiet"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: this run will not survive a crash: ")
    assert ".py:" not in done.stderr


def test_workflows_lists_all_with_their_phases(invoke):
    lines = invoke("workflows").output.splitlines()
    assert [line.split()[0] for line in lines] == list(SYSTEM_WORKFLOWS)
    assert lines[0].endswith("Deep Research: planning → control")


def test_unknown_workflow_names_the_nearest(invoke):
    result = invoke("run", "deep_reserch", "task")
    assert result.exit_code == 2
    assert "Did you mean deep_research?" in result.stderr
    assert "one_shot_researcher" in result.stderr


def test_a_wrong_setting_of_the_environment_is_told_in_words(invoke, monkeypatch, tmp_path):
    monkeypatch.setenv("CMBAGENT_PRICES", str(tmp_path / "none.toml"))
    with ModelServer(SCRIPT) as server, server.environment():
        result = invoke("run", "one_shot", "t", "--work-dir", tmp_path / "out", "--quiet")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: cannot read the prices in ")


def test_an_empty_task_is_refused_before_anything_happens(invoke, tmp_path):
    result = invoke("run", "deep_research", "  ", "--work-dir", tmp_path / "out")
    assert result.exit_code == 2
    assert "The task is empty" in result.stderr
    assert not (tmp_path / "out").exists()


def test_missing_key_says_what_to_set(invoke, tmp_path):
    result = invoke(
        "run", "deep_research", "task", "--work-dir", tmp_path / "out", "--engineer-model", "claude-sonnet-4"
    )
    assert result.exit_code == 2
    assert "claude-sonnet-4: set ANTHROPIC_API_KEY" in result.stderr
    assert "OPENAI_BASE_URL" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_option_that_fits_no_phase_is_refused(invoke):
    result = invoke("run", "one_shot", "task", "--max-plan-steps", "2", "--max-attempts", "1")
    assert result.exit_code == 2
    assert "no phase that --max-plan-steps applies to" in result.stderr


def test_settings_reach_the_phases_that_have_them_and_the_definition_stays():
    definition = SYSTEM_WORKFLOWS["deep_research"]
    before = json.dumps(definition.phases)
    settings = {"max_plan_steps": 7, "max_n_attempts": 1, "engineer_model": "e"}
    planning, control = configured(definition, settings, "m").phases
    assert planning["config"]["max_plan_steps"] == 7
    assert planning["config"]["planner_model"] == "m"
    assert control["config"]["max_n_attempts"] == 1
    assert (control["config"]["engineer_model"], control["config"]["researcher_model"]) == ("e", "m")
    assert control["config"]["params"] == {"default_llm_model": "m", "default_formatter_model": "m"}
    assert "max_plan_steps" not in control["config"]
    assert json.dumps(definition.phases) == before


def test_run_to_the_end(invoke, tmp_path):
    with ModelServer(SCRIPT) as server, server.environment():
        result = invoke(
            "run", "deep_research", "Six times seven?", "--work-dir", tmp_path, "--model", "gpt-4.1"
        )
    assert result.exit_code == 0, result.output
    server.assert_calls(["planner", "plan_reviewer", "planner", "engineer", "researcher"])
    assert {each.model for each in server.calls} == {"gpt-4.1"}
    assert "answer = 42" in result.output
    assert str(tmp_path) in result.output.splitlines()[-1]


def test_quiet_shows_the_closing_line_only(invoke, tmp_path):
    with ModelServer(SCRIPT) as server, server.environment():
        result = invoke("run", "one_shot", "Six times seven?", "--work-dir", tmp_path, "--quiet")
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) == 1
    assert str(tmp_path) in result.output


def test_restart_runs_the_rest_of_the_plan(invoke, tmp_path):
    with ModelServer(SCRIPT) as server, server.environment():
        assert invoke("run", "deep_research", "Six times seven?", "--work-dir", tmp_path).exit_code == 0
        result = invoke(
            "run", "deep_research", "Six times seven?", "--work-dir", tmp_path, "--restart-at-step", "2"
        )
    assert result.exit_code == 0, result.output
    assert server.agents()[5:] == ["researcher"]
    assert "answer = 42" in server.prompts("researcher")[1]
    assert (tmp_path / "control" / "codebase" / "answer.py").is_file()


def test_restart_without_the_files_or_beyond_the_plan(invoke, tmp_path):
    result = invoke("run", "deep_research", "t", "--work-dir", tmp_path, "--restart-at-step", "2")
    assert result.exit_code == 1
    assert "final_plan.json" in result.stderr
    result = invoke("run", "one_shot", "t", "--work-dir", tmp_path, "--restart-at-step", "2")
    assert result.exit_code == 2
    assert "no steps to restart at" in result.stderr


def test_a_limit_that_is_none_is_wrong_usage(invoke, tmp_path):
    result = invoke("run", "one_shot", "t", "--work-dir", tmp_path, "--on-limit", "halt")
    assert result.exit_code == 2
    assert 'it is "halt"' in result.stderr


@pytest.mark.parametrize("kept", [True, False])
def test_a_failing_run_is_told_without_a_traceback(invoke, monkeypatch, tmp_path, kept):
    if not kept:
        monkeypatch.setenv("CMBAGENT_STORE", ":memory:")
    script = {**SCRIPT, "engineer": code("raise SystemExit('no data')", filename="a.py")}
    arguments = (
        "run",
        "deep_research",
        "t",
        "--work-dir",
        tmp_path,
        "--max-attempts",
        "1",
        "--n-plan-reviews",
        "0",
    )
    with ModelServer(script) as server, server.environment():
        result = invoke(*arguments)
        shown = invoke(*arguments, "--debug")
    assert result.exit_code == 1
    assert "error: Phase control failed" in result.stderr
    how = (
        r"To go on: cmbagent resume [0-9a-f-]{36}\n"
        if kept
        else "To go on at step 1: the same command with .*1\n"
    )
    assert re.fullmatch(f"error: .*\n{how}", result.stderr)
    assert "Traceback" not in result.output
    assert isinstance(shown.exception, RuntimeError)


def test_ctrl_c_is_one_line(invoke, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "_executor", interrupted)
    result = invoke("run", "one_shot", "t", "--work-dir", tmp_path)
    assert result.exit_code == 130
    assert result.stderr.strip().count("\n") == 0
    assert "Interrupted" in result.stderr


def test_a_workflow_that_asks_needs_a_terminal(invoke, tmp_path):
    result = invoke("run", "deep_research_hitl", "t", "--work-dir", tmp_path)
    assert result.exit_code == 2
    assert "asks you questions" in result.stderr


def test_demo_without_its_packages(invoke, monkeypatch, tmp_path):
    import cmbagent.demo

    monkeypatch.setattr(cmbagent.demo, "find_spec", lambda name: None if name == "scipy" else object())
    result = invoke("demo", "--work-dir", tmp_path / "d")
    assert result.exit_code == 1
    assert "not installed here: scipy" in result.output
    assert "pip install 'cmbagent[science]'" in result.output
    assert not (tmp_path / "d").exists()


def test_demo(invoke, tmp_path):
    for name in ("numpy", "scipy", "matplotlib"):
        pytest.importorskip(name)
    result = invoke("demo", "--work-dir", tmp_path)
    assert result.exit_code == 0, result.output
    report = (tmp_path / "control" / "report.md").read_text(encoding="utf-8")
    rows = (tmp_path / "control" / "data" / "power_spectrum.csv").read_text().splitlines()[1:]
    assert len(rows) == 25
    chi2 = sum(float(row.split(",")[5]) ** 2 for row in rows)
    told = re.search(r"χ² = ([\d.]+) for 25 rings", report)
    assert told
    assert float(told[1]) == pytest.approx(chi2, abs=0.02)
    assert report.count("\n| ") >= 25
    assert "(" not in "".join(re.findall(r"\*\*.*\*\*", report))
    assert result.output.rstrip().endswith(str(tmp_path / "control" / "report.md"))


def test_definition_helper_copies():
    definition = WorkflowDefinition(id="a", name="b", phases=[{"type": "planning"}])
    assert configured(definition, {}, None).phases == [{"type": "planning", "config": {}}]
