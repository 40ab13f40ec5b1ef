"""Cancellation and time limits of runs, and runs that are thrown away."""

import asyncio
import gc
import math
import sys
import time
import warnings

import pytest

from cmbagent import _core
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.phases import (
    HITLCheckpointConfig,
    HITLCheckpointPhase,
    PhaseStatus,
)
from cmbagent.testing import Fault, code
from procs import (
    PATIENCE,
    Do,
    done,
    engineer,
    executor,
    forever,
    found,
    run,
    sleeper,
    wait_in_loop,
    wait_until_gone,
)

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

    async def expire(limit):
        await wait_in_loop(lambda: seen)
        limit.reschedule(asyncio.get_running_loop().time())

    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                expired = asyncio.create_task(expire(limit))
                await executor(tmp_path, forever(seen)).run()
        await expired

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
    with pytest.raises(RuntimeError, match=r"timeout_seconds=0\.02") as caught:
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
        time.sleep(0.4)
        seen.append("blocked")
        await asyncio.sleep(PATIENCE * 2)

    with pytest.raises(RuntimeError, match="timeout_seconds"):
        run(executor(tmp_path, Do(block, timeout_seconds=0.3)).run)
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
    with pytest.raises(RuntimeError, match=r"timeout_seconds=0\.3"):
        run(executor(tmp_path, engineer(timeout_seconds=0.3)).run)
    server.assert_calls(["engineer"])


def test_script_over_the_phases_time_and_the_try_after_it(tmp_path, serve):
    serve({"engineer": [sleeper(), code("print('second')", filename="b.py")]})
    ran = executor(tmp_path, engineer(timeout_seconds=5, max_retries=1))

    async def main():
        return await asyncio.gather(ran.run(), wait_in_loop(lambda: found(tmp_path)), return_exceptions=True)

    _, pids = run(main)
    wait_until_gone(pids)
    assert [result.status for result in ran.results] == [PhaseStatus.COMPLETED]


# --- thrown away ---


def clean(act):
    """Does something that must not warn, nor raise where nobody hears it."""
    gc.collect()
    unraisable = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda args: unraisable.append(args.exc_value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            act()
            gc.collect()
    finally:
        sys.unraisablehook = hook
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
        while not seen:
            coroutine.send(None)
            await asyncio.sleep(0)
        coroutine.close()

    clean(lambda: run(main))
    assert seen == ["begun", "ended"]


def test_run_that_is_dropped_half_way_in_a_model_call(tmp_path, serve):
    server = serve({"engineer": Fault.hang()})

    async def main():
        runs = [executor(tmp_path, engineer()).run()]
        await wait_in_loop(lambda: runs[0].send(None) and server.calls)
        runs.clear()

    clean(lambda: run(main))


def test_run_that_is_dropped_half_way_in_a_script(tmp_path, serve):
    serve({"engineer": sleeper()})

    async def main():
        runs = [executor(tmp_path, engineer()).run()]
        pids = await wait_in_loop(lambda: runs[0].send(None) and found(tmp_path))
        runs.clear()
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
    async def work(context):
        await asyncio.sleep(0)

    async def main():
        awaitable = _core.run_workflow(executor(tmp_path, work))
        assert await awaitable == "completed"
        with pytest.raises(RuntimeError, match="already awaited"):
            await awaitable

    run(main)
