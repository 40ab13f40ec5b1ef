"""The version, under the module path that older programs import it from."""

from __future__ import annotations

from cmbagent._core import __version__

__all__ = ["__version__"]
