"""What acts on every phase: the common settings, and the methods that a subclass overrides."""

import dataclasses

import pytest

from cmbagent.approvals import AutoApprovalManager
from cmbagent.phases import PhaseRegistry, PhaseResult, PhaseStatus
from cmbagent.testing import ModelServer, code, ideas, notes, plan, review
from procs import Do, executor
from scripted import STEPS, run

TYPES = [
    "planning", "control", "one_shot", "hitl_checkpoint", "idea_generation", "hitl_planning", "hitl_control",
]  # fmt: skip
BAD = code("raise SystemExit(3)", filename="bad.py")
ENOUGH = {"plan_steps": STEPS}


def models(**changes):
    answers = {
        "planner": plan(("engineer", "a", "x"), ("researcher", "b", "y")),
        "plan_reviewer": review("Name the units."),
        "engineer": code("print('x = 1')", filename="a.py"),
        "researcher": notes("# R"),
        "second_opinion": "No idea.",
        "idea_maker": ideas(("Lensing", "measure it")),
        "idea_hater": {"critiques": [{"title": "Lensing", "improvements": "a mask"}]},
        "reader": "text",
    }
    return ModelServer({**answers, **changes})


def execute(work_dir, *phases, server=None, **kwargs):
    kwargs.setdefault("approval_manager", AutoApprovalManager("approve"))
    server = server or models()

    def work(api_keys):
        ran = executor(work_dir, *phases, initial_shared_state=dict(ENOUGH), **kwargs)
        ran.run_sync()
        return ran

    return run(server, work), server


async def reads(context):
    await context.run.call("Read.", agent="reader")
    await context.run.call("Read on.", agent="reader")


# Settings


@pytest.mark.parametrize("phase_type", [*TYPES, "do"])
def test_a_phase_that_is_not_enabled_is_skipped(tmp_path, phase_type):
    phase = Do(None) if phase_type == "do" else PhaseRegistry.create(phase_type)
    phase.config.enabled = False
    ran, server = execute(tmp_path, phase)
    assert (ran.results, ran.get_status()["skipped"], server.calls) == ([], [0], [])


@pytest.mark.parametrize(
    ("phase_type", "agent"),
    [
        ("planning", "planner"),
        ("planning", "plan_reviewer"),
        ("control", "engineer"),
        ("control", "researcher"),
        ("one_shot", "engineer"),
        ("idea_generation", "idea_maker"),
        ("idea_generation", "idea_hater"),
        ("hitl_planning", "planner"),
        ("hitl_control", "researcher"),
        ("do", "reader"),
    ],
)
def test_model_overrides_come_before_every_other_choice(tmp_path, phase_type, agent):
    overrides = {agent: "gpt-mine"}
    if phase_type == "do":
        phase = Do(reads, model_overrides=overrides)
    else:
        config = {"model_overrides": overrides}
        phase = PhaseRegistry.create_from_dict({"type": phase_type, "config": config})
        if phase_type == "idea_generation":
            phase.config.n_ideas = 1
    _, server = execute(tmp_path, phase)
    used = {call.agent: call.model for call in server.calls}
    assert used.pop(agent) == "gpt-mine"
    assert "gpt-mine" not in used.values()


@pytest.mark.parametrize(
    ("phase_type", "config", "changes"),
    [
        ("planning", {"max_rounds": 2}, {}),
        ("hitl_planning", {"max_rounds": 2}, {}),
        ("control", {"max_rounds": 1}, {"engineer": BAD}),
        ("hitl_control", {"max_rounds": 1, "approval_mode": "after_step"}, {"engineer": BAD}),
        ("one_shot", {"max_rounds": 1}, {"engineer": BAD}),
        ("idea_generation", {"max_rounds": 1, "n_ideas": 1}, {}),
    ],
)
def test_max_rounds_limits_the_model_calls_and_is_named(tmp_path, phase_type, config, changes):
    phase = PhaseRegistry.create_from_dict({"type": phase_type, "config": config})
    server = models(**changes)
    with pytest.raises(
        RuntimeError, match=f"Phase {phase_type} failed: .*max_rounds={config['max_rounds']} of"
    ):
        execute(tmp_path, phase, server=server)
    assert len(server.calls) == config["max_rounds"]


def test_max_rounds_limits_the_calls_of_a_users_phase(tmp_path):
    phase = Do(reads)
    phase.config.max_rounds = 1
    server = models()
    with pytest.raises(RuntimeError, match="max_rounds=1 of the phase do"):
        execute(tmp_path, phase, server=server)
    server.assert_calls(["reader"])


@pytest.mark.parametrize("phase_type", ["control", "one_shot", "hitl_control"])
def test_a_phase_of_ours_that_failed_is_tried_again(tmp_path, phase_type):
    config = {"max_retries": 1, "max_n_attempts": 0}
    phase = PhaseRegistry.create_from_dict({"type": phase_type, "config": config})
    server = models(engineer=[BAD, code("print('x = 1')", filename="a.py")])
    # Nobody is asked what to do about the failure.
    ran, _ = execute(tmp_path, phase, server=server, approval_manager=None)
    assert server.agents().count("engineer") == 2
    assert [result.status for result in ran.results] == [PhaseStatus.COMPLETED]


# Subclasses of the built-in phases


def derived(phase_type, **methods):
    """An instance of a subclass with these methods."""
    return type("Derived", (PhaseRegistry.get(phase_type),), methods)()


@pytest.mark.parametrize("phase_type", TYPES)
def test_validate_input_of_a_subclass_counts(tmp_path, phase_type):
    phase = derived(phase_type, validate_input=lambda self, context: ["mine is missing"])
    with pytest.raises(ValueError, match=rf"^Phase {phase_type} validation failed: \['mine is missing'\]$"):
        execute(tmp_path, phase)


@pytest.mark.parametrize("phase_type", TYPES)
def test_can_skip_of_a_subclass_counts(tmp_path, phase_type):
    asked = []
    phase = derived(phase_type, can_skip=lambda self, context: asked.append(context.phase_id) or True)
    ran, server = execute(tmp_path, phase)
    assert (ran.results, server.calls, asked) == ([], [], [f"phase_0_{phase_type}"])


@pytest.mark.parametrize("phase_type", TYPES)
def test_execute_of_a_subclass_counts(tmp_path, phase_type):
    async def instead(self, context):
        context.output_data = {"mine": True}
        return PhaseResult(PhaseStatus.COMPLETED, context)

    ran, server = execute(tmp_path, derived(phase_type, execute=instead))
    assert (ran.results[0].output_data, server.calls) == ({"mine": True}, [])


@pytest.mark.parametrize("phase_type", [each for each in TYPES if each != "idea_generation"])
def test_a_subclass_may_do_something_before_and_after(tmp_path, phase_type):
    base = PhaseRegistry.get(phase_type)

    async def around(self, context):
        context.task += ", briefly"
        result = await base.execute(self, context)
        result.context.output_data["after"] = result.status.value
        return result

    ran, server = execute(tmp_path, derived(phase_type, execute=around))
    assert ran.results[0].output_data["after"] == "completed"
    assert all("the task, briefly" in call.prompt for call in server.calls[:1])


@pytest.mark.parametrize("phase_type", TYPES)
def test_get_output_schema_of_a_subclass_counts(phase_type):
    schema = {"type": "object", "properties": {"mine": {"type": "boolean"}}}
    assert derived(phase_type, get_output_schema=lambda self: schema).get_output_schema() is schema


# What a phase may do with its context


def test_dictionaries_may_be_bound_anew(tmp_path):
    seen = []

    async def rebinds(context):
        context.shared_state = {"only": "this"}
        context.input_data = {}
        context.output_data = {"a": 1, "shared": {"b": 2}}

    async def reads_them(context):
        seen.append((dict(context.shared_state), context.input_data))

    execute(tmp_path, rebinds, reads_them)
    ((shared, given),) = seen
    assert {"only": "this", "b": 2}.items() <= shared.items()
    assert "plan_steps" not in shared
    assert given == {"a": 1, "shared": {"b": 2}}


def test_a_context_made_by_replace_is_the_one_that_goes_on(tmp_path):
    async def replaces(context):
        other = dataclasses.replace(context, task="another task", output_data={"a": 1})
        return PhaseResult(PhaseStatus.COMPLETED, other)

    _, server = execute(tmp_path, replaces, PhaseRegistry.create("one_shot"))
    assert "another task" in server.prompts("engineer")[0]


def test_a_configuration_changed_before_the_run_counts(tmp_path):
    phase = PhaseRegistry.create("planning")
    phase.config.n_plan_reviews = 0
    _, server = execute(tmp_path, phase)
    server.assert_calls(["planner"])
