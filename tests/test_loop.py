import asyncio
import contextvars
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from cmbagent import _loop

VARIABLE = contextvars.ContextVar("variable", default="unset")


def run(start):
    return _loop.run_sync(start, lambda: "the test")


async def where():
    await asyncio.sleep(0)
    return threading.current_thread(), VARIABLE.get()


def inside_a_loop(call):
    async def main():
        return call()

    return asyncio.run(main())


def test_without_a_loop_it_runs_in_the_calling_thread():
    VARIABLE.set("outer")
    assert run(where) == (threading.current_thread(), "outer")


def test_in_a_running_loop_it_runs_in_a_helper():
    VARIABLE.set("outer")
    thread, value = inside_a_loop(lambda: run(where))
    assert (thread.name, value) == ("cmbagent-loop", "outer")
    thread.join()
    assert not thread.is_alive()


def test_nested_calls():
    async def nest():
        return run(where)[0]

    threads = inside_a_loop(lambda: [run(nest), threading.current_thread()])
    assert threads[0] is not threads[1]


def test_the_threads_own_loop_is_left_alone():
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        run(where)
        assert asyncio.get_event_loop() is loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


@pytest.mark.parametrize("wrap", [lambda call: call(), inside_a_loop])
def test_exceptions_come_as_they_are(wrap):
    error = KeyError("mine")

    async def fail():
        raise error

    with pytest.raises(KeyError) as caught:
        wrap(lambda: run(fail))
    assert caught.value is error


def test_posted_calls_run_in_the_waiting_thread_in_order():
    seen = []

    async def post():
        poster = _loop.current_poster.get()
        for number in range(5):
            poster.send(lambda number=number: seen.append((number, threading.current_thread())))
        return poster.ask(lambda: len(seen), default=-1), threading.current_thread()

    count, helper = inside_a_loop(lambda: run(post))
    assert count == 5
    assert seen == [(n, threading.current_thread()) for n in range(5)]
    assert helper is not threading.current_thread()
    assert _loop.current_poster.get() is None


def test_posted_question_that_raises():
    def boom():
        raise ValueError("boom")

    async def post():
        with pytest.raises(ValueError, match="boom"):
            _loop.current_poster.get().ask(boom, default=None)
        return "done"

    assert inside_a_loop(lambda: run(post)) == "done"


def test_nobody_waits_any_more():
    poster = _loop.Poster()
    poster.closed.set()
    poster.send(lambda: pytest.fail("nobody should run this"))
    assert poster.ask(lambda: 1, default="default") == "default"


def test_interrupt_from_a_posted_call_cancels_the_run():
    seen = []

    def interrupt():
        raise KeyboardInterrupt

    async def work():
        _loop.current_poster.get().send(interrupt)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            _loop.current_poster.get().send(lambda: seen.append("told"))
            seen.append("cancelled")
            raise

    def call():
        with pytest.raises(KeyboardInterrupt):
            run(work)

    inside_a_loop(call)
    assert seen == ["cancelled", "told"]


def test_blocked_run_is_left_behind_with_a_warning(monkeypatch):
    monkeypatch.setattr(_loop, "GRACE_SECONDS", 0.05)
    release = threading.Event()

    def interrupt():
        raise KeyboardInterrupt

    async def block():
        _loop.current_poster.get().send(interrupt)
        release.wait()

    def call():
        with pytest.warns(RuntimeWarning, match="the test did not stop"), pytest.raises(KeyboardInterrupt):
            run(block)

    try:
        inside_a_loop(call)
    finally:
        release.set()


INTERRUPTED = """
import asyncio, signal, sys
from cmbagent import _loop

async def work():
    print("started", flush=True)
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled", flush=True)
        raise

def call():
    try:
        _loop.run_sync(work, lambda: "it")
    except KeyboardInterrupt:
        print("interrupted", flush=True)

async def main():
    call()
    print(signal.getsignal(signal.SIGINT) is not signal.default_int_handler)

{start}
"""


@pytest.mark.parametrize(
    ("start", "lines"),
    [("call()", ["cancelled", "interrupted"]), ("asyncio.run(main())", ["cancelled", "interrupted", "True"])],
)
def test_ctrl_c(start, lines):
    code = textwrap.dedent(INTERRUPTED).format(start=start)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().split() == lines
        assert process.wait() == 0


def test_heartbeat_wakes_the_loop_and_ends(monkeypatch):
    monkeypatch.setattr(_loop, "HEARTBEAT_SECONDS", 0.001)

    async def main():
        loop = asyncio.get_running_loop()
        beats = []
        call_later = loop.call_later
        monkeypatch.setattr(loop, "call_later", lambda *a: beats.append(1) or call_later(*a))
        with _loop.heartbeat():
            while len(beats) < 3:
                await asyncio.sleep(0)
        count = len(beats)
        await asyncio.sleep(0.005)
        return count, len(beats)

    before, after = asyncio.run(main())
    assert after == before + 1  # the sleep itself


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_child_gets_a_plain_error():
    run(where)
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def child():
        try:
            run(where)
        except RuntimeError as error:
            sender.send(str(error))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert "multiprocessing.get_context('spawn')" in receiver.recv()
    process.join()


def test_many_threads_at_once():
    failures = []

    def one():
        try:
            for _ in range(10):
                assert run(where)[0] is threading.current_thread()
                assert inside_a_loop(lambda: run(where))[0] is not threading.current_thread()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
