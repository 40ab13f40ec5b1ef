"""Runs awaited on the caller's loop: cancellation, time limits, context variables, values, exceptions."""

import asyncio
import contextvars
import gc
import math
import threading
import time
import warnings

import pytest
from procs import PATIENCE, Do, done, engineer, executor, found, sleeper, wait_in_loop, wait_until_gone

from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.errors import CmbagentError
from cmbagent.phases import (
    HITLCheckpointConfig,
    HITLCheckpointPhase,
    OneShotPhase,
    OneShotPhaseConfig,
    PhaseContext,
    PhaseResult,
    PhaseStatus,
)
from cmbagent.testing import Fault, ModelServer, notes

VARIABLE = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def serve():
    """Starts a server of scripted models that all requests go to."""
    with contextlib_stack() as stack:
        yield lambda script: stack.enter_context(stack.enter_context(ModelServer(script)).environment())


def contextlib_stack():
    import contextlib

    return contextlib.ExitStack()


def run(main):
    """Runs a coroutine function to its end, or fails the test."""

    async def within_patience():
        async with asyncio.timeout(PATIENCE):
            return await main()

    return asyncio.run(within_patience())


def forever(seen, at="sleeping"):
    async def work(context):
        seen.append(at)
        try:
            await asyncio.sleep(PATIENCE * 2)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    return work


# --- cancellation ---


def test_cancelled_task_cancels_the_phase_once_and_starts_no_other(tmp_path):
    seen = []
    ran = executor(tmp_path, Do(forever(seen), max_retries=3), lambda context: seen.append("next"))

    async def main():
        task = asyncio.create_task(ran.run())
        await wait_in_loop(lambda: seen)
        task.cancel("enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await task
        return task.cancelled(), asyncio.current_task().cancelling()

    assert run(main) == (True, 0)
    assert seen == ["sleeping", "cancelled"]
    assert ran.results == []


def test_timeout_around_a_run(tmp_path):
    seen = []

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await executor(tmp_path, forever(seen)).run()

    run(main)
    assert seen == ["sleeping", "cancelled"]


def test_task_group_cancels_a_run_when_its_sibling_fails(tmp_path):
    seen = []

    async def fail():
        await wait_in_loop(lambda: seen)
        raise KeyError("sibling")

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(executor(tmp_path, forever(seen)).run())
            group.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        run(main)
    assert [repr(error) for error in caught.value.exceptions] == ["KeyError('sibling')"]
    assert seen == ["sleeping", "cancelled"]


def test_phase_that_catches_its_cancellation_goes_on_as_any_coroutine_would(tmp_path):
    seen = []

    async def stubborn(context):
        seen.append("sleeping")
        try:
            await asyncio.sleep(PATIENCE * 2)
        except asyncio.CancelledError:
            seen.append("cancelled")

    async def after(context):
        seen.append("next")

    ran = executor(tmp_path, stubborn, after)

    async def main():
        task = asyncio.create_task(ran.run())
        await wait_in_loop(lambda: seen)
        task.cancel()
        return await task

    assert run(main) is ran.context
    assert seen == ["sleeping", "cancelled", "next"]


def test_cancelled_before_its_first_step(tmp_path):
    ran = executor(tmp_path, forever(seen := []))

    async def main():
        task = asyncio.create_task(ran.run())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    assert seen == []


def test_cancelled_during_a_model_call(tmp_path, serve):
    server = serve({"engineer": Fault.hang()})
    failures = []
    callbacks = WorkflowCallbacks(on_workflow_failed=lambda error, step: failures.append(error))
    ran = executor(tmp_path, engineer(max_retries=2), callbacks=callbacks)

    async def main():
        task = asyncio.create_task(ran.run())
        await wait_in_loop(lambda: server.calls)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    server.assert_calls(["engineer"])
    assert len(failures) == 1


def test_cancelled_during_a_script(tmp_path, serve):
    serve({"engineer": sleeper()})
    ran = executor(tmp_path, engineer())

    async def main():
        task = asyncio.create_task(ran.run())
        pids = await wait_in_loop(lambda: found(tmp_path))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return pids

    pids = run(main)
    assert len(pids) == 2
    wait_until_gone(pids)


class Manager:
    """Nobody answers."""

    def __init__(self, error=None):
        self.error, self.waiting = error, False

    def create_approval_request(self, **question):
        return type("Request", (), {"id": "1"})

    async def wait_for_approval_async(self, request_id, timeout_seconds):
        self.waiting = True
        if self.error:
            raise self.error
        await asyncio.sleep(PATIENCE * 2)


def checkpoint():
    return HITLCheckpointPhase(HITLCheckpointConfig())


def test_cancelled_while_a_human_is_asked(tmp_path):
    manager = Manager()
    ran = executor(tmp_path, checkpoint(), approval_manager=manager)

    async def main():
        task = asyncio.create_task(ran.run())
        await wait_in_loop(lambda: manager.waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt("k"), SystemExit(3)])
def test_exit_from_an_approval_manager_is_no_answer(tmp_path, error):
    ran = executor(tmp_path, checkpoint(), approval_manager=Manager(error))
    with pytest.raises(type(error)) as caught:
        asyncio.run(ran.run())
    assert caught.value is error


# --- time limits ---


def test_phase_over_its_time_is_cancelled_and_fails_the_run(tmp_path):
    seen = []
    ran = executor(tmp_path, Do(forever(seen), timeout_seconds=0.02))
    with pytest.raises(RuntimeError, match="timeout_seconds=0.02") as caught:
        run(ran.run)
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert seen == ["sleeping", "cancelled"]
    assert ran.results[0].status is PhaseStatus.FAILED


def test_phase_that_never_waits_for_a_future_is_cancelled_too(tmp_path):
    async def spin(context):
        while True:
            await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="timeout_seconds"):
        run(executor(tmp_path, Do(spin, timeout_seconds=0.02)).run)


def test_next_try_begins_after_the_last_one_has_ended(tmp_path):
    seen = []

    async def work(context):
        number = len(seen)
        seen.append(f"begin {number}")
        if number > 0:
            return
        try:
            await asyncio.sleep(PATIENCE * 2)
        finally:
            await asyncio.sleep(0.03)
            seen.append("end 0")

    ran = executor(tmp_path, Do(work, timeout_seconds=0.02, max_retries=1))
    run(ran.run)
    assert seen == ["begin 0", "end 0", "begin 2"]
    assert [result.status for result in ran.results] == [PhaseStatus.COMPLETED]


def test_phase_that_suppresses_its_cancellation_fails_all_the_same(tmp_path):
    async def stubborn(context):
        try:
            await asyncio.sleep(PATIENCE * 2)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
        return done(context)

    ran = executor(tmp_path, Do(stubborn, timeout_seconds=0.02), forever(seen := []))
    with pytest.raises(RuntimeError, match="timeout_seconds"):
        run(ran.run)
    assert seen == []


def test_cancellation_while_a_phase_over_its_time_cleans_up_is_not_lost(tmp_path):
    seen = []

    async def slow_to_end(context):
        try:
            await asyncio.sleep(PATIENCE * 2)
        finally:
            seen.append("cleaning")
            await asyncio.sleep(PATIENCE * 2)

    ran = executor(tmp_path, Do(slow_to_end, timeout_seconds=0.02, max_retries=5))

    async def main():
        task = asyncio.create_task(ran.run())
        await wait_in_loop(lambda: seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main)
    assert seen == ["cleaning"]


def test_phase_that_blocks_is_cancelled_where_it_awaits_next(tmp_path):
    seen = []

    async def block(context):
        time.sleep(0.1)
        seen.append("blocked")
        await asyncio.sleep(PATIENCE * 2)

    with pytest.raises(RuntimeError, match="timeout_seconds"):
        run(executor(tmp_path, Do(block, timeout_seconds=0.02)).run)
    assert seen == ["blocked"]


def test_default_time_limit_sets_none_and_a_wrong_one_is_named(tmp_path):
    async def work(context):
        await asyncio.sleep(0.01)

    run(executor(tmp_path, Do(work)).run)
    run(executor(tmp_path, Do(work, timeout_seconds=None)).run)
    run(executor(tmp_path, Do(work, timeout_seconds=math.inf)).run)
    for wrong in ("10", True, -1, 0, math.nan):
        with pytest.raises(ValueError, match="timeout_seconds must be a number of seconds"):
            run(executor(tmp_path, Do(work, timeout_seconds=wrong)).run)
    with pytest.raises(ValueError, match="max_retries must be an int"):
        run(executor(tmp_path, Do(work, max_retries=-1)).run)


def test_model_call_over_the_phases_time(tmp_path, serve):
    server = serve({"engineer": Fault.hang()})
    with pytest.raises(RuntimeError, match="timeout_seconds=0.3"):
        run(executor(tmp_path, engineer(timeout_seconds=0.3)).run)
    server.assert_calls(["engineer"])


def test_script_over_the_phases_time_and_the_try_after_it(tmp_path, serve):
    serve({"engineer": [sleeper(), notes("x"), "```python\n# filename: b.py\nprint('second')\n```"]})
    ran = executor(tmp_path, engineer(timeout_seconds=5, max_retries=1))

    async def main():
        return await asyncio.gather(ran.run(), wait_in_loop(lambda: found(tmp_path)), return_exceptions=True)

    _, pids = run(main)
    wait_until_gone(pids)
    assert "still running" not in str(ran.results[-1].error)


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

    async def work(context):
        try:
            async with asyncio.timeout(0.3):
                await engineer().execute(context)
        except TimeoutError:
            seen.append("timeout")
        phase = OneShotPhase(OneShotPhaseConfig(agent="researcher"))
        seen.append((await phase.execute(context)).status)

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
    from cmbagent.phases import PhaseRegistry
    from cmbagent.testing import ideas, plan, review

    serve(
        {
            "planner": plan(("researcher", "write")),
            "plan_reviewer": review("Fine."),
            "engineer": "```python\n# filename: a.py\nprint(1)\n```",
            "researcher": notes("# Title\n\nText."),
            "idea_maker": ideas(*((name, "x") for name in "abcde")),
            "idea_hater": ideas(*((name, "x") for name in "abcde")),
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


# --- thrown away ---


def clean(act):
    """Does something that must not warn, nor raise where nobody hears it."""
    unraisable = []
    hook, __ = __import__("sys").unraisablehook, None
    __import__("sys").unraisablehook = lambda args: unraisable.append(args.exc_value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            act()
            gc.collect()
    finally:
        __import__("sys").unraisablehook = hook
    assert unraisable == []


def test_run_that_is_closed_half_way(tmp_path):
    seen = []

    async def work(context):
        try:
            seen.append("begun")
            await asyncio.get_running_loop().create_future()
        finally:
            seen.append("ended")

    async def main():
        coroutine = executor(tmp_path, work).run()
        coroutine.send(None)
        coroutine.close()

    clean(lambda: run(main))
    assert seen == ["begun", "ended"]


def test_run_that_is_dropped_half_way_in_a_model_call(tmp_path, serve):
    server = serve({"engineer": Fault.hang()})

    async def main():
        coroutine = executor(tmp_path, engineer()).run()
        coroutine.send(None)
        await wait_in_loop(lambda: server.calls or _resume(coroutine))
        del coroutine

    clean(lambda: run(main))


def _resume(coroutine):
    coroutine.send(None)


def test_run_that_is_dropped_half_way_in_a_script(tmp_path, serve):
    serve({"engineer": sleeper()})

    async def main():
        coroutine = executor(tmp_path, engineer()).run()
        pids = await wait_in_loop(lambda: found(tmp_path) or _resume(coroutine))
        del coroutine
        await wait_in_loop(lambda: gc.collect() is not None)
        return pids

    pids = []
    clean(lambda: pids.extend(run(main)))
    wait_until_gone(pids)


def test_phase_that_waits_to_begin_when_the_run_is_closed_does_not_warn(tmp_path):
    async def stubborn(context):
        try:
            await asyncio.sleep(PATIENCE * 2)
        finally:
            await asyncio.get_running_loop().create_future()

    async def main():
        task = asyncio.create_task(
            executor(tmp_path, Do(stubborn, timeout_seconds=0.02, max_retries=1)).run()
        )
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    clean(lambda: run(main))


def test_run_cannot_be_awaited_again(tmp_path):
    from cmbagent import _core

    async def work(context):
        await asyncio.sleep(0)

    async def main():
        awaitable = _core.run_workflow(executor(tmp_path, work))
        assert await awaitable == "completed"
        with pytest.raises(RuntimeError, match="already awaited"):
            await awaitable

    run(main)


# --- stop() ---


def test_stop_during_a_model_call(tmp_path, serve):
    server = serve({"engineer": Fault.hang()})
    ran = executor(tmp_path, engineer(), forever(seen := []))
    stopper = threading.Thread(target=lambda: (_until(lambda: server.calls), ran.stop()))
    stopper.start()
    assert run(ran.run) is ran.context
    stopper.join()
    assert (ran.outcome, seen) == ("stopped", [])


def test_stop_during_a_script(tmp_path, serve):
    serve({"engineer": sleeper()})
    ran = executor(tmp_path, engineer())
    stopper = threading.Thread(target=lambda: (_until(lambda: found(tmp_path)), ran.stop()))
    stopper.start()
    ran.run_sync()
    stopper.join()
    assert ran.outcome == "stopped"
    wait_until_gone(found(tmp_path))


def test_stop_during_a_phase_of_python_lets_it_finish(tmp_path):
    seen = []

    async def work(context):
        seen.append("begun")
        await asyncio.to_thread(stopped.wait, PATIENCE)
        seen.append("finished")

    stopped = threading.Event()
    ran = executor(tmp_path, work, forever(seen))
    stopper = threading.Thread(target=lambda: (_until(lambda: seen), ran.stop(), stopped.set()))
    stopper.start()
    run(ran.run)
    stopper.join()
    assert (ran.outcome, seen) == ("stopped", ["begun", "finished"])
    assert len(ran.results) == 1


def _until(ask):
    from procs import wait_for

    return wait_for(ask)


# --- runs within runs ---


def test_built_in_phase_within_a_phase_belongs_to_the_run(tmp_path, serve):
    serve({"researcher": notes("# Title\n\nText.")})
    events = []
    callbacks = WorkflowCallbacks(on_agent_start=lambda agent, step: events.append(agent))
    callbacks.on_workflow_start = lambda *a: events.append("start")
    callbacks.on_workflow_complete = lambda *a: events.append("complete")

    async def work(context):
        result = await OneShotPhase(OneShotPhaseConfig(agent="researcher")).execute(context)
        assert result.context is context
        return result

    ran = executor(tmp_path, work, callbacks=callbacks)
    run(ran.run)
    assert events == ["start", "researcher", "complete"]


def test_stop_reaches_a_built_in_phase_within_a_phase(tmp_path, serve):
    server = serve({"engineer": Fault.hang()})

    async def work(context):
        return await engineer().execute(context)

    ran = executor(tmp_path, Do(work, max_retries=2), forever(seen := []))
    stopper = threading.Thread(target=lambda: (_until(lambda: server.calls), ran.stop()))
    stopper.start()
    assert run(ran.run) is ran.context
    stopper.join()
    assert (ran.outcome, seen) == ("stopped", [])
    server.assert_calls(["engineer"])


def test_two_scripts_at_once_in_one_run(tmp_path, serve):
    serve({"engineer": "```python\n# filename: a.py\nimport time; time.sleep(0.2); print('ok')\n```"})

    async def work(context):
        results = await asyncio.gather(*(engineer().execute(_at(context, n)) for n in range(3)))
        assert [result.error for result in results] == [None] * 3

    ran = executor(tmp_path, work)
    run(ran.run)
    assert ran.outcome == "completed"


def _at(context, number):
    import dataclasses

    return dataclasses.replace(context, work_dir=f"{context.work_dir}/{number}", output_data={})


@pytest.mark.parametrize("how", ["await", "run_sync"])
def test_executor_within_a_phase(tmp_path, serve, how):
    serve({"researcher": notes("# Title\n\nText.")})
    usage = []
    inner = executor(tmp_path / "inner", OneShotPhase(OneShotPhaseConfig(agent="researcher")))

    async def work(context):
        ended = await inner.run() if how == "await" else inner.run_sync()
        assert ended is inner.context

    ran = executor(tmp_path, work)
    listener = ran._make_listener()
    listener._sinks.append(_Sink(usage))
    ran._make_listener = lambda: listener
    run(ran.run)
    assert (ran.outcome, inner.outcome) == ("completed", "completed")
    assert inner.context.run_id != ran.context.run_id
    assert usage[0]["total_tokens"] > 0


class _Sink:
    def __init__(self, usage):
        self.usage = usage

    def event(self, kind, data):
        if kind == "run_finished":
            self.usage.append(data["usage"])


@pytest.mark.parametrize("how", ["await", "run_sync"])
def test_stop_reaches_an_executor_within_a_phase(tmp_path, serve, how):
    server = serve({"engineer": Fault.hang()})
    inner = executor(tmp_path / "inner", engineer())

    async def work(context):
        await inner.run() if how == "await" else inner.run_sync()

    ran = executor(tmp_path, work, forever(seen := []))
    stopper = threading.Thread(target=lambda: (_until(lambda: server.calls), ran.stop()))
    stopper.start()
    run(ran.run)
    stopper.join()
    assert (ran.outcome, inner.outcome, seen) == ("stopped", "stopped", [])


def test_stopping_an_inner_executor_leaves_the_outer_one_alone(tmp_path):
    inner = executor(tmp_path / "inner", forever([]))
    seen = []

    async def work(context):
        inner.stop()
        await inner.run()
        seen.append(inner.outcome)

    ran = executor(tmp_path, work)
    run(ran.run)
    assert (ran.outcome, seen) == ("completed", ["stopped"])


# --- threads ---


def test_three_runs_in_three_threads_keep_apart(tmp_path, serve):
    import os

    def answer(call):
        word = next(w for w in ("alpha", "beta", "gamma") if w in call.prompt)
        return f"```python\n# filename: {word}.py\nprint('result {word}')\n```"

    serve({"engineer": answer})
    cwd = os.getcwd()
    heard = {}
    barrier = threading.Barrier(3)

    def one(word):
        mine = heard[word] = []

        def on_code_execution(agent, code, language, result):
            mine.append((threading.current_thread(), result))

        callbacks = WorkflowCallbacks(on_code_execution=on_code_execution)
        ran = executor(tmp_path / word, engineer(), callbacks=callbacks)
        ran.task = ran.context.task = f"compute {word}"
        barrier.wait(PATIENCE)
        ran.run_sync()
        mine.append(threading.current_thread())

    failures = in_threads(one, ["alpha", "beta", "gamma"])
    assert failures == []
    assert os.getcwd() == cwd
    for word, (execution, thread) in heard.items():
        assert execution[0] is thread
        assert f"result {word}" in execution[1]
        others = {"alpha", "beta", "gamma"} - {word}
        assert not any(other in execution[1] for other in others)
        assert [file.name for file in (tmp_path / word).rglob("*.py")] == [f"{word}.py"]


def in_threads(work, arguments):
    failures = []

    def guarded(argument):
        try:
            work(argument)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(each,), daemon=True) for each in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return failures


def test_eight_threads_run_many_times(tmp_path):
    async def work(context):
        context.output_data["seen"] = context.input_data.get("seen", 0) + 1
        await asyncio.sleep(0)

    def one(number):
        for _ in range(10):
            ran = executor(tmp_path / str(number), work, work, work)
            ran.run_sync()
            assert [result.context.output_data["seen"] for result in ran.results] == [1, 2, 3]

    assert in_threads(one, range(8)) == []


def test_many_runs_on_one_loop(tmp_path, serve):
    server = serve({"researcher": notes("# Title\n\nText.")})
    made = [executor(tmp_path / str(n), OneShotPhase(OneShotPhaseConfig(agent="researcher"))) for n in range(12)]

    async def main():
        await asyncio.gather(*(each.run() for each in made))

    run(main)
    assert {each.outcome for each in made} == {"completed"}
    assert len(server.calls) == 12


def test_errors_of_the_package_are_runtime_errors(tmp_path, serve):
    serve({"engineer": Fault.status(401, "no")})
    with pytest.raises(RuntimeError) as caught:
        run(executor(tmp_path, engineer()).run)
    assert isinstance(caught.value, CmbagentError)
