"""The run that the code being executed belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmbagent._core import RunHandle
    from cmbagent._events import Listener
    from cmbagent.phases.base import Phase, PhaseContext, PhaseResult

_run: ContextVar[RunHandle | None] = ContextVar("cmbagent_run", default=None)


def get() -> RunHandle | None:
    """Return the run around the caller; `None` outside one."""
    return _run.get()


async def within(run: RunHandle, phase: Phase, context: PhaseContext) -> PhaseResult:
    """Execute a phase of the user's as part of a run.

    Raises:
        TypeError: `execute` is no coroutine function.
    """
    awaitable = phase.execute(context)
    if not inspect.isawaitable(awaitable):
        raise TypeError(
            f"{type(phase).__name__}.execute must be a coroutine function (`async def execute`); "
            f"it returned {type(awaitable).__name__}"
        )
    token = _run.set(run)
    try:
        return await awaitable
    finally:
        _run.reset(token)


def keys(api_keys: Any) -> Any:
    """Return the caller's keys, or those of the environment when there are none."""
    from cmbagent.utils import get_api_keys_from_env

    missing = api_keys is None or (isinstance(api_keys, Mapping) and not api_keys)
    return get_api_keys_from_env() if missing else api_keys


def listener(context: PhaseContext) -> Listener:
    """Make the listener of a phase that is executed on its own."""
    from cmbagent import _events

    return _events.make_listener(context.callbacks)
