"""A run of any process, from the store: its events, and what its script has printed."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmbagent.store import UNFINISHED, RunInfo, Store

PAGE = 500
"""Events that are read at once."""

BACK_BYTES = 20_000
"""So much of what a script had printed before is shown."""

_DECODER = codecs.getincrementaldecoder("utf-8")

Event = tuple[str, dict[str, Any]]


class Follower:
    """Gives a run's events from its begin.

    What a script prints is not in the store: it is read from the script's log as it grows, where that can be
    seen from here, and else given when the script has ended.

    Args:
        store: where the run is kept.
        run_id: its whole id.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._seq = 0
        self._log: Path | None = None
        self._read, self._decoder = 0, _DECODER("replace")

    def look(self) -> Iterator[Event]:
        """Give what has happened since the last look."""
        while page := self._store.events(self._run_id, self._seq + 1, PAGE):
            for kind, data in page:
                self._seq = data["seq"]
                if kind == "script_finished":
                    yield from self._rest(data)
                yield kind, data
                if kind == "script_started":
                    self._log = Path(data["log_path"]) if data.get("log_path") else None
                    self._read, self._decoder = 0, _DECODER("replace")
                elif kind in ("script_finished", "phase_finished", "run_finished"):
                    self._log = None
        yield from self._printed()

    def _printed(self) -> Iterator[Event]:
        """What the running script has printed since the last look; of a flood only the end."""
        if self._log is None:
            return
        try:
            with self._log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                self._read = max(self._read, size - BACK_BYTES)
                file.seek(self._read)
                printed = file.read(BACK_BYTES)
        except OSError:
            return  # on another machine, or not made yet
        self._read += len(printed)
        if text := self._decoder.decode(printed):
            yield "script_output", self._output(text)

    def _rest(self, data: dict[str, Any]) -> Iterator[Event]:
        """What a script that has ended had printed, as far as it was not given yet."""
        if self._read:
            yield from self._printed()
        elif data.get("output"):
            yield "script_output", self._output(str(data["output"]))

    def _output(self, text: str) -> dict[str, Any]:
        return {"run_id": self._run_id, "seq": None, "text": text}


def is_over(info: RunInfo) -> bool:
    """Whether no process runs a run any more."""
    return info.owner is None or info.status not in UNFINISHED
