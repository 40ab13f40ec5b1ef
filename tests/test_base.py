import asyncio
import copy
import dataclasses
import pickle
import typing
from dataclasses import dataclass, field

import pytest

from cmbagent import _core
from cmbagent.errors import ConfigurationError
from cmbagent.phases import (
    ControlPhase,
    ControlPhaseConfig,
    HITLCheckpointConfig,
    HITLCheckpointPhase,
    IdeaGenerationPhase,
    OneShotPhase,
    OneShotPhaseConfig,
    Phase,
    PhaseConfig,
    PhaseContext,
    PhaseRegistry,
    PhaseResult,
    PhaseStatus,
    PlanningPhase,
    PlanningPhaseConfig,
)
from cmbagent.phases.schema import _of_type

BUILTIN = ["planning", "control", "one_shot", "hitl_checkpoint", "idea_generation"]


def context(**kwargs):
    return PhaseContext("w", "r", "phase_0_x", "task", "/tmp/x", api_keys={"OPENAI": "sk-secret"}, **kwargs)


@dataclass
class ValidationPhaseConfig(PhaseConfig):
    phase_type: str = "validation"
    validation_rules: list[str] = field(default_factory=list)


class ValidationPhase(Phase):
    config_class = ValidationPhaseConfig

    @property
    def phase_type(self):
        return "validation"

    @property
    def display_name(self):
        return "Validation"

    async def execute(self, context):
        context.output_data = {"validated": True}
        return PhaseResult(status=PhaseStatus.COMPLETED, context=context)


def test_status_values():
    words = ["pending", "running", "completed", "failed", "skipped", "paused", "waiting_approval"]
    assert [s.value for s in PhaseStatus] == words


def test_config_defaults():
    config = PlanningPhaseConfig()
    assert (config.phase_type, config.enabled, config.timeout_seconds, config.max_retries) == (
        "planning",
        True,
        3600,
        0,
    )
    assert config.model_overrides is not PlanningPhaseConfig().model_overrides
    assert config.params is not PlanningPhaseConfig().params
    with pytest.raises(TypeError, match=r"__init__\(\) got an unexpected keyword argument 'nope'"):
        PlanningPhaseConfig(nope=1)
    with pytest.raises(TypeError):
        PhaseConfig()


# Older programs set them; the engine has no use for them.
NOT_THE_ENGINES = {
    "control": {"web_surfer_model", "retrieve_assistant_model"},
    "one_shot": {"web_surfer_model", "model"},
}


@pytest.mark.parametrize("phase_type", BUILTIN)
def test_configs_are_the_engines(phase_type):
    config_class = PhaseRegistry.get(phase_type).config_class
    ours = dataclasses.asdict(config_class())
    theirs = _core.config_schema(phase_type)["properties"]
    assert set(ours) - set(theirs) == {"phase_type", *NOT_THE_ENGINES.get(phase_type, ())}
    assert {name: entry["default"] for name, entry in theirs.items()} == {name: ours[name] for name in theirs}
    hints = typing.get_type_hints(config_class)
    for name, entry in theirs.items():
        said, known = _of_type(hints[name])["type"], entry["type"]
        # Where nothing counts as empty, the annotation does not say so.
        assert said == known or [said, "null"] == known, name


def test_default_timeout_is_told_from_the_same_number():
    config = ControlPhaseConfig()
    assert config.explicit_timeout() is None
    for same in (
        copy.copy(config),
        copy.deepcopy(config),
        pickle.loads(pickle.dumps(config)),
        dataclasses.replace(config, max_rounds=3),
    ):
        assert same.timeout_seconds == 3600
        assert same.explicit_timeout() is None
    assert ControlPhaseConfig(timeout_seconds=3600).explicit_timeout() == 3600.0
    assert dataclasses.replace(config, timeout_seconds=5).explicit_timeout() == 5.0
    assert HITLCheckpointConfig(timeout_seconds=5).explicit_timeout() is None


def test_context_to_dict_keeps_secrets_out():
    c = context(shared_state={"a": 1})
    assert list(c.to_dict()) == [
        "workflow_id", "run_id", "phase_id", "task", "work_dir", "shared_state", "input_data", "output_data",
        "started_at", "completed_at",
    ]  # fmt: skip
    assert c.to_dict()["shared_state"] is c.shared_state
    assert "sk-secret" not in repr(c)


def test_copy_for_next_phase():
    value = object()
    c = context(
        shared_state={"old": 1, "kept": value}, output_data={"x": 2, "shared": {"old": 3, "new": value}}
    )
    following = c.copy_for_next_phase("phase_1_y")
    assert following.phase_id == "phase_1_y"
    assert following.input_data is c.output_data
    assert following.shared_state == {"old": 3, "kept": value, "new": value}
    assert following.shared_state["new"] is value
    assert following.shared_state is not c.shared_state
    assert following.output_data == {}
    assert (following.api_keys, following.started_at) == (c.api_keys, None)
    with pytest.raises(ConfigurationError, match="must be a dict of items for later phases, not list"):
        context(output_data={"shared": [1]}).copy_for_next_phase("p")


def test_result_properties():
    c = context(output_data={"x": 1})
    done, skipped = PhaseResult(PhaseStatus.COMPLETED, c), PhaseResult(PhaseStatus.SKIPPED, c)
    waiting = PhaseResult(PhaseStatus.WAITING_APPROVAL, c, error="e")
    assert (done.succeeded, skipped.succeeded, waiting.succeeded) == (True, False, False)
    assert (done.needs_approval, waiting.needs_approval) == (False, True)
    assert done.output_data is c.output_data
    assert waiting.error_message == "e"
    assert done.chat_history is not skipped.chat_history


def test_phase_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Phase()


def test_own_phase_gets_its_own_config():
    phase = ValidationPhase()
    assert phase.config == ValidationPhaseConfig()
    assert phase.status is PhaseStatus.PENDING
    assert (phase.validate_input(context()), phase.get_required_agents(), phase.get_output_schema()) == (
        [],
        [],
        {},
    )
    assert not phase.can_skip(context())
    assert ValidationPhase(ValidationPhaseConfig(enabled=False)).can_skip(context())
    assert asyncio.run(phase.execute(context())).output_data == {"validated": True}


def test_display_names_and_agents():
    assert PlanningPhase().display_name == "Planning"
    assert ControlPhase().display_name == "Execution"
    assert OneShotPhase(OneShotPhaseConfig(agent="researcher")).display_name == "Execute (researcher)"
    assert IdeaGenerationPhase().display_name == "Generate Ideas"
    assert OneShotPhase(OneShotPhaseConfig(agent="researcher")).get_required_agents() == ["researcher"]
    assert ControlPhase().get_required_agents() == ["control", "control_starter", "engineer", "researcher"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("after_planning", "Review Plan"),
        ("before_step", "Approve Step"),
        ("after_step", "Review Step Result"),
        ("after_execution", "Review Results"),
        ("before_execution", "Checkpoint"),
        ("custom", "Checkpoint"),
    ],
)
def test_checkpoint_display_names(kind, name):
    assert HITLCheckpointPhase(HITLCheckpointConfig(checkpoint_type=kind)).display_name == name


def test_checkpoint_config():
    assert HITLCheckpointConfig().options == ["approve", "reject", "modify"]
    assert HITLCheckpointConfig().options is not HITLCheckpointConfig().options
    assert HITLCheckpointPhase(HITLCheckpointConfig(require_approval=False)).can_skip(context())
    assert HITLCheckpointPhase(HITLCheckpointConfig(enabled=False)).can_skip(context())
    assert not HITLCheckpointPhase().can_skip(context())


@pytest.mark.parametrize("phase_type", BUILTIN)
def test_output_schema_names_outputs(phase_type):
    schema = PhaseRegistry.create(phase_type).get_output_schema()
    assert schema["type"] == "object"
    assert all(set(p) == {"type", "description"} for p in schema["properties"].values())
    assert "shared" in schema["properties"]


@pytest.mark.parametrize(
    ("phase", "messages"),
    [
        (PlanningPhase, ["Task is required for planning phase", "work_dir is required for planning phase"]),
        (OneShotPhase, ["Task is required for one-shot phase", "work_dir is required for one-shot phase"]),
        (
            IdeaGenerationPhase,
            ["Task is required for idea generation phase", "work_dir is required for idea generation phase"],
        ),
        (
            ControlPhase,
            [
                "Task is required for control phase",
                "Plan is required for control phase (run planning first)",
            ],
        ),
    ],
)
def test_builtin_validation(phase, messages):
    assert phase().validate_input(PhaseContext("w", "r", "p", "", "")) == messages


def test_control_finds_the_plan_in_all_its_places():
    steps = [{"sub_task": "a", "sub_task_agent": "engineer", "bullet_points": ["b"]}]
    assert ControlPhase(ControlPhaseConfig(params={"preloaded_plan": steps})).validate_input(context()) == []
    assert ControlPhase().validate_input(context(input_data={"final_plan": steps})) == []
    assert ControlPhase().validate_input(context(shared_state={"plan_steps": steps})) == []
    assert ControlPhase(ControlPhaseConfig(execute_all_steps=False)).validate_input(context()) == []
