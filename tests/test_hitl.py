"""Planning and execution with a human, and what is built on them, with scripted models."""

import asyncio
import json
from pathlib import Path

import pytest

from cmbagent.approvals import ApprovalResult, AutoApprovalManager
from cmbagent.phases import (
    HITLControlPhase,
    HITLControlPhaseConfig,
    HITLPlanningPhase,
    HITLPlanningPhaseConfig,
    PhaseContext,
    PhaseStatus,
)
from cmbagent.testing import ModelServer, code, notes, plan, review
from cmbagent.workflows import (
    WorkflowDefinition,
    WorkflowExecutor,
    hitl_error_recovery_workflow,
    hitl_interactive_workflow,
    hitl_planning_only_workflow,
)
from scripted import run

STEPS = [
    {"sub_task": "compute", "sub_task_agent": "engineer", "bullet_points": ["print it"]},
    {"sub_task": "write", "sub_task_agent": "researcher", "bullet_points": ["be brief"]},
]
GOOD = code("print('power 4.25 K')", filename="power.py")
BAD = code("raise SystemExit('no data')", filename="power.py")
NOTES = notes("# Report\n\n4.25 K")


def models(**answers):
    base = {
        "planner": plan(("engineer", "compute", "print it"), ("researcher", "write", "be brief")),
        "plan_reviewer": review("Name the units."),
        "engineer": GOOD,
        "researcher": NOTES,
        "second_opinion": "No data.",
    }
    return ModelServer({**base, **answers})


def human(*answers):
    """Answers in order; each is a word, or a tuple of word, feedback and changes."""
    left = list(answers)

    def policy(request):
        said = left.pop(0)
        return ApprovalResult(*said) if isinstance(said, tuple) else said

    manager = AutoApprovalManager(policy)
    manager.left = left
    return manager


def asked(manager):
    return [(request.step_id, request.checkpoint_type) for request, _ in manager.answered]


def execute(server, tmp_path, manager, *phases, state=None, callbacks=None):
    definition = WorkflowDefinition(id="w", name="W", phases=[{"type": t, "config": c} for t, c in phases])

    def work(api_keys):
        built = WorkflowExecutor(
            definition, "task", tmp_path, api_keys, callbacks, manager, state, verbose=False
        )
        built.run_sync()
        return built

    return run(server, work)


def output_of(built, index=-1):
    return built.results[index].output_data


# Planning


def test_a_plan_is_rewritten_until_it_is_approved(tmp_path):
    server = models()
    manager = human(("revise", "use FFTs"), ("approve", "good"))
    built = execute(server, tmp_path, manager, ("hitl_planning", {"n_plan_reviews": 0}))
    output = output_of(built)
    assert output["final_plan"] == STEPS
    assert (output["iterations"], output["human_feedback"]) == (2, ["use FFTs", "good"])
    assert output["approval_status"] == "approved"
    assert output["shared"]["human_guided_planning"] is True
    assert output["shared"]["planning_feedback_history"] == ["use FFTs", "good"]
    assert asked(manager) == [
        ("phase_0_hitl_planning_iter_1", "during_planning"),
        ("phase_0_hitl_planning_iter_2", "during_planning"),
    ]
    assert manager.answered[0][0].options == ["approve", "reject", "revise", "modify"]
    assert manager.answered[1][0].spent["calls"] == 2
    first, second = server.prompts("planner")
    assert "use FFTs" not in first
    assert "use FFTs" in second
    assert "1. engineer: compute" in second
    approved = json.loads((tmp_path / "planning" / "final_plan_approved.json").read_text())
    assert approved == {"sub_tasks": STEPS}
    assert built.context.plan == STEPS
    assert not (tmp_path / ".previous").exists()


def test_an_edited_plan_is_executed_as_edited(tmp_path):
    server = models()
    edited = [{**STEPS[0], "sub_task": "compute twice"}]
    manager = human(("modify", "only that", {"plan": edited}))
    built = execute(server, tmp_path, manager, ("hitl_planning", {"n_plan_reviews": 0}), ("control", {}))
    assert output_of(built, 0)["final_plan"] == edited
    assert len(output_of(built)["step_results"]) == 1
    (prompt,) = server.prompts("engineer")
    assert "compute twice" in prompt
    assert "only that" in prompt
    assert server.prompts("researcher") == []
    assert json.loads((tmp_path / "planning" / "final_plan.json").read_text())["sub_tasks"] == edited


@pytest.mark.parametrize(
    ("answers", "config", "error"),
    [
        ([("reject", "too dear")], {}, "Plan rejected by human: too dear"),
        (["reject"], {}, "Plan rejected by human: no reason given"),
        (["revise", "revise"], {"max_human_iterations": 2}, r"Max iterations \(2\) reached without approval"),
    ],
)
def test_a_plan_without_approval(tmp_path, answers, config, error):
    manager = human(*answers)
    with pytest.raises(RuntimeError, match=f"^Phase hitl_planning failed: {error}$"):
        execute(models(), tmp_path, manager, ("hitl_planning", {"n_plan_reviews": 0, **config}))
    assert manager.left == []
    assert not (tmp_path / "planning" / "final_plan_approved.json").exists()
    # What was paid for is kept.
    assert (tmp_path / "planning" / "final_plan.json").exists()


def test_a_plan_that_needs_no_explicit_approval(tmp_path):
    server, manager = models(), human("revise")
    config = {"n_plan_reviews": 0, "require_explicit_approval": False, "auto_approve_after_iterations": 1}
    output = output_of(execute(server, tmp_path, manager, ("hitl_planning", config)))
    assert (output["iterations"], output["approval_status"]) == (2, "auto_approved")
    assert len(server.prompts("planner")) == 2


def test_planning_with_nobody_to_ask(tmp_path):
    output = output_of(execute(models(), tmp_path, None, ("hitl_planning", {"n_plan_reviews": 0})))
    assert output["no_hitl_manager"] is True
    assert (output["iterations"], output["approval_status"]) == (1, "auto_approved")


def test_nobody_answers_about_the_plan(tmp_path):
    class Silent(AutoApprovalManager):
        async def wait_for_approval_async(self, request_id, timeout_seconds=None):
            assert timeout_seconds == 7
            raise TimeoutError

    config = {"n_plan_reviews": 0, "timeout_seconds": 7}
    with pytest.raises(RuntimeError, match="Approval timeout"):
        execute(models(), tmp_path, Silent(), ("hitl_planning", config))


def test_planning_settings(tmp_path):
    config = HITLPlanningPhaseConfig()
    assert (config.max_plan_steps, config.max_human_iterations, config.phase_type) == (10, 3, "hitl_planning")
    assert HITLPlanningPhaseConfig(timeout_seconds=5).explicit_timeout() is None
    with pytest.warns(RuntimeWarning, match="no effect"):
        HITLPlanningPhase(HITLPlanningPhaseConfig(use_ag2_handoffs=True))
    manager = human("approve")
    config = {"n_plan_reviews": 0, "allow_plan_modification": False, "show_intermediate_plans": False}
    execute(models(), tmp_path, manager, ("hitl_planning", config))
    ((request, _),) = manager.answered
    assert request.options == ["approve", "reject", "revise"]
    assert request.plan == []
    phase = HITLPlanningPhase()
    assert phase.validate_input(PhaseContext("w", "r", "p", "", "")) == [
        "Task is required",
        "Work directory is required",
    ]
    assert phase.display_name == "Interactive Planning (HITL)"
    assert {"final_plan", "human_feedback", "iterations"} <= set(phase.get_output_schema()["properties"])


# Execution

PLAN = {"plan_steps": STEPS}


def control(server, tmp_path, manager, mode, **config):
    phase = ("hitl_control", {"approval_mode": mode, "max_n_attempts": 0, **config})
    return execute(server, tmp_path, manager, phase, state=PLAN)


def test_asked_before_and_after_each_step(tmp_path):
    server = models()
    manager = human("approve", ("continue", "nice"), "approve", "continue")
    built = control(server, tmp_path, manager, "both")
    place = "phase_0_hitl_control_step_"
    assert asked(manager) == [
        (f"{place}1", "before_step"),
        (f"{place}1_review", "after_step"),
        (f"{place}2", "before_step"),
        (f"{place}2_review", "after_step"),
    ]
    before, after = manager.answered[0][0], manager.answered[1][0]
    assert before.options == ["approve", "reject", "skip", "modify"]
    assert before.message.startswith("Step 1 of 2, by the engineer: compute")
    assert (before.plan, before.estimate) == (STEPS, None)
    assert after.options == ["continue", "abort", "redo"]
    assert "4.25 K" in after.message
    output = output_of(built)
    assert [(r["step"], r["success"], r["attempts"], r["redos"]) for r in output["step_results"]] == [
        (1, True, 1, 0),
        (2, True, 1, 0),
    ]
    assert output["human_interventions"][1] == {
        "step": 1,
        "type": "after_step",
        "resolution": "continue",
        "feedback": "nice",
    }
    assert output["step_feedback"] == [{"step": 1, "feedback": "nice"}]
    assert output["shared"]["executed_steps"] == [1, 2]
    assert output["shared"]["execution_complete"] is True
    assert len(output["step_summaries"]) == 2
    # The second step knows of the first, and of what the human said.
    (prompt,) = server.prompts("researcher")
    assert "4.25 K" in prompt
    assert "nice" in prompt
    assert (tmp_path / "control" / "final_context.pkl").exists()
    assert (tmp_path / "control" / "codebase" / "power.py").exists()
    assert not (tmp_path / ".previous").exists()


def test_a_step_is_done_again(tmp_path):
    server = models()
    manager = human(("redo", "in mK"), "redo", "continue", "continue")
    output = output_of(control(server, tmp_path, manager, "after_step", max_redos=2))
    assert manager.answered[2][0].options == ["continue", "abort"]
    assert [(r["step"], r["attempts"], r["redos"]) for r in output["step_results"]] == [(1, 3, 2), (2, 1, 0)]
    prompts = server.prompts("engineer")
    assert len(prompts) == 3
    assert "in mK" not in prompts[0]
    assert "in mK" in prompts[1]


def test_a_step_is_left_out(tmp_path):
    server = models()
    manager = human("skip", "approve")
    output = output_of(control(server, tmp_path, manager, "before_step"))
    assert output["skipped_steps"] == [1]
    assert [r["step"] for r in output["step_results"]] == [2]
    assert server.prompts("engineer") == []


@pytest.mark.parametrize(
    ("mode", "answers", "error"),
    [
        ("before_step", ["approve", ("reject", "enough")], "Step 2 rejected by human: enough"),
        ("after_step", [("abort", "enough")], "Aborted by user after step 1: enough"),
    ],
)
def test_the_run_is_ended(tmp_path, mode, answers, error):
    with pytest.raises(RuntimeError, match=f"^Phase hitl_control failed: {error}$"):
        control(models(), tmp_path, human(*answers), mode)


def test_the_rest_of_the_plan_is_changed(tmp_path):
    server = models()
    edited = [{**STEPS[0], "sub_task": "undone"}, {**STEPS[0], "sub_task": "compute more"}]
    manager = human("approve", ("modify", None, {"plan": edited}))
    (tmp_path / "planning").mkdir()
    (tmp_path / "planning" / "final_plan.json").write_text(json.dumps({"sub_tasks": STEPS}))
    built = control(server, tmp_path, manager, "before_step")
    expected = [STEPS[0], edited[1]]
    assert output_of(built)["shared"]["plan_steps"] == expected
    assert json.loads((tmp_path / "planning" / "final_plan.json").read_text()) == {"sub_tasks": expected}
    assert "compute more" in server.prompts("engineer")[1]
    assert server.prompts("researcher") == []


def test_the_rest_of_the_plan_is_dropped(tmp_path):
    manager = human("approve", ("modify", None, {"plan": STEPS[:1]}))
    output = output_of(control(models(), tmp_path, manager, "before_step"))
    assert [r["step"] for r in output["step_results"]] == [1]


@pytest.mark.parametrize(
    ("answers", "steps", "skipped"),
    [
        ([("retry", "look in data/")], [(1, True, 2), (2, True, 1)], []),
        (["skip"], [(1, False, 1), (2, True, 1)], [1]),
    ],
)
def test_a_step_fails(tmp_path, answers, steps, skipped):
    server = models(engineer=[BAD, GOOD])
    manager = human(*answers)
    output = output_of(control(server, tmp_path, manager, "on_error"))
    ((request, _),) = manager.answered
    assert (request.step_id, request.checkpoint_type) == ("phase_0_hitl_control_step_1_error", "on_error")
    assert request.options == ["retry", "skip", "abort"]
    assert "Step 1 failed after" in request.message
    assert [(r["step"], r["success"], r["attempts"]) for r in output["step_results"]] == steps
    assert output["skipped_steps"] == skipped
    if not skipped:
        assert "look in data/" in server.prompts("engineer")[1]


def test_a_step_fails_and_the_human_gives_up(tmp_path):
    config = {"allow_step_retry": False, "allow_step_skip": False}
    manager = human("abort")
    with pytest.raises(RuntimeError, match=r"^Phase hitl_control failed: Step 1 failed after 1 attempts"):
        control(models(engineer=BAD), tmp_path, manager, "on_error", **config)
    assert manager.answered[0][0].options == ["abort"]


def test_execution_with_nobody_to_ask(tmp_path):
    output = output_of(control(models(), tmp_path / "a", None, "both"))
    assert (len(output["step_results"]), output["human_interventions"]) == (2, [])
    with pytest.raises(RuntimeError, match="Step 1 failed after"):
        control(models(engineer=BAD), tmp_path / "b", None, "both")


def test_execution_settings():
    with pytest.raises(ValueError, match="expected one of before_step"):
        HITLControlPhaseConfig(approval_mode="never")
    config = HITLControlPhaseConfig(timeout_seconds=5)
    assert (config.timeout_seconds, config.explicit_timeout()) == (5, None)
    phase = HITLControlPhase()
    assert phase.validate_input(PhaseContext("w", "r", "p", "", "")) == [
        "Task is required",
        "Work directory is required",
        "Plan is required (final_plan or plan_steps)",
    ]
    assert phase.display_name == "Interactive Execution (HITL)"
    assert "skipped_steps" in phase.get_output_schema()["properties"]


def test_on_its_own(tmp_path):
    manager = human("continue", "continue")
    context = PhaseContext(
        "w",
        "r",
        "mine",
        "task",
        str(tmp_path),
        {**PLAN, "_approval_manager": manager},
        api_keys={"OPENAI": "k"},
    )
    phase = HITLControlPhase(HITLControlPhaseConfig(approval_mode="after_step"))
    result = run(models(), lambda api_keys: asyncio.run(phase.execute(context)))
    assert (result.status, phase.status) == (PhaseStatus.COMPLETED, PhaseStatus.COMPLETED)
    assert asked(manager)[0] == ("mine_step_1_review", "after_step")


# The functions


def test_interactive_workflow_within_a_loop(tmp_path):
    manager = human("approve", "approve", "continue", "approve", ("continue", "thanks"))

    async def cell():
        return run(models(), hitl_interactive_workflow, "task", work_dir=tmp_path, approval_manager=manager)

    result = asyncio.run(cell())
    assert manager.left == []
    assert set(result) == {
        "final_context",
        "phase_timings",
        "work_dir",
        "hitl_feedback",
        "planning_feedback_history",
        "step_feedback",
    }
    assert result["final_context"]["run_id"]
    assert result.hitl_feedback == ["thanks"]
    assert result.step_feedback == [{"step": 2, "feedback": "thanks"}]
    assert result.work_dir == str(Path(tmp_path).resolve())
    assert result.phase_timings["total"] > 0


def test_planning_only_workflow(tmp_path):
    manager = human(("revise", "shorter"), "approve")
    result = run(models(), hitl_planning_only_workflow, "task", work_dir=tmp_path, approval_manager=manager)
    assert result.planning_feedback_history == ["shorter"]
    assert "step_feedback" not in result
    assert len(result.final_context["step_results"]) == 2


def test_error_recovery_workflow(tmp_path):
    manager = human("retry")
    result = run(
        models(engineer=[BAD, GOOD]),
        hitl_error_recovery_workflow,
        "task",
        max_n_attempts=0,
        work_dir=tmp_path,
        approval_manager=manager,
    )
    assert manager.left == []
    assert "planning_feedback_history" not in result
    assert result.step_feedback == []
