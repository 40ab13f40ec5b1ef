"""Pickles from hostile hands: nothing runs, nothing hangs, and the error is one of ours."""

import collections
import contextlib
import datetime
import decimal
import os
import pickle
import pickletools
import random
import sys
import time
from pathlib import Path

import pytest

from cmbagent.errors import CmbagentError, ConfigurationError
from cmbagent.workflows.restore import load_pickle, plain

ODD = [
    b"R", b"b", b"0", b"2", b"(", b"t", b"\x85", b"\x93", b"\x81", b"o", b"i", b"u", b"e", b"a", b"s", b"Q",
    b"r\xff\xff\xff\x7f", b"q\xff", b"p99999999999\n", b"h\x00", b"K\x01", b"\x8a\x05\xff\xff\xff\xff\x7f",
    b"J\xff\xff\xff\x7f", b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\nrange\n", b"\x82\x01",
    b"cbuiltins\nlist\n", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x0f", b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"P1\n",
]  # fmt: skip
CONTEXT = {
    "final_plan": "**PLAN**\n- Step 1: é",
    "n_attempts": 0,
    "cost_dataframe": [{"Agent": "engineer", "Cost ($)": 0.25, "Model": None}],
    "displayed_images": ["/a/b/data/plot.png"],
    "deep": [[{"a": ({1, 2}, frozenset({3}))}]],
    "odd": [2**80, -1, 1e300, 3j, b"\xff" * 40, bytearray(b"x"), True, range(3), slice(1, 2)],
    "when": [datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.timedelta(1)],
    "more": [Path("/a/b"), decimal.Decimal("1.5"), collections.OrderedDict(a=1), collections.deque([3], 4)],
    "default": collections.defaultdict(list, b=[2]),
}


class Harm:
    """Runs something when a careless reader loads it."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.fixture(scope="module")
def acts():
    """What the interpreter does that a pickle must not: a hook stays for ever, so it is switched."""
    seen = []
    state = {"on": False}
    forbidden = (
        "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "exec", "compile", "socket.connect",
        "os.remove", "os.rename", "os.mkdir", "shutil.rmtree", "ctypes.dlopen",
    )  # fmt: skip

    def hook(event, args):
        written = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if state["on"] and (event in forbidden or written):
            seen.append((event, args))

    sys.addaudithook(hook)
    state["on"] = True
    yield seen
    state["on"] = False


def load(path, data):
    """The value, or `None` when it is refused in one of our words."""
    path.write_bytes(data)
    try:
        return load_pickle(path)
    except CmbagentError as error:
        assert isinstance(error, ConfigurationError) and str(error)
        return None


def spoil(rng, seeds, data):
    """Spoil a pickle: whole opcodes taken out, doubled, moved or put in, more often than single bytes."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        ends = [0, len(data)]
        with contextlib.suppress(ValueError):
            ends = [at for _, _, at in pickletools.genops(data)]
        at = rng.choice(ends)
        end = min((each for each in ends if each > at), default=len(data))
        match rng.randint(0, 11):
            case 0 | 1:
                data = data[:at] + data[end:]
            case 2 | 3:
                data = data[:at] + data[at:end] * rng.choice([2, 2, 200]) + data[end:]
            case 4 | 5:
                data = data[:at] + rng.choice(ODD) + data[rng.choice([at, end]) :]
            case 6 | 7:
                other = rng.choice(seeds)
                start = rng.randint(0, len(other))
                data = data[:at] + other[start : start + rng.randint(0, 30)] + data[end:]
            case 8 | 9 | 10:
                at = rng.randrange(len(data)) if data else 0
                data = data[:at] + bytes([rng.randint(0, 255)]) + data[at + 1 :]
            case _:
                data = data[: rng.randint(0, len(data))]
    return data


# Of texts with odd escapes, which pickletools tells.
@pytest.mark.filterwarnings("ignore:invalid escape sequence")
def test_spoiled_pickles_do_no_harm(tmp_path, acts):
    rng = random.Random(20_260_730)
    harm = [
        Harm(os.system, f"touch {tmp_path / 'harmed'}"),
        Harm(eval, f"open({str(tmp_path / 'harmed')!r}, 'w')"),
        {"a": Harm(getattr, "x", "upper")},
    ]
    values = (CONTEXT, CONTEXT["odd"], CONTEXT["more"], harm)
    seeds = [pickle.dumps(value, p) for value in values for p in range(pickle.HIGHEST_PROTOCOL + 1)]
    seconds = float(os.environ.get("CMBAGENT_FUZZ_SECONDS", "0"))
    until = time.monotonic() + seconds
    read = rounds = 0
    file = tmp_path / "c.pkl"
    load(file, seeds[0])  # imports what reading needs
    acts.clear()
    while rounds < 100 or time.monotonic() < until:
        for seed in seeds:
            path = file
            data = seed if rounds == 0 else spoil(rng, seeds, seed)
            # The file itself is written by the test, not by the pickle.
            value = load(path, data)
            if value is not None:
                read += 1
                assert_plain(value)
        rounds += 1
    assert not (tmp_path / "harmed").exists()
    assert [act for act in acts if act[1][:1] != (str(file),)] == []
    assert read > 2 * rounds, "hardly anything was readable: the test spoils too much to say anything"


def assert_plain(value):
    """Nothing but plain types is left; a second copy proves it by refusing nothing and changing nothing."""
    again = plain(value)
    assert type(again) is type(value)


def nested_tuples(depth):
    return b"\x80\x04)" + b"\x85" * depth


def doubled(depth):
    """A tuple that holds another one twice, that one another twice, and so on."""
    return b"\x80\x04)" + b"2\x86" * depth


def made_of_range(name):
    return b"\x80\x04c" + name + b"\ncbuiltins\nrange\nJ\xff\xff\xff\x7f\x85R\x85R."


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x04Nr\xff\xff\xff\x7f.", "has an object number 2147483647"),
        (b"Np99999999999\n.", "has an object number 99999999999"),
        (b"\x80\x04}" + nested_tuples(200_000)[2:] + b"Ns.", "nested more than"),
        (b"\x80\x04}" + doubled(60)[2:] + b"Ns.", "tuple of more than"),
        (made_of_range(b"builtins\nlist"), "makes list of range"),
        (b"\x80\x04cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.", "makes bytes of int"),
        (b"\x80\x04cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", "makes bytearray of int"),
        (made_of_range(b"builtins\nset"), "makes set of range"),
        (b"\x80\x04cbuiltins\nstr\n]\x85R.", "makes str of list"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fx.", "damaged"),
        (made_of_range(b"collections\ndeque"), "makes deque of range"),
    ],
)  # fmt: skip
def test_a_few_bytes_cannot_fill_the_memory(tmp_path, data, words):
    path = tmp_path / "c.pkl"
    path.write_bytes(data)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_pickle(path)
    assert str(path) in str(caught.value) + "".join(getattr(caught.value, "__notes__", []))


def test_shared_parts_are_copied_once():
    """Without that, copying what is read would take longer than anyone waits."""
    value = ()
    for _ in range(100):
        value = (value, value)
    copied = plain(value)
    assert copied[0] is copied[1]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_honest_pickles_are_read_as_before(tmp_path, protocol):
    shared = [1, 2]
    value = {**CONTEXT, "shared": [shared, shared], "many": list(range(5_000)), "long": tuple(range(5_000))}
    loaded = load(tmp_path / "c.pkl", pickle.dumps(value, protocol))
    assert loaded["shared"][0] is loaded["shared"][1]
    assert (loaded["many"], loaded["long"]) == (value["many"], value["long"])
    assert loaded["odd"] == CONTEXT["odd"] and loaded["deep"] == CONTEXT["deep"]
