"""Requests a second and tails of `cmbagent serve`, idle and with 50 runs; one JSON object a line."""

import asyncio
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

PHASES = """
import asyncio
from pathlib import Path
from cmbagent.phases import Phase, PhaseRegistry, PhaseResult, PhaseStatus

@PhaseRegistry.register("step")
class Step(Phase):
    phase_type = "step"
    display_name = "Step"

    async def execute(self, context):
        await asyncio.sleep(0.5)
        return PhaseResult(PhaseStatus.COMPLETED, context)
"""

API = "/api/phases"
RUNS = 50
CLIENTS = 8
REQUESTS = 2000
LISTENERS = 200


def say(name: str, **figures: float) -> None:
    print(json.dumps({"bench": name, **{k: round(v, 3) for k, v in figures.items()}}), flush=True)


class Connection:
    """A kept-alive HTTP connection that asks one thing after the other."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self) -> "Connection":
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def get(self, path: str) -> bytes:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        size = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return await self.reader.readexactly(int(size.split(b":")[1]))

    def close(self) -> None:
        self.writer.close()


def post(port: int, path: str, body: dict) -> dict:
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{API}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


async def reads(port: int, name: str, paths: list[str]) -> None:
    """Asks for the paths in turn, and times the answers."""
    seconds = []

    async def client(number: int) -> None:
        connection = await Connection(port).open()
        for turn in range(REQUESTS // CLIENTS):
            began = time.perf_counter()
            await connection.get(API + paths[(turn + number) % len(paths)])
            seconds.append(time.perf_counter() - began)
        connection.close()

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    whole = time.perf_counter() - began
    seconds.sort()
    at = {f"p{p}_ms": seconds[int(len(seconds) * p / 100)] * 1000 for p in (50, 99)}
    say(name, requests_per_second=len(seconds) / whole, clients=CLIENTS, **at)


async def calm(port: int, name: str, run_ids: list[str], idle: float | None = None) -> float:
    """Times `GET /runs/{id}` of one client that looks now and then, as a page does.

    Returns the 99th percentile in milliseconds; `idle` is an earlier one to compare it with.
    """
    connection, seconds = await Connection(port).open(), []
    for turn in range(300):
        began = time.perf_counter()
        await connection.get(f"{API}/runs/{run_ids[turn % len(run_ids)]}")
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(0.01)
    seconds.sort()
    p99 = seconds[297] * 1000
    say(name, p50_ms=seconds[150] * 1000, p99_ms=p99, **({"times_idle": p99 / idle} if idle else {}))
    return p99


async def fan_out(port: int, run_id: str) -> None:
    """Has many listeners follow one run to its end; how long after the first the last one hears of it."""

    async def listener() -> tuple[int, float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {API}/runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        events = 0
        async for line in reader:
            if line.startswith(b"event: "):
                events += 1
                if line == b"event: run_finished\n":
                    break
        ended = time.perf_counter()
        writer.close()
        return events, ended

    heard = await asyncio.gather(*(listener() for _ in range(LISTENERS)))
    counts, ends = {events for events, _ in heard}, [ended for _, ended in heard]
    if len(counts) != 1:
        raise RuntimeError(f"listeners heard different numbers of events: {sorted(counts)}")
    say("server_sse", listeners=LISTENERS, events=counts.pop(), spread_ms=(max(ends) - min(ends)) * 1000)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        pathlib.Path(directory, "phases_of_mine.py").write_text(PHASES)
        store = str(pathlib.Path(directory, "store", "s.db"))
        environment = {**os.environ, "PYTHONPATH": directory, "CMBAGENT_STORE": store, "HOME": directory}
        code = "import phases_of_mine; from cmbagent.cli import main; main()"
        server = subprocess.Popen(
            [sys.executable, "-c", code, "serve", "--quiet", "--port", str(port)], env=environment
        )
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=60).close()
                    break
                except OSError:
                    time.sleep(0.05)
            measure(port)
        finally:
            server.kill()
            server.wait()


def measure(port: int) -> None:
    def workflow(steps: int) -> str:
        phases = [{"type": "step"}] * steps
        return post(port, "/workflows", {"name": "w", "description": "", "phases": phases})["id"]

    def start(kind: str) -> str:
        return post(port, f"/workflows/{kind}/run", {"task": "t"})["run_id"]

    short, long = workflow(1), workflow(100)
    done = start(short)
    time.sleep(1.5)
    paths = ["/types", "/workflows", f"/runs/{done}", f"/runs/{done}/phases", "/runs"]
    asyncio.run(reads(port, "server_reads_idle", paths))
    idle = asyncio.run(calm(port, "server_run_idle", [done]))
    began, ids = time.perf_counter(), []
    for _ in range(RUNS):
        ids.append(start(long))
    say("server_start", milliseconds_per_run=(time.perf_counter() - began) * 1000 / RUNS)
    asyncio.run(calm(port, "server_run_50_runs", ids, idle))
    asyncio.run(reads(port, "server_reads_50_runs", [*paths, *(f"/runs/{each}" for each in ids)]))
    asyncio.run(fan_out(port, start(workflow(6))))


if __name__ == "__main__":
    main()
