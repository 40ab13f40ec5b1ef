"""Representations that fit a notebook cell: what names an object, and the size of the rest."""

from __future__ import annotations

import dataclasses
import reprlib
from typing import Any

_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxlist, _brief.maxdict, _brief.maxstring, _brief.maxother = 2, 2, 8, 120, 120


def short_repr(value: Any) -> str:
    """Represent a dataclass on a few lines: fields that hold nothing are left out, containers are counted.

    Args:
        value: the dataclass; its fields with `repr=False` stay hidden.
    """
    shown = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr)
    words = (f"{name}={_field(item)}" for name, item in shown if not _empty(item))
    return f"{type(value).__name__}({', '.join(words)})"


def _empty(item: Any) -> bool:
    return item is None or (isinstance(item, (str, list, tuple, dict)) and not item)


def _field(item: Any) -> str:
    if isinstance(item, dict):
        # The names tell what there is to ask for; the values may be whole transcripts.
        names = [_brief.repr(name) for name in list(item)[:8]] + ["…"] * (len(item) > 8)
        return f"<{len(item)}: {', '.join(names)}>"
    if isinstance(item, (list, tuple)):
        return f"<{len(item)} item{'' if len(item) == 1 else 's'}>"
    return _brief.repr(item)
