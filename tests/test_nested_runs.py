"""Runs within runs, and runs in threads."""

import asyncio
import dataclasses
import threading
from pathlib import Path

import pytest

from cmbagent.callbacks import WorkflowCallbacks
from cmbagent.errors import CmbagentError
from cmbagent.testing import Fault, code, notes
from procs import (
    PATIENCE,
    Do,
    engineer,
    executor,
    researcher,
    run,
)

# --- runs within runs ---


def test_built_in_phase_within_a_phase_belongs_to_the_run(tmp_path, serve):
    serve({"researcher": notes("# Title\n\nText.")})
    events = []
    callbacks = WorkflowCallbacks(on_agent_start=lambda agent, step: events.append(agent))
    callbacks.on_workflow_start = lambda *a: events.append("start")
    callbacks.on_workflow_complete = lambda *a: events.append("complete")

    async def work(context):
        result = await researcher().execute(context)
        assert result.context is context
        return result

    ran = executor(tmp_path, work, callbacks=callbacks)
    run(ran.run)
    assert events == ["start", "researcher", "complete"]


def test_two_scripts_at_once_in_one_run(tmp_path, serve):
    serve({"engineer": code("import time; time.sleep(0.2); print('ok')", filename="a.py")})

    async def work(context):
        results = await asyncio.gather(*(engineer().execute(_at(context, n)) for n in range(3)))
        assert [result.error for result in results] == [None] * 3

    ran = executor(tmp_path, work)
    run(ran.run)
    assert ran.outcome == "completed"


def _at(context, number):
    return dataclasses.replace(context, work_dir=f"{context.work_dir}/{number}", output_data={})


@pytest.mark.parametrize("how", ["await", "run_sync"])
def test_executor_within_a_phase(tmp_path, serve, how):
    serve({"researcher": notes("# Title\n\nText.")})
    usage = []
    inner = executor(tmp_path / "inner", researcher())

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
    assert usage[0]["calls"] == 1


class _Sink:
    def __init__(self, usage):
        self.usage = usage

    def event(self, kind, data):
        if kind == "run_finished":
            self.usage.append(data["usage"])


def test_time_limit_of_a_phase_reaches_the_run_within_it(tmp_path, serve):
    server = serve({"engineer": Fault.hang()})
    inner = executor(tmp_path / "inner", engineer())

    async def work(context):
        await inner.run()

    ran = executor(tmp_path, Do(work, timeout_seconds=0.5))
    with pytest.raises(RuntimeError, match="timeout_seconds"):
        run(ran.run)
    server.assert_calls(["engineer"])
    assert inner.outcome is None


# --- threads ---


def test_three_runs_in_three_threads_keep_apart(tmp_path, serve):
    def answer(call):
        word = next(w for w in ("alpha", "beta", "gamma") if w in call.prompt)
        return code(f"print('result {word}')", filename=f"{word}.py")

    serve({"engineer": answer})
    cwd = Path.cwd()
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
    assert Path.cwd() == cwd
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
    made = [executor(tmp_path / str(n), researcher()) for n in range(12)]

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
