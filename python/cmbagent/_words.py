"""Times, money and texts for people, on one line."""

from __future__ import annotations

import datetime
import re
import time
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def one_line(text: Any, width: int) -> str:
    """Put a text on one line of at most so many characters; it may not steer the terminal."""
    line = " ".join(_CONTROL.sub(" ", str(text)).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def dollars(cost: float) -> str:
    """Write an amount of money: `$0.0072`, `$12.50`."""
    return f"${cost:.4f}" if cost < 1 else f"${cost:,.2f}"


def ago(at: float) -> str:
    """Say how long ago a time was: `5 min ago`."""
    seconds = max(0.0, time.time() - at)
    for size, word in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {word} ago"
    return "just now"


def local_time(at: float) -> str:
    """Write a time for people: `2026-03-01 14:02:11`."""
    return datetime.datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")
