"""The events of runs for many listeners: each run that is listened to is read once, whoever runs it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple

from cmbagent.errors import CmbagentError
from cmbagent.store import UNFINISHED, Store

LOOK_SECONDS = 0.1
"""How often a run that is listened to is looked at."""

PAGE = 500
"""Events that are read at once, and that are kept for listeners that are not far behind."""


class Told(NamedTuple):
    """An event, written once for all listeners.

    Attributes:
        seq: its number in the run.
        kind: such as `step_started`.
        text: its fields as JSON.
    """

    seq: int
    kind: str
    text: str

    @property
    def frame(self) -> str:
        """The event as Server-Sent Events write it."""
        return f"id: {self.seq}\nevent: {self.kind}\ndata: {self.text}\n\n"


class TooManyListenersError(CmbagentError, RuntimeError):
    """As many connections as the server allows listen already."""


class _Feed:
    """One run that is listened to."""

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.floor = seq
        self.recent: deque[Told] = deque(maxlen=PAGE)
        self.listeners = 0
        self.ended = False
        self.error: Exception | None = None
        self.news = asyncio.Event()
        self.reader: asyncio.Task[None] | None = None

    def tell(self) -> None:
        """Wake who waits; whoever waits next waits for the news after."""
        self.news.set()
        self.news = asyncio.Event()


class Feeds:
    """All runs that are listened to, in the server's event loop.

    Args:
        store: where the runs are kept.
        limit: connections that may listen at the same time.
    """

    def __init__(self, store: Store, limit: int) -> None:
        self._store = store
        self._limit = limit
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

    async def follow(self, run_id: str, after: int, silence: float) -> AsyncIterator[Told | None]:
        """Give a run's events, from the one after number `after` on, until it has ended.

        A listener that is slow holds up nobody and loses nothing: it has only a number to remember.

        Args:
            run_id: the run.
            after: the number of the last event that is known.
            silence: seconds after which `None` comes when there is no event.
        """
        feed = self._feeds.get(run_id)
        if feed is None:
            feed = self._feeds[run_id] = _Feed(after)
        if feed.reader is None:
            feed.reader = asyncio.create_task(self._read(run_id, feed))
        feed.listeners += 1
        self.listeners += 1
        try:
            while True:
                news, seq, ended = feed.news, feed.seq, feed.ended
                if after < seq:
                    for told in await self._after(run_id, feed, after):
                        yield told
                        after = told.seq
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
            if not feed.listeners and self._feeds.get(run_id) is feed:
                del self._feeds[run_id]
                feed.reader.cancel()

    async def _after(self, run_id: str, feed: _Feed, after: int) -> list[Told]:
        if after >= feed.floor:
            return [told for told in feed.recent if told.seq > after]
        return await asyncio.to_thread(read, self._store, run_id, after + 1, PAGE)

    async def _read(self, run_id: str, feed: _Feed) -> None:
        try:
            while not feed.ended:
                over = await asyncio.to_thread(self._is_over, run_id)
                page = await asyncio.to_thread(read, self._store, run_id, feed.seq + 1, PAGE)
                if page:
                    gone = len(feed.recent) + len(page) - PAGE
                    if gone > 0:
                        feed.floor = [*feed.recent, *page][gone - 1].seq
                    feed.recent.extend(page)
                    feed.seq = page[-1].seq
                # What a run said before it was over is read by now.
                feed.ended = over and len(page) < PAGE
                if page or feed.ended:
                    feed.tell()
                if not feed.ended and len(page) < PAGE:
                    await asyncio.sleep(LOOK_SECONDS)
        except Exception as error:
            feed.error, feed.ended = error, True
            feed.tell()
        finally:
            if self._feeds.get(run_id) is feed:
                # Who comes later may find the run going on again.
                del self._feeds[run_id]

    def _is_over(self, run_id: str) -> bool:
        row = self._store._core.run(run_id)
        return row is None or row["owner"] is None or (row["status"] not in UNFINISHED)


def read(store: Store, run_id: str, start: int, limit: int) -> list[Told]:
    """Read a run's events from number `start` on."""
    return [
        Told(data["seq"], kind, json.dumps(data, ensure_ascii=False, separators=(",", ":")))
        for kind, data in store.events(run_id, start, limit)
    ]
