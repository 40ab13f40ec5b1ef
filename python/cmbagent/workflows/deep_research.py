"""`deep_research` under the module path that programs import it from."""

from __future__ import annotations

from cmbagent.workflows.planning_control import deep_research, planning_and_control_context_carryover

__all__ = ["deep_research", "planning_and_control_context_carryover"]
