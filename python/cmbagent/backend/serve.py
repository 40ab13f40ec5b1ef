"""Serving the application, as `cmbagent serve` does."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable

import uvicorn

from cmbagent.backend.app import create_app
from cmbagent.backend.settings import Settings
from cmbagent.store import StoreLike

SWITCH_SECONDS = 0.001
"""How long the runs' thread may keep the interpreter while a request waits for it."""

GRACE_SECONDS = 5
"""How long connections may take to end when the server does."""


class _Server(uvicorn.Server):
    """A server that says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[str], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._listening(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def serve(
    settings: Settings,
    store: StoreLike = None,
    *,
    quiet: bool = False,
    listening: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until an interrupt or a termination signal; runs that go on then are left to the next server.

    Args:
        settings: where, and what is allowed.
        store: where workflows and runs are kept.
        quiet: log warnings only.
        listening: called with the address, such as `http://127.0.0.1:8000`, once clients may ask there.

    Raises:
        ConfigurationError: as for `create_app`.
        JournalError: as for `create_app`.
        SystemExit: it could not listen there; the log says why.
    """
    app = create_app(store, settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level="warning" if quiet else "info",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config, listening)
    # The server has ended in order before the interrupt is raised again.
    with contextlib.suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(1)
