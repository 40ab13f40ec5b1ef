"""The routes of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI


def register_routers(app: FastAPI) -> None:
    """Mount all routes in an application.

    Args:
        app: the application.
    """
    from cmbagent.backend.routers import health, phases

    app.include_router(phases.router)
    app.include_router(health.router)
