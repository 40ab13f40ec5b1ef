"""What the journal keeps of Python's values comes back as it was: types, aliases, cycles."""

import collections
import datetime
import enum
import itertools
import math
import struct
import uuid
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from begun import begun
from cmbagent import _core

# The same examples in every run; the limit is their number, not a clock.
SETTINGS = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Kind(enum.Enum):
    ONE = "one"
    TWO = (2,)


class Bits(enum.Flag):
    A = 1
    B = 2


class Word(enum.StrEnum):
    UP = "up"


Point = collections.namedtuple("Point", "x y")


class Mine(dict):
    """Says nothing of how it is made."""


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(codec=None), max_size=5),
    st.sampled_from(["$ref", "$text", "$shared", "$", "=", "+", "~", "-"]),
    st.binary(max_size=4),
    st.builds(bytearray, st.binary(max_size=4)),
    st.datetimes(timezones=st.one_of(st.none(), st.just(datetime.UTC))),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
    st.sampled_from([*Kind, *Word, *Bits, Bits.A | Bits.B, Bits(0), Path("/a/é"), Path(), uuid.UUID(int=0)]),
    st.builds(lambda n, t: np.arange(n, dtype=t), st.integers(0, 4), st.sampled_from(["f8", "i2", ">c16"])),
    st.builds(lambda n: np.zeros((n, 2)), st.integers(0, 2)),
    st.sampled_from(
        [np.float64(0.1), np.int8(-3), np.bool_(True), np.str_("é"), np.datetime64("2026-01-02")]
    ),
)
HASHABLE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.binary(max_size=2)),
    lambda inner: st.one_of(
        st.tuples(inner, inner), st.frozensets(inner, max_size=3), st.builds(Point, inner, inner)
    ),
    max_leaves=4,
)
KEYS = st.one_of(HASHABLE, st.floats(allow_nan=False), st.sampled_from(["$ref", "$text$", *Kind, *Word]))


@st.composite
def webs(draw):
    """A container of a few that hold one another, and themselves, in any way; also through tuples."""
    nodes = [draw(st.sampled_from([list, dict]))() for _ in range(draw(st.integers(1, 5)))]
    holders = [draw(st.tuples(st.sampled_from(nodes), LEAVES)) for _ in range(draw(st.integers(0, 3)))]
    holders += [Point(draw(st.sampled_from(nodes)), 1), draw(st.frozensets(HASHABLE, max_size=3))]
    holders += [draw(st.sets(HASHABLE, max_size=3)), collections.OrderedDict(b=1, a=draw(LEAVES))]
    holders += [collections.deque([draw(LEAVES)]), collections.Counter(draw(st.text(max_size=4)))]
    shared = [np.arange(3), bytearray(b"x")]
    for node in nodes:
        for _ in range(draw(st.integers(0, 5))):
            item = draw(st.one_of(LEAVES, st.sampled_from(nodes), st.sampled_from(holders + shared)))
            if isinstance(node, list):
                node.append(item)
            else:
                node[draw(KEYS)] = item
    return nodes[0]


def form(value, seen=None):
    """A text that is the same for equal values of equal types that hold one another alike."""
    seen = {} if seen is None else seen
    name = type(value).__name__
    if isinstance(value, float):
        return f"{name} {'nan' if math.isnan(value) else struct.pack('d', value).hex()}"
    if isinstance(value, complex):
        return f"{name} {form(value.real)} {form(value.imag)}"
    if isinstance(value, np.generic):
        return f"{name} {value.dtype.str} {value.tobytes()!r}"
    if not isinstance(value, (list, dict, tuple, set, frozenset, bytearray, np.ndarray, collections.deque)):
        return f"{name} {value!r}"
    if id(value) in seen:
        return f"again {seen[id(value)]}"
    # Of values that nobody can change, Python itself may make one of two.
    if not isinstance(value, frozenset) and not (isinstance(value, tuple) and not value):
        seen[id(value)] = len(seen)
    if is_array(value):
        return f"{name} {value.dtype.str} {value.shape} {value.tobytes()!r} {value.flags.writeable}"
    if isinstance(value, bytearray):
        return f"{name} {value!r}"
    if isinstance(value, dict):
        return f"{name} {{{', '.join(f'{form(k, seen)}: {form(v, seen)}' for k, v in value.items())}}}"
    items = [form(item, {} if isinstance(value, (set, frozenset)) else seen) for item in value]
    return f"{name} [{', '.join(sorted(items) if isinstance(value, (set, frozenset)) else items)}]"


def is_array(value):
    return isinstance(value, np.ndarray)


@pytest.fixture(scope="module")
def there_and_back(tmp_path_factory):
    """Gives a value as a later life finds it, and what it lacks."""
    store = _core.Store(tmp_path_factory.mktemp("store") / "store.db")
    numbers = itertools.count()

    def go(value):
        run = f"run {next(numbers)}"
        begun(store, run, {"value": value}, "/w").release()
        about, lost = store.about(run)
        return about.get("value"), lost

    return go


@SETTINGS
@given(value=webs())
def test_any_nested_value_comes_back_with_types_aliases_and_cycles(there_and_back, value):
    back, lost = there_and_back(value)
    assert lost == []
    assert form(back) == form(value)


@SETTINGS
@given(value=LEAVES)
def test_any_single_value_comes_back(there_and_back, value):
    back, lost = there_and_back(value)
    assert (form(back), lost) == (form(value), [])


def test_a_tuple_that_holds_itself_through_a_list(there_and_back):
    inner = []
    value = (inner, "x")
    inner.append(value)
    back, _ = there_and_back([value, value])
    assert back[0] is back[1] and back[0][0][0] is back[0]


def test_an_array_met_twice_is_one_array(there_and_back):
    array = np.arange(4.0)
    back, _ = there_and_back({"a": array, "b": [array]})
    assert back["a"] is back["b"][0]
    back["a"][0] = 7


def test_what_derives_from_a_type_of_python_s_is_kept_as_that_and_named(there_and_back):
    back, lost = there_and_back({"mine": Mine(a=1), "by": collections.defaultdict(list, k=[1])})
    assert back == {"mine": {"a": 1}, "by": {"k": [1]}}
    assert [type(v) for v in back.values()] == [dict, dict]
    assert lost == [
        f"value.mine ({__name__}.Mine, now a plain dict)",
        "value.by (collections.defaultdict, now a plain dict)",
    ]


def test_arrays_whose_values_are_not_all_there_is_to_them_are_named_not_mangled(there_and_back, tmp_path):
    mapped = np.memmap(tmp_path / "m", dtype="f8", mode="w+", shape=(3,))
    masked = np.ma.masked_array([1, 2], mask=[0, 1])
    structured = np.zeros(2, dtype=[("x", "f8")])
    back, lost = there_and_back({"a": mapped, "b": masked, "c": structured, "d": np.array([object()])})
    assert back == {}
    assert [entry.split(" ")[0] for entry in lost] == ["value.a", "value.b", "value.c", "value.d"]


def test_very_deep_values_lose_their_depths_not_the_process(there_and_back):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    back, lost = there_and_back(deep)
    assert len(lost) == 1 and lost[0].endswith("(list)")
    levels = 1
    while back[0] is not None:
        back, levels = back[0], levels + 1
    assert levels > 200


def test_deep_values_are_kept_and_hide_no_run(tmp_path):
    store = _core.Store(tmp_path / "store.db")
    value = leaf = {}
    for _ in range(80):
        leaf["a"] = ([{}],)
        leaf = leaf["a"][0][0]
    begun(store, "run", {"value": value}, "/w").release()
    assert len(store.runs({})) == 1
    back, lost = store.about("run")
    assert lost and back["value"]["a"][0][0]["a"][0][0].keys() == {"a"}
