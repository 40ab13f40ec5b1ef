"""Where a run stands, phase by phase, as its events tell."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from cmbagent.store import RunInfo, Store
from cmbagent.workflows._resume import masked

PAGE = 1000
"""Events that are read at once."""

KEPT = 2000
"""Runs whose progress stays in memory; that of others is read again."""


@dataclass
class PhaseProgress:
    """How far a phase has come; times are seconds since 1970."""

    index: int
    phase_type: str
    display_name: str
    status: str
    started_at: float | None = None
    completed_at: float | None = None
    error: str | None = None
    seconds: float | None = None
    usage: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        seq: the number of the last event that counts in here.
        phases: by index, those that were begun or skipped.
        current: index of the phase that was begun last.
        error: why the run failed.
        finished_at: when it ended; `None` while it goes on.
        usage: what it has spent.
    """

    seq: int = 0
    phases: dict[int, PhaseProgress] = field(default_factory=dict)
    current: int = 0
    error: str | None = None
    finished_at: float | None = None
    usage: dict[str, Any] | None = None
    _earlier_seconds: float = 0.0
    _life_began: float | None = None
    _last_at: float = 0.0

    def take(self, kind: str, data: dict[str, Any]) -> None:
        """Count an event in."""
        self.seq, at = data["seq"], data["at"]
        act = getattr(self, f"_on_{kind}", None)
        if act is not None:
            act(data, at)
        self._last_at = at

    def seconds(self, going_on: bool) -> float | None:
        """Return how long the run has taken, over all its lives; `None` before it began.

        Args:
            going_on: whether some process runs it now.
        """
        if self._life_began is None:
            return self._earlier_seconds or None
        until = time.time() if going_on else self._last_at
        return self._earlier_seconds + max(0.0, until - self._life_began)

    def _begin_life(self, at: float) -> None:
        if self._life_began is not None:
            self._earlier_seconds += self._last_at - self._life_began
        self._life_began, self.finished_at, self.error = at, None, None

    def _on_run_started(self, _: dict[str, Any], at: float) -> None:
        self.phases.clear()
        self._begin_life(at)

    def _on_run_resumed(self, _: dict[str, Any], at: float) -> None:
        self._begin_life(at)
        for phase in self.phases.values():
            # A replay does not tell again that the phase began.
            if phase.status == "paused" or (phase.status == "failed" and phase.index == self.current):
                phase.status, phase.error, phase.completed_at = "running", None, None

    def _on_phase_started(self, data: dict[str, Any], at: float) -> None:
        index = self.current = data["phase_index"]
        for later in [each for each in self.phases if each > index]:
            del self.phases[later]
        config = masked(data.get("config") or {}, frozenset())
        self.phases[index] = PhaseProgress(
            index, data["phase"], data["display_name"], "running", started_at=at, config=config
        )

    def _on_phase_skipped(self, data: dict[str, Any], at: float) -> None:
        index = data["phase_index"]
        self.phases[index] = PhaseProgress(index, data["phase"], data["display_name"], "skipped", at, at)

    def _on_phase_finished(self, data: dict[str, Any], at: float) -> None:
        phase = self.phases.get(data["phase_index"])
        if phase is None:
            return
        cancelled = data["status"] == "cancelled"
        phase.status = "failed" if cancelled else data["status"]
        phase.error = "The run was cancelled" if cancelled else data.get("error")
        phase.completed_at, phase.seconds, phase.usage = at, data.get("seconds"), data.get("usage")

    def _on_approval_requested(self, data: dict[str, Any], _: float) -> None:
        self._set(data["phase_index"], "waiting_approval")

    def _on_approval_received(self, data: dict[str, Any], _: float) -> None:
        self._set(data["phase_index"], "running")

    def _set(self, index: int, status: str) -> None:
        if index in self.phases:
            self.phases[index].status = status

    def _on_run_finished(self, data: dict[str, Any], at: float) -> None:
        self._earlier_seconds += data.get("seconds") or 0.0
        self._life_began, self.finished_at = None, at
        self.error, self.usage = data.get("error"), data.get("usage")


class ProgressBook:
    """The progress of a store's runs; each is read once, and what is new at every look. From any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[threading.Lock, Progress]] = OrderedDict()

    def of(self, info: RunInfo) -> Progress:
        """Return how far a run has come by now."""
        with self._lock:
            lock, progress = self._known.setdefault(info.id, (threading.Lock(), Progress()))
            self._known.move_to_end(info.id)
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
        with lock:
            while True:
                events = self._store.events(info.id, progress.seq + 1, PAGE)
                for kind, data in events:
                    progress.take(kind, data)
                if len(events) < PAGE:
                    return progress

    def forget(self, run_id: str) -> None:
        """Drop what is known of a run that was deleted."""
        with self._lock:
            self._known.pop(run_id, None)
