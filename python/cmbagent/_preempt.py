"""What a batch system says before it takes the machine away: SIGTERM or SIGUSR1.

A run that is kept then ends in order: its script is killed, its record says `interrupted`, and the process
exits with a status that asks for being queued again. Another process resumes the run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING

from cmbagent.workflows import _resume

if TYPE_CHECKING:
    from cmbagent.workflows import WorkflowExecutor

REQUEUE = 75
"""The exit status after such a signal: EX_TEMPFAIL, try again later."""

GRACE_SECONDS = 4.0
"""How long a run may take to end; a phase that does not let go is left where it stands."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


@contextlib.contextmanager
def heeded(executor: WorkflowExecutor) -> Iterator[None]:
    """Heed the signals while the main thread waits for a run; those that the program handles are its own.

    Raises:
        SystemExit: with `REQUEUE`, once the run has ended after a signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[str] = []
    last_resort = threading.Timer(GRACE_SECONDS, lambda: leave(executor, came[0]))
    last_resort.daemon = True

    def take(number: int, frame: FrameType | None) -> None:
        if not executor.durable:
            # Nothing can be gone on with.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not came:
            came.append(signal.Signals(number).name)
            executor._control.interrupt()
            last_resort.start()

    taken = [number for number in SIGNALS if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, take)
    try:
        yield
    finally:
        for number in taken:
            if signal.getsignal(number) is take:
                signal.signal(number, signal.SIG_DFL)
        last_resort.cancel()
        if came:
            _resume.tell_how_to_go_on(executor, f"Interrupted by {came[0]}")
            raise SystemExit(REQUEUE) from None


def leave(executor: WorkflowExecutor, name: str) -> None:
    """End the process as it stands: what was committed is safe, and scripts end with it."""
    with contextlib.suppress(Exception):  # whatever holds the run up may hold standard error, too
        _resume.tell_how_to_go_on(executor, f"Interrupted by {name}")
    os._exit(REQUEUE)
