"""The events of a run as an asynchronous iterator, from the first one on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

PENDING_LIMIT = 10_000
"""Events a listener may be behind before those that are not kept are left out for it."""


class Event(NamedTuple):
    """One event of a run; `docs/events.md` lists the kinds and their fields.

    Attributes:
        kind: such as `step_started`.
        data: its fields, shared by all listeners: to be read, not changed.
    """

    kind: str
    data: dict[str, Any]

    @property
    def seq(self) -> int | None:
        """Its number in the run; `None` for an event that is not kept."""
        return self.data.get("seq")


class EventLog:
    """The numbered events of one run, and those who listen to it. Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[Event] = []
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._closed = False
        self._status: str | None = None
        self._finished = False
        # Questions that humans are asked now.
        self._asked = 0
        self.ending: dict[str, Any] = {}
        """The fields of `run_finished`; empty before it."""

    @property
    def closed(self) -> bool:
        """Whether the run has ended."""
        return self._closed

    @property
    def begun(self) -> bool:
        """Whether anything has happened."""
        return bool(self._kept)

    @property
    def status(self) -> str | None:
        """Where the run stands by its events.

        Returns:
            `running`, `waiting_approval` while a human is asked, `paused`, or how it ended; `None` before it.
        """
        if self._status == "running" and self._asked:
            return "waiting_approval"
        return self._status

    def record(self, kind: str, data: dict[str, Any]) -> None:
        """Keep an event if it is numbered, and pass it on to the listeners."""
        # Callbacks get the dict itself and may change it.
        event = Event(kind, dict(data))
        with self._lock:
            self._take(event)
            if event.seq is not None:
                self._kept.append(event)
            for stream in self._streams:
                stream._add(event)
        if kind == "run_finished":
            self.close()

    def _take(self, event: Event) -> None:
        kind = event.kind
        if kind == "run_finished":
            self._status, self._finished = str(event.data["status"]), True
            self.ending = event.data
        elif kind in _STATUS_AFTER:
            self._status = _STATUS_AFTER[kind]
        elif kind == "approval_requested" or (
            # A life before this one told of the question; it is asked again.
            kind == "effect_repeated" and event.data.get("effect") == "ask"
        ):
            self._asked += 1
        elif kind == "approval_received":
            self._asked = max(0, self._asked - 1)
        elif kind in ("phase_started", "phase_finished"):
            # Questions that ended without an answer ended with their phase.
            self._asked = 0

    def close(self) -> None:
        """End the streams once they have been read to the end."""
        with self._lock:
            if not self._finished:
                self._status = "failed"
            self._closed = True
            for stream in self._streams:
                stream._end()

    def stream(self, *, whole: bool = True) -> EventStream:
        """Make an iterator over what has happened and what will.

        Args:
            whole: whether it begins with the first event, not with the newest one.
        """
        stream = EventStream()
        with self._lock:
            stream._pending.extend(self._kept if whole else self._kept[-1:])
            if self._closed:
                stream._end()
            else:
                self._streams.add(stream)
        return stream


class EventStream(AsyncIterator[Event]):
    """An asynchronous iterator over a run's events.

    It may be read in any thread's loop, by one task at a time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: deque[Event] = deque()
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        while True:
            with self._lock:
                if self._pending:
                    return self._pending.popleft()
                if self._ended:
                    raise StopAsyncIteration
                if self._waiter is not None:
                    raise RuntimeError(
                        "another task is waiting for this stream's next event; "
                        "call events() once for every listener"
                    )
                waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                with self._lock:
                    if self._waiter is waiter:
                        self._waiter = None

    def _add(self, event: Event) -> None:
        with self._lock:
            if event.seq is None and len(self._pending) >= PENDING_LIMIT:
                return
            self._pending.append(event)
            self._wake()

    def _end(self) -> None:
        with self._lock:
            self._ended = True
            self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            # The listener's loop may have been closed under it.
            with contextlib.suppress(RuntimeError):
                waiter.get_loop().call_soon_threadsafe(_resolve, waiter)


_STATUS_AFTER = {
    "run_started": "running",
    "run_resumed": "running",
    "run_paused": "paused",
    "run_continued": "running",
}


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
