"""What a pickle would build, reckoned before it is built.

A few bytes can make an unpickler fill the memory or exhaust the stack, in C code that nothing interrupts:
by a huge number of an object, by tuples so deep that hashing them overflows, or by one that stands for
billions, each holding the next one twice.
"""

from __future__ import annotations

from typing import Any

from cmbagent.errors import ConfigurationError

_DEEPEST = 1_000
# Tuples are hashed anew, part for part, each time they serve as a key.
_LARGEST_TUPLE = 10_000_000
_TUPLES = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_FILLERS = frozenset({"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"})
_GETS = frozenset({"GET", "BINGET", "LONG_BINGET"})

# An object as far as it matters: how deep it is and how many parts it has, shared ones counted each time.
_Size = tuple[int, int]
_PLAIN: _Size = (0, 1)


def check(data: bytes) -> None:
    """Refuse a pickle that would harm the process which loads it.

    Args:
        data: the pickle.

    Raises:
        ConfigurationError: it is too deep, too large, or names a memo that it cannot have.
        ValueError: it is cut off or no pickle.
    """
    import pickletools

    stack: list[_Size | None] = []
    memo: dict[int, _Size] = {}
    for opcode, value, _ in pickletools.genops(data):
        name, arg = opcode.name, int(value) if isinstance(value, int) else 0
        if name == "MARK":
            stack.append(None)
        elif name in _PUTS:
            if arg > len(data):
                raise ConfigurationError(
                    f"a pickle of {len(data)} bytes has an object number {arg}; it is damaged"
                )
            memo[arg] = _top(stack)
        elif name == "MEMOIZE":
            memo[len(memo)] = _top(stack)
        elif name in _GETS:
            stack.append(memo.get(arg, _PLAIN))
        elif name == "DUP":
            stack.append(_top(stack))
        elif name == "POP":
            del stack[-1:]
        else:
            parts = _pop(stack, opcode)
            if opcode.stack_after:
                # What is filled is taken off last, and is no deeper for each thing put into it.
                own = parts.pop() if name in _FILLERS and parts else _PLAIN
                depth = max([own[0], *(each + 1 for each, _ in parts)])
                size = (depth, own[1] + sum(count for _, count in parts))
                _allow(name, size)
                stack.append(size)


def _pop(stack: list[_Size | None], opcode: Any) -> list[_Size]:
    """Take off what an opcode takes; a pickle whose stack lacks it is the unpickler's to refuse."""
    import pickletools

    before = opcode.stack_before
    count = len(before)
    taken: list[_Size] = []
    if pickletools.markobject in before:
        while stack and (top := stack.pop()) is not None:
            taken.append(top)
        count = before.index(pickletools.markobject)
    for _ in range(count):
        if stack and (top := stack.pop()) is not None:
            taken.append(top)
    return taken


def _top(stack: list[_Size | None]) -> _Size:
    top = stack[-1] if stack else None
    return top or _PLAIN


def _allow(name: str, size: _Size) -> None:
    depth, parts = size
    if depth > _DEEPEST:
        raise ConfigurationError(f"a pickle is nested more than {_DEEPEST} levels deep and is not read")
    if name in _TUPLES and parts > _LARGEST_TUPLE:
        raise ConfigurationError(
            f"a pickle holds a tuple of more than {_LARGEST_TUPLE} parts and is not read"
        )
