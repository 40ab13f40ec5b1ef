"""The planning functions under their former backup path."""

from __future__ import annotations

from cmbagent.workflows.planning_control import (
    deep_research,
    planning_and_control,
    planning_and_control_context_carryover,
)

__all__ = ["deep_research", "planning_and_control", "planning_and_control_context_carryover"]
