"""Running a coroutine from synchronous code, also where a loop is already running.

Without a running loop the coroutine runs in the calling thread, so that phases keep the main thread with its
signals and thread-bound objects. Inside a running loop (a notebook, a nested call, `asyncio.run`) it gets
a helper
thread with a loop of its own; the caller waits, stays interruptible, and runs what the helper posts to it,
so that callbacks and display stay in the caller's thread.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import dataclasses
import functools
import os
import queue
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from cmbagent import _cell, _core
from cmbagent.errors import ForkError

T = TypeVar("T")

SLICE_SECONDS = 0.025
"""How long the waiting caller sleeps at most before it looks at signals again."""
GRACE_SECONDS = 2.0
"""How long an interrupted run may take to end before it is left behind."""
EXIT_SECONDS = 0.5
"""How long the interpreter's end waits for runs in other threads, once cancelled and once interrupted."""
HEARTBEAT_SECONDS = 0.1
"""How often a loop wakes up while a run is awaited in it."""

_bells: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _core.Bell | None] = weakref.WeakKeyDictionary()


def bell(loop: asyncio.AbstractEventLoop) -> _core.Bell | None:
    """Return what wakes the running `loop` from any thread; `None` where it can watch no files."""
    if loop not in _bells:
        try:
            made = _core.Bell()
            loop.add_reader(made.fileno(), made)
        except (NotImplementedError, OSError):
            _bells[loop] = None
        else:
            _bells[loop] = made
    return _bells[loop]


class Poster:
    """Hands calls from a helper thread to the caller that waits for it."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.closed = threading.Event()

    def send(self, call: Callable[[], None]) -> None:
        """Have the caller run `call` soon; dropped once nobody waits any more."""
        if not self.closed.is_set():
            self.inbox.put(call)

    def ask(self, call: Callable[[], T], default: T) -> T:
        """Have the caller run `call` and return what it returns, or `default` once nobody waits any more."""
        answer: Future[T] = Future()
        answered = threading.Event()

        def run() -> None:
            try:
                answer.set_result(call())
            except Exception as error:
                answer.set_exception(error)
            except BaseException:
                answer.set_result(default)
                raise
            finally:
                answered.set()

        self.send(run)
        while not answered.wait(SLICE_SECONDS):
            if self.closed.is_set():
                return default
        return answer.result()

    def finish(self) -> None:
        """Tell the caller that nothing more will come."""
        self.inbox.put(None)

    def serve(self, deadline: float | None = None) -> bool:
        """Run posted calls until the helper has finished; `False` if the deadline (monotonic) came first."""
        while deadline is None or time.monotonic() < deadline:
            try:
                call = self.inbox.get(timeout=SLICE_SECONDS)
            except queue.Empty:
                continue
            if call is None:
                return True
            call()
        return False


current_poster: contextvars.ContextVar[Poster | None] = contextvars.ContextVar(
    "cmbagent_poster", default=None
)


def run_sync(start: Callable[[], Coroutine[Any, Any, T]], describe: Callable[[], str]) -> T:
    """Run a coroutine to its end and return its result.

    Args:
        start: makes the coroutine, in the thread that will run it.
        describe: names what is running, for the warning when it does not end.

    Returns:
        What the coroutine returns; its exceptions are raised here as they are.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the coroutine was cancelled.
        ForkError: this process was forked from one in which the engine had started.
    """
    ensure_not_forked()
    context = contextvars.copy_context()
    if not _loop_is_running():
        context.run(current_poster.set, None)
        # A loop factory keeps the runner from touching the thread's own event loop.
        try:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                return runner.run(start(), context=context)
        except asyncio.CancelledError:
            if _Process.ending:
                # What ends a thread without a word.
                raise SystemExit from None
            raise
    with interruptible():
        return _Helper(start, context).wait(describe)


class _Helper(Generic[T]):
    """One coroutine in a thread with a loop of its own."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]], context: contextvars.Context) -> None:
        self._start = start
        self._poster = Poster()
        self._context = context
        self._outcome: Future[T] = Future()
        self._cancelled = False
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        context.run(current_poster.set, self._poster)
        # A daemon, so that a phase which never returns cannot keep the interpreter from exiting.
        self._thread = threading.Thread(target=self._main, name="cmbagent-loop", daemon=True)

    def wait(self, describe: Callable[[], str]) -> T:
        """Start the helper and serve it until it has finished; on an interrupt, cancel it first."""
        try:
            # In here, so that an interrupt finds no moment in which it would leave the helper running.
            self._thread.start()
            self._poster.serve()
            return self._outcome.result()
        except BaseException:
            if self._thread.ident is not None and not self._outcome.done():
                self._abandon(describe)
            raise
        finally:
            self._poster.closed.set()

    def _abandon(self, describe: Callable[[], str]) -> None:
        self._cancelled = True
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # the loop may have closed meanwhile
                self._loop.call_soon_threadsafe(self._task.cancel)
        if not self._poster.serve(deadline=time.monotonic() + GRACE_SECONDS):
            warnings.warn(
                f"{describe()} did not stop within {GRACE_SECONDS:g} s of being interrupted and goes on in "
                "the background until it returns; a phase that blocks its loop cannot be cancelled",
                RuntimeWarning,
                stacklevel=4,
            )

    def _main(self) -> None:
        outcome: Callable[[], None]
        try:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                result = runner.run(self._work(), context=self._context)
            outcome = functools.partial(self._outcome.set_result, result)
        except BaseException as error:
            outcome = functools.partial(self._outcome.set_exception, error)
        outcome()
        self._poster.finish()

    async def _work(self) -> T:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._cancelled:
            raise asyncio.CancelledError
        return await self._start()


async def as_coroutine(awaitable: Awaitable[T]) -> T:
    """Wrap an awaitable that is no coroutine, so that it can be thrown into."""
    return await awaitable


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise in this thread while it blocks inside a running loop.

    `asyncio.run` and `loop.add_signal_handler` answer SIGINT by scheduling work on the loop, and a blocked
    loop never gets to it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)
    if previous in (signal.default_int_handler, signal.SIG_IGN, signal.SIG_DFL, None):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def heartbeat() -> Iterator[None]:
    """Keep watch over a run while it is awaited.

    The running loop wakes up regularly, so that a signal that arrives while it waits is acted on soon; and a
    run that goes on in another thread when the interpreter ends is ended first. In a notebook's cell an
    interrupt raises `KeyboardInterrupt`.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    handle: asyncio.TimerHandle
    watched = _Watched(loop, task, threading.get_ident())

    def beat() -> None:
        nonlocal handle
        handle = loop.call_later(HEARTBEAT_SECONDS, beat)

    beat()
    _watched.add(watched)
    try:
        with _cell.interruptible():
            yield
    finally:
        _watched.discard(watched)
        handle.cancel()


@dataclasses.dataclass(eq=False, frozen=True)
class _Watched:
    """A run that is being awaited."""

    loop: asyncio.AbstractEventLoop
    task: asyncio.Task[Any] | None
    thread: int


_watched: set[_Watched] = set()


def _end_runs() -> None:
    """End what daemon threads run, before the interpreter does.

    Until Python 3.14 a thread that wants to go on after that is ended where it stands, and where a phase's
    code was called from the engine this aborts the process.
    """
    if _Process.forked:
        return  # the threads are the parent's
    _Process.ending = True
    here = threading.get_ident()
    left = [run for run in list(_watched) if run.thread != here and run.loop.is_running()]
    for run in left:
        if run.task is not None:
            with contextlib.suppress(RuntimeError):  # the loop may have closed meanwhile
                run.loop.call_soon_threadsafe(run.task.cancel)
    if not _all_ended(left):
        import ctypes

        # A phase that computes without ever awaiting.
        for thread in {run.thread for run in left if run in _watched}:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(SystemExit))
        _all_ended(left)
    _core.end_wakeups()


def _all_ended(runs: list[_Watched]) -> bool:
    deadline = time.monotonic() + EXIT_SECONDS
    while not _watched.isdisjoint(runs):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


atexit.register(_end_runs)


class _Process:
    """Where this process stands: whether the engine has started in it, or had in one it is a fork of."""

    started = False
    forked = False
    ending = False


def _after_fork() -> None:
    _Process.forked = _Process.forked or _Process.started
    _watched.clear()


def ensure_not_forked() -> None:
    """Note that the engine starts in this process.

    Raises:
        ForkError: the process was forked after the engine had started; it would wait for ever for
            threads that a fork does not copy.
    """
    if _Process.forked:
        raise ForkError(
            "this process was forked after cmbagent had started a run, and the engine's threads were not "
            "copied; start workers with multiprocessing.get_context('spawn') (or 'forkserver') instead"
        )
    if not _Process.started:
        _Process.started = True
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)
