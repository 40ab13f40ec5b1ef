"""The events of runs for many listeners: each run that is listened to is read once, whoever runs it.

Numbered events come from the store, so that none is lost. Those without a number (what a model or a script
says while it does) are known only where the run goes on; they come in their place between the others, now and
then a moment late, or not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

from cmbagent._stream import EventLog
from cmbagent.errors import CmbagentError
from cmbagent.store import UNFINISHED, Store

LOOK_SECONDS = 0.1
"""How often a run that is listened to is looked at."""

GATHER_SECONDS = 0.01
"""How long after an event of a run in this process others are waited for, to be read with it."""

PAGE = 500
"""Events that are read at once, and that are kept for listeners that are not far behind."""

MOST_LIVE = 200
"""Events without a number that wait for a listener; then the oldest is left out for it."""


class Told(NamedTuple):
    """An event, written once for all listeners.

    Attributes:
        seq: its number in the run; `None` for one that is not kept.
        kind: such as `step_started`.
        text: its fields as JSON.
    """

    seq: int | None
    kind: str
    text: str

    @property
    def frame(self) -> str:
        """The event as Server-Sent Events write it; without an id the last one stays the listener's."""
        number = "" if self.seq is None else f"id: {self.seq}\n"
        return f"{number}event: {self.kind}\ndata: {self.text}\n\n"


# Each with the number of the event that it came after.
_Live = deque[tuple[int, Told]]


class TooManyListenersError(CmbagentError, RuntimeError):
    """As many connections as the server allows listen already."""


class _Feed:
    """One run that is listened to."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.floor = seq
        self.recent: deque[Told] = deque(maxlen=PAGE)
        self.listeners = 0
        self.live: list[_Live] = []
        self.ended = False
        self.error: Exception | None = None
        self.news = asyncio.Event()
        self.reader: asyncio.Task[None] | None = None
        # There is something to read.
        self.due = asyncio.Event()

    def tell(self) -> None:
        """Wake who waits; whoever waits next waits for the news after."""
        self.news.set()
        self.news = asyncio.Event()


class Feeds:
    """All runs that are listened to, in the server's event loop.

    Args:
        store: where the runs are kept.
        limit: connections that may listen at the same time.
        log_of: gives the log of a run that goes on in this process.
    """

    def __init__(self, store: Store, limit: int, log_of: Callable[[str], EventLog | None]) -> None:
        self._store = store
        self._limit = limit
        self._log_of = log_of
        self._feeds: dict[str, _Feed] = {}
        self.listeners = 0

    def admit(self) -> None:
        """Refuse another listener when there are too many.

        Raises:
            TooManyListenersError: there are.
        """
        if self.listeners >= self._limit:
            raise TooManyListenersError(
                f"{self._limit} connections listen already, as many as this server allows; try again later"
            )

    async def follow(
        self, run_id: str, after: int, silence: float, *, live: bool = True
    ) -> AsyncIterator[Told | None]:
        """Give a run's events, from the one after number `after` on, until it has ended.

        A listener that is slow holds up nobody and loses no numbered event: it has only a number to remember.

        Args:
            run_id: the run.
            after: the number of the last event that is known.
            silence: seconds after which `None` comes when there is no event.
            live: whether events without a number come, too.
        """
        feed = self._feeds.get(run_id)
        if feed is None:
            feed = self._feeds[run_id] = _Feed(after)
        if feed.reader is None:
            feed.reader = asyncio.create_task(self._read(run_id, feed))
        feed.listeners += 1
        self.listeners += 1
        pending: _Live = deque(maxlen=MOST_LIVE)
        if live:
            feed.live.append(pending)
        try:
            while True:
                news, seq, ended = feed.news, feed.seq, feed.ended
                for told in _due(pending, after):
                    yield told
                if after < seq:
                    for told in await self._after(run_id, feed, after):
                        for said in _due(pending, after):
                            yield said
                        yield told
                        after = told.seq or after
                elif ended:
                    if feed.error is not None:
                        raise feed.error
                    return
                else:
                    try:
                        async with asyncio.timeout(silence):
                            await news.wait()
                    except TimeoutError:
                        yield None
        finally:
            feed.listeners -= 1
            self.listeners -= 1
            feed.live = [each for each in feed.live if each is not pending]
            if not feed.listeners and self._feeds.get(run_id) is feed:
                del self._feeds[run_id]
                feed.reader.cancel()

    async def _after(self, run_id: str, feed: _Feed, after: int) -> list[Told]:
        if after >= feed.floor:
            return [told for told in feed.recent if (told.seq or 0) > after]
        return await asyncio.to_thread(read, self._store, run_id, after + 1, PAGE)

    async def _read(self, run_id: str, feed: _Feed) -> None:
        pump: asyncio.Task[None] | None = None
        try:
            while not feed.ended:
                log = None if pump is not None else self._log_of(run_id)
                if log is not None:
                    pump = asyncio.create_task(_pump(feed, log))
                over = await asyncio.to_thread(self._is_over, run_id)
                page = await asyncio.to_thread(read, self._store, run_id, feed.seq + 1, PAGE)
                if page:
                    gone = len(feed.recent) + len(page) - PAGE
                    if gone > 0:
                        feed.floor = [*feed.recent, *page][gone - 1].seq or 0
                    feed.recent.extend(page)
                    feed.seq = page[-1].seq or 0
                # What a run said before it was over is read by now.
                feed.ended = over and len(page) < PAGE
                if page or feed.ended:
                    feed.tell()
                if not feed.ended and len(page) < PAGE:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await feed.due.wait()
                            await asyncio.sleep(GATHER_SECONDS)
                    feed.due.clear()
        except Exception as error:
            feed.error, feed.ended = error, True
            feed.tell()
        finally:
            if pump is not None:
                pump.cancel()
            if self._feeds.get(run_id) is feed:
                # Who comes later may find the run going on again.
                del self._feeds[run_id]

    def _is_over(self, run_id: str) -> bool:
        row = self._store._core.run(run_id)
        return row is None or row["owner"] is None or (row["status"] not in UNFINISHED)


async def _pump(feed: _Feed, log: EventLog) -> None:
    """Pass on what a run in this process says, each event with the number of the one that it came after."""
    before = 0
    async for event in log.stream(whole=False):
        if event.seq is not None:
            before = event.seq
            feed.due.set()
        elif feed.live:
            told = Told(None, event.kind, _text(event.data))
            for pending in feed.live:
                pending.append((before, told))
            feed.tell()
            # A run that says much must not hold up the listeners.
            await asyncio.sleep(0)


def _due(pending: _Live, after: int) -> Iterator[Told]:
    """Give what came after event number `after`, or after one before it."""
    while pending and pending[0][0] <= after:
        yield pending.popleft()[1]


def read(store: Store, run_id: str, start: int, limit: int) -> list[Told]:
    """Read a run's events from number `start` on."""
    return [Told(data["seq"], kind, _text(data)) for kind, data in store.events(run_id, start, limit)]


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
