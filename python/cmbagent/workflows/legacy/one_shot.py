"""`one_shot` under its former backup path."""

from __future__ import annotations

from cmbagent.workflows.one_shot import one_shot

__all__ = ["one_shot"]
