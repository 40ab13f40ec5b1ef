"""The REST API: run, watch, approve and stop workflows from anywhere. Needs `pip install 'cmbagent[server]'`.

`create_app` makes the application that `cmbagent serve` serves; `routers.phases.router` is everything under
`/api/phases`, for applications of other makers.
"""

from __future__ import annotations

from cmbagent.backend.app import create_app
from cmbagent.backend.settings import Settings

__all__ = ["Settings", "create_app"]
