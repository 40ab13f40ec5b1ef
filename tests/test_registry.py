import dataclasses

import pytest

from cmbagent.phases import PhaseConfig, PhaseRegistry, PlanningPhase, PlanningPhaseConfig
from cmbagent.phases.registry import PhaseRegistry as SameRegistry
from test_base import BUILTIN, ValidationPhase, ValidationPhaseConfig


@pytest.fixture
def registry():
    """The registry with the example phase, put back as it was afterwards."""
    before = {t: PhaseRegistry.get(t) for t in PhaseRegistry.list_all()}
    yield PhaseRegistry
    PhaseRegistry.clear()
    for phase_type, cls in before.items():
        PhaseRegistry.register_class(phase_type, cls)


def test_one_registry():
    assert SameRegistry is PhaseRegistry


def test_builtin_types_in_order():
    assert PhaseRegistry.list_all()[:5] == BUILTIN


def test_register(registry):
    @registry.register("one")
    class One(ValidationPhase):
        pass

    assert isinstance(One, type)
    assert registry.get("one") is One
    registry.register_class("one", ValidationPhase)
    assert registry.get("one") is ValidationPhase
    assert registry.is_registered("one")
    assert registry.list_all().count("one") == 1
    registry.clear()
    assert registry.list_all() == []


def test_unknown_type():
    with pytest.raises(ValueError, match=r"^Unknown phase type: zz\. Available: \['planning', 'control'"):
        PhaseRegistry.get("zz")
    with pytest.raises(ValueError, match=r"^Unknown phase type: zz"):
        PhaseRegistry.get_info("zz")
    assert not PhaseRegistry.is_registered("zz")


def test_create():
    config = PlanningPhaseConfig(max_plan_steps=7)
    phase = PhaseRegistry.create("planning", config)
    assert isinstance(phase, PlanningPhase)
    assert phase.config is config
    assert PhaseRegistry.create("planning").config == PlanningPhaseConfig()


def test_create_from_dict(registry):
    assert registry.create_from_dict({"type": "planning"}).config == PlanningPhaseConfig()
    phase = registry.create_from_dict({"type": "planning", "config": {"max_plan_steps": 5}, "label": "x"})
    assert phase.config.max_plan_steps == 5
    registry.register_class("validation", ValidationPhase)
    made = registry.create_from_dict({"type": "validation", "config": {"validation_rules": ["r"]}})
    assert made.config == ValidationPhaseConfig(validation_rules=["r"])


@pytest.mark.parametrize("definition", [{}, {"type": ""}, {"type": None}])
def test_definition_without_type(definition):
    with pytest.raises(ValueError, match=r"^Phase definition must include 'type' key$"):
        PhaseRegistry.create_from_dict(definition)


def test_bad_config():
    with pytest.raises(TypeError, match="unexpected keyword argument 'nope'"):
        PhaseRegistry.create_from_dict({"type": "planning", "config": {"nope": 1}})
    with pytest.raises(TypeError):
        PhaseRegistry.create_from_dict({"type": "planning", "config": None})


def test_phase_without_config_class(registry):
    class Bare(ValidationPhase):
        config_class = None

    registry.register_class("bare", Bare)
    made = registry.create_from_dict({"type": "bare", "config": {"enabled": False}})
    assert dataclasses.asdict(made.config) == dataclasses.asdict(PhaseConfig("bare", enabled=False))


def test_a_definition_that_names_the_type_in_its_config_too(registry):
    made = registry.create_from_dict({"type": "planning", "config": {"phase_type": "mine"}})
    assert made.config.phase_type == "mine"
    registry.register_class("bare", type("Bare", (ValidationPhase,), {"config_class": None}))
    with pytest.raises(TypeError, match="phase_type"):
        registry.create_from_dict({"type": "bare", "config": {"phase_type": "mine"}})


def test_create_passes_further_arguments_on(registry):
    class Sized(ValidationPhase):
        def __init__(self, config=None, *, size=1):
            super().__init__(config)
            self.size = size

    registry.register_class("sized", Sized)
    config = ValidationPhaseConfig()
    made = registry.create("sized", config, size=3)
    assert (made.size, made.config) == (3, config)
    assert registry.create("sized", size=2).size == 2


def test_info():
    info = {"type": "one_shot", "display_name": "Execute (engineer)", "required_agents": ["engineer"]}
    assert PhaseRegistry.get_info("one_shot") == info
    assert info in PhaseRegistry.list_all_info()


def test_a_mistyped_setting_is_answered_with_the_nearest():
    with pytest.raises(TypeError, match=r"'max_steps'\. Did you mean 'max_plan_steps'\?$"):
        PhaseRegistry.create_from_dict({"type": "planning", "config": {"max_steps": 3}})
