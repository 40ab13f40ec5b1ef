"""JSON Schema of a phase's config, and the check of settings against it.

Of the settings of the package's own phases, and of those that every phase has, the engine says what they may
be: the same that it holds them to. Of a user's dataclass, types come from the annotations, texts from the
docstrings' `Attributes:`, defaults from the fields. What an annotation cannot say (`minimum`, `maximum`,
`enum`, a `description`) stands in a field's `metadata`.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union

from cmbagent import _core
from cmbagent.phases.base import Phase, PhaseConfig
from cmbagent.phases.control import ControlPhaseConfig
from cmbagent.phases.hitl_checkpoint import HITLCheckpointConfig
from cmbagent.phases.idea_generation import IdeaGenerationPhaseConfig
from cmbagent.phases.one_shot import OneShotPhaseConfig
from cmbagent.phases.planning import PlanningPhaseConfig

Schema = dict[str, Any]

_SIMPLE = {
    str: "string",
    Path: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    type(None): "null",
}
_METADATA = (
    "description", "minimum", "maximum", "exclusiveMinimum", "enum", "minItems", "maxItems", "pattern",
)  # fmt: skip

_NATIVE: dict[type[PhaseConfig], str] = {
    PlanningPhaseConfig: "planning",
    ControlPhaseConfig: "control",
    OneShotPhaseConfig: "one_shot",
    HITLCheckpointConfig: "hitl_checkpoint",
    IdeaGenerationPhaseConfig: "idea_generation",
}
"""The configs that the engine has a twin of."""


def config_schema(phase_class: type[Phase]) -> Schema:
    """Return the JSON Schema of a phase's config.

    Args:
        phase_class: the phase; without a `config_class` of its own its settings are not known.

    Returns:
        `type`, `title`, `description`, `properties`, `required` and `additionalProperties: False`; empty for
        a phase without `config_class`.
    """
    config_class = phase_class.config_class
    if config_class is None:
        return {}
    texts = _texts(config_class)
    hints = _hints(config_class)
    native = _native(config_class)
    properties: dict[str, Schema] = {}
    required = []
    for field in dataclasses.fields(config_class):
        if not field.init:
            continue
        entry = _of_type(hints.get(field.name, Any))
        known = native.get(field.name)
        if known is not None and _is_within(entry, known):
            entry = dict(known)
        elif field.name in texts:
            entry["description"] = texts[field.name]
        entry.update({name: field.metadata[name] for name in _METADATA if name in field.metadata})
        if field.default is not dataclasses.MISSING:
            entry["default"] = _plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            entry["default"] = _plain(field.default_factory())
        else:
            required.append(field.name)
        if field.name == "phase_type" and isinstance(entry.get("default"), str):
            entry["const"] = entry["default"]
        if "null" in _types(entry) and "enum" in entry and None not in entry["enum"]:
            entry["enum"] = [*entry["enum"], None]
        properties[field.name] = entry
    schema: Schema = {
        "type": "object",
        "title": config_class.__name__,
        "properties": properties,
        "additionalProperties": False,
    }
    summary = (inspect.getdoc(config_class) or "").split("\n\n")[0]
    # A dataclass without a docstring is given its signature for one.
    if summary and not summary.startswith(f"{config_class.__name__}("):
        schema["description"] = " ".join(summary.split())
    if required:
        schema["required"] = required
    return schema


def description(phase_class: type[Phase]) -> str | None:
    """Return what a phase does, in the first sentences of its docstring; `None` without one of its own."""
    text = inspect.cleandoc(phase_class.__dict__.get("__doc__") or "")
    return " ".join(text.split("\n\n")[0].split()) or None


def problems(schema: Schema, settings: Mapping[str, Any]) -> list[str]:
    """Say what is wrong with settings, one sentence a fault; names that the schema lacks are not looked at.

    Args:
        schema: as `config_schema` returns it.
        settings: field → value.
    """
    found = []
    for name, value in settings.items():
        entry = schema.get("properties", {}).get(name)
        if entry is not None:
            fault = _fault(value, entry)
            if fault:
                found.append(f"{name}: {fault}")
    return found


def _fault(value: Any, entry: Schema) -> str | None:
    if "anyOf" in entry:
        faults = [_fault(value, each) for each in entry["anyOf"]]
        return faults[0] if all(faults) else None
    wanted = _types(entry)
    if wanted and not any(_is(value, kind) for kind in wanted):
        return f"expected {' or '.join(wanted)}, got {_said(value)}"
    if "const" in entry and value != entry["const"]:
        return f"expected {entry['const']!r}, got {_said(value)}"
    if "enum" in entry and value not in entry["enum"]:
        return f"expected one of {', '.join(map(repr, entry['enum']))}, got {_said(value)}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if "minimum" in entry and value < entry["minimum"]:
            return f"expected at least {entry['minimum']}, got {_said(value)}"
        if "exclusiveMinimum" in entry and value <= entry["exclusiveMinimum"]:
            return f"expected more than {entry['exclusiveMinimum']}, got {_said(value)}"
        if "maximum" in entry and value > entry["maximum"]:
            return f"expected at most {entry['maximum']}, got {_said(value)}"
    if isinstance(value, str) and "pattern" in entry and not re.search(entry["pattern"], value):
        return f"expected text that matches {entry['pattern']}, got {_said(value)}"
    if isinstance(value, Mapping) and "properties" in entry:
        return next(iter(problems(entry, value)), None)
    if isinstance(value, Mapping) and isinstance(entry.get("additionalProperties"), dict):
        inner = ((f"{key!r}: ", _fault(item, entry["additionalProperties"])) for key, item in value.items())
        return next((place + fault for place, fault in inner if fault), None)
    if isinstance(value, list):
        if len(value) < entry.get("minItems", 0) or len(value) > entry.get("maxItems", math.inf):
            return f"it has {len(value)} items"
        inner = ((f"item {n}: ", _fault(item, entry.get("items", {}))) for n, item in enumerate(value, 1))
        return next((place + fault for place, fault in inner if fault), None)
    return None


def _types(entry: Schema) -> list[str]:
    kinds = entry.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _is(value: Any, kind: str) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "array":
        return isinstance(value, (list, tuple))
    known: dict[str, type] = {"string": str, "object": Mapping, "null": type(None)}
    return isinstance(value, known[kind])


def _said(value: Any) -> str:
    # A value may be long, or a text that belongs in no message.
    names = {str: "text", dict: "an object", list: "an array", type(None): "null"}
    return names.get(type(value)) or repr(value)[:40]


def _of_type(hint: Any) -> Schema:
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [_plain(member) for member in hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return _union([_of_type(argument) for argument in arguments])
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, (list, tuple, set, frozenset)):
        items = [argument for argument in arguments if argument is not ...]
        inner = _of_type(items[0]) if len(set(items)) == 1 else {}
        return {"type": "array", "items": inner} if inner else {"type": "array"}
    if isinstance(kind, type) and issubclass(kind, Mapping):
        inner = _of_type(arguments[1]) if len(arguments) == 2 else {}
        return {"type": "object", "additionalProperties": inner} if inner else {"type": "object"}
    if isinstance(kind, type) and issubclass(kind, Sequence):
        inner = _of_type(arguments[0]) if arguments else {}
        return {"type": "array", "items": inner} if inner else {"type": "array"}
    if dataclasses.is_dataclass(kind):
        return {"type": "object"}
    return {}


def _union(entries: list[Schema]) -> Schema:
    if any(not entry for entry in entries):
        return {}
    if all("type" in entry for entry in entries):
        merged: Schema = {}
        for entry in entries:
            merged.update(entry)
        merged["type"] = list(dict.fromkeys(kind for entry in entries for kind in _types(entry)))
        return merged
    return {"anyOf": entries}


def _native(config_class: type[Any]) -> dict[str, Schema]:
    """What the engine says of the fields that a config has from one of the package's, or from the base."""
    kind = next((_NATIVE[each] for each in config_class.__mro__ if each in _NATIVE), None)
    properties: dict[str, Schema] = _core.config_schema(kind)["properties"]
    return properties


def _is_within(entry: Schema, known: Schema) -> bool:
    """Whether a field is of the type that the engine knows; else it is another's of that name."""
    kinds = _types(entry)
    return bool(kinds) and set(kinds) <= set(_types(known))


def _hints(config_class: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(config_class)
    except NameError:
        # An annotation may name what exists for the type checker alone; fields without one take any value.
        return {}


def _texts(config_class: type[Any]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for each in reversed(config_class.__mro__):
        _, _, attributes = inspect.cleandoc(each.__dict__.get("__doc__") or "").partition("Attributes:\n")
        name = None
        for line in attributes.splitlines():
            begun = re.match(r" {2,4}(\w+)(?: \([^)]*\))?: (.*)", line)
            if begun:
                name = begun[1]
                texts[name] = begun[2].strip()
            elif name and line.startswith(" " * 5):
                texts[name] += f" {line.strip()}"
            elif line.strip():
                break
    return texts


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    return None
