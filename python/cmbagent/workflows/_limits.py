"""The limits of a run among its settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from cmbagent import _core
from cmbagent.errors import ConfigurationError

_OTHERS = ("rates", "model_fallbacks", "call_deadline_seconds", "turn_deadline_seconds")


def split(
    options: Mapping[str, Any] | None, given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Take the run's limits and the rates of providers out of its options.

    Args:
        options: the caller's options.
        given: limits given as arguments; they outrank the options.

    Returns:
        The options left for the phases, the limits that are set, and the rates.

    Raises:
        ConfigurationError: a limit cannot be used.
    """
    names = _core.limit_names()
    rest = {name: value for name, value in (options or {}).items() if name not in names and name != "rates"}
    set_there = {name: value for name, value in (options or {}).items() if name in names}
    set_here = {name: value for name, value in given.items() if value is not None}
    limits = {**set_there, **set_here}
    _core.check_limits(limits)
    return rest, limits, dict((options or {}).get("rates") or {})


def check_names(limits: Mapping[str, Any] | None) -> None:
    """Refuse what is no limit.

    Raises:
        ConfigurationError: a name is not known; the text has those that are.
    """
    known = [*_core.limit_names(), *_OTHERS]
    unknown = sorted(set(limits or {}) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigurationError(f"limits has no {unknown[0]!r}.{hint} There are: {', '.join(known)}")


def without_limits(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a phase's config without its limits: those may change from one life of a run to the next."""
    names = _core.limit_names()
    params = {name: value for name, value in (settings.get("params") or {}).items() if name not in names}
    rest = {name: value for name, value in settings.items() if name != "params"}
    return {**rest, "params": params} if params else rest
