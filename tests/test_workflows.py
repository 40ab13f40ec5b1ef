"""Whole workflows against scripted models."""

import asyncio
from types import SimpleNamespace

import pytest

from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.errors import RunStoppedError
from cmbagent.phases import PhaseContext, PhaseRegistry, PhaseStatus, PlanningPhase, PlanningPhaseConfig
from cmbagent.testing import code
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor, get_workflow
from scripted import two_steps
from test_base import ValidationPhase


class Approvals:
    """An approval manager that gives one answer to every checkpoint, and has each step go on."""

    def __init__(self, resolution, modifications=None):
        self.answer = SimpleNamespace(
            resolution=resolution, user_feedback="fine", modifications=modifications
        )
        self.requests = []

    def create_approval_request(self, **kwargs):
        self.requests.append(kwargs)
        return SimpleNamespace(id=str(len(self.requests)))

    async def wait_for_approval_async(self, request_id, timeout_seconds):
        if "continue" in self.requests[-1]["options"]:
            return SimpleNamespace(resolution="continue", user_feedback=None, modifications=None)
        return self.answer


def execute(workflow, work_dir, server=None, **kwargs):
    """Run a workflow on scripted models; return the executor and the server."""
    server = server or two_steps()
    executor = WorkflowExecutor(workflow, "the task", work_dir, {"OPENAI": "sk-test"}, **kwargs)
    with server, server.environment():
        executor.run_sync()
    return executor, server


def custom(*phases):
    return WorkflowDefinition(id="mine", name="Mine", phases=list(phases))


def test_deep_research(tmp_path):
    executor, server = execute(get_workflow("deep_research"), tmp_path)
    context = executor.context
    assert server.agents() == ["planner", "plan_reviewer", "planner", "engineer", "researcher"]
    assert len(context.shared_state["plan_steps"]) == 2
    assert context.phase_timings.get("total", 0) > 0
    assert [h for r in executor.results for h in r.chat_history]
    assert [p.status for p in executor.phases] == [PhaseStatus.COMPLETED] * 2
    assert (len(context.plan), context.total_steps, context.current_step) == (2, 2, 2)
    assert context.plan_file_path == str(tmp_path / "planning" / "final_plan.json")
    assert [r["step"] for r in context.step_results] == [1, 2]
    assert [s.splitlines()[0] for s in context.step_summaries] == ["### Step 1", "### Step 2"]
    assert str(tmp_path / "control" / "data" / "plot_1.png") in context.output_files


def test_planning_phase_alone(tmp_path):
    context = PhaseContext(
        "manual", "test-123", "planning", "My task", str(tmp_path), api_keys={"OPENAI": "sk-test"}
    )
    phase = PlanningPhase(config=PlanningPhaseConfig(max_plan_steps=5, n_plan_reviews=2))
    server = two_steps()
    with server, server.environment():
        result = asyncio.run(phase.execute(context))
    assert server.agents() == ["planner", "plan_reviewer", "planner", "plan_reviewer", "planner"]
    assert result.succeeded
    assert [s["sub_task_agent"] for s in result.context.output_data["final_plan"]] == [
        "engineer",
        "researcher",
    ]
    assert result.timing["total"] > 0
    assert phase.status is PhaseStatus.COMPLETED


def test_own_phase_between_planning_and_control(tmp_path):
    PhaseRegistry.register_class("validation", ValidationPhase)
    executor, _ = execute(custom({"type": "planning"}, {"type": "validation"}, {"type": "control"}), tmp_path)
    assert executor.results[1].output_data == {"validated": True}
    assert len(executor.context.step_results) == 2


def test_modified_plan_is_the_one_carried_out(tmp_path):
    plan = [{"sub_task": "only this", "sub_task_agent": "engineer", "bullet_points": ["do it"]}]
    manager = Approvals("modify", {"plan": plan})
    executor, server = execute(get_workflow("deep_research_hitl"), tmp_path, approval_manager=manager)
    assert len(manager.requests) == 1
    assert server.agents()[3:] == ["engineer"]
    assert "only this" in server.prompts("engineer")[0]
    assert executor.context.plan == plan


def test_full_hitl_asks_after_each_step(tmp_path):
    manager = Approvals("approve")
    execute(get_workflow("deep_research_full_hitl"), tmp_path, approval_manager=manager)
    assert [r["checkpoint_type"] for r in manager.requests] == ["after_planning", "after_step", "after_step"]


def test_exhausted_attempts_raise(tmp_path):
    server = two_steps(engineer=code("raise SystemExit(3)", filename="bad.py"))
    definition = custom({"type": "planning"}, {"type": "control", "config": {"max_n_attempts": 1}})
    with pytest.raises(RuntimeError, match=r"^Phase control failed: Step 1 failed after 2 attempts"):
        execute(definition, tmp_path, server)


def test_cancelled_between_steps(tmp_path):
    steps = []
    callbacks = WorkflowCallbacks(on_step_complete=steps.append, should_continue=lambda: not steps)
    server = two_steps()
    with pytest.raises(RunStoppedError, match="cancelled by user"):
        execute(get_workflow("deep_research"), tmp_path, server, callbacks=callbacks)
    assert server.agents()[-1] == "engineer"


def test_callbacks_of_a_whole_run(tmp_path):
    heard = []
    hooks = [
        "workflow_start",
        "planning_start",
        "planning_complete",
        "step_start",
        "step_complete",
        "workflow_complete",
    ]
    callbacks = WorkflowCallbacks(**{f"on_{h}": lambda *a, h=h: heard.append(h) for h in hooks})
    execute(get_workflow("deep_research"), tmp_path, callbacks=callbacks)
    assert heard == [*hooks[:3], *["step_start", "step_complete"] * 2, "workflow_complete"]


def test_no_key_reaches_disk(tmp_path):
    executor, _ = execute(get_workflow("deep_research"), tmp_path)
    executor.context.save(tmp_path / "saved.pkl")
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert files and not [f for f in files if b"sk-test" in f.read_bytes()]
