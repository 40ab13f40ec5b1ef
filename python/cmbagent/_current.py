"""What the engine asks of Python when it runs phases: keys, listener, and the run one is in.

A phase of the user's may execute built-in phases itself. They find the run they belong to in a context
variable, so that stopping, limits and costs hold for them too.
"""

from __future__ import annotations

import contextvars
import inspect
from typing import TYPE_CHECKING, Any

from cmbagent import _events
from cmbagent.utils import get_api_keys_from_env

if TYPE_CHECKING:
    from cmbagent._core import RunHandle
    from cmbagent.phases.base import Phase, PhaseContext, PhaseResult

_run: contextvars.ContextVar[RunHandle | None] = contextvars.ContextVar("cmbagent_run", default=None)


def get() -> RunHandle | None:
    """Return the run whose phase is being executed here, if there is one."""
    return _run.get()


def keys(api_keys: Any) -> Any:
    """Return the caller's key holder; where there is none, or an empty one, the environment's keys."""
    # Key holders need not have a length or a truth of their own.
    empty = api_keys is None or (isinstance(api_keys, dict) and not api_keys)
    return get_api_keys_from_env() if empty else api_keys


def listener(context: PhaseContext) -> _events.Listener:
    """Make the listener of a phase that is executed on its own."""
    return _events.make_listener(context.callbacks)


async def within(handle: RunHandle, phase: Phase, context: PhaseContext) -> PhaseResult:
    """Execute a phase as part of a run.

    Raises:
        TypeError: `execute` is no coroutine function.
    """
    token = _run.set(handle)
    try:
        awaitable = phase.execute(context)
        if not inspect.isawaitable(awaitable):
            raise TypeError(
                f"{type(phase).__name__}.execute must be a coroutine function (`async def execute`); "
                f"it returned {type(awaitable).__name__}"
            )
        return await awaitable
    finally:
        _run.reset(token)
