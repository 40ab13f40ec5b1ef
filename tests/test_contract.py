"""Compatibility checks that have no other home; test_checks.py lists all of them with their tests."""

import json
import shutil
import threading
import warnings
from pathlib import Path

import pytest

import cmbagent
from cmbagent import control, deep_research, one_shot
from cmbagent.approvals import AutoApprovalManager
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.phases import WorkflowContext
from cmbagent.testing import Fault, code, notes
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor, get_workflow
from scripted import STEPS, KeyManager, models, run, two_steps


def test_check_02_names_of_the_package():
    from cmbagent import control, deep_research, load_plan, one_shot, planning_and_control, work_dir_default

    assert all(callable(f) for f in (control, deep_research, load_plan, one_shot, planning_and_control))
    assert work_dir_default == Path.cwd() / "cmbagent_output"


# What the programs of a paper writer pass beside the text, the directory and the keys.
PAPER_WRITER = {
    "idea": {
        "n_plan_reviews": 1, "max_plan_steps": 6, "idea_maker_model": "gpt-4o", "idea_hater_model": "o3-mini",
        "plan_instructions": "Use idea_maker, then idea_hater.", "planner_model": "gpt-4o",
        "plan_reviewer_model": "o3-mini", "default_llm_model": "gpt-4.1",
        "default_formatter_model": "o3-mini",
    },
    "method": {
        "n_plan_reviews": 1, "max_n_attempts": 4, "max_plan_steps": 4, "researcher_model": "gpt-4.1",
        "planner_model": "gpt-4.1", "plan_reviewer_model": "o3-mini", "plan_instructions": "Name them.",
        "researcher_instructions": "Be precise.", "default_llm_model": "gpt-4.1",
        "default_formatter_model": "o3-mini",
    },
    "experiment": {
        "n_plan_reviews": 1, "max_n_attempts": 10, "max_plan_steps": 6, "max_rounds_control": 500,
        "engineer_model": "gpt-4.1", "researcher_model": "o3-mini-2025-01-31", "planner_model": "gpt-4o",
        "plan_reviewer_model": "o3-mini", "plan_instructions": "Plot it.", "researcher_instructions": "r",
        "engineer_instructions": "e", "restart_at_step": -1, "hardware_constraints": "",
        "default_llm_model": "gpt-4.1-2025-04-14", "default_formatter_model": "o3-mini-2025-01-31",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PAPER_WRITER)
def test_check_07_08_15_calls_of_a_paper_writer(tmp_path, name):
    """Its keys have no `get`, no `keys`, and are None where a provider is not used; nothing is warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(
            two_steps(),
            cmbagent.planning_and_control_context_carryover,
            "the text",
            work_dir=tmp_path / f"{name}_generation_output",
            api_keys=KeyManager(),
            **PAPER_WRITER[name],
        )
    assert isinstance(result, dict) and result["chat_history"] and result["final_context"]
    assert all(message["name"] for message in reversed(result["chat_history"]))


def test_check_05_names_of_research_scripts():
    from cmbagent.utils import get_api_keys_from_env as same
    from cmbagent.utils.utils import get_api_keys_from_env
    from cmbagent.workflows.deep_research import deep_research

    assert deep_research is cmbagent.deep_research
    assert get_api_keys_from_env is same
    assert set(get_api_keys_from_env()) == {"OPENAI", "GEMINI", "ANTHROPIC", "MISTRAL"}


@pytest.mark.parametrize("broken_step", [1, 2])
def test_check_16_restart_skips_planning(tmp_path, broken_step):
    agent = ("engineer", "researcher")[broken_step - 1]
    with pytest.raises(cmbagent.CmbagentError):
        run(two_steps(**{agent: Fault.status(401)}), deep_research, "t", work_dir=tmp_path)
    (tmp_path / "control" / "mine.txt").write_text("x")
    server = two_steps()
    result = run(server, deep_research, "t", work_dir=tmp_path, restart_at_step=broken_step)
    server.assert_calls(["engineer", "researcher"][broken_step - 1 :])
    assert (tmp_path / "control" / "data" / "plot_1.png").exists()
    assert (tmp_path / "control" / "mine.txt").exists()
    assert result["final_context"]["displayed_images"] == [str(tmp_path / "control" / "data" / "plot_1.png")]
    summary = result["final_context"]["previous_steps_execution_summary"]
    assert "### Step 1" in summary and "### Step 2" in summary
    assert [step["sub_task"] for step in result["plan"]] == ["compute", "write"]


def test_check_17_restart_at_the_first_step_uses_the_context_of_planning(tmp_path):
    run(two_steps(), deep_research, "t", work_dir=tmp_path, hardware_constraints="one core")
    for name in ("context_step_1.pkl", "context_step_2.pkl"):
        (tmp_path / "context" / name).unlink()
    server = two_steps()
    result = run(server, deep_research, "t", work_dir=tmp_path, restart_at_step=1)
    server.assert_calls(["engineer", "researcher"])
    assert "one core" in server.prompts("engineer")[0]
    assert result["final_context"]["hardware_constraints"] == "one core"


def test_check_16_results_moved_away_after_the_run(tmp_path):
    """A paper writer moves the plots before it restarts; a directory may have been moved as a whole."""
    result = run(two_steps(), deep_research, "t", work_dir=tmp_path / "a")
    (tmp_path / "plots").mkdir()
    for path in result["final_context"]["displayed_images"]:
        shutil.move(path, tmp_path / "plots")
    shutil.move(tmp_path / "a", tmp_path / "b")
    again = run(two_steps(), deep_research, "t", work_dir=tmp_path / "b", restart_at_step=2)
    assert again["final_context"]["displayed_images"] == []
    assert again["final_context"]["work_dir"] == str(tmp_path / "b" / "control")


def test_check_22_one_key_is_enough(tmp_path):
    result = run(two_steps(), deep_research, "t", work_dir=tmp_path, api_keys={"OPENAI": "x"})
    assert result["status"] == "completed"


def test_check_24_25_one_shot_as_earlier_tests_call_it(tmp_path):
    result = run(
        two_steps(), one_shot, "t", max_rounds=10, agent="engineer", engineer_model="gpt-oss-120b",
        default_llm_model="gpt-oss-120b", default_formatter_model="gpt-oss-120b", work_dir=str(tmp_path),
        clear_work_dir=True,
    )  # fmt: skip
    assert "chat_history" in result
    assert isinstance(result["execution_time"], float) and isinstance(result["initialization_time"], float)
    assert float(f"{result['execution_time']:.2f}") >= 0


def test_check_29_46_context_and_first_message(tmp_path):
    result = run(two_steps(), deep_research, "the task", work_dir=tmp_path)
    context, first = result["final_context"], result["chat_history"][0]
    assert isinstance(context, dict)
    summary = context.get("previous_steps_execution_summary")
    assert isinstance(summary, str) and "### Step 1" in summary and len(summary) > 50
    assert (first["content"], first["role"]) == ("the task", "assistant")


def test_check_26_displayed_images_with_evaluate_plots(tmp_path):
    result = run(two_steps(), one_shot, task="t", work_dir=tmp_path, evaluate_plots=True)
    (image,) = result["final_context"].data["displayed_images"]
    assert image == str(tmp_path / "data" / "plot_1.png")


@pytest.mark.parametrize("function", [one_shot, control])
def test_check_36_exhausted_attempts_are_returned_by_every_function(tmp_path, function):
    arguments = {"plan": STEPS} if function is control else {}
    bad = code("raise SystemExit(3)", filename="bad.py")
    result = run(two_steps(engineer=bad), function, "t", work_dir=tmp_path, max_n_attempts=0, **arguments)
    assert (result["status"], result["error"][:31]) == ("failed", "Step 1 failed after 1 attempts:")
    assert result["chat_history"] and result["final_context"]["current_status"] == "failed"


@pytest.mark.parametrize(
    "call",
    [
        lambda d: deep_research("t", work_dir=d, api_keys={"OPENAI": "x"}),
        lambda d: control("t", plan=STEPS, work_dir=d, api_keys=KeyManager()),
        lambda d: one_shot("t", agent="researcher", work_dir=d, api_keys=KeyManager()),
    ],
)
def test_check_37_three_runs_in_three_threads(tmp_path, call):
    results, here = {}, Path.cwd()
    with two_steps() as server, server.environment():

        def one(name):
            results[name] = call(tmp_path / name)

        threads = [threading.Thread(target=one, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert {r["work_dir"] for r in results.values()} == {str(tmp_path / name) for name in "abc"}
    assert len({r["run_id"] for r in results.values()}) == 3
    assert Path.cwd() == here


def test_check_39_plan_from_an_earlier_run(tmp_path):
    run(two_steps(), deep_research, "t", work_dir=tmp_path / "a")
    server = two_steps()
    path = str(tmp_path / "a" / "planning" / "final_plan.json")
    result = run(server, control, "t", plan=path, work_dir=tmp_path / "b")
    server.assert_calls(["engineer", "researcher"])
    steps = ["compute", "write"]
    assert [step["sub_task"] for step in result["plan"]] == steps
    assert [c["content"] for c in result["chat_history"] if c["name"] == "user"] == ["t", "t"]
    assert all(step in result["final_context"]["final_plan"] for step in steps)


def test_check_41_arguments_of_a_task_executor(tmp_path):
    phases = []
    callbacks = WorkflowCallbacks(on_phase_change=lambda phase, step: phases.append((phase, step)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(
            two_steps(), cmbagent.planning_and_control_context_carryover,
            task="t", max_rounds_planning=50, max_rounds_control=100, n_plan_reviews=1, max_n_attempts=6,
            max_plan_steps=2, engineer_model="gpt-4o", researcher_model="gpt-4.1",
            planner_model="gpt-4.1", plan_reviewer_model="o3-mini", plan_instructions=None,
            work_dir=str(tmp_path), clear_work_dir=False, default_llm_model="gpt-4.1",
            default_formatter_model="o3-mini", callbacks=callbacks, approval_manager=None,
            hitl_after_planning=False, approval_config=None, parent_run_id="parent", stage_name="stage",
        )  # fmt: skip
    assert result.get("run_id") and result.get("session_id") is None
    assert getattr(result, "chat_history", []) == result["chat_history"]
    assert result["phase_timings"]["total"] == result["total_time"] > 0
    planning = [("planning", 0), ("planning", None)]
    assert phases == [*planning, ("control", 1), ("control", None), ("control", 1), ("control", 2)]


def test_check_42_what_a_task_executor_reads(tmp_path):
    executor = WorkflowExecutor(
        workflow=get_workflow("deep_research"), task="t", work_dir=tmp_path, api_keys={"OPENAI": "x"}
    )
    with two_steps() as server, server.environment():
        context = executor.run_sync()
    assert context.shared_state["execution_complete"] is True
    assert context.run_id and context.phase_timings.get("total", 0) > 0
    chat = [h for r in executor.results for h in r.chat_history]
    assert {"planner", "engineer_nest", "researcher_response_formatter"} <= {m["name"] for m in chat}
    context.save(tmp_path / "saved.pkl")
    assert WorkflowContext.load(tmp_path / "saved.pkl").to_dict() == context.to_dict()
    json.dumps(context.to_dict()["shared_state"]["final_context"])


def test_check_45_roles_and_contents(tmp_path):
    """Text of agents has the role user, a tool call the content "None", and every message a name."""
    failing = [code("raise ValueError('no')", filename="a.py"), code("print(1)", filename="a.py")]
    result = run(two_steps(engineer=failing, researcher=notes("# R")), deep_research, "t", work_dir=tmp_path)
    chat = [*result["planning_chat_history"], *result["chat_history"]]
    assert all(m["name"] and isinstance(m["content"], str) for m in chat)
    calls = [m for m in chat if "tool_calls" in m]
    assert calls and all((m["role"], m["content"]) == ("assistant", "None") for m in calls)
    for message in calls:
        for call in message["tool_calls"]:
            json.loads(call["function"]["arguments"])
    assert {m["role"] for m in chat if m["name"] in ("engineer", "engineer_nest", "researcher")} == {"user"}
    nests = [m["content"] for m in result["chat_history"] if m["name"] == "engineer_nest"]
    assert len(nests) == 2 and all("```python\n# filename: codebase/a.py\n" in n for n in nests)
    assert "execution results:\nExecution output: " in nests[0]
    assert "Execution results:\n\nExecution output: 1" in nests[1]


def test_check_68_asked_once_after_each_of_three_steps(tmp_path):
    manager = AutoApprovalManager("approve")
    definition = WorkflowDefinition(
        id="w",
        name="W",
        phases=[{"type": "planning"}, {"type": "control", "config": {"hitl_after_each_step": True}}],
    )
    steps = [("engineer", "compute"), ("researcher", "write"), ("engineer", "plot")]
    server = models(steps, engineer=code("print('x = 1')", filename="a.py"), researcher=notes("# R"))

    def work(api_keys):
        WorkflowExecutor(definition, "t", tmp_path, api_keys, approval_manager=manager).run_sync()

    run(server, work)
    asked = [(request.step_id, request.checkpoint_type) for request, _ in manager.answered]
    assert asked == [(f"phase_1_control_step_{number}", "after_step") for number in (1, 2, 3)]
