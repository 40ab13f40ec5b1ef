"""`cmbagent phases`: what workflows are made of, and its settings."""

from __future__ import annotations

import difflib
import json
import shutil
import textwrap
from typing import Annotated, Any

import typer

from cmbagent.cli import _complete
from cmbagent.cli._app import AsJson, Debug, UsageError, app
from cmbagent.cli._told import Told


@app.command()
def phases(
    phase_type: Annotated[
        str | None,
        typer.Argument(
            metavar="[TYPE]", help="Show the settings of this type.", autocompletion=_complete.phases
        ),
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the types of phases, or show one's settings: types, defaults, ranges."""
    from cmbagent.phases import PhaseRegistry

    told = Told(debug, as_json)
    with told:
        known = sorted(PhaseRegistry.list_all())
        if phase_type is None:
            found = [_about(each) for each in known]
            told.say(found, "\n".join(_rows(found)))
            return
        if phase_type not in known:
            near = difflib.get_close_matches(phase_type, known, n=1, cutoff=0.4)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(f"Unknown phase: {phase_type}.{hint} Available: {', '.join(known)}")
        one = _about(phase_type)
        told.say(one, "\n".join(_page(one)))


def _about(phase_type: str) -> dict[str, Any]:
    from cmbagent.phases import PhaseRegistry
    from cmbagent.phases.schema import config_schema, description

    phase_class = PhaseRegistry.get(phase_type)
    return {
        **PhaseRegistry.get_info(phase_type),
        "description": description(phase_class),
        "config_schema": config_schema(phase_class),
    }


def _rows(found: list[dict[str, Any]]) -> list[str]:
    width = max(len(each["type"]) for each in found)
    return [
        f"{each['type']:<{width}}  {each['display_name']}: {each['description'] or ''}".rstrip(": ")
        for each in found
    ]


def _page(one: dict[str, Any]) -> list[str]:
    width = min(100, shutil.get_terminal_size((100, 24)).columns)
    lines = [f"{one['type']}: {one['display_name']}"]
    if one["description"]:
        lines += textwrap.wrap(one["description"], width)
    if one["required_agents"]:
        lines.append(f"Agents: {', '.join(one['required_agents'])}")
    for name, entry in one["config_schema"].get("properties", {}).items():
        lines.append(f"\n{name}  {_kind(entry)}")
        lines += [f"    {line}" for line in textwrap.wrap(entry.get("description", ""), width - 4)]
    return lines


def _kind(entry: dict[str, Any]) -> str:
    """The type, range and default of a setting, on one line."""
    kinds = entry.get("type") or [each.get("type", "any") for each in entry.get("anyOf", [])] or "any"
    words = [kinds if isinstance(kinds, str) else " or ".join(kinds)]
    if "enum" in entry:
        words = ["one of " + ", ".join(json.dumps(each, ensure_ascii=False) for each in entry["enum"])]
    low, high = entry.get("minimum"), entry.get("maximum")
    # The greatest number that fits is no limit that anybody meant.
    high = None if high == 2**31 - 1 else high
    words += [f"at least {low}"] if low is not None else []
    words += [f"more than {entry['exclusiveMinimum']}"] if "exclusiveMinimum" in entry else []
    words += [f"at most {high}"] if high is not None else []
    default = json.dumps(entry["default"], ensure_ascii=False) if "default" in entry else None
    return ", ".join(words) + (", required" if default is None else f"; default {default}")
