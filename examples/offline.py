"""Lets every example run without a key: ``python examples/<name>.py --offline`` scripts the models."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from cmbagent.testing import ModelServer
from cmbagent.utils import get_api_keys_from_env

OFFLINE = "--offline" in sys.argv[1:]


@contextlib.contextmanager
def models(script: dict[str, Any]) -> Iterator[Any]:
    """Yields API keys: of a scripted server on this machine with ``--offline``, else of the environment."""
    if not OFFLINE:
        yield get_api_keys_from_env()
        return
    with ModelServer(script) as server, server.environment():
        yield server.api_keys


@contextlib.contextmanager
def rest_server() -> Iterator[str]:
    """Yields the address of a REST server: with ``--offline`` of one that is started, else of the user's."""
    if not OFFLINE:
        yield os.environ.get("CMBAGENT_SERVER", "http://localhost:8000")
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "cmbagent", "serve", "--port", str(port), "--quiet"]
    with subprocess.Popen([*command, "--root", "example_output/rest"]) as process:
        try:
            while not _answers(address) and process.poll() is None:
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/api/health"):
            return True
    except urllib.error.URLError:
        return False
