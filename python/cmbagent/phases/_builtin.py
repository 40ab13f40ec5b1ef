"""The shell around a phase whose work is done by the engine."""

from __future__ import annotations

from typing import Any, ClassVar

from cmbagent import _core
from cmbagent._loop import ensure_not_forked
from cmbagent.phases.base import Phase, PhaseContext, PhaseResult


class BuiltinPhase(Phase):
    """A phase of the package. A subclass may override any method, `execute` too.

    The engine runs a phase natively when its `execute` is the one made here, and calls any other like that
    of a phase of the user's.
    """

    _native_type: ClassVar[str]
    _output: ClassVar[dict[str, tuple[str, str]]] = {}

    def __init_subclass__(cls, native: str | None = None, **kwargs: Any) -> None:
        """Give a class of the package its own `execute`.

        Args:
            native: the engine's name of the phase; subclasses of the user's have none.
            **kwargs: for further base classes.
        """
        super().__init_subclass__(**kwargs)
        if native is not None:
            cls._native_type = native
            cls.execute = _native_execute(native)  # type: ignore[method-assign]

    async def execute(self, context: PhaseContext) -> PhaseResult:
        """Run the phase in the engine.

        Args:
            context: what the phase works on; see `PhaseContext`.

        Returns:
            The outcome; `context.output_data` holds what `get_output_schema` describes. A phase that could
            not
            do its work, for example because a model could not be reached, has failed and says why in `error`.

        Raises:
            RunStoppedError: the run was cancelled.
        """
        ensure_not_forked()
        return await _core.execute_builtin(self, context)

    def validate_input(self, context: PhaseContext) -> list[str]:
        """Return what the phase misses in its input."""
        return _core.validate_builtin(self, context)

    def get_output_schema(self) -> dict[str, Any]:
        """Return a JSON schema of the phase's `output_data`."""
        return {
            "type": "object",
            "properties": {
                name: {"type": kind, "description": text} for name, (kind, text) in self._output.items()
            },
        }


def _native_execute(native: str) -> Any:
    shared = BuiltinPhase.execute

    async def execute(self: BuiltinPhase, context: PhaseContext) -> PhaseResult:
        return await shared(self, context)

    execute.__doc__ = shared.__doc__
    execute.__qualname__ = shared.__qualname__
    execute._native_phase = native  # type: ignore[attr-defined]
    return execute
