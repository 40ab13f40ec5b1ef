"""What the context of runs begins with, under the module path that older programs import it from."""

from __future__ import annotations

from typing import Any

from cmbagent import _core

__all__ = ["shared_context"]

shared_context: dict[str, Any] = _core.initial_context()
"""A dict to copy and to change, for `CMBAgent(shared_context=…)`; changing it changes no run."""
