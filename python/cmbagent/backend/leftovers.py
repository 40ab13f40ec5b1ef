"""Runs that a server has left when it ended or was killed: any server on the store goes on with them."""

from __future__ import annotations

import logging
import random
import threading

from cmbagent.backend.live import BusyError
from cmbagent.backend.runner import Runs
from cmbagent.backend.standing import header_keys, is_left
from cmbagent.errors import CmbagentError
from cmbagent.store import RunInfo

logger = logging.getLogger("cmbagent.server")

MOST_LIVES = 5
"""How often a run that gets nowhere is taken up: it may be what ends the servers."""

PROGRESS = ("phase_finished", "step_finished", "run_finished")
"""The events after which a run has got somewhere, or ended in order."""


class Leftovers:
    """Takes up what was left, at once and then again and again.

    Args:
        runs: the server's runs.
        seconds: how often it looks, about: each server at its own times.
    """

    def __init__(self, runs: Runs, seconds: float) -> None:
        self._runs = runs
        self._seconds = seconds
        self._ended = threading.Event()
        # Why one cannot go on is worth a line, but no second one.
        self._given_up: set[str] = set()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Take up what is there, and go on looking in a thread."""
        self.take_up()
        self._thread = threading.Thread(target=self._look, name="cmbagent-leftovers", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def take_up(self) -> list[str]:
        """Go on with what was left; runs that need a key wait for it.

        Returns:
            The ids of the runs that go on, the oldest first.
        """
        taken = []
        for info in reversed(self._runs.store.runs(status="interrupted", top_level=True)):
            if self._ended.is_set():
                break
            if not is_left(info) or header_keys(info) or info.id in self._given_up:
                continue
            try:
                self._check(info)
                self._runs.take_up(info)
            except BusyError:
                # Another server may have room, or this one later.
                break
            except (CmbagentError, ValueError, TypeError) as error:
                # One that cannot go on keeps no other from it; its status tells that it waits.
                if self._is_still_left(info):
                    self._given_up.add(info.id)
                    logger.warning("run %s could not be taken up: %s", info.id, error)
            else:
                taken.append(info.id)
        return taken

    def _check(self, info: RunInfo) -> None:
        """Leave alone what was taken up again and again and never got anywhere."""
        lives = 0
        for kind, _ in self._runs.store.events(info.id):
            lives = 0 if kind in PROGRESS else lives + (kind == "run_resumed")
        if lives >= MOST_LIVES:
            raise CmbagentError(
                f"it was taken up {lives} times and finished nothing; see what ended it, then resume it"
            )

    def _is_still_left(self, info: RunInfo) -> bool:
        # Another server may have been faster.
        row = self._runs.store._core.run(info.id)
        return row is not None and row["owner"] is None

    def _look(self) -> None:
        while not self._ended.wait(self._seconds * random.uniform(0.75, 1.25)):
            try:
                self.take_up()
            except CmbagentError as error:
                # A store that cannot be read now may be readable at the next look.
                logger.warning("runs that were left could not be looked for: %s", error)
