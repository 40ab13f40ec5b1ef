"""A run in this process: in a thread with an event loop of its own, away from requests and other runs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Literal

from cmbagent.errors import CmbagentError
from cmbagent.workflows import WorkflowExecutor

Mode = Literal["now", "after_phase"]

logger = logging.getLogger("cmbagent.server")

BLOCKED_SECONDS = 0.5
"""How long a run's first step may take before it counts as blocking its loop."""


class BusyError(CmbagentError, RuntimeError):
    """As many runs as the server can bear are in progress."""


class Live:
    """A run in this process.

    Args:
        executor: what runs it.
        forget: called once it has ended, in its thread.

    Attributes:
        executor: what runs it.
        stopping: how it was told to stop, if it was.
        error: what it ended with.
    """

    def __init__(self, executor: WorkflowExecutor, forget: Callable[[Live], None]) -> None:
        self.executor = executor
        self.stopping: Mode | None = None
        self.error: Exception | None = None
        self._forget = forget
        self._begun = threading.Event()
        # A daemon, so that a phase which never returns cannot keep the server from ending.
        self._thread = threading.Thread(
            target=self._main, name=f"cmbagent-run-{self.run_id[:8]}", daemon=True
        )

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.executor.context.run_id

    @property
    def word(self) -> str | None:
        """Where the run stands, where this process knows it better than the store: `paused`, `stopping`."""
        word = self.executor.get_status().get("status")
        return word if word in ("paused", "stopping") else None

    def begin(self) -> None:
        """Begin the run; it is in the store when this returns.

        Raises:
            BusyError: the system has no thread left.
            Exception: what kept the run from beginning.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            self._forget(self)
            raise BusyError(f"this machine cannot run any more now ({error}); try again later") from error
        while not self._begun.wait(BLOCKED_SECONDS):
            if self.executor._journal is not None:
                # Its first phase computes without awaiting.
                return
        if self.error is not None and not self.executor._log.begun:
            raise self.error

    def join(self, seconds: float) -> bool:
        """Wait for the run's end, and say whether it has come."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        try:
            run = asyncio.create_task(self.executor.run())
            # Its first step makes the log; the run is in the store once that says anything or ends.
            await asyncio.sleep(0)
            async for _ in self.executor._log.stream():
                break
            if not run.done():
                self._begun.set()
            await run
        except Exception as error:
            # What went wrong later is in the run's own record; here it is only worth a line.
            self.error = error
            logger.info("run %s ended: %s", self.run_id, type(error).__name__)
        finally:
            self._forget(self)
            self._begun.set()
