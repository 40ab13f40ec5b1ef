import collections
import datetime
import decimal
import os
import pickle
import sys
import types
from pathlib import Path

import pytest

from cmbagent import load_context
from cmbagent.errors import ConfigurationError, MissingFileError
from cmbagent.workflows.restore import load_pickle, plain


@pytest.fixture
def foreign(monkeypatch):
    """Make classes that seem to live in a module which is gone when the pickle is read."""

    def make(module, name, bases=(), **body):
        parts = module.split(".")
        for i in range(len(parts)):
            path = ".".join(parts[: i + 1])
            if path not in sys.modules:
                monkeypatch.setitem(sys.modules, path, types.ModuleType(path))
        cls = type(name, bases, {"__module__": module, "__qualname__": name, **body})
        monkeypatch.setattr(sys.modules[module], name, cls, raising=False)
        return cls

    return make


def dump(tmp_path, value, protocol=4):
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


VALUES = {
    "text": "é",
    "numbers": [1, 2.5, 3j, True, None, 2**80],
    "sets": [{1}, frozenset({2}), (1, (2,)), b"\xff", bytearray(b"x")],
    "when": [
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        datetime.timedelta(1),
        datetime.date.min,
    ],
    "path": Path("/a/b"),
    "decimal": decimal.Decimal("1.5"),
    "slice": slice(1, 2),
    3: "int key",
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values(tmp_path, protocol):
    assert load_pickle(dump(tmp_path, VALUES, protocol)) == VALUES


def test_containers_become_plain(tmp_path):
    value = {
        "o": collections.OrderedDict(a=1),
        "d": collections.defaultdict(list, b=[2]),
        "q": collections.deque([3]),
    }
    loaded = load_pickle(dump(tmp_path, value))
    assert loaded == {"o": {"a": 1}, "d": {"b": [2]}, "q": [3]}
    assert [type(v) for v in loaded.values()] == [dict, dict, list]


@pytest.mark.parametrize("protocol", [2, 4])
def test_context_of_the_original(tmp_path, foreign, protocol):
    """The pickle of a pydantic model with the field `data`, holding a data frame."""
    context = foreign("autogen.agentchat.group.context_variables", "ContextVariables")
    frame = foreign(
        "pandas.core.frame", "DataFrame", __reduce__=lambda self: (rebuild, (dict, b"x"), {"s": 1})
    )
    rebuild = foreign("pandas.core.internals", "rebuild", __init__=lambda self, *arguments: None)
    c = context()
    c.__dict__["data"] = {"displayed_images": ["/a.png"], "cost_dataframe": frame(), "n_attempts": 0}
    path = dump(tmp_path, c, protocol)
    state = pickle.loads(path.read_bytes())
    assert type(state) is context
    loaded = load_context(path)
    assert loaded == {
        "displayed_images": ["/a.png"],
        "cost_dataframe": {"$opaque": "pandas.core.internals.rebuild"},
        "n_attempts": 0,
    }
    assert loaded.data["displayed_images"] == ["/a.png"]


def test_pydantic_state(tmp_path, foreign):
    context = foreign("autogen.agentchat.group.context_variables", "ContextVariables")
    context.__getstate__ = lambda self: {
        "__dict__": {"data": {"k": "v"}},
        "__pydantic_fields_set__": {"data"},
    }
    assert load_context(dump(tmp_path, context())) == {"k": "v"}


class Evil:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec, getattr, __import__, open, os.remove, type])
def test_code_is_refused(tmp_path, function):
    marker = tmp_path / "marker"
    path = dump(tmp_path, {"x": Evil(function, f"touch {marker}")})
    with pytest.raises(ConfigurationError, match="could run code when loaded") as caught:
        load_context(path)
    assert str(path) in caught.value.__notes__[0]
    assert not marker.exists()


def test_attributes_of_known_packages_run_nothing(tmp_path, foreign):
    danger = foreign("pandas.core.computation.api", "eval_")
    loaded = load_pickle(dump(tmp_path, [Evil(danger, "import os")]))
    assert loaded == [{"$opaque": "pandas.core.computation.api.eval_"}]


def test_other_codecs_are_refused(tmp_path):
    path = tmp_path / "c.pkl"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(ConfigurationError, match="codec 'rot13'"):
        load_pickle(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"a": 1})[:-3]])
def test_damaged_file(tmp_path, content):
    path = tmp_path / "c.pkl"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="damaged or no pickle"):
        load_pickle(path)


def test_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match="there is no file"):
        load_context(tmp_path / "none.pkl")


def test_plain_keeps_cycles_and_limits_depth():
    loop = {"list": []}
    loop["list"].append(loop)
    copied = plain(loop)
    assert copied is copied["list"][0]
    deep = []
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(ConfigurationError, match="levels deep"):
        plain(deep)


def test_plain_copies_and_notes_what_it_cannot_keep():
    rows = [1]
    assert plain(rows) is not rows
    assert plain(object()) == {"$opaque": "builtins.object"}
    assert plain({"api_keys": {"OPENAI": "x"}, "a": 1}) == {"a": 1}
