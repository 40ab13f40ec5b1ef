"""What phases may await, return and raise, and the values that pass through them."""

import asyncio
import contextvars
import math
import threading

import pytest

from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.phases import (
    PhaseContext,
    PhaseRegistry,
    PhaseResult,
    PhaseStatus,
)
from cmbagent.testing import Fault, code, ideas, notes, plan, review
from procs import (
    PATIENCE,
    Do,
    done,
    engineer,
    executor,
    forever,
    researcher,
    run,
    wait_in_loop,
)

VARIABLE = contextvars.ContextVar("variable", default="unset")


# --- what phases may await, and context variables ---


def test_whatever_can_be_awaited_can_be_awaited_in_a_phase(tmp_path):
    async def numbers():
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    async def double(number):
        await asyncio.sleep(0.001)
        return 2 * number

    async def work(context):
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.call_soon(future.set_result, "future")
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(double(n)) for n in range(3)]
        context.output_data.update(
            future=await future,
            tasks=[task.result() for task in tasks],
            task=await asyncio.create_task(double(4)),
            gathered=await asyncio.gather(double(1), double(2)),
            shielded=await asyncio.shield(double(3)),
            generated=[number async for number in numbers()],
            waited=await asyncio.wait_for(double(5), PATIENCE),
            threaded=await asyncio.to_thread(lambda: "thread"),
            same_task=asyncio.current_task() is task,
        )

    ran = executor(tmp_path, work)

    async def main():
        nonlocal task
        task = asyncio.current_task()
        await ran.run()

    task = None
    run(main)
    assert ran.results[0].context.output_data == {
        "future": "future",
        "tasks": [0, 2, 4],
        "task": 8,
        "gathered": [2, 4],
        "shielded": 6,
        "generated": [0, 1, 2],
        "waited": 10,
        "threaded": "thread",
        "same_task": True,
    }


def test_timeouts_of_a_phases_own_stay_its_own(tmp_path, serve):
    server = serve({"engineer": Fault.hang(), "researcher": notes("# Title\n\nText.")})
    seen = []

    async def once_called(limit):
        await wait_in_loop(lambda: server.calls)
        limit.reschedule(0)

    async def work(context):
        try:
            async with asyncio.timeout(PATIENCE) as limit:
                watch = asyncio.create_task(once_called(limit))
                await engineer().execute(context)
        except TimeoutError:
            seen.append("timeout")
        phase = researcher()
        seen.append((await phase.execute(context)).status)
        await watch

    ran = executor(tmp_path, work)
    run(ran.run)
    assert seen == ["timeout", PhaseStatus.COMPLETED]
    assert ran.outcome == "completed"
    server.assert_calls(["engineer", "researcher"])


def test_context_variables_go_into_phases_and_out_of_them(tmp_path):
    seen = []

    async def first(context):
        seen.append(VARIABLE.get())
        VARIABLE.set("from the first")

    async def second(context):
        seen.append(VARIABLE.get())

    async def main():
        VARIABLE.set("from the caller")
        await executor(tmp_path, first, second).run()
        return VARIABLE.get()

    assert run(main) == "from the first"
    assert seen == ["from the caller", "from the first"]


def test_callbacks_see_the_callers_context_variables_also_after_a_time_limit(tmp_path):
    seen = []
    callbacks = WorkflowCallbacks(on_workflow_failed=lambda error, step: seen.append(VARIABLE.get()))

    async def main():
        VARIABLE.set("from the caller")
        await executor(tmp_path, Do(forever([]), timeout_seconds=0.02), callbacks=callbacks).run()

    with pytest.raises(RuntimeError):
        run(main)
    assert seen == ["from the caller"]


# --- what a phase returns ---


class Sync(Do):
    def execute(self, context):
        return self.work(context)


@pytest.mark.parametrize("work", [done, lambda context: None])
def test_execute_must_be_a_coroutine_function(tmp_path, work):
    with pytest.raises(TypeError, match=r"Sync\.execute must be a coroutine function"):
        run(executor(tmp_path, Sync(work)).run)


@pytest.mark.parametrize(
    "wrong", [0, "completed", PhaseStatus.COMPLETED, PhaseResult(PhaseStatus.COMPLETED, None)]
)
def test_execute_must_return_a_result(tmp_path, wrong):
    async def work(context):
        return wrong

    with pytest.raises(TypeError, match=r"phase do: execute\(\) must return a PhaseResult"):
        run(executor(tmp_path, work).run)


def test_execute_that_returns_nothing(tmp_path):
    class Forgets(Do):
        async def execute(self, context):
            context.output_data["x"] = 1

    with pytest.raises(TypeError, match="it returned NoneType"):
        run(executor(tmp_path, Forgets(None)).run)


def test_workflow_goes_on_with_the_context_that_was_returned(tmp_path):
    contexts = []

    async def replace(context):
        other = PhaseContext("w", context.run_id, context.phase_id, "other task", context.work_dir)
        other.output_data = {"shared": {"from": "other"}}
        contexts.extend([context, other])
        return done(other)

    async def after(context):
        contexts.append(context)

    ran = executor(tmp_path, replace, after)
    run(ran.run)
    _, other, next_one = contexts
    assert ran.results[0].context is other
    assert next_one.task == "other task"
    assert next_one.input_data is other.output_data
    assert ran.context.shared_state["from"] == "other"


def test_any_awaitable_serves_as_execute(tmp_path):
    class Later:
        def __init__(self, result):
            self.result = result

        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return self.result

    class Plain(Do):
        def execute(self, context):
            return Later(done(context))

    ran = executor(tmp_path, Plain(None), Plain(None))
    run(ran.run)
    assert [result.succeeded for result in ran.results] == [True, True]


def test_built_in_phase_whose_instance_was_given_another_execute(tmp_path):
    phase = engineer()

    async def instead(context):
        context.output_data["instead"] = True
        return done(context)

    phase.execute = instead
    ran = executor(tmp_path, phase)
    run(ran.run)
    assert ran.results[0].context.output_data == {"instead": True}


# --- identity of values ---


def awkward(path):
    loop = {"self": None}
    loop["self"] = loop
    deep = []
    for _ in range(5000):
        deep = [deep]
    values = [
        object(),
        threading.Lock(),
        path.open("w"),
        loop,
        deep,
        "lone \ud800 surrogate",
        10**400,
        -(2**63) - 1,
        math.nan,
        math.inf,
        {b"bytes": 1, 2: 3, (4,): 5, None: 6},
        {1, 2},
        b"\xff",
        lambda: None,
        PhaseStatus,
        type("Odd", (dict,), {"__getitem__": lambda self, key: 1 / 0})(a=1),
        type("Bad", (), {"__repr__": lambda self: 1 / 0, "__str__": lambda self: 1 / 0})(),
    ]
    return {f"value_{number}": value for number, value in enumerate(values)}


@pytest.mark.parametrize("phase", ["planning", "control", "one_shot", "idea_generation", "hitl_checkpoint"])
def test_values_pass_through_built_in_phases_untouched(tmp_path, serve, phase):
    serve(
        {
            "planner": plan(("researcher", "write")),
            "plan_reviewer": review("Fine."),
            "engineer": code("print(1)", filename="a.py"),
            "researcher": notes("# Title\n\nText."),
            "idea_maker": ideas(("a", "x")),
            "idea_hater": {"critiques": [{"title": name, "critique": "x"} for name in "a"]},
        }
    )
    values = awkward(tmp_path / "file")
    steps = [{"sub_task": "a", "sub_task_agent": "researcher", "bullet_points": ["x"]}]
    values.update(plan_steps=steps, final_plan=steps)
    before = dict(values)
    outputs = []

    async def first(context):
        context.output_data = {**values, "shared": values}
        outputs.append(context.output_data)

    seen = []

    async def last(context):
        seen.append(context)

    ran = executor(tmp_path / "work", first, PhaseRegistry.create(phase), last)
    run(ran.run)
    passed = ran.results[1].context
    assert passed.input_data is outputs[0]
    assert seen[0].input_data is passed.output_data
    assert values.keys() == before.keys()
    for name, value in before.items():
        assert passed.input_data[name] is value
        if name.startswith("value_"):
            assert seen[0].shared_state[name] is value
            assert ran.context.shared_state[name] is value
    before["value_2"].close()


# --- exceptions ---


def test_exception_of_a_phase_is_the_same_object_with_a_note(tmp_path):
    error = ValueError("mine")
    error.add_note("a note of mine")

    async def fail(context):
        raise error

    ran = executor(tmp_path, Do(fail, name="fit"))
    with pytest.raises(ValueError, match="mine") as caught:
        run(ran.run)
    assert caught.value is error
    mine, ours = error.__notes__
    assert mine == "a note of mine"
    assert '"fit"' in ours and ran.context.run_id in ours
    assert any(entry.name == "fail" for entry in caught.traceback)


def test_exception_of_the_last_try_with_a_note_for_each_place(tmp_path):
    error = KeyError("again")
    tries = []

    async def fail(context):
        tries.append(context)
        raise error

    ran = executor(tmp_path, Do(fail, max_retries=2))
    with pytest.raises(KeyError) as caught:
        run(ran.run)
    assert caught.value is error
    assert len(tries) == 3
    assert ["try 3" in note for note in error.__notes__] == [False, False, True]


class Refuses(Exception):
    def add_note(self, text):
        raise RuntimeError("no notes")

    def __str__(self):
        raise RuntimeError("no text")


def test_exceptions_that_are_hard_to_handle(tmp_path):
    async def fail(context):
        raise Refuses

    with pytest.raises(Refuses):
        run(executor(tmp_path, fail).run)

    async def stop_iteration(context):
        raise StopIteration("x")

    with pytest.raises(RuntimeError, match="StopIteration"):
        run(executor(tmp_path, stop_iteration).run)

    async def group(context):
        raise ExceptionGroup("two", [KeyError(1), ValueError(2)])

    with pytest.raises(ExceptionGroup, match="two"):
        run(executor(tmp_path, group).run)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("k"), GeneratorExit("g")])
def test_exits_are_not_tried_again_and_get_no_note(tmp_path, error):
    tries = []

    async def leave(context):
        tries.append(context)
        raise error

    ran = executor(tmp_path, Do(leave, max_retries=3))
    with pytest.raises(type(error)) as caught:
        asyncio.run(ran.run())
    assert caught.value is error
    assert len(tries) == 1
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("k")])
@pytest.mark.parametrize("hook", ["on_phase_change", "on_agent_start", "should_continue"])
def test_exit_from_a_callback_ends_the_run(tmp_path, serve, error, hook):
    serve({"engineer": notes("text")})

    def leave(*_):
        raise error

    ran = executor(tmp_path, engineer(), callbacks=WorkflowCallbacks(**{hook: leave}))
    with pytest.raises(type(error)) as caught:
        asyncio.run(ran.run())
    assert caught.value is error


@pytest.mark.parametrize("method", ["can_skip", "validate_input"])
def test_exception_of_another_method(tmp_path, method):
    error = LookupError(method)

    def fail(context):
        raise error

    phase = Do(None)
    setattr(phase, method, fail)
    with pytest.raises(LookupError) as caught:
        run(executor(tmp_path, phase).run)
    assert caught.value is error


# --- keys ---


def test_key_holder_is_asked_in_the_thread_of_the_run(tmp_path, serve):
    serve({"researcher": notes("# Title\n\nText.")})
    asked = []

    class Keys:
        def __getitem__(self, name):
            asked.append((name, threading.current_thread()))
            return "sk-test"

    run(executor(tmp_path, researcher(), api_keys=Keys()).run)
    assert asked and set(asked) == {("OPENAI", threading.current_thread())}
