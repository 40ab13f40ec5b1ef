"""The same durable steps in other packages, where `benches/requirements.txt` is installed.

Each measurement is a process of its own: `peers.py PACKAGE NAME PLACE NUMBER…`. All of them write to
SQLite files whose commits reach the disk before the next step. pydantic-graph is not among them: since
its second version it keeps nothing.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TypedDict


def steps(place: Path, number: int) -> dict[str, float]:
    """Microseconds a step that does nothing."""
    return _all("steps", place, number)


def at_once(place: Path, workflows: int, chain: int, sleep: float) -> dict[str, float]:
    """Seconds of so many workflows of so many steps that wait so long."""
    return _all("at_once", place, workflows, chain, sleep)


def growth(place: Path, number: int, tail: int) -> dict[str, float]:
    """Bytes on disk a byte of a text that so many steps make longer."""
    return _all("growth", place, number, tail)


def _all(name: str, place: Path, *about: float) -> dict[str, float]:
    found = {}
    for package, title in PACKAGES.items():
        if importlib.util.find_spec(package) is None or f"{package}_{name}" not in globals():
            continue
        below = place / package
        below.mkdir(exist_ok=True)
        command = [sys.executable, __file__, package, name, str(below), *map(str, about)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[title] = float(out.splitlines()[-1])
    return found


PACKAGES = {
    "langgraph": 'LangGraph, SqliteSaver, durability="sync"',
    "dbos": "DBOS on SQLite",
}


class _State(TypedDict):
    text: str


def _chain(number: int, node: Any) -> Any:
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(_State)
    names = [f"n{i}" for i in range(number)]
    for name in names:
        graph.add_node(name, node)
    for one, other in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(one, other)
    return graph


def langgraph_steps(place: Path, number: float) -> float:
    """A chain of nodes, a checkpoint each."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    number = int(number)
    with SqliteSaver.from_conn_string(str(place / "steps.db")) as saver:
        graph = _chain(number, lambda state: {}).compile(checkpointer=saver)
        times = []
        for thread in range(3):
            config = {"configurable": {"thread_id": str(thread)}, "recursion_limit": number + 5}
            started = time.perf_counter()
            graph.invoke({"text": ""}, config, durability="sync")
            times.append((time.perf_counter() - started) / number * 1e6)
    return min(times)


def langgraph_at_once(place: Path, workflows: float, chain: float, sleep: float) -> float:
    """The asynchronous saver, all threads in one loop."""
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async def wait(state: _State) -> dict[str, str]:
        await asyncio.sleep(sleep)
        return {}

    async def main() -> float:
        async with AsyncSqliteSaver.from_conn_string(str(place / "at_once.db")) as saver:
            graph = _chain(int(chain), wait).compile(checkpointer=saver)
            await saver.setup()
            started = time.perf_counter()
            runs = (
                graph.ainvoke({"text": ""}, {"configurable": {"thread_id": str(n)}}, durability="sync")
                for n in range(int(workflows))
            )
            await asyncio.gather(*runs)
            return time.perf_counter() - started

    return asyncio.run(main())


def langgraph_growth(place: Path, number: float, tail: float) -> float:
    """The text is one value of the state."""
    from langgraph.checkpoint.sqlite import SqliteSaver

    dice = random.Random(1)

    def grow(state: _State) -> dict[str, str]:
        return {"text": state["text"] + "".join(dice.choices("abcdefghij klmnop", k=int(tail)))}

    with SqliteSaver.from_conn_string(str(place / "growth.db")) as saver:
        graph = _chain(int(number), grow).compile(checkpointer=saver)
        config = {"configurable": {"thread_id": "1"}, "recursion_limit": int(number) + 5}
        graph.invoke({"text": ""}, config, durability="sync")
    return _bytes(place / "growth.db") / (number * tail)


def _bytes(path: Path) -> int:
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


def _dbos(path: Path) -> Any:
    from dbos import DBOS

    DBOS(config={"name": "bench", "system_database_url": f"sqlite:///{path}", "run_admin_server": False})
    return DBOS


def dbos_steps(place: Path, number: float) -> float:
    """A workflow of steps."""
    dbos = _dbos(place / "steps.db")

    @dbos.step()
    def nothing() -> None:
        pass

    @dbos.workflow()
    def chain(number: int) -> None:
        for _ in range(number):
            nothing()

    dbos.launch()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        chain(int(number))
        times.append((time.perf_counter() - started) / number * 1e6)
    dbos.destroy()
    return min(times)


def dbos_at_once(place: Path, workflows: float, chain: float, sleep: float) -> float:
    """Asynchronous workflows in one loop."""
    dbos = _dbos(place / "at_once.db")

    @dbos.step()
    async def wait() -> None:
        await asyncio.sleep(sleep)

    @dbos.workflow()
    async def chained() -> None:
        for _ in range(int(chain)):
            await wait()

    async def main() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(chained() for _ in range(int(workflows))))
        return time.perf_counter() - started

    dbos.launch()
    seconds = asyncio.run(main())
    dbos.destroy()
    return seconds


def dbos_growth(place: Path, number: float, tail: float) -> float:
    """Each step returns the text so far, as a step has to."""
    dbos = _dbos(place / "growth.db")
    dice = random.Random(1)

    @dbos.step()
    def grow(text: str) -> str:
        return text + "".join(dice.choices("abcdefghij klmnop", k=int(tail)))

    @dbos.workflow()
    def chained() -> int:
        text = ""
        for _ in range(int(number)):
            text = grow(text)
        return len(text)

    dbos.launch()
    chained()
    dbos.destroy()
    return _bytes(place / "growth.db") / (number * tail)


if __name__ == "__main__":
    function = globals()[f"{sys.argv[1]}_{sys.argv[2]}"]
    print(function(Path(sys.argv[3]), *map(float, sys.argv[4:])))
