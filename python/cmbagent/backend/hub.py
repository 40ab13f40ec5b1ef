"""What the routes share: the store, the runs, and what is known of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, HTTPException
from starlette.requests import HTTPConnection

from cmbagent.backend.definitions import Definitions
from cmbagent.backend.feed import Feeds
from cmbagent.backend.progress import ProgressBook
from cmbagent.backend.runner import Runs
from cmbagent.backend.settings import Settings
from cmbagent.errors import ConfigurationError
from cmbagent.store import UNFINISHED, RunInfo, Store, StoreLike, _info, open_store

SETTLE_SECONDS = 5.0
"""How long a run that has ended may take to be let go by its process."""

KEY_HEADERS = {
    "OPENAI": "x-openai-api-key",
    "ANTHROPIC": "x-anthropic-api-key",
    "GEMINI": "x-gemini-api-key",
    "MISTRAL": "x-mistral-api-key",
}
"""The headers that bring a key for one run."""

_lock = threading.Lock()


class Hub:
    """A server's parts.

    Args:
        store: as `store=` of an executor.
        settings: the server's.

    Raises:
        ConfigurationError: runs are not to be kept, without which there is no server.
    """

    def __init__(self, store: StoreLike = None, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_environment()
        opened = open_store(store)
        if opened is None:
            raise ConfigurationError(
                "a server keeps its runs in a store, and CMBAGENT_STORE is :memory:; name a file, or unset it"
            )
        self.store: Store = opened
        self.definitions = Definitions(opened)
        self.runs = Runs(opened, self.settings)
        self.progress = ProgressBook(opened)
        self.feeds = Feeds(opened, self.settings.max_listeners, self.runs.log)

    def run(self, run_id: str) -> RunInfo:
        """Return a run.

        Raises:
            HTTPException: 404, there is none.
        """
        row = self.store._core.run(run_id)
        if row is None:
            raise HTTPException(404, f"Run '{run_id}' not found")
        return _info(row)

    def settled(self, run_id: str) -> RunInfo:
        """Return a run; one that has just ended only once its process has let it go.

        Raises:
            HTTPException: 404, there is none.
        """
        give_up = time.monotonic() + SETTLE_SECONDS
        while True:
            info = self.run(run_id)
            held = info.owner is not None or self.runs.live(run_id) is not None
            if info.status in UNFINISHED or not held or time.monotonic() > give_up:
                return info
            time.sleep(0.01)


def the_hub(connection: HTTPConnection) -> Hub:
    """Return the hub of the application that a request reached; one that mounts the router gets its own."""
    state = connection.app.state
    with _lock:
        if not hasattr(state, "cmbagent"):
            state.cmbagent = Hub()
        hub: Hub = state.cmbagent
    return hub


TheHub = Annotated[Hub, Depends(the_hub)]


def the_keys(connection: HTTPConnection) -> Mapping[str, str]:
    """Return the keys that a request brings in headers: provider name → key."""
    given = {name: connection.headers.get(header, "").strip() for name, header in KEY_HEADERS.items()}
    return {name: key for name, key in given.items() if key}


TheKeys = Annotated[Mapping[str, str], Depends(the_keys)]


def iso(at: float | None) -> Any:
    """Write a time as ISO 8601 in UTC; `None` stays `None`."""
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
