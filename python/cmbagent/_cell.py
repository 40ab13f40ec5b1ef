"""Interrupting a notebook cell that awaits a run.

A Jupyter kernel answers an interrupt by cancelling the task of the cell, which then ends with a bare
`CancelledError`. A cell that runs synchronous code ends with `KeyboardInterrupt`, and so should this one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Turn the cancellation that an interrupt of the cell caused into `KeyboardInterrupt`.

    Does nothing outside a cell's own task: an interrupt that is raised in any other would end
    the loop of the kernel.
    """
    kernels = signal.getsignal(signal.SIGINT)
    if not callable(kernels) or not _is_cell(kernels):
        yield
        return
    interrupted = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        kernels(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
    finally:
        if signal.getsignal(signal.SIGINT) is note:
            signal.signal(signal.SIGINT, kernels)


def _is_cell(handler: object) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False
    task = asyncio.current_task()
    name = getattr(task.get_coro(), "__qualname__", "") if task is not None else ""
    return name.endswith("run_cell_async") and getattr(handler, "__module__", "").startswith("ipykernel")
