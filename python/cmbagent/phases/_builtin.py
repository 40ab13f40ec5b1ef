"""The shell around a phase whose work is done by the engine."""

from __future__ import annotations

from typing import Any, ClassVar

from cmbagent import _core
from cmbagent._loop import ensure_not_forked, heartbeat
from cmbagent.phases.base import Phase, PhaseContext, PhaseResult


class BuiltinPhase(Phase):
    """A phase of the package. A subclass may override any method, `execute` too."""

    _native_type: ClassVar[str]
    _output: ClassVar[dict[str, tuple[str, str]]] = {}

    async def execute(self, context: PhaseContext) -> PhaseResult:
        """Run the phase in the engine.

        Args:
            context: what the phase works on; see `PhaseContext`.

        Returns:
            The outcome; `context.output_data` holds what `get_output_schema` describes.

        Raises:
            CmbagentError: the phase could not do its work, for example because a model could not be reached.
        """
        ensure_not_forked()
        with heartbeat():
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
