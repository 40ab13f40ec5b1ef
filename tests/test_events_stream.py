"""`executor.events()`: everything in order, for every listener, wherever it reads."""

import asyncio
import threading

import pytest

from cmbagent import _stream
from cmbagent._stream import Event, EventLog
from cmbagent.testing import code
from procs import PATIENCE, engineer, executor, forever, run, wait_in_loop


async def collected(stream):
    return [event async for event in stream]


def kinds(events):
    return [event.kind for event in events]


async def nothing(context):
    pass


RUN = ["run_started", "phase_started", "phase_finished", "run_finished"]


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_whole_run_whenever_one_listens(tmp_path, when):
    seen = []

    async def work(context):
        if when == "during":
            seen.append(asyncio.create_task(collected(ran.events())))
            await asyncio.sleep(0)

    ran = executor(tmp_path, work)

    async def main():
        if when == "before":
            seen.append(asyncio.create_task(collected(ran.events())))
            await asyncio.sleep(0)
        await ran.run()
        if when == "after":
            seen.append(asyncio.create_task(collected(ran.events())))
        return await seen[0]

    heard = run(main)
    assert kinds(heard) == RUN
    assert [event.seq for event in heard] == sorted({event.seq for event in heard})
    kind, data = heard[0]
    assert (kind, data["run_id"], data["task"]) == ("run_started", ran.context.run_id, "the task")


def test_several_listeners_hear_the_same_in_other_tasks_and_threads(tmp_path):
    ran = executor(tmp_path, nothing, nothing)
    elsewhere = []

    def listen():
        elsewhere.extend(asyncio.run(asyncio.wait_for(collected(ran.events()), PATIENCE)))

    thread = threading.Thread(target=listen)
    thread.start()

    async def main():
        tasks = [asyncio.create_task(collected(ran.events())) for _ in range(2)]
        await asyncio.sleep(0)
        await ran.run()
        return await asyncio.gather(*tasks)

    first, second = run(main)
    thread.join(PATIENCE)
    assert first == second == elsewhere
    assert len(first) == 6


def test_streaming_events_come_live_only(tmp_path, serve):
    serve({"engineer": code("print('live')", filename="a.py")})
    ran = executor(tmp_path, engineer())

    async def main():
        live = asyncio.create_task(collected(ran.events()))
        await asyncio.sleep(0)
        await ran.run()
        return await live, await collected(ran.events())

    live, late = run(main)
    assert {"call_text", "script_output"} <= set(kinds(live))
    assert late == [event for event in live if event.seq is not None]
    assert not {"call_text", "script_output"} & set(kinds(late))


def test_script_finished_names_what_the_script_wrote(tmp_path, serve):
    serve({"engineer": code("open('data/plot.png', 'w').close()\nprint(1)", filename="a.py")})
    ran = executor(tmp_path, engineer())

    async def main():
        await ran.run()
        return await collected(ran.events())

    (data,) = [data for kind, data in run(main) if kind == "script_finished"]
    assert [path for path in data["files"] if path.endswith("plot.png")] == [
        next(str(path) for path in tmp_path.rglob("plot.png"))
    ]


def test_stream_ends_with_a_run_that_fails_or_is_cancelled(tmp_path):
    async def fails(context):
        raise KeyError("mine")

    failed, cancelled = executor(tmp_path, fails), executor(tmp_path, forever(seen := []))

    async def main():
        with pytest.raises(KeyError):
            await failed.run()
        task = asyncio.create_task(cancelled.run())
        await wait_in_loop(lambda: seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await collected(failed.events()), await collected(cancelled.events())

    for heard, status in zip(run(main), ("failed", "cancelled"), strict=True):
        assert (heard[-1].kind, heard[-1].data["status"]) == ("run_finished", status)


def test_stream_ends_with_a_run_that_cannot_start(tmp_path):
    ran = executor(tmp_path, nothing)
    ran.context = None

    async def main():
        task = asyncio.create_task(collected(ran.events()))
        await asyncio.sleep(0)
        with pytest.raises(AttributeError):
            await ran.run()
        return await task

    assert run(main) == []


def test_another_run_has_events_of_its_own(tmp_path):
    ran = executor(tmp_path, nothing)

    async def main():
        await ran.run()
        first = ran.events()
        await ran.run()
        return await collected(first), await collected(ran.events())

    first, second = run(main)
    assert kinds(first) == kinds(second) == RUN
    assert first[0].data["at"] < second[0].data["at"]


def test_callback_that_changes_what_it_gets_changes_no_event(tmp_path):
    class Sink:
        def event(self, kind, data):
            data.clear()

    ran = executor(tmp_path, nothing)
    make = ran._make_listener

    def listener():
        made = make()
        made._sinks.append(Sink())
        return made

    ran._make_listener = listener

    async def main():
        await ran.run()
        return await collected(ran.events())

    assert all(event.data["run_id"] == ran.context.run_id for event in run(main))


def test_two_tasks_on_one_stream_are_told_off():
    log = EventLog()
    stream = log.stream()

    async def main():
        first = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="once for every listener"):
            await anext(stream)
        log.record("warning", {"seq": 1})
        return await first

    assert run(main) == Event("warning", {"seq": 1})


def test_cancelled_listener_may_go_on_and_loses_nothing():
    log = EventLog()
    stream = log.stream()

    async def main():
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        log.record("warning", {"seq": 1})
        log.close()
        return await collected(stream)

    assert kinds(run(main)) == ["warning"]


def test_listener_whose_loop_has_gone_harms_nobody():
    log = EventLog()
    stream = log.stream()

    loop = asyncio.new_event_loop()
    task = loop.create_task(anext(stream))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    log.record("run_finished", {"seq": 1, "status": "completed"})
    assert kinds(run(lambda: collected(stream))) == ["run_finished"]
    assert not task.done()
    # Its loop will not end it any more.
    task._log_destroy_pending = False
    task.get_coro().close()


def test_slow_listener_keeps_what_is_numbered(monkeypatch):
    monkeypatch.setattr(_stream, "PENDING_LIMIT", 2)
    log = EventLog()
    stream = log.stream()
    for number in range(3):
        log.record("call_text", {"seq": None})
        log.record("warning", {"seq": number})
    log.close()
    assert kinds(run(lambda: collected(stream))) == ["call_text", "warning", "warning", "warning"]
