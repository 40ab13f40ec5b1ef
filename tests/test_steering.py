"""`stop`, `cancel`, `pause` and `resume`: from other threads, on handles, and for runs within runs."""

import asyncio
import concurrent.futures
import dataclasses
import threading

import pytest

from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.errors import RunStoppedError
from cmbagent.phases import HITLCheckpointConfig, HITLCheckpointPhase, PhaseStatus
from cmbagent.testing import Fault, Reply, code, notes
from procs import (
    PATIENCE,
    Do,
    engineer,
    executor,
    forever,
    found,
    researcher,
    run,
    sleeper,
    wait_for,
    wait_in_loop,
    wait_until_gone,
)


def when(happened, act):
    """Do something in another thread as soon as something else has happened."""
    thread = threading.Thread(target=lambda: (wait_for(happened), act()), daemon=True)
    thread.start()
    return thread


def told(ran):
    """The events of a run, as a list that grows; ask for it before the run."""
    events = []
    make = ran._make_listener

    class Sink:
        def event(self, kind, data):
            events.append((kind, data))

    def listener():
        made = make()
        made._sinks.append(Sink())
        return made

    ran._make_listener = listener
    return events


def kinds(events):
    return [kind for kind, _ in events]


def two(context):
    """Two calls of a model, one after the other."""

    async def work():
        await context.run.call("one", agent="first")
        await context.run.call("two", agent="second")

    return work()


def status(ran):
    return ran.get_status().get("status")


# --- stop ---


def test_stop_lets_a_built_in_phase_finish(tmp_path, serve):
    gate = threading.Event()

    def answer(call):
        gate.wait(PATIENCE)
        return code("print(6 * 7)", filename="a.py")

    server = serve({"engineer": answer})
    ran = executor(tmp_path, engineer(), forever(seen := []))
    when(lambda: server.calls, lambda: (ran.stop(), seen.append(status(ran)), gate.set()))
    assert run(ran.run) is ran.context
    assert (ran.outcome, seen, status(ran)) == ("stopped", ["stopping"], "stopped")
    assert [result.status for result in ran.results] == [PhaseStatus.COMPLETED]
    assert (tmp_path / "codebase" / "a.py").exists()


def test_stop_lets_a_script_finish(tmp_path, serve):
    script = (
        "import pathlib, time\npathlib.Path('pids').write_text('1')\nwhile not pathlib.Path('go').exists():"
    )
    serve({"engineer": code(script + "\n    time.sleep(0.01)\nprint('done')", filename="a.py")})
    ran = executor(tmp_path, engineer(), forever(seen := []))

    def stop():
        ran.stop()
        next(tmp_path.rglob("pids")).with_name("go").touch()

    when(lambda: list(tmp_path.rglob("pids")), stop)
    ran.run_sync()
    assert (ran.outcome, seen) == ("stopped", [])
    assert "done" in str(ran.results[0].chat_history)


def test_stop_during_a_phase_of_python_lets_it_finish(tmp_path):
    seen = []

    async def work(context):
        seen.append("begun")
        await asyncio.to_thread(stopped.wait, PATIENCE)
        seen.append("finished")

    stopped = threading.Event()
    ran = executor(tmp_path, work, forever(seen))
    when(lambda: seen, lambda: (ran.stop(), stopped.set()))
    run(ran.run)
    assert (ran.outcome, seen) == ("stopped", ["begun", "finished"])
    assert len(ran.results) == 1


class Manager:
    """Answers once it is told to."""

    def __init__(self):
        self.asked, self.answered = threading.Event(), threading.Event()

    def create_approval_request(self, **question):
        return type("Request", (), {"id": "1"})

    async def wait_for_approval_async(self, request_id, timeout_seconds):
        self.asked.set()
        try:
            while not self.answered.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            self.answered = "cancelled"
            raise
        return type("Answer", (), {"resolution": "approve", "user_feedback": None, "modifications": None})


def test_stop_while_a_human_is_asked_waits_for_the_answer(tmp_path):
    manager = Manager()
    ran = executor(
        tmp_path, HITLCheckpointPhase(HITLCheckpointConfig()), forever(seen := []), approval_manager=manager
    )
    when(manager.asked.is_set, lambda: (ran.stop(), manager.answered.set()))
    assert run(ran.run) is ran.context
    assert (ran.outcome, seen) == ("stopped", [])
    assert ran.results[0].context.output_data["approval_status"] == "approved"


def test_stop_is_for_good_and_a_run_of_the_last_phase_is_completed(tmp_path):
    async def work(context):
        ran.stop()

    ran = executor(tmp_path, work)
    run(ran.run)
    assert (ran.outcome, len(ran.results)) == ("completed", 1)
    run(ran.run)
    assert (ran.outcome, len(ran.results)) == ("stopped", 1)


# --- cancel ---


@pytest.mark.parametrize("after_stop", [False, True])
def test_cancel_cuts_a_model_call(tmp_path, serve, after_stop):
    server = serve({"engineer": Fault.hang()})
    failures = []
    callbacks = WorkflowCallbacks(on_workflow_failed=lambda error, step: failures.append((error, step)))
    ran = executor(tmp_path, engineer(max_retries=2), forever(seen := []), callbacks=callbacks)
    if after_stop:
        when(lambda: server.calls, lambda: (ran.stop(), ran.cancel()))
    else:
        when(lambda: server.calls, ran.cancel)
    with pytest.raises(RunStoppedError, match=r"^the run was cancelled$"):
        run(ran.run)
    assert (seen, ran.results, status(ran), ran.outcome) == ([], [], "cancelled", None)
    assert failures == [("the run was cancelled", None)]
    server.assert_calls(["engineer"])
    wait_for(lambda: server.calls[0].left)


@pytest.mark.parametrize("how", ["await", "run_sync"])
def test_cancel_kills_a_script_and_a_grandchild_in_a_session_of_its_own(tmp_path, serve, how):
    serve({"engineer": sleeper()})
    ran = executor(tmp_path, engineer(max_retries=2))
    pids = []
    when(lambda: found(tmp_path), lambda: (pids.extend(found(tmp_path)), ran.cancel()))
    with pytest.raises(RunStoppedError):
        ran.run_sync() if how == "run_sync" else run(ran.run)
    assert len(pids) == 2
    wait_until_gone(pids)


def test_cancel_reaches_a_phase_of_python_where_it_waits(tmp_path):
    seen = []
    ran = executor(tmp_path, Do(forever(seen), max_retries=3), forever(seen))
    when(lambda: seen, ran.cancel)

    async def main():
        with pytest.raises(RunStoppedError):
            await ran.run()
        return asyncio.current_task().cancelling()

    assert run(main) == 0
    assert seen == ["sleeping", "cancelled"]


def test_phase_that_suppresses_its_cancellation_has_no_say(tmp_path):
    seen = []

    async def stubborn(context):
        try:
            await forever(seen)(context)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            seen.append("goes on")

    ran = executor(tmp_path, stubborn, forever(seen))
    when(lambda: seen, ran.cancel)
    with pytest.raises(RunStoppedError):
        run(ran.run)
    assert seen == ["sleeping", "cancelled", "goes on"]


def test_phase_that_asks_whether_it_was_cancelled(tmp_path):
    """One that computes and never waits."""
    answers = []

    async def work(context):
        answers.append((context.run.stopped, context.run.cancelled))
        ran.stop()
        answers.append((context.run.stopped, context.run.cancelled))
        ran.cancel()
        answers.append((context.run.stopped, context.run.cancelled))

    ran = executor(tmp_path, work, forever([]))
    with pytest.raises(RunStoppedError):
        run(ran.run)
    assert answers == [(False, False), (True, False), (True, True)]


def test_cancel_ends_a_question_and_a_run_that_has_not_begun(tmp_path):
    manager = Manager()
    ran = executor(tmp_path, HITLCheckpointPhase(HITLCheckpointConfig()), approval_manager=manager)
    when(manager.asked.is_set, ran.cancel)
    with pytest.raises(RunStoppedError):
        run(ran.run)
    assert manager.answered == "cancelled"
    ran = executor(tmp_path, forever(seen := []))
    ran.cancel()
    assert status(ran) is None
    with pytest.raises(RunStoppedError):
        run(ran.run)
    assert seen == []


@pytest.mark.parametrize(("model", "counted"), [("gpt-4.1", None), ("claude-sonnet-4-5", 12_345)])
def test_what_a_call_had_used_when_it_was_cut_counts_as_spent(tmp_path, serve, model, counted):
    """As the server counted it, if it did so first; else by the text."""
    answer = Reply("The beginning of an answer that never ends", prompt_tokens=12_345)
    serve({"engineer": dataclasses.replace(Fault.stall(), reply=answer)})
    keys = {"OPENAI": "sk-test", "ANTHROPIC": "sk-test"}
    ran = executor(tmp_path, engineer(engineer_model=model), api_keys=keys)
    events = told(ran)
    when(lambda: "call_text" in kinds(events), ran.cancel)
    with pytest.raises(RunStoppedError):
        run(ran.run)
    usage = events[-1][1]["usage"]
    assert kinds(events)[-1] == "run_finished"
    assert (usage["calls"], usage["unpriced_models"]) == (1, [])
    assert usage["prompt_tokens"] == counted or (counted is None and 100 < usage["prompt_tokens"] < 12_345)
    assert 0 < usage["completion_tokens"] < 20
    assert usage["cost"] > 0


def test_task_that_was_cancelled_leaves_the_executor_fit_for_another_run(tmp_path):
    seen = []

    async def work(context):
        if not seen:
            await forever(seen)(context)

    ran = executor(tmp_path, work)

    async def main():
        task = asyncio.create_task(ran.run())
        await wait_in_loop(lambda: seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert status(ran) == "cancelled"
        await ran.run()

    run(main)
    assert (ran.outcome, status(ran)) == ("completed", "completed")


# --- pause and resume ---


def test_pause_holds_between_two_calls_and_the_loop_goes_on(tmp_path, serve):
    server = serve({"first": "one", "second": "two"})
    heard = []
    callbacks = WorkflowCallbacks(on_agent_complete=lambda agent, *_: agent == "first" and ran.pause())
    callbacks.on_progress = lambda message, data: heard.append(message)
    ran = executor(tmp_path, two, callbacks=callbacks)
    events = told(ran)

    async def main():
        task = asyncio.create_task(ran.run())
        await wait_in_loop(lambda: "run_paused" in kinds(events))
        ticks = [await asyncio.sleep(0, tick) for tick in range(100)]
        assert (len(ticks), task.done(), status(ran)) == (100, False, "paused")
        server.assert_calls(["first"])
        ran.resume()
        await task

    run(main)
    server.assert_calls(["first", "second"])
    assert (ran.outcome, status(ran), heard) == ("completed", "completed", ["Paused", "Continued"])
    around = kinds(events).index("run_paused")
    assert kinds(events)[around - 1 : around + 3] == [
        "call_finished", "run_paused", "run_continued", "call_started",
    ]  # fmt: skip
    assert all(data["seq"] is not None for kind, data in events if kind in ("run_paused", "run_continued"))


def test_pause_before_the_run_holds_it_before_its_first_phase(tmp_path):
    ran = executor(tmp_path, forever(seen := []))
    ran.pause()
    ran.stop()
    ran.pause()
    run(ran.run)
    assert (ran.outcome, seen) == ("stopped", [])
    ran = executor(tmp_path, engineer())
    ran.pause()
    ran.resume()
    ran.pause()
    when(lambda: status(ran) == "paused", ran.cancel)
    with pytest.raises(RunStoppedError):
        run(ran.run)
    assert ran.results == []


@pytest.mark.parametrize("end", ["stop", "cancel"])
def test_stop_and_cancel_end_a_pause(tmp_path, serve, end):
    server = serve({"first": "one", "second": "two"})
    ran = executor(tmp_path, two, forever(seen := []))
    ran.callbacks = WorkflowCallbacks(on_agent_complete=lambda agent, *_: agent == "first" and ran.pause())
    events = told(ran)
    when(lambda: "run_paused" in kinds(events), getattr(ran, end))
    if end == "stop":
        run(ran.run)
        server.assert_calls(["first", "second"])
    else:
        with pytest.raises(RunStoppedError):
            run(ran.run)
        server.assert_calls(["first"])
    assert seen == []
    assert status(ran) == {"stop": "stopped", "cancel": "cancelled"}[end]


def test_interrupt_of_the_awaiting_task_ends_a_pause(tmp_path, serve):
    ran = executor(tmp_path, forever([]))
    ran.pause()
    events = told(ran)

    async def main():
        async with asyncio.timeout(PATIENCE):
            task = asyncio.create_task(ran.run())
            await wait_in_loop(lambda: "run_paused" in kinds(events))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(main)
    assert "run_continued" not in kinds(events)


def test_pause_hook_holds_the_run_as_before(tmp_path, serve):
    server = serve({"first": "one", "second": "two"})
    opened, asked = threading.Event(), []

    def on_pause_check():
        asked.append(len(server.calls))
        if server.calls:
            opened.wait(PATIENCE)

    ran = executor(tmp_path, two, callbacks=WorkflowCallbacks(on_pause_check=on_pause_check))
    when(lambda: asked[-1:] == [1], opened.set)
    run(ran.run)
    assert asked == [0, 0, 1]
    server.assert_calls(["first", "second"])


# --- handles ---


def test_handle_steers_its_run(tmp_path, serve):
    serve({"first": "one", "second": "two"})
    ran = executor(tmp_path, two, forever(seen := []))
    ran.pause()
    handle = ran.start()
    wait_for(lambda: handle.status()["status"] == "paused")
    assert handle.resume() is True
    assert handle.stop() is True
    assert handle.result(PATIENCE) is ran.context
    assert (handle.status()["status"], seen) == ("stopped", [])
    assert [handle.stop(), handle.pause(), handle.resume(), handle.cancel()] == [False] * 4


def test_pause_and_cancel_of_a_handle(tmp_path, serve):
    server = serve({"first": "one", "second": "two"})
    ran = executor(tmp_path, two)
    ran.callbacks = WorkflowCallbacks(on_agent_complete=lambda agent, *_: handles[0].pause())
    events = told(ran)
    ready = threading.Event()
    ran.callbacks.on_workflow_start = lambda *_: ready.wait(PATIENCE)
    handles = [ran.start()]
    ready.set()
    wait_for(lambda: "run_paused" in kinds(events))
    assert handles[0].status()["status"] == "paused"
    handles[0].cancel()
    with pytest.raises(concurrent.futures.CancelledError, match="was cancelled"):
        handles[0].result(PATIENCE)
    assert (handles[0].status()["status"], handles[0].status()["error"]) == ("cancelled", None)
    server.assert_calls(["first"])


def test_cancel_of_the_executor_reaches_a_run_in_the_background(tmp_path):
    ran = executor(tmp_path, forever(seen := []))
    handle = ran.start()
    wait_for(lambda: seen)
    ran.cancel()
    with pytest.raises(RunStoppedError):
        handle.result(PATIENCE)
    assert (handle.status()["status"], seen) == ("cancelled", ["sleeping", "cancelled"])


# --- runs within runs ---


def test_cancel_reaches_a_built_in_phase_within_a_phase(tmp_path, serve):
    server = serve({"engineer": Fault.hang()})

    async def work(context):
        return await engineer().execute(context)

    ran = executor(tmp_path, Do(work, max_retries=2), forever(seen := []))
    when(lambda: server.calls, ran.cancel)
    with pytest.raises(RunStoppedError):
        run(ran.run)
    assert seen == []
    server.assert_calls(["engineer"])


@pytest.mark.parametrize("how", ["await", "run_sync"])
def test_cancel_reaches_an_executor_within_a_phase(tmp_path, serve, how):
    server = serve({"engineer": Fault.hang()})
    inner = executor(tmp_path / "inner", engineer())

    async def work(context):
        await inner.run() if how == "await" else inner.run_sync()

    ran = executor(tmp_path, work, forever(seen := []))
    when(lambda: server.calls, ran.cancel)
    with pytest.raises(RunStoppedError):
        run(ran.run)
    assert (status(ran), status(inner), seen) == ("cancelled", "cancelled", [])
    wait_for(lambda: server.calls[0].left)


@pytest.mark.parametrize("how", ["await", "run_sync"])
def test_stop_reaches_an_executor_within_a_phase(tmp_path, how):
    seen = []

    async def first(context):
        ran.stop()

    inner = executor(tmp_path / "inner", first, forever(seen))

    async def work(context):
        await inner.run() if how == "await" else inner.run_sync()
        seen.append("finished")

    ran = executor(tmp_path, work, forever(seen))
    run(ran.run)
    assert (ran.outcome, inner.outcome, seen) == ("stopped", "stopped", ["finished"])


@pytest.mark.parametrize("how", ["await", "run_sync"])
def test_pause_reaches_an_executor_within_a_phase(tmp_path, serve, how):
    server = serve({"first": "one", "second": "two"})
    inner = executor(tmp_path / "inner", two)
    events = told(inner)

    async def work(context):
        await inner.run() if how == "await" else inner.run_sync()

    ran = executor(tmp_path, work)
    inner.callbacks = WorkflowCallbacks(on_agent_complete=lambda agent, *_: agent == "first" and ran.pause())

    def resume():
        seen.append((status(ran), status(inner), [call.agent for call in server.calls]))
        ran.resume()

    seen = []
    when(lambda: "run_paused" in kinds(events), resume)
    run(ran.run)
    assert seen == [("paused", "paused", ["first"])]
    assert (ran.outcome, inner.outcome) == ("completed", "completed")
    server.assert_calls(["first", "second"])


def test_steering_an_inner_executor_leaves_the_outer_one_alone(tmp_path):
    stopped = executor(tmp_path / "stopped", forever([]))
    cancelled = executor(tmp_path / "cancelled", forever([]))
    seen = []

    async def work(context):
        stopped.stop()
        await stopped.run()
        cancelled.cancel()
        with pytest.raises(RunStoppedError):
            await cancelled.run()
        seen.append((status(stopped), status(cancelled), status(ran)))

    ran = executor(tmp_path, work)
    run(ran.run)
    assert (ran.outcome, seen) == ("completed", [("stopped", "cancelled", "running")])


# --- what is said where the run stands ---


def test_status_in_a_word(tmp_path, serve):
    serve({"researcher": notes("# Title\n\nText."), "engineer": Reply("no code")})

    async def fail(context):
        raise KeyError

    async def look(context):
        seen.append(status(ran))

    seen = []
    ran = executor(tmp_path / "1", look, researcher())
    assert "status" not in ran.get_status()
    run(ran.run)
    assert (seen, status(ran)) == (["running"], "completed")
    ran = executor(tmp_path / "2", fail)
    with pytest.raises(KeyError):
        run(ran.run)
    assert status(ran) == "failed"
