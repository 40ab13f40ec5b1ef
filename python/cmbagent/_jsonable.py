"""Values of users as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_DEPTH = 100
_AGAIN = 100_000


def jsonable(value: Any) -> Any:
    """Copy a value into what JSON has: dicts with keys of text, lists, text, finite numbers, booleans, None.

    Everything else becomes its text. A container that contains itself, lies too deep, or is met again very
    often (a few lists that hold one another can stand for more than memory holds) becomes `…`.
    """
    return _Walker().walk(value)


class _Walker:
    def __init__(self) -> None:
        self._within: list[int] = []
        self._met: set[int] = set()
        self._left = _AGAIN

    def walk(self, value: Any) -> Any:
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(value)
        if not isinstance(value, (Mapping, list, tuple)):
            return str(value)
        if id(value) in self._within or len(self._within) >= _DEPTH:
            return "…"
        if id(value) in self._met:
            self._left -= max(1, len(value))
            if self._left < 0:
                return "…"
        self._met.add(id(value))
        self._within.append(id(value))
        try:
            if isinstance(value, Mapping):
                return {self._key(key): self.walk(item) for key, item in value.items()}
            return [self.walk(item) for item in value]
        finally:
            self._within.pop()

    @staticmethod
    def _key(key: Any) -> Any:
        # These are turned into text by `json` in its own way.
        return key if key is None or isinstance(key, (str, int, float)) else str(key)
