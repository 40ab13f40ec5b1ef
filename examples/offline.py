"""Lets every example run without a key: ``python examples/<name>.py --offline`` scripts the models."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from cmbagent.testing import ModelServer
from cmbagent.utils import get_api_keys_from_env


@contextlib.contextmanager
def models(script: dict[str, Any]) -> Iterator[Any]:
    """Yields API keys: of a scripted server on this machine with ``--offline``, else of the environment."""
    if "--offline" not in sys.argv[1:]:
        yield get_api_keys_from_env()
        return
    with ModelServer(script) as server, server.environment():
        yield server.api_keys
