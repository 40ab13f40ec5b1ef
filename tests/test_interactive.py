"""The workflows in which a human takes part, from their beginning to their end."""

import asyncio

import pytest

from cmbagent.approvals import AutoApprovalManager
from cmbagent.phases import PhaseRegistry
from cmbagent.testing import code
from cmbagent.workflows import WorkflowExecutor, get_workflow
from scripted import run, two_steps

PLANNING = ["planner", "plan_reviewer", "planner"]
GOOD = code("print('x = 1')", filename="a.py")
BAD = code("raise SystemExit(3)", filename="a.py")


def execute(workflow_id, work_dir, policy="approve", **answers):
    manager, server = AutoApprovalManager(policy), two_steps(**answers)

    def work(api_keys):
        ran = WorkflowExecutor(
            get_workflow(workflow_id), "t", work_dir, api_keys, approval_manager=manager, verbose=False
        )
        ran.run_sync()
        return ran

    ran = run(server, work)
    return ran, server, [request for request, _ in manager.answered]


@pytest.mark.parametrize(
    ("workflow_id", "asked"),
    [
        ("deep_research", []),
        ("deep_research_hitl", ["after_planning"]),
        ("deep_research_full_hitl", ["after_planning", "after_step", "after_step"]),
        ("interactive_planning", ["during_planning"]),
        ("interactive_control", ["after_planning", "before_step", "before_step"]),
        ("full_interactive", ["during_planning", *["before_step", "after_step"] * 2]),
        ("error_recovery", []),
        ("progressive_review", ["after_step", "after_step"]),
        ("smart_approval", ["after_planning"]),
    ],
)
def test_whom_a_workflow_asks_when(tmp_path, workflow_id, asked):
    ran, server, requests = execute(workflow_id, tmp_path)
    assert [request.checkpoint_type for request in requests] == asked
    server.assert_calls([*PLANNING, "engineer", "researcher"])
    assert ran.outcome == "completed"
    assert len(ran.context.step_results) == 2


def test_error_recovery_asks_when_a_step_fails(tmp_path):
    _, server, requests = execute("error_recovery", tmp_path, "retry", engineer=[BAD] * 4 + [GOOD])
    assert [request.checkpoint_type for request in requests] == ["on_error"]
    assert server.agents().count("engineer") == 5


def test_remarks_with_smart_approval_reach_the_agents(tmp_path):
    from cmbagent.approvals import ApprovalResult

    _, server, (asked,) = execute(
        "smart_approval", tmp_path, lambda request: ApprovalResult("add_feedback", "mind the units")
    )
    assert asked.options == ["approve", "reject", "modify", "add_feedback"]
    assert "mind the units" in server.prompts("engineer")[0]


def test_without_anybody_to_ask_there_is_a_warning_and_an_event(tmp_path, caplog):
    def work(api_keys):
        ran = WorkflowExecutor(get_workflow("deep_research_hitl"), "t", tmp_path, api_keys, verbose=False)
        ran.run_sync()

        async def events():
            return [(kind, data) async for kind, data in ran.events()]

        return ran, asyncio.run(events())

    ran, events = run(two_steps(), work)
    told = [data for kind, data in events if kind == "warning"]
    assert len(told) == 1 and told[0]["phase"] == "hitl_checkpoint"
    assert "no approval manager to ask" in told[0]["message"]
    assert "no approval manager to ask" in caplog.text
    output = ran.results[1].output_data
    assert (output["approval_status"], output["no_hitl_manager"]) == ("auto_approved", True)


# Questions after steps: the rulings on hitl_after_each_step and hitl_enabled


def steps(work_dir, config, policy, **answers):
    control = PhaseRegistry.create_from_dict({"type": "control", "config": {"max_n_attempts": 0, **config}})
    manager, server = AutoApprovalManager(policy), two_steps(**answers)

    def work(api_keys):
        ran = WorkflowExecutor(
            get_workflow("deep_research"), "t", work_dir, api_keys, approval_manager=manager, verbose=False
        )
        ran.phases[1] = control
        ran.run_sync()
        return ran

    ran = run(server, work)
    return ran, [(request.checkpoint_type, request.options) for request, _ in manager.answered]


AFTER = ("after_step", ["continue", "redo", "skip", "abort"])
FAILED = ("on_error", ["retry", "skip", "abort"])


@pytest.mark.parametrize(
    ("config", "engineer", "asked"),
    [
        ({}, GOOD, []),
        ({"hitl_after_each_step": True}, GOOD, [AFTER, AFTER]),
        ({"hitl_enabled": True}, GOOD, [AFTER, AFTER]),
        ({"hitl_enabled": True}, [BAD, GOOD], [FAILED, AFTER, AFTER]),
        ({"hitl_enabled": True, "hitl_after_each_step": True}, [BAD, GOOD], [FAILED, AFTER, AFTER]),
    ],
)
def test_when_a_human_is_asked_about_a_step(tmp_path, config, engineer, asked):
    def policy(request):
        return "retry" if request.checkpoint_type == "on_error" else "continue"

    ran, questions = steps(tmp_path, config, policy, engineer=engineer)
    assert questions == asked
    assert [result["status"] for result in ran.context.step_results] == ["completed"] * 2


def test_with_hitl_after_each_step_alone_a_failure_is_no_question(tmp_path):
    with pytest.raises(RuntimeError, match="Step 1 failed after 1 attempts"):
        steps(tmp_path, {"hitl_after_each_step": True}, "approve", engineer=BAD)


@pytest.mark.parametrize(
    ("words", "engineers", "numbers"),
    [(["redo", "continue", "continue"], 2, [1, 2]), (["skip", "continue"], 1, [1, 2])],
)
def test_what_a_human_may_say_of_a_step(tmp_path, words, engineers, numbers):
    left = list(words)
    ran, _ = steps(tmp_path, {"hitl_after_each_step": True}, lambda request: left.pop(0))
    assert left == []
    chat = [m["name"] for m in ran.results[1].chat_history]
    assert chat.count("engineer_nest") == engineers
    assert [result["step"] for result in ran.context.step_results] == numbers


def test_a_human_may_stop_after_a_step(tmp_path):
    with pytest.raises(RuntimeError, match="Aborted by user after step 1"):
        steps(tmp_path, {"hitl_after_each_step": True}, "abort")
