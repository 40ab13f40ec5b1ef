"""A run in the background, and the handle that looks after it."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cmbagent import _core, _loop
from cmbagent.approvals.console import ConsoleApprovalManager, running_kernel
from cmbagent.errors import RunStoppedError

if TYPE_CHECKING:
    from cmbagent.phases import Phase

T = TypeVar("T")

logger = logging.getLogger("cmbagent.run")


class BackgroundRun(Generic[T]):
    """A run in a helper thread with an event loop of its own; `WorkflowExecutor.start` returns it.

    Dropping the handle does not end the run: it goes on to its end, and what it shows is still shown. An
    error that nobody asked for is logged when the handle goes. The end of the interpreter ends the run, so a
    script calls `result()` before its own end. Callbacks are called in the helper thread.

    The run can be awaited too: `await handle` is `handle.result()` without blocking the loop.
    """

    def __init__(
        self,
        start: Callable[[], Coroutine[Any, Any, T]],
        control: _core.Control,
        status: Callable[[], dict[str, Any]],
        describe: Callable[[], str],
    ) -> None:
        """Start the run.

        Args:
            start: makes the coroutine, in the thread that will run it.
            control: steers it.
            status: says where the run stands, under `status` in a word.
            describe: names what is running, for messages.

        Raises:
            ForkError: this process was forked from one in which the engine had started.
        """
        _loop.ensure_not_forked()
        self._start, self._control, self._status, self._describe = start, control, status, describe
        self._ended: Future[None] = Future()
        self._outcome: Future[T] = Future()
        self._cancelling = False
        self._heard = False
        self._began = time.monotonic()
        self._seconds: float | None = None
        context = contextvars.copy_context()
        # Nobody waits to whom calls could be posted.
        context.run(_loop.current_poster.set, None)
        # A daemon, so that a phase which never returns cannot keep the interpreter from exiting.
        self._thread = threading.Thread(
            target=self._main, args=(context,), name="cmbagent-background", daemon=True
        )
        self._thread.start()

    def result(self, timeout: float | None = None) -> T:
        """Wait for the run's end and return its result.

        An interrupt (Ctrl-C, a notebook's stop button) ends the waiting only; `cancel` ends the run.

        Args:
            timeout: how many seconds to wait at most; `None` waits as long as it takes.

        Returns:
            What the run returns.

        Raises:
            TimeoutError: the run has not ended within `timeout` seconds; it goes on.
            concurrent.futures.CancelledError: the run was cancelled.
            RuntimeError: called from the run itself, which would wait for ever.
            ForkError: this process is a fork of the one in which the run goes on.
            Exception: whatever else the run raised, as it is.
        """
        self._ensure_it_can_end()
        give_up = None if timeout is None else time.monotonic() + timeout
        with _loop.interruptible():
            while not self.done():
                left = _loop.SLICE_SECONDS if give_up is None else give_up - time.monotonic()
                if left <= 0:
                    raise TimeoutError(
                        f"{self._describe()} has not ended within {timeout:g} s and goes on; "
                        "call result() again to wait on, or cancel()"
                    )
                with contextlib.suppress(TimeoutError):
                    self._ended.result(min(left, _loop.SLICE_SECONDS))
        self._heard = True
        return self._outcome.result()

    def exception(self) -> BaseException | None:
        """Return what the run raised; `None` if it returned or has not ended yet."""
        if not self.done():
            return None
        self._heard = True
        return self._outcome.exception()

    def cancel(self) -> bool:
        """Cancel the run: the model call in flight is cut, the script that runs is killed.

        Returns at once; `result` waits for the end. A phase that blocks its loop ends where it next awaits.

        Returns:
            Whether there was anything to cancel; `False` once the run has ended.
        """
        self._cancelling = not self.done()
        return self._steer(self._control.cancel)

    def stop(self) -> bool:
        """Stop the run before its next phase, as `WorkflowExecutor.stop`; `False` once it has ended."""
        return self._steer(self._control.stop)

    def pause(self) -> bool:
        """Hold the run before what comes next, as `WorkflowExecutor.pause`; `False` once it has ended."""
        return self._steer(self._control.pause)

    def resume(self) -> bool:
        """End a pause; `False` once the run has ended."""
        return self._steer(self._control.resume)

    def _steer(self, how: Callable[[], None]) -> bool:
        if self.done():
            return False
        how()
        return True

    def done(self) -> bool:
        """Whether the run has ended, in whatever way."""
        return self._ended.done()

    def status(self) -> dict[str, Any]:
        """Say where the run stands; never waits.

        Returns:
            What `WorkflowExecutor.get_status` says, with a `status` from the start on; `seconds` since the
            start; and `error`, the text of what the run raised other than a cancellation, or `None`.
        """
        known = self._status()
        seconds = time.monotonic() - self._began if self._seconds is None else self._seconds
        error = self._outcome.exception() if self.done() else None
        if isinstance(error, CancelledError):
            known["status"], error = "cancelled", None
        told = None if error is None else str(error) or type(error).__name__
        return {"status": "running", **known, "seconds": seconds, "error": told}

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        self._ensure_it_can_end()
        # The waiting task may be cancelled; the run goes on.
        await asyncio.shield(asyncio.wrap_future(self._ended))
        return self.result()

    def _ensure_it_can_end(self) -> None:
        if self.done():
            return
        _loop.ensure_not_forked()
        if threading.current_thread() is self._thread:
            raise RuntimeError("a run cannot wait for its own result; wait for it outside its phases")

    def __repr__(self) -> str:
        state = self.status()
        return f"<{type(self).__name__} of {self._describe()}: {state['status']}, {state['seconds']:.1f} s>"

    def __del__(self) -> None:
        outcome = getattr(self, "_outcome", None)
        if outcome is None or self._heard or not outcome.done():
            return
        error = outcome.exception()
        if isinstance(error, Exception) and not isinstance(error, CancelledError):
            logger.error("%s failed in the background, and nobody asked", self._describe(), exc_info=error)

    def _main(self, context: contextvars.Context) -> None:
        try:
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                result = runner.run(self._start(), context=context)
        except BaseException as error:
            cancelled = isinstance(error, asyncio.CancelledError) or (
                self._cancelling and isinstance(error, RunStoppedError)
            )
            # That of asyncio would cancel whoever asks for the result.
            ended = CancelledError(f"{self._describe()} was cancelled") if cancelled else error
            self._outcome.set_exception(ended)
        else:
            self._outcome.set_result(result)
        self._seconds = time.monotonic() - self._began
        self._ended.set_result(None)


def warn_where_nobody_can_answer(manager: Any, phases: Iterable[Phase]) -> None:
    """Warn of a run in the background of a notebook that is going to ask in its cell.

    Args:
        manager: the run's approval manager.
        phases: its phases.
    """
    if not isinstance(manager, ConsoleApprovalManager) or running_kernel() is None:
        return
    asking = [phase.phase_type for phase in phases if _asks(phase)]
    if asking:
        warnings.warn(
            f"{', '.join(asking)} will ask in the console, and a notebook takes no input for a cell that has "
            "ended; give the executor a QueueApprovalManager, or use run_sync()",
            RuntimeWarning,
            stacklevel=3,
        )


def _asks(phase: Phase) -> bool:
    if phase.phase_type.startswith("hitl_"):
        return True
    return any(getattr(phase.config, name, False) for name in ("hitl_after_each_step", "hitl_enabled"))
