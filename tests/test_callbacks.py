import logging

import pytest

import cmbagent
from cmbagent.callbacks import (
    PlanInfo,
    StepInfo,
    StepStatus,
    WorkflowCallbacks,
    WorkflowPhase,
    adapt_callbacks,
    create_null_callbacks,
    create_print_callbacks,
    merge_callbacks,
)

STEP = StepInfo(1, "goal", "description")
PLAN = PlanInfo("task", 1, [{"sub_task": "a", "sub_task_agent": "engineer"}], "text", 2.0)

INVOCATIONS = {
    "planning_start": ("task", {}),
    "planning_complete": (PLAN,),
    "step_start": (STEP,),
    "step_complete": (STEP,),
    "step_failed": (STEP,),
    "workflow_start": ("task", {}),
    "workflow_complete": ({}, 1.0),
    "workflow_failed": ("error", 2),
    "progress": ("message", {"a": 1}),
    "agent_start": ("engineer", 1),
    "agent_complete": ("engineer", 1, {}),
    "pause_check": (),
    "cost_update": ({"total_cost": 1.0},),
    "agent_message": ("engineer", "user", "text", {}),
    "code_execution": ("engineer", "print()", "python", "out"),
    "tool_call": ("engineer", "tool", {}, None),
    "phase_change": ("planning", None),
}


def boom(*_):
    raise ValueError("boom")


@pytest.mark.parametrize("name", INVOCATIONS)
def test_every_hook_gets_its_arguments(name):
    heard = []
    callbacks = WorkflowCallbacks(**{f"on_{name}": lambda *a: heard.append(a)})
    getattr(callbacks, f"invoke_{name}")(*INVOCATIONS[name])
    assert heard == [INVOCATIONS[name]]
    getattr(create_null_callbacks(), f"invoke_{name}")(*INVOCATIONS[name])


def test_steps_and_words():
    assert STEP.status is StepStatus.PENDING
    assert [s.value for s in StepStatus] == ["pending", "running", "completed", "failed", "skipped"]
    words = ["initializing", "planning", "executing", "completed", "failed", "paused"]
    assert [p.value for p in WorkflowPhase] == words
    assert cmbagent.WorkflowCallbacks is WorkflowCallbacks


def test_failing_hook_is_disabled_after_five_in_a_row(caplog):
    calls = []

    def hook(*_):
        calls.append(1)
        boom()

    callbacks = WorkflowCallbacks(on_progress=hook)
    with caplog.at_level(logging.WARNING, "cmbagent"):
        for _ in range(8):
            callbacks.invoke_progress("m")
    assert len(calls) == 5
    assert "not called again" in caplog.text


def test_success_resets_the_count():
    answers = iter([boom, boom, boom, boom, print] * 3)
    calls = []

    def hook(*_):
        calls.append(1)
        next(answers)()

    callbacks = WorkflowCallbacks(on_progress=hook)
    for _ in range(15):
        callbacks.invoke_progress("m")
    assert len(calls) == 15


def test_breaker_is_per_instance_and_hook():
    heard = []
    callbacks = WorkflowCallbacks(on_progress=boom, on_cost_update=heard.append)
    for _ in range(6):
        callbacks.invoke_progress("m")
        callbacks.invoke_cost_update({})
    assert len(heard) == 6
    assert WorkflowCallbacks(on_progress=boom)._failures == {}


def test_should_continue():
    assert WorkflowCallbacks().check_should_continue()
    assert not WorkflowCallbacks(should_continue=lambda: False).check_should_continue()
    assert not WorkflowCallbacks(should_continue=False).check_should_continue()
    assert WorkflowCallbacks(should_continue=boom).check_should_continue()


def test_coroutine_hooks_count_as_failures(caplog):
    async def hook(*_):
        pass

    with caplog.at_level(logging.WARNING, "cmbagent"):
        WorkflowCallbacks(on_progress=hook).invoke_progress("m")
    assert "TypeError" in caplog.text


def test_keyboard_interrupt_gets_through():
    def hook(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WorkflowCallbacks(on_progress=hook).invoke_progress("m")


def test_merge():
    heard = []
    merged = merge_callbacks(
        WorkflowCallbacks(on_progress=boom),
        None,
        WorkflowCallbacks(on_progress=lambda m, d: heard.append(m), should_continue=lambda: True),
        WorkflowCallbacks(should_continue=lambda: False),
    )
    for _ in range(7):
        merged.invoke_progress("m")
    assert heard == ["m"] * 7
    assert not merged.check_should_continue()
    assert merged.on_step_start is None
    assert merge_callbacks().check_should_continue()


def test_adapt_objects_with_some_hooks():
    heard = []

    class Duck:
        on_progress = staticmethod(lambda m, d: heard.append(("on", m)))

        def invoke_step_start(self, step):
            heard.append(("invoke", step.step_number))

        def check_should_continue(self):
            return False

    callbacks = adapt_callbacks(Duck())
    callbacks.invoke_progress("m")
    callbacks.invoke_step_start(STEP)
    callbacks.invoke_step_failed(STEP)
    assert heard == [("on", "m"), ("invoke", 1)]
    assert not callbacks.check_should_continue()
    assert adapt_callbacks({"on_progress": print}).on_progress is print
    assert adapt_callbacks(callbacks) is callbacks


def test_print_callbacks(capsys):
    callbacks = create_print_callbacks()
    for name, arguments in INVOCATIONS.items():
        getattr(callbacks, f"invoke_{name}")(*arguments)
    said = capsys.readouterr().out
    assert "plan: 1 steps in 2.0 s" in said
    assert "1. a (engineer)" in said
    assert "workflow failed: error" in said
    assert callbacks._failures == {}
