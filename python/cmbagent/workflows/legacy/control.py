"""`control` under its former backup path."""

from __future__ import annotations

from cmbagent.workflows.control import control

__all__ = ["control"]
