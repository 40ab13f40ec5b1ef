"""Reading pickles as data.

A pickle is a program, and these lie in directories that executed code may write to. So only a few builtin
types
are built from it; types of the packages that the original's contexts contain become inert placeholders
that keep
their arguments; any other name is refused. Writing goes the other way: only plain values are written.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import io
import os
import pickle
from collections.abc import Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, ClassVar

from cmbagent.errors import ConfigurationError, MissingFileError
from cmbagent.workflows import _opcodes

OPAQUE = "$opaque"
"""Key of the note that stands for a value which could not be kept: `{"$opaque": "module.Type"}`."""

_MAX_DEPTH = 200
_NUMBERS_AND_TEXT: tuple[Any, ...] = (int, float, str, bytes)

_HARMLESS: tuple[type, ...] = (
    bool, bytearray, bytes, complex, dict, float, frozenset, int, list, range, set, slice, str, tuple,
    collections.OrderedDict, collections.defaultdict, collections.deque,
    datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone,
    decimal.Decimal,
)  # fmt: skip
_INERT_PACKAGES = frozenset({"autogen", "cmbagent", "numpy", "pandas", "pydantic", "pydantic_core"})


def _path(*parts: str) -> Path:
    return Path(*parts)


def _from_parts(kind: Any) -> Any:
    # A pickle gives the parts themselves. A number or a range in their place may stand for more than fits.
    def make(*args: Any) -> Any:
        if args and not isinstance(args[0], (list, tuple, set, frozenset, dict, str, bytes, bytearray)):
            raise ConfigurationError(
                f"the file makes {kind.__name__} of {type(args[0]).__name__}; expected its parts"
            )
        return kind(*args)

    return make


def _text(*args: Any) -> str:
    # The text of a container that holds itself many times over may be longer than fits.
    if args and not isinstance(args[0], (str, bytes)):
        raise ConfigurationError(f"the file makes str of {type(args[0]).__name__}; expected text")
    return str(*args)


def _bytes(text: str, encoding: str) -> bytes:
    # How pickles of protocol 2 write bytes; other codecs may do anything.
    if encoding != "latin1":
        raise ConfigurationError(f"a pickle asks for the codec {encoding!r}; only 'latin1' is read")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Any] = {(t.__module__, t.__qualname__): t for t in _HARMLESS}
_ALLOWED[("_codecs", "encode")] = _bytes
for _kind in (
    bytearray, bytes, dict, frozenset, list, set, tuple, collections.OrderedDict, collections.deque,
):  # fmt: skip
    _ALLOWED[(_kind.__module__, _kind.__qualname__)] = _from_parts(_kind)
_ALLOWED[("builtins", "str")] = _text
for _module in ("pathlib", "pathlib._local"):
    for _name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
        _ALLOWED[(_module, _name)] = _path
for _module, _renamed in (("__builtin__", "builtins"),):
    _ALLOWED.update({(_module, n): v for (m, n), v in list(_ALLOWED.items()) if m == _renamed})
_ALLOWED[("__builtin__", "xrange")] = range


class Inert:
    """Stands for an object of another package: it keeps its state and does nothing."""

    name: ClassVar[str] = ""
    _state: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        # A pickle may make an object without calling `__init__`.
        self._state = state

    # A pickle may fill what it takes for a list or a dict.
    def append(self, item: Any) -> None:
        """Ignore a list item."""

    def extend(self, items: Any) -> None:
        """Ignore list items."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore an item."""


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that can build nothing but plain values and placeholders."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the type of that name if it is harmless, a placeholder if it is a known package's.

        Raises:
            ConfigurationError: it is neither.
        """
        allowed = _ALLOWED.get((module, name))
        if allowed is not None:
            return allowed
        if module.partition(".")[0] in _INERT_PACKAGES:
            return type("Inert", (Inert,), {"name": f"{module}.{name}"})
        raise ConfigurationError(
            f"the file names {module}.{name}, which could run code when loaded; only plain values and "
            f"objects of {', '.join(sorted(_INERT_PACKAGES))} are read. Do not load files of unknown origin"
        )


def load_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle as data.

    Args:
        path: the file; `~` is expanded.

    Returns:
        The value. A context of the original package becomes the dict it wraps; other foreign objects become
        `{"$opaque": "module.Type"}`.

    Raises:
        MissingFileError: there is no such file.
        ConfigurationError: the file is damaged, or names something that could run code.
    """
    place = Path(path).expanduser()
    try:
        data = place.read_bytes()
        _opcodes.check(data)
        value = RestrictedUnpickler(io.BytesIO(data)).load()
    except FileNotFoundError as error:
        raise MissingFileError(f"there is no file {place}") from error
    except ConfigurationError as error:
        error.add_note(f"while reading {place}")
        raise
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise ConfigurationError(f"{place} cannot be read; it is damaged or no pickle: {error}") from error
    try:
        return plain(value)
    except ConfigurationError as error:
        error.add_note(f"while reading {place}")
        raise


def plain(value: Any) -> Any:
    """Copy a value so that nothing but plain types is left in it.

    Numbers, text, containers, dates and paths stay; enum members become their value; everything else becomes
    `{"$opaque": "module.Type"}`. What is called `api_keys` or `api_key` is dropped. Containers
    that occur twice, or contain themselves, do so in the copy as well.
    """
    return _Plain().copy(value, 0)


def _hashable(key: Any) -> Any:
    """Return a key, or its text when it stands for an object that had a hash of its own."""
    try:
        hash(key)
    except TypeError:
        return repr(key)
    return key


class _Plain:
    def __init__(self) -> None:
        self._seen: dict[int, Any] = {}
        self._keep: list[Any] = []

    def copy(self, value: Any, depth: int) -> Any:
        if isinstance(value, Enum):
            value = value.value
        kind = type(value)
        if value is None or kind in (bool, int, float, complex, str, bytes, range, slice):
            return value
        if isinstance(
            value, (datetime.date, datetime.time, datetime.timedelta, datetime.timezone, decimal.Decimal)
        ):
            return value if kind in _HARMLESS else _note(value)
        if isinstance(value, PurePath):
            return Path(value)
        if isinstance(value, (bool, int, float, str, bytes)):
            # A subclass such as numpy.float64 or a marked default: the plain number is what matters.
            return next(base(value) for base in _NUMBERS_AND_TEXT if isinstance(value, base))
        if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
            return self.copy(value.item(), depth + 1) if hasattr(value, "item") else _note(value)
        if id(value) in self._seen:
            return self._seen[id(value)]
        if depth > _MAX_DEPTH:
            raise ConfigurationError(
                f"a value is nested more than {_MAX_DEPTH} levels deep and cannot be stored"
            )
        self._keep.append(value)  # so that its id stays taken
        return self._container(value, depth + 1)

    def _container(self, value: Any, depth: int) -> Any:
        if isinstance(value, Inert):
            return self._inert(value, depth)
        if isinstance(value, Mapping):
            made: dict[Any, Any] = {}
            self._seen[id(value)] = made
            for key, item in value.items():
                if key not in ("api_keys", "api_key"):
                    made[_hashable(self.copy(key, depth))] = self.copy(item, depth)
            return made
        if isinstance(value, (list, collections.deque)):
            items: list[Any] = []
            self._seen[id(value)] = items
            items.extend(self.copy(item, depth) for item in value)
            return items
        if isinstance(value, (tuple, set, frozenset, bytearray)):
            base = next(t for t in (tuple, set, frozenset, bytearray) if isinstance(value, t))
            items_of = (self.copy(item, depth) for item in value)
            copied = base(map(_hashable, items_of) if isinstance(value, (set, frozenset)) else items_of)
            self._seen[id(value)] = copied
            return copied
        return _note(value)

    def _inert(self, value: Inert, depth: int) -> Any:
        # The original's context is a pydantic model; its content is the field `data`.
        if value.name.endswith(".ContextVariables"):
            state = value._state if isinstance(value._state, dict) else {}
            data = state.get("__dict__", state).get("data", {})
            return self.copy(data, depth)
        return {OPAQUE: value.name}


def _note(value: Any) -> dict[str, str]:
    kind = type(value)
    return {OPAQUE: f"{kind.__module__}.{kind.__qualname__}"}
