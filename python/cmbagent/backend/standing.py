"""Where a run stands, as clients are told it, and what can be done with it."""

from __future__ import annotations

from typing import Literal

from cmbagent.backend.live import Live
from cmbagent.store import UNFINISHED, RunInfo

Resumable = Literal["yes", "no", "needs key"]


def told_status(info: RunInfo, live: Live | None = None) -> str:
    """Return a run's status in a word.

    Args:
        info: the run.
        live: the run, if it goes on in this process.
    """
    return (live.word if live is not None else None) or info.status


def resumable(info: RunInfo, live: Live | None = None) -> Resumable:
    """Return whether a run can be taken up; `needs key`: only with the key that it began with."""
    # One that has ended is let go in a moment.
    going_on = info.status in UNFINISHED and (live is not None or info.owner is not None)
    if going_on or info.status == "completed" or info.about.get("imported") or info.helper:
        return "no"
    return "needs key" if header_keys(info) else "yes"


def header_keys(info: RunInfo) -> list[str]:
    """Return the providers whose keys a run was given in a header."""
    keys: list[str] = info.about.get("origin", {}).get("keys", [])
    return keys


def is_left(info: RunInfo) -> bool:
    """Return whether a server has left the run without having finished it."""
    by_server = bool(info.about.get("origin", {}).get("server"))
    return by_server and info.parent is None and info.owner is None and info.status == "interrupted"
