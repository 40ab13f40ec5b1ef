"""The examples of the specification, run as they are written.

Each test holds the example's own lines; only the models are scripted, and what the text leaves open
(`api_keys`, a running loop, the import of a name) is filled in.
"""

import asyncio
import inspect
import json
from dataclasses import dataclass, field, fields
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import List  # noqa: UP035 - the examples are written so

import pytest

from cmbagent.phases import PhaseRegistry
from cmbagent.testing import ideas
from scripted import two_steps

KEYS = {"OPENAI": "sk-test"}
FIVE_CALLS = ["planner", "plan_reviewer", "planner", "engineer", "researcher"]


@pytest.fixture
def here(monkeypatch, tmp_path):
    """The current directory of a user, with the key in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    return tmp_path


@pytest.fixture
def models(here):
    with two_steps() as server, server.environment():
        yield server


@pytest.fixture
def registry():
    """Types registered by a test are forgotten after it."""
    before = {t: PhaseRegistry.get(t) for t in PhaseRegistry.list_all()}
    yield
    PhaseRegistry.clear()
    for phase_type, cls in before.items():
        PhaseRegistry.register_class(phase_type, cls)


# Core components


def test_core_components_have_the_members_shown():
    from cmbagent.phases import Phase, PhaseContext, PhaseResult, PhaseStatus, WorkflowContext
    from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

    assert issubclass(PhaseStatus, Enum)
    assert {m.name: m.value for m in PhaseStatus} == {
        "PENDING": "pending", "RUNNING": "running", "COMPLETED": "completed", "FAILED": "failed",
        "SKIPPED": "skipped", "PAUSED": "paused", "WAITING_APPROVAL": "waiting_approval",
    }  # fmt: skip
    assert [f.name for f in fields(PhaseContext)][:10] == [
        "workflow_id", "run_id", "phase_id", "task", "work_dir", "shared_state", "input_data", "output_data",
        "api_keys", "callbacks",
    ]  # fmt: skip
    assert [f.name for f in fields(PhaseResult)] == ["status", "context", "error", "chat_history", "timing"]
    assert isinstance(PhaseResult.succeeded, property) and isinstance(PhaseResult.needs_approval, property)
    assert Phase.__abstractmethods__ == {"phase_type", "display_name", "execute"}
    assert inspect.iscoroutinefunction(Phase.execute)
    for method in ("validate_input", "get_required_agents", "can_skip"):
        assert callable(getattr(Phase, method))
    for method in ("register", "create", "create_from_dict", "list_all", "get_info"):
        assert callable(getattr(PhaseRegistry, method))
    assert [f.name for f in fields(WorkflowDefinition)][:6] == [
        "id", "name", "description", "phases", "version", "is_system",
    ]  # fmt: skip
    assert list(inspect.signature(WorkflowExecutor.__init__).parameters)[:7] == [
        "self", "workflow", "task", "work_dir", "api_keys", "callbacks", "approval_manager",
    ]  # fmt: skip
    assert inspect.iscoroutinefunction(WorkflowExecutor.run)
    assert WorkflowContext.__dataclass_params__ is not None


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        (
            "PlanningPhaseConfig",
            {
                "max_rounds": 50, "max_plan_steps": 3, "n_plan_reviews": 1,
                "planner_model": "gpt-4.1-2025-04-14", "plan_reviewer_model": "o3-mini-2025-01-31",
                "plan_instructions": "", "hardware_constraints": "",
            },
        ),
        (
            "ControlPhaseConfig",
            {
                "max_rounds": 100, "max_n_attempts": 3, "execute_all_steps": True, "step_number": None,
                "hitl_enabled": False, "hitl_after_each_step": False,
                "engineer_model": "gpt-4.1-2025-04-14", "researcher_model": "gpt-4.1-2025-04-14",
            },
        ),
        (
            "OneShotPhaseConfig",
            {"max_rounds": 50, "max_n_attempts": 3, "agent": "engineer", "evaluate_plots": False},
        ),
        (
            "HITLCheckpointConfig",
            {
                "checkpoint_type": "after_planning", "require_approval": True, "timeout_seconds": 3600,
                "default_on_timeout": "reject", "show_plan": True, "custom_message": "",
                "options": ["approve", "reject", "modify"],
            },
        ),
        (
            "IdeaGenerationPhaseConfig",
            {
                "max_rounds": 50, "n_ideas": 3, "n_reviews": 1, "idea_maker_model": "gpt-4.1-2025-04-14",
                "idea_hater_model": "o3-mini-2025-01-31",
            },
        ),
    ],
)  # fmt: skip
def test_phase_configurations(name, defaults):
    import cmbagent.phases

    config = getattr(cmbagent.phases, name)()
    assert {key: getattr(config, key) for key in defaults} == defaults


OUTPUTS = {
    "planning": {"final_plan", "plan_file_path", "planning_context"},
    "control": {"step_results", "final_context", "step_summaries"},
    "one_shot": {"result", "chat_history"},
    "hitl_checkpoint": {"approval_status", "user_feedback", "modifications"},
    "idea_generation": {"ideas", "reviews", "selected_idea"},
}


@pytest.mark.parametrize(
    "workflow_id",
    [
        "deep_research", "deep_research_hitl", "deep_research_full_hitl", "one_shot", "one_shot_researcher",
        "idea_generation", "idea_to_execution",
    ],
)  # fmt: skip
def test_every_system_workflow_runs_and_puts_out_what_the_text_says(here, workflow_id):
    from cmbagent.workflows import WorkflowExecutor, get_workflow

    critique = {"critiques": [{"title": "Lensing", "improvements": "a mask"}]}
    maker = [ideas(("Lensing", "measure it"), ("Noise", "model it")), ideas(("Lensing", "with a mask"))]
    models = two_steps(idea_maker=[maker[0], maker[0], maker[1]], idea_hater=critique)
    executor = WorkflowExecutor(get_workflow(workflow_id), "My task", "./output", KEYS)
    with models, models.environment():
        executor.run_sync()
    assert [r.status.value for r in executor.results] == ["completed"] * len(executor.phases)
    for result in executor.results:
        assert OUTPUTS[executor.phase_type_of(result)] <= result.output_data.keys()


# Examples


def test_custom_workflow_example(models):
    api_keys = KEYS

    async def example():
        from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

        # Define custom workflow
        my_workflow = WorkflowDefinition(
            id="my_custom_workflow",
            name="My Custom Workflow",
            description="Custom workflow with validation",
            phases=[
                {"type": "planning", "config": {"max_plan_steps": 5}},
                {"type": "hitl_checkpoint", "config": {"checkpoint_type": "after_planning"}},
                {"type": "control", "config": {"max_rounds": 150}},
            ],
        )

        # Execute
        executor = WorkflowExecutor(
            workflow=my_workflow,
            task="Analyze CMB data",
            work_dir="./output",
            api_keys=api_keys,
        )
        result = await executor.run()
        return executor, result

    executor, result = asyncio.run(example())
    models.assert_calls(FIVE_CALLS)
    assert result.approvals[0]["approval_status"] == "auto_approved"
    assert [p.config.max_rounds for p in (executor.phases[0], executor.phases[2])] == [50, 150]
    assert "Analyze CMB data" in models.prompts("planner")[0]
    assert Path("output/control/data/plot_1.png").exists()


class Approver:
    """Approves the plan; what it was asked is kept."""

    def __init__(self):
        self.asked = []

    def create_approval_request(self, **kwargs):
        self.asked.append(kwargs)
        return SimpleNamespace(id="a")

    async def wait_for_approval_async(self, request_id, timeout_seconds):
        return SimpleNamespace(resolution="approved", user_feedback="", modifications=None)


@pytest.mark.parametrize("how", ["async", "sync"])
def test_option_1_predefined_workflow(models, how):
    # Option 1: Use pre-defined workflow
    from cmbagent.utils import get_api_keys_from_env
    from cmbagent.workflows import WorkflowExecutor, get_workflow

    workflow = get_workflow("deep_research_hitl")
    executor = WorkflowExecutor(
        workflow=workflow,
        task="Compute CMB power spectrum using CAMB",
        work_dir="./output",
        api_keys=get_api_keys_from_env(),
    )
    approver = executor.approval_manager = Approver()

    async def execution():
        # Async execution
        result = await executor.run()
        return result

    # Or sync execution
    result = asyncio.run(execution()) if how == "async" else executor.run_sync()

    models.assert_calls(FIVE_CALLS)
    assert len(approver.asked) == 1 and "compute" in approver.asked[0]["message"]
    assert result.approvals[0]["approval_status"] == "approved"
    assert [r["status"] for r in executor.get_status()["phase_results"]] == ["completed"] * 3


def test_option_2_individual_phase(models, capsys):
    api_keys = KEYS

    async def example():
        # Option 2: Use individual phases
        from cmbagent.phases import PhaseContext, PlanningPhase, PlanningPhaseConfig

        phase = PlanningPhase(config=PlanningPhaseConfig(
            max_plan_steps=5,
            n_plan_reviews=2,
        ))  # fmt: skip

        context = PhaseContext(
            workflow_id="manual",
            run_id="test-123",
            phase_id="planning",
            task="My task",
            work_dir="./output",
            api_keys=api_keys,
        )

        result = await phase.execute(context)
        print(f"Plan: {result.context.output_data['final_plan']}")
        return result

    result = asyncio.run(example())
    assert result.succeeded and not result.needs_approval
    plan = result.context.output_data["final_plan"]
    assert f"Plan: {plan}" in capsys.readouterr().out
    assert [s["sub_task"] for s in plan] == ["compute", "write"]
    assert json.loads(Path("output/planning/final_plan.json").read_text()) == {"sub_tasks": plan}
    models.assert_calls(["planner", "plan_reviewer", "planner", "plan_reviewer", "planner"])


def test_adding_a_new_phase(models, registry):
    from cmbagent.phases.base import Phase, PhaseConfig, PhaseContext, PhaseResult, PhaseStatus
    from cmbagent.phases.registry import PhaseRegistry
    from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

    @dataclass
    class ValidationPhaseConfig(PhaseConfig):
        phase_type: str = "validation"
        validation_rules: List[str] = field(default_factory=list)  # noqa: UP006

    class ValidationPhase(Phase):
        config_class = ValidationPhaseConfig

        @property
        def phase_type(self) -> str:
            return "validation"

        @property
        def display_name(self) -> str:
            return "Validation"

        async def execute(self, context: PhaseContext) -> PhaseResult:
            # Validation logic here
            context.output_data = {"validated": True}
            return PhaseResult(
                status=PhaseStatus.COMPLETED,
                context=context,
            )

    # Register the phase
    PhaseRegistry.register_class("validation", ValidationPhase)

    # Now usable in workflows
    workflow = WorkflowDefinition(
        id="validated_research",
        name="Validated Research",
        phases=[
            {"type": "planning"},
            {"type": "validation"},  # Your new phase!
            {"type": "control"},
        ],
    )

    executor = WorkflowExecutor(workflow=workflow, task="My task", work_dir="./output", api_keys=KEYS)
    result = executor.run_sync()
    models.assert_calls(FIVE_CALLS)
    assert result.metadata["phase_1_validation"] == {"validated": True}
    assert [r["status"] for r in result.step_results] == ["completed"] * 2
    assert PhaseRegistry.create("validation").config.validation_rules == []


def test_a_registered_phase_by_decorator(registry):
    from cmbagent.phases.base import Phase, PhaseContext, PhaseResult, PhaseStatus

    @PhaseRegistry.register("noted")
    class Noted(Phase):
        phase_type = "noted"
        display_name = "Noted"

        async def execute(self, context: PhaseContext) -> PhaseResult:
            return PhaseResult(status=PhaseStatus.COMPLETED, context=context)

    assert "noted" in PhaseRegistry.list_all()
    assert isinstance(PhaseRegistry.create_from_dict({"type": "noted"}), Noted)
    assert PhaseRegistry.get_info("noted")["display_name"] == "Noted"


# Migration


def test_legacy_functions_still_work(models):
    # These still work exactly as before
    from cmbagent.workflows import (
        control,
        one_shot,
        planning_and_control_context_carryover,
    )

    # Legacy function call
    result = planning_and_control_context_carryover(
        task="My task",
        max_plan_steps=3,
        work_dir="./output",
    )
    models.assert_calls(FIVE_CALLS)
    assert result["chat_history"] and result["final_context"]["main_task"] == "My task"

    again = control("My task", plan="./output/planning/final_plan.json", work_dir="./again")
    assert again["final_context"]["current_status"] == "completed"
    single = one_shot("My task", work_dir="./single")
    assert single["final_context"]["agent_for_sub_task"] == "engineer"


def test_equivalent_phase_based_code(models):
    # New phase-based equivalent
    from cmbagent.utils import get_api_keys_from_env
    from cmbagent.workflows import DEEP_RESEARCH_WORKFLOW, WorkflowExecutor

    executor = WorkflowExecutor(
        workflow=DEEP_RESEARCH_WORKFLOW,
        task="My task",
        work_dir="./output",
        api_keys=get_api_keys_from_env(),
    )
    result = executor.run_sync()
    models.assert_calls(FIVE_CALLS)
    assert result.shared_state["final_context"]["main_task"] == "My task"


def test_the_backups_are_importable():
    from cmbagent.workflows.legacy import control as package_control
    from cmbagent.workflows.legacy.control import control
    from cmbagent.workflows.legacy.one_shot import one_shot
    from cmbagent.workflows.legacy.planning_control import planning_and_control_context_carryover

    assert package_control is control
    assert callable(one_shot) and callable(planning_and_control_context_carryover)


@pytest.mark.parametrize(
    ("workflow_id", "name", "phases"),
    [
        ("deep_research", "Deep Research", ["planning", "control"]),
        ("deep_research_hitl", "Deep Research with HITL", ["planning", "hitl_checkpoint", "control"]),
        (
            "deep_research_full_hitl",
            "Deep Research with Full HITL",
            ["planning", "hitl_checkpoint", "control"],
        ),
        ("one_shot", "Quick Task", ["one_shot"]),
        ("one_shot_researcher", "Quick Research", ["one_shot"]),
        ("idea_generation", "Idea Generation", ["idea_generation", "hitl_checkpoint"]),
        (
            "idea_to_execution",
            "Idea to Execution",
            ["idea_generation", "hitl_checkpoint", "planning", "hitl_checkpoint", "control"],
        ),
    ],
)
def test_system_workflows_of_the_table(workflow_id, name, phases):
    from cmbagent.workflows import get_workflow

    workflow = get_workflow(workflow_id)
    assert (workflow.name, [p["type"] for p in workflow.phases]) == (name, phases)
