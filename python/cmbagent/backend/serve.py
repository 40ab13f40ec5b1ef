"""Serving the application, as `cmbagent serve` does."""

from __future__ import annotations

import sys

import uvicorn

from cmbagent.backend.app import create_app
from cmbagent.backend.settings import Settings
from cmbagent.store import StoreLike

SWITCH_SECONDS = 0.001
"""How long the runs' thread may keep the interpreter while a request waits for it."""

GRACE_SECONDS = 5
"""How long connections may take to end when the server does."""


def serve(settings: Settings, store: StoreLike = None, *, quiet: bool = False) -> None:
    """Serve until an interrupt or a termination signal; runs that go on then are left to the next server.

    Args:
        settings: where, and what is allowed.
        store: where workflows and runs are kept.
        quiet: log warnings only.

    Raises:
        ConfigurationError: as for `create_app`.
        JournalError: as for `create_app`.
    """
    app = create_app(store, settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning" if quiet else "info",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
