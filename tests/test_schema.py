"""JSON Schema of phases' configs, and settings checked against it."""

import dataclasses
import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from cmbagent import _core
from cmbagent.errors import ConfigurationError
from cmbagent.phases import (
    CheckpointType,
    ControlPhase,
    ControlPhaseConfig,
    Phase,
    PhaseConfig,
    PhaseRegistry,
)
from cmbagent.phases.schema import config_schema, description, problems
from cmbagent.workflows import WorkflowDefinition, WorkflowExecutor

if TYPE_CHECKING:
    from decimal import Decimal as Unseen


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class MineConfig(PhaseConfig):
    """Settings of mine.

    Attributes:
        rules: what must hold,
            one a line.
        size (int): how many.
    """

    phase_type: str = "mine"
    rules: list[str] = field(default_factory=list)
    size: int = field(default=3, metadata={"minimum": 1, "maximum": 9, "description": "how many, at most 9"})
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow"] = "fast"
    where: Path | None = None
    weights: dict[str, float] = field(default_factory=lambda: {"a": 1.0})
    either: int | list[int] = 0
    hidden: int = field(default=0, init=False)


class MinePhase(Phase):
    """Do it.

    At length.
    """

    config_class = MineConfig
    phase_type = "mine"
    display_name = "Mine"

    async def execute(self, context):
        raise NotImplementedError


def test_a_dataclass_of_a_user_is_described():
    schema = config_schema(MinePhase)
    fields = schema["properties"]
    assert (schema["title"], schema["description"]) == ("MineConfig", "Settings of mine.")
    assert schema["additionalProperties"] is False
    assert fields["rules"] == {
        "type": "array",
        "items": {"type": "string"},
        "default": [],
        "description": "what must hold, one a line.",
    }
    assert fields["size"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
        "default": 3,
        "description": "how many, at most 9",
    }
    assert fields["colour"] == {"enum": ["red", "blue"], "default": "red"}
    assert fields["mode"] == {"enum": ["fast", "slow"], "default": "fast"}
    assert fields["where"] == {"type": ["string", "null"], "default": None}
    assert fields["weights"] == {
        "type": "object",
        "additionalProperties": {"type": "number"},
        "default": {"a": 1.0},
    }
    assert fields["either"]["type"] == ["integer", "array"]
    assert "hidden" not in fields
    assert fields["timeout_seconds"]["minimum"] == 1 and "description" in fields["enabled"]
    assert description(MinePhase) == "Do it."


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rules": ["a"], "size": 9, "where": None, "colour": "blue", "weights": {"a": 1}}, []),
        ({"rules": "a"}, ["rules: expected array, got text"]),
        ({"rules": [1]}, ["rules: item 1: expected string, got 1"]),
        ({"size": 10, "mode": "odd"}, ["size: expected at most 9", "mode: expected one of 'fast', 'slow'"]),
        ({"size": True}, ["size: expected integer, got True"]),
        ({"weights": {"a": "x"}}, ["weights: 'a': expected number, got text"]),
        ({"not_known": 1}, []),
    ],
)
def test_settings_are_checked_against_it(settings, said):
    found = problems(config_schema(MinePhase), settings)
    assert len(found) == len(said)
    assert all(fault.startswith(text) for fault, text in zip(found, said, strict=True))


@pytest.mark.parametrize("kind", PhaseRegistry.list_all())
def test_defaults_of_the_package_hold_against_their_own_schema(kind):
    phase_class = PhaseRegistry.get(kind)
    schema = config_schema(phase_class)
    settings = {
        each.name: getattr(phase_class.config_class(), each.name)
        for each in dataclasses.fields(phase_class.config_class)
    }
    assert problems(schema, settings) == []
    assert all(entry.get("description") for name, entry in schema["properties"].items()), kind
    assert all(entry.get("type") for entry in schema["properties"].values())
    assert schema["properties"]["timeout_seconds"]["default"] == 3600


def test_settings_of_the_package_are_what_the_engine_says():
    fields = config_schema(ControlPhase)["properties"]
    engine = _core.config_schema("control")["properties"]
    assert {name: fields[name] for name in engine} == engine
    assert fields["web_surfer_model"]["description"].startswith("kept for older programs")
    assert fields["phase_type"]["const"] == "control"
    params = fields["params"]["properties"]
    assert params["sandbox"]["enum"] == ["strict", "default", "off"]
    assert params["agent_llm_configs"]["additionalProperties"]["properties"]["max_tokens"]["minimum"] == 0
    assert params["max_cost"]["minimum"] == 0
    assert {kind.value for kind in CheckpointType} < set(
        _core.config_schema("hitl_checkpoint")["properties"]["checkpoint_type"]["enum"]
    )


def test_a_config_derived_from_one_of_the_package_keeps_what_is_said_of_it():
    @dataclass
    class MyConfig(ControlPhaseConfig):
        phase_type: str = "mine"
        max_rounds: int = 7
        engineer_model: Literal["a", "b"] = "a"
        mine: int = field(default=1, metadata={"exclusiveMinimum": 0})

    class My(ControlPhase):
        config_class = MyConfig

    fields = config_schema(My)["properties"]
    engine = _core.config_schema("control")["properties"]
    assert fields["max_rounds"] == {**engine["max_rounds"], "default": 7}
    assert fields["engineer_model"]["enum"] == ["a", "b"] and "type" not in fields["engineer_model"]
    assert fields["params"] == engine["params"]
    said = problems(config_schema(My), {"mine": 0, "params": {"sandbox": "none", "mine": object()}})
    assert said == [
        "mine: expected more than 0, got 0",
        "params: sandbox: expected one of 'strict', 'default', 'off', got text",
    ]


def test_a_setting_out_of_range_ends_a_run_before_anything_is_asked(tmp_path):
    workflow = WorkflowDefinition("w", "w", phases=[{"type": "one_shot", "config": {"max_rounds": 0}}])
    with pytest.raises(ConfigurationError, match="max_rounds: expected at least 1, got 0"):
        WorkflowExecutor(workflow, "t", tmp_path, {"OPENAI": "sk-test"}, verbose=False).run_sync()


def test_an_annotation_for_the_type_checker_alone_takes_any_value():
    @dataclass
    class LazyConfig(PhaseConfig):
        phase_type: str = "lazy"
        amount: "Unseen" = 1

    class Lazy(MinePhase):
        config_class = LazyConfig

    schema = config_schema(Lazy)
    assert schema["properties"]["amount"] == {"default": 1}
    assert problems(schema, {"amount": object()}) == []


def test_a_phase_without_a_config_class_takes_anything():
    class Plain(MinePhase):
        config_class = None

    assert config_schema(Plain) == {} == config_schema(Plain)
    assert problems({}, {"anything": 1}) == []
