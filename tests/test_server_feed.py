"""What listeners of a run hear: every numbered event once, the others in their place or not at all."""

import asyncio
import json
import threading
from types import SimpleNamespace

from cmbagent._stream import EventLog
from cmbagent.backend import feed
from cmbagent.backend.feed import Feeds
from cmbagent.testing import code
from procs import run, wait_for, wait_in_loop
from rest import API, server, start, until
from scripted import models


class Run:
    """A run whose events a test tells; it stands in for the store that keeps them."""

    def __init__(self, here=True):
        self.kept, self.owner, self.status, self.log = [], {"pid": 1}, "running", EventLog()
        self._core = SimpleNamespace(run=lambda _: {"owner": self.owner, "status": self.status})
        self.feeds = Feeds(self, 10, lambda _: self.log if here else None)

    def events(self, run_id, first, limit):
        return [event for event in self.kept if event[1]["seq"] >= first][:limit]

    def tell(self, kind, seq=None, **data):
        if seq is not None:
            self.kept.append((kind, {"seq": seq, **data}))
        self.log.record(kind, {"seq": seq, **data})

    def end(self, seq):
        self.tell("run_finished", seq, status="completed")
        self.owner = None

    def follow(self, after=0, **asked):
        return self.feeds.follow("r", after, 60.0, **asked)


async def hear(told, heard, until=None):
    async for event in told:
        heard.append((event.seq, event.kind))
        if event.kind == until:
            return


def test_events_without_a_number_come_in_their_place():
    async def main():
        told, heard, late = Run(), [], []
        told.tell("run_started", 1)
        listeners = [asyncio.create_task(hear(told.follow(), heard))]
        await wait_in_loop(lambda: heard)
        # Whoever comes later has missed what was said.
        told.tell("call_started", 4)
        told.tell("call_text", delta="a")
        await wait_in_loop(lambda: len(heard) == 3)
        listeners.append(asyncio.create_task(hear(told.follow(1), late)))
        await wait_in_loop(lambda: late)
        told.tell("call_text", delta="b")
        told.tell("call_finished", 6)
        told.tell("script_output", text="c")
        await wait_in_loop(lambda: len(heard) == 6)
        told.end(9)
        await asyncio.gather(*listeners)
        return heard, late

    heard, late = run(main)
    whole = [
        (1, "run_started"), (4, "call_started"), (None, "call_text"), (None, "call_text"),
        (6, "call_finished"), (None, "script_output"), (9, "run_finished"),
    ]  # fmt: skip
    assert heard == whole
    assert late == [(4, "call_started"), *whole[3:]]


def test_who_does_not_want_them_or_listens_elsewhere_hears_numbered_events_alone():
    async def main():
        ends = []
        for here, asked in ((True, {"live": False}), (False, {})):
            told, heard = Run(here), []
            told.tell("run_started", 1)
            listener = asyncio.create_task(hear(told.follow(**asked), heard))
            await wait_in_loop(lambda heard=heard: heard)
            told.tell("call_text", delta="a")
            told.end(3)
            await listener
            ends.append(heard)
        return ends

    assert run(main) == [[(1, "run_started"), (3, "run_finished")]] * 2


def test_a_slow_listener_loses_what_has_no_number_and_nothing_else(monkeypatch):
    monkeypatch.setattr(feed, "MOST_LIVE", 3)

    async def main():
        told, quick = Run(), []
        told.tell("run_started", 1)
        other = asyncio.create_task(hear(told.follow(), quick))
        slow = told.follow()
        first = await anext(slow)
        for number in range(10):
            told.tell("call_text", delta=str(number))
            await wait_in_loop(lambda number=number: len(quick) == 2 + number)
        told.tell("call_finished", 2)
        told.end(3)
        await other
        heard = [first, *[event async for event in slow]]
        return quick, [(event.seq, json.loads(event.text).get("delta")) for event in heard]

    quick, slow = run(main)
    assert [kind for _, kind in quick].count("call_text") == 10
    assert slow == [(1, None), (None, "7"), (None, "8"), (None, "9"), (2, None), (3, None)]


def test_a_frame_without_a_number_leaves_the_listeners_last_one():
    assert feed.Told(7, "k", "{}").frame == "id: 7\nevent: k\ndata: {}\n\n"
    assert feed.Told(None, "k", "{}").frame == "event: k\ndata: {}\n\n"


SCRIPT = """
import pathlib, time
here = pathlib.Path(__file__).parent
while not (here / "gate").exists():
    time.sleep(0.01)
print("through the gate", flush=True)
while not (here / "end").exists():
    time.sleep(0.01)
"""


def test_what_a_script_prints_is_heard_while_it_runs(tmp_path):
    model = models([], engineer=code(SCRIPT, filename="gate.py"))
    with model, model.environment(), server(tmp_path) as client:
        run_id = start(client, "one_shot", {"X-OpenAI-Api-Key": "sk-0123456789"})
        place = f"{API}/runs/{run_id}"
        (file,) = wait_for(lambda: list((tmp_path / "out" / run_id).rglob("gate.py")))
        streams, heard = [], []
        hub = client.app.state.cmbagent

        def by_socket():
            with client.websocket_connect(f"{place}/events") as socket:
                while "text" in (message := socket.receive()):
                    heard.append(json.loads(message["text"]))
                    if heard[-1]["kind"] == "script_started":
                        wait_for(lambda: hub.feeds.listeners == 3)
                        (file.parent / "gate").touch()
                    elif heard[-1]["kind"] == "script_output":
                        # It is told while the script runs.
                        (file.parent / "end").touch()

        def by_stream(asked):
            streams.append((asked, client.get(f"{place}/events", params=asked).text))

        listeners = [
            threading.Thread(target=by_socket),
            *(threading.Thread(target=by_stream, args=[asked]) for asked in ({}, {"live": False})),
        ]
        for listener in listeners:
            listener.start()
        assert until(client, run_id)["status"] == "completed"
        for listener in listeners:
            listener.join(30)
    (said,) = [event["data"] for event in heard if event["kind"] == "script_output"]
    assert said["text"] == "through the gate\n" and said["seq"] is None
    texts = {asked.get("live", True): text for asked, text in streams}
    before, _, after = texts[True].partition('"through the gate\\n"')
    assert before.rpartition("\n\n")[2].startswith("event: script_output\ndata: {")
    assert "event: script_started" in before and "event: script_finished" in after
    assert "event: script_output" not in texts[False] and "event: script_finished" in texts[False]
