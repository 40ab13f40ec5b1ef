"""Every hook of `WorkflowCallbacks` in real runs: when it is called, and with what."""

import threading
from pathlib import Path

import pytest

from cmbagent.callbacks import StepStatus, WorkflowCallbacks
from cmbagent.testing import Fault, code
from cmbagent.workflows import WorkflowExecutor, get_workflow
from procs import Do, engineer, executor, run
from scripted import PLOT, two_steps


def recorder():
    """Callbacks that note the name, the arguments and the thread of every call."""
    heard = []

    def note(name):
        return lambda *arguments: heard.append((name, arguments, threading.current_thread()))

    hooks = [name for name in WorkflowCallbacks.__dataclass_fields__ if name.startswith("on_")]
    return heard, WorkflowCallbacks(**{name: note(name) for name in hooks})


def research(tmp_path, callbacks, server):
    with server, server.environment():
        ran = WorkflowExecutor(
            get_workflow("deep_research"), "t", tmp_path, {"OPENAI": "sk-test"}, callbacks, verbose=False
        )
        ran.run_sync()
    return ran


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What the callbacks of a run heard whose first script fails once."""
    heard, callbacks = recorder()
    scripts = [code("raise ValueError('no')", filename="plot.py"), code(PLOT, filename="plot.py")]
    server = two_steps(engineer=scripts)
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMBAGENT_STORE", str(root / ".store" / "store.db"))
        ran = research(root / "work", callbacks, server)
    return ran, server, heard


def calls(heard, name):
    return [arguments for hook, arguments, _ in heard if hook == name]


def test_order(whole):
    _, _, heard = whole
    told = ("on_agent_message", "on_tool_call", "on_progress", "on_pause_check")
    assert [(name, *arguments) if name == "on_phase_change" else name for name, arguments, _ in heard
            if name not in told] == [
        "on_workflow_start",
        ("on_phase_change", "planning", 0),
        ("on_phase_change", "planning", None),
        "on_planning_start",
        *["on_agent_start", "on_agent_complete"] * 3,
        "on_cost_update",
        "on_planning_complete",
        ("on_phase_change", "control", 1),
        ("on_phase_change", "control", None),
        ("on_phase_change", "control", 1),
        "on_step_start",
        *["on_agent_start", "on_agent_complete", "on_code_execution"] * 2,
        "on_step_complete",
        "on_cost_update",
        ("on_phase_change", "control", 2),
        "on_step_start",
        "on_agent_start",
        "on_agent_complete",
        "on_step_complete",
        "on_cost_update",
        "on_workflow_complete",
    ]  # fmt: skip
    assert {thread for _, _, thread in heard} == {threading.current_thread()}


def test_workflow_and_plan(whole):
    ran, _, heard = whole
    ((task, config),) = calls(heard, "on_workflow_start")
    assert task == "t"
    assert config == {
        "work_dir": ran.work_dir, "workflow_id": "deep_research", "workflow_name": "Deep Research",
        "phases": ["planning", "control"], "run_id": ran.context.run_id,
    }  # fmt: skip
    ((task, config),) = calls(heard, "on_planning_start")
    assert (task, config["max_plan_steps"], config["n_plan_reviews"]) == ("t", 3, 1)
    ((plan,),) = calls(heard, "on_planning_complete")
    assert (plan.task, plan.num_steps, plan.steps) == ("t", 2, ran.context.plan)
    assert "compute" in plan.plan_text
    assert plan.planning_time > 0
    ((final_context, seconds),) = calls(heard, "on_workflow_complete")
    assert final_context["displayed_images"] == [f"{ran.work_dir}/control/data/plot_1.png"]
    assert seconds == ran.context.phase_timings["total"]


def test_steps(whole):
    _, _, heard = whole
    starts, ends = calls(heard, "on_step_start"), calls(heard, "on_step_complete")
    assert [(step.step_number, step.goal, step.status) for (step,) in starts] == [
        (1, "compute", StepStatus.RUNNING), (2, "write", StepStatus.RUNNING),
    ]  # fmt: skip
    for (start,), (end,) in zip(starts, ends, strict=True):
        assert (end.step_number, end.goal, end.status) == (
            start.step_number, start.goal, StepStatus.COMPLETED,
        )  # fmt: skip
        assert end.started_at == start.started_at < end.completed_at
        assert end.execution_time > 0
        assert (end.error, bool(end.summary)) == (None, True)
    assert {Path(path).name for path in ends[0][0].result["files"]} >= {"plot.py", "plot_1.png"}
    assert calls(heard, "on_step_failed") == calls(heard, "on_workflow_failed") == []


def test_agents_code_and_messages(whole):
    _, server, heard = whole
    asked = [call.agent for call in server.calls]
    assert [agent for agent, _ in calls(heard, "on_agent_start")] == asked
    steps = [None, None, None, 1, 1, 2]
    assert [step for _, step in calls(heard, "on_agent_start")] == steps
    ends = calls(heard, "on_agent_complete")
    assert [(agent, step) for agent, step, _ in ends] == list(zip(asked, steps, strict=True))
    assert [data["text"] for _, _, data in ends] == [call.reply for call in server.calls]
    executions = calls(heard, "on_code_execution")
    assert [(agent, language) for agent, _, language, _ in executions] == [("engineer", "python")] * 2
    assert ["raise ValueError" in source for _, source, _, _ in executions] == [True, False]
    assert "ValueError: no" in executions[0][3]
    assert "power 4.25 K" in executions[1][3]
    messages = calls(heard, "on_agent_message")
    assert {name for name, *_ in messages} >= {"planner", "engineer", "researcher"}
    assert all(isinstance(content, str) for _, _, content, _ in messages)
    assert {metadata["phase"] for *_, metadata in messages} == {"planning", "control"}


def test_tool_calls_are_those_of_the_conversation(whole):
    ran, _, heard = whole
    wanted = [
        (message["name"], call["function"]["name"])
        for result in ran.results
        for message in result.chat_history
        for call in message.get("tool_calls", [])
    ]
    told = calls(heard, "on_tool_call")
    assert [(agent, tool) for agent, tool, *_ in told] == wanted
    assert wanted
    assert all(isinstance(arguments, dict) for _, _, arguments, _ in told)


def test_costs_are_counted_once(whole):
    _, server, heard = whole
    costs = [cost for (cost,) in calls(heard, "on_cost_update")]
    ends = [data["usage"] for _, _, data in calls(heard, "on_agent_complete")]
    assert len(ends) == len(server.calls) == 6
    tokens = sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in ends)
    assert sum(cost["total_tokens"] for cost in costs) == tokens
    assert sum(cost["total_cost"] for cost in costs) == pytest.approx(sum(usage["cost"] for usage in ends))
    assert all(Path(cost["cost_json_path"]).exists() for cost in costs)


def test_the_caller_is_asked_before_every_effect(tmp_path, serve):
    """Two calls, two scripts, and the phase itself; looking around is no effect."""
    serve({"engineer": [code("raise ValueError('no')", filename="a.py"), code("print(1)", filename="a.py")]})
    order = []
    callbacks = WorkflowCallbacks(
        on_pause_check=lambda: order.append("pause"), should_continue=lambda: order.append("go on") or True
    )
    run(executor(tmp_path, engineer(), callbacks=callbacks).run)
    assert order == ["pause", "go on"] * 5


def test_failed_step_and_workflow(tmp_path):
    heard, callbacks = recorder()
    server = two_steps(researcher=Fault.status(401, "no"))
    with pytest.raises(RuntimeError):
        research(tmp_path, callbacks, server)
    ((step,),) = calls(heard, "on_step_failed")
    assert (step.step_number, step.status) == (2, StepStatus.FAILED)
    assert step.error
    ((error, number),) = calls(heard, "on_workflow_failed")
    assert (error.startswith("Phase control failed: "), number) == (True, 2)
    assert calls(heard, "on_workflow_complete") == []
    assert [name for name, *_ in heard][-1] == "on_workflow_failed"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_no_from_should_continue_cancels_the_run_wherever_it_is(tmp_path, serve, number):
    server = serve({"engineer": code("1", filename="a.py")})
    heard, callbacks = recorder()
    answers = iter([True] * number)
    callbacks.should_continue = lambda: next(answers, False)
    ran = executor(tmp_path, engineer(max_retries=2), callbacks=callbacks)
    with pytest.raises(RuntimeError, match="cancelled by user"):
        run(ran.run)
    assert calls(heard, "on_workflow_failed") == [("Workflow cancelled by user", None)]
    assert len(server.calls) == (number == 2)
    assert calls(heard, "on_code_execution") == []
    assert ran.get_status()["status"] == "cancelled"


def test_hook_that_keeps_failing_is_left_alone_and_the_others_go_on(tmp_path, serve):
    serve({"a": "text"})
    heard, failed = [], []

    def fail(*_):
        failed.append(1)
        raise ValueError

    async def work(context):
        for _ in range(8):
            await context.run.call("x", agent="a")

    callbacks = WorkflowCallbacks(on_agent_start=fail, on_agent_complete=lambda *_: heard.append(1))
    run(executor(tmp_path, Do(work), callbacks=callbacks).run)
    assert (len(failed), len(heard)) == (5, 8)


def test_costs_of_a_run_within_a_run_count_once_in_each(tmp_path, serve):
    serve({"a": "text"})
    heard, callbacks = recorder()

    async def ask(context):
        await context.run.call("x", agent="a")

    inner = executor(tmp_path / "inner", ask)
    events = {}

    async def work(context):
        await ask(context)
        await inner.run()

    ran = executor(tmp_path, work, callbacks=callbacks)

    async def main():
        await ran.run()
        for name, each in (("outer", ran), ("inner", inner)):
            events[name] = [data async for kind, data in each.events() if kind == "run_finished"]

    run(main)
    (outer,), (within,) = events["outer"], events["inner"]
    assert (outer["usage"]["calls"], within["usage"]["calls"]) == (2, 1)
    assert outer["usage"]["cost"] == pytest.approx(2 * within["usage"]["cost"])
    assert len(calls(heard, "on_agent_complete")) == 1
