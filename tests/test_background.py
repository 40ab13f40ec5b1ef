"""`executor.start()`: the run goes on elsewhere, and its handle tells how."""

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from cmbagent import _loop
from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.errors import ForkError
from cmbagent.testing import Fault
from procs import PATIENCE, engineer, executor, forever, found, run, sleeper, wait_for, wait_until_gone


def waiting(gate, seen):
    """A phase's work that goes on once the gate is open."""

    async def work(context):
        seen.append(threading.current_thread())
        while not gate.is_set():
            await asyncio.sleep(0.005)

    return work


def test_run_goes_on_while_the_caller_does_other_things(tmp_path):
    gate, seen = threading.Event(), []
    ran = executor(tmp_path, waiting(gate, seen))
    handle = ran.start()
    wait_for(lambda: seen)
    assert not handle.done()
    status = handle.status()
    assert (status["status"], status["workflow_id"], status["error"]) == ("running", "w", None)
    assert "running" in repr(handle)
    with pytest.raises(TimeoutError, match="goes on"):
        handle.result(timeout=0.01)
    gate.set()
    assert handle.result(PATIENCE) is ran.context
    assert (handle.done(), handle.exception()) == (True, None)
    status = handle.status()
    assert status["status"] == "completed"
    assert [each["status"] for each in status["phase_results"]] == ["completed"]
    assert status["seconds"] == handle.status()["seconds"]
    assert seen[0] is not threading.current_thread()


def test_error_of_the_run_is_raised_as_it_is(tmp_path):
    error = KeyError("mine")

    async def fails(context):
        raise error

    handle = executor(tmp_path, fails).start()
    with pytest.raises(KeyError) as caught:
        handle.result(PATIENCE)
    assert caught.value is error
    assert handle.exception() is error
    assert handle.status()["status"] == "failed"
    assert "mine" in handle.status()["error"]


def test_timeout_error_of_the_run_is_told_from_that_of_the_wait(tmp_path):
    error = TimeoutError("the telescope")

    async def fails(context):
        raise error

    with pytest.raises(TimeoutError) as caught:
        executor(tmp_path, fails).start().result(PATIENCE)
    assert caught.value is error


def test_cancel_ends_the_run_at_once(tmp_path):
    seen = []
    handle = executor(tmp_path, forever(seen)).start()
    wait_for(lambda: seen)
    assert handle.cancel() is True
    with pytest.raises(concurrent.futures.CancelledError, match="phase 'do' of workflow 'w' was cancelled"):
        handle.result(PATIENCE)
    assert seen == ["sleeping", "cancelled"]
    assert handle.status()["status"] == "cancelled"
    assert handle.cancel() is False


def test_cancel_right_after_the_start(tmp_path):
    handle = executor(tmp_path, forever([])).start()
    handle.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        handle.result(PATIENCE)


@pytest.mark.parametrize("what", ["model", "script"])
def test_cancel_cuts_what_is_going_on(tmp_path, serve, what):
    server = serve({"engineer": sleeper() if what == "script" else Fault.hang()})
    handle = executor(tmp_path, engineer()).start()
    wait_for(lambda: server.calls if what == "model" else found(tmp_path))
    handle.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        handle.result(PATIENCE)
    if what == "script":
        wait_until_gone(found(tmp_path))


def test_stop_is_an_end_without_an_error(tmp_path):
    gate, seen = threading.Event(), []
    ran = executor(tmp_path, waiting(gate, seen), waiting(gate, seen))
    handle = ran.start()
    wait_for(lambda: seen)
    ran.stop()
    gate.set()
    assert handle.result(PATIENCE) is ran.context
    assert (handle.status()["status"], len(seen)) == ("stopped", 1)


def test_awaited_beside_other_tasks(tmp_path):
    gate, seen = threading.Event(), []
    ran = executor(tmp_path, waiting(gate, seen))

    async def main():
        handle = ran.start()
        waiter = asyncio.ensure_future(handle)
        while not seen:
            await asyncio.sleep(0.005)
        # Who gives up waiting does not end the run.
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert not handle.done()
        gate.set()
        return await handle

    assert run(main) is ran.context


def test_awaiting_a_cancelled_run_does_not_cancel_who_waits(tmp_path):
    async def main():
        handle = executor(tmp_path, forever([])).start()
        handle.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            await handle
        return asyncio.current_task().cancelling()

    assert run(main) == 0


def test_result_within_a_running_loop(tmp_path):
    gate = threading.Event()
    gate.set()
    ran = executor(tmp_path, waiting(gate, []))

    async def main():
        return ran.start().result(PATIENCE)

    assert run(main) is ran.context


def test_run_that_asks_for_its_own_result(tmp_path):
    handles = []

    async def work(context):
        while not handles:
            await asyncio.sleep(0.005)
        handles[0].result()

    handles.append(executor(tmp_path, work).start())
    with pytest.raises(RuntimeError, match="cannot wait for its own result"):
        handles[0].result(PATIENCE)


def test_fork_of_the_process_does_not_wait_for_ever(tmp_path, monkeypatch):
    handle = executor(tmp_path, forever([])).start()
    with monkeypatch.context() as forked:
        forked.setattr(_loop._Process, "forked", True)
        with pytest.raises(ForkError):
            handle.result(PATIENCE)
    handle.cancel()
    assert isinstance(wait_for(handle.exception), concurrent.futures.CancelledError)


def test_dropped_handle_leaves_the_run_alone(tmp_path):
    gate, seen, ended = threading.Event(), [], []
    callbacks = WorkflowCallbacks(on_workflow_complete=lambda context, seconds: ended.append(seconds))
    executor(tmp_path, waiting(gate, seen), callbacks=callbacks).start()
    wait_for(lambda: seen)
    gc.collect()
    gate.set()
    wait_for(lambda: ended)


def test_error_that_nobody_asked_for_is_logged(tmp_path, caplog):
    async def fails(context):
        raise KeyError("mine")

    with caplog.at_level(logging.ERROR, logger="cmbagent.run"):
        handle = executor(tmp_path, fails).start()
        wait_for(handle.done)
        handle._thread.join(PATIENCE)
        gone = weakref.ref(handle)
        del handle
        gc.collect()
    assert gone() is None
    assert any("nobody asked" in record.message for record in caplog.records)


def test_callers_context_variables_reach_the_phases(tmp_path):
    variable = contextvars.ContextVar("variable")
    variable.set("set")
    seen = []

    async def work(context):
        seen.append((variable.get(), _loop.current_poster.get()))

    executor(tmp_path, work).start().result(PATIENCE)
    assert seen == [("set", None)]


def test_several_at_once(tmp_path):
    gate, seen = threading.Event(), []
    handles = [executor(tmp_path / str(i), waiting(gate, seen)).start() for i in range(4)]
    wait_for(lambda: len(seen) == 4)
    gate.set()
    assert [handle.result(PATIENCE).workflow_id for handle in handles] == ["w"] * 4


def test_events_of_a_run_in_the_background(tmp_path):
    gate = threading.Event()
    gate.set()
    ran = executor(tmp_path, waiting(gate, []))

    async def listen():
        return [kind async for kind, _ in ran.events()]

    for _ in range(2):
        handle = ran.start()
        assert run(listen) == ["run_started", "phase_started", "phase_finished", "run_finished"]
        handle.result(PATIENCE)


EXIT = """
import asyncio, pathlib, sys
sys.path.insert(0, {tests!r})
from procs import executor, wait_for
seen = []

async def work(context):
    seen.append(1)
    try:
        await asyncio.sleep(600)
    finally:
        pathlib.Path({note!r}).write_text("ended")

executor({work_dir!r}, work).start()
wait_for(lambda: seen)
"""


def test_end_of_the_interpreter_ends_the_run(tmp_path):
    note = tmp_path / "note"
    script = EXIT.format(tests=str(Path(__file__).parent), work_dir=str(tmp_path / "w"), note=str(note))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr, note.read_text()) == (0, "", "ended")
