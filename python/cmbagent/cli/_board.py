"""Where a run stands, as the few rows at the foot of a terminal that change in place."""

from __future__ import annotations

import threading
from typing import Any

from rich.text import Text

from cmbagent._notebook import Progress
from cmbagent._words import one_line
from cmbagent.display import seconds_text, usage_text

PHASES = 5
"""So many phases are named; of longer workflows those done and those to come are counted."""

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINS_A_SECOND = 8

_MARKS = {"completed": ("✓", "green"), "failed": ("✗", "red"), "running": ("●", "cyan")}


class Board(Progress):
    """The state of one run, from its events, as rows of text.

    Events come in the run's thread, rows are asked for in the thread that draws.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._run = ""
        self._names: list[str] = []
        self._states: list[str] = []
        self._took: list[float | None] = []
        self._sub_task = ""
        self._spent: dict[str, Any] = {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
        self._unpriced: dict[str, None] = {}
        self._model = ""
        self._since: float | None = None

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Take an event of the run into account; those of runs that its phases make are not its own."""
        with self._lock:
            if kind in ("run_started", "run_resumed") and not self._run:
                self._run = str(data.get("run_id") or "")
            if str(data.get("run_id") or "") == self._run:
                super().event(kind, data)

    def is_of(self, data: dict[str, Any]) -> bool:
        """Whether an event is the run's own."""
        return str(data.get("run_id") or "") == self._run

    def phase_name(self, data: dict[str, Any]) -> str:
        """Return the name for people of the phase that an event is of."""
        index = data.get("phase_index") or 0
        known = self._names[index] if self.is_of(data) and index < len(self._names) else ""
        return known or str(data.get("display_name") or data.get("phase") or "")

    def rows(self, now: float, width: int) -> list[Text]:
        """Return the rows as they stand.

        Args:
            now: seconds of the Unix epoch.
            width: columns of a row; what is longer ends in `…`.
        """
        with self._lock:
            rows = [Text("─" * width, style="dim"), self._head(now), self._phase_row()]
            if self._step and self._steps:
                rows.append(Text(f"  Step {self._step} of {self._steps} · {self._sub_task}"))
            rows.append(self._doing_row(now))
        for row in rows:
            row.truncate(width, overflow="ellipsis")
        return rows

    def _head(self, now: float) -> Text:
        elapsed = seconds_text(max(0.0, now - self._began)) if self._began is not None else ""
        if elapsed.endswith(" s") and "." in elapsed:
            elapsed = f"{elapsed.partition('.')[0]} s"
        calls = f"{self._calls} model call{'' if self._calls == 1 else 's'}"
        spent = usage_text({**self._spent, "unpriced_models": list(self._unpriced)}, name_unpriced=False)
        return Text.assemble((self._name, "bold"), f" · {self._run[:8]} · {elapsed} · {calls} · {spent}")

    def _phase_row(self) -> Text:
        if len(self._names) <= PHASES:
            parts = [self._phase_text(index) for index in range(len(self._names))]
            return Text("  ").append_text(Text("   ").join(parts))
        done = sum(state in ("completed", "skipped") for state in self._states)
        running = [index for index, state in enumerate(self._states) if state == "running"]
        parts = [Text(f"✓ {done} of {len(self._names)} phases", style="green" if done else "dim")]
        parts += [self._phase_text(index) for index in running]
        return Text("  ").append_text(Text("   ").join(parts))

    def _phase_text(self, index: int) -> Text:
        mark, style = _MARKS.get(self._states[index], ("○", "dim"))
        took = self._took[index]
        lasted = f" {seconds_text(took)}" if took is not None else ""
        return Text(f"{mark} {self._names[index]}{lasted}", style=style)

    def _doing_row(self, now: float) -> Text:
        if self._status == "paused":
            return Text("  paused: `cmbagent resume` lets it go on", style="yellow")
        if not self._doing:
            return Text("")
        turn = SPINNER[int(now * SPINS_A_SECOND) % len(SPINNER)]
        lasted = "" if self._since is None else f" · {int(max(0.0, now - self._since))} s"
        return Text(f"  {turn} {self._doing}{lasted}", style="cyan")

    def _begin(self, doing: str, data: dict[str, Any]) -> None:
        self._doing, self._since = doing, data.get("at")

    # --- events ---

    def _on_run_started(self, data: dict[str, Any]) -> None:
        super()._on_run_started(data)
        self._began = data.get("at")
        self._status, self._doing, self._since = "running", "", None
        self._names = list(self._phases)
        self._states = ["" for _ in self._phases]
        self._took = [None for _ in self._phases]

    def _state(self, data: dict[str, Any], state: str) -> None:
        index = data.get("phase_index") or 0
        if index < len(self._states):
            self._states[index] = state
            self._names[index] = str(data.get("display_name") or self._names[index])

    def _on_phase_restored(self, data: dict[str, Any]) -> None:
        super()._on_phase_restored(data)
        self._state(data, "completed")

    def _on_phase_skipped(self, data: dict[str, Any]) -> None:
        self._state(data, "skipped")

    def _on_phase_started(self, data: dict[str, Any]) -> None:
        super()._on_phase_started(data)
        self._state(data, "running")

    def _on_phase_finished(self, data: dict[str, Any]) -> None:
        self._state(data, str(data.get("status") or ""))
        index = data.get("phase_index") or 0
        if index < len(self._took):
            self._took[index] = data.get("seconds")
        self._step, self._doing = 0, ""

    def _on_step_started(self, data: dict[str, Any]) -> None:
        super()._on_step_started(data)
        self._sub_task = f"{data.get('step_agent') or ''} · {one_line(data.get('sub_task') or '', 200)}"

    def _on_call_started(self, data: dict[str, Any]) -> None:
        super()._on_call_started(data)
        self._model = str(data.get("model") or "")
        self._begin(f"{data.get('agent')} · {self._model} · thinking", data)

    def _on_call_text(self, data: dict[str, Any]) -> None:
        self._streamed += len(data.get("delta") or "")
        self._doing = f"{data.get('agent')} · {self._model} · writing, {self._streamed:,} characters"

    def _on_call_retry(self, data: dict[str, Any]) -> None:
        self._doing = f"{data.get('agent')} · {self._model} · trying again"

    def _on_call_finished(self, data: dict[str, Any]) -> None:
        super()._on_call_finished(data)
        usage = data.get("usage") or {}
        for name in self._spent:
            self._spent[name] += usage.get(name) or 0
        self._unpriced.update(dict.fromkeys(usage.get("unpriced_models") or []))

    def _on_script_started(self, data: dict[str, Any]) -> None:
        self._begin(f"running {one_line(data.get('file') or '', 100)}", data)

    def _on_install_started(self, data: dict[str, Any]) -> None:
        self._begin(f"installing {one_line(data.get('package') or '', 60)}", data)

    def _on_install_finished(self, data: dict[str, Any]) -> None:
        self._doing = ""

    def _on_approval_requested(self, data: dict[str, Any]) -> None:
        self._begin(f"waiting for a decision: cmbagent approve {self._run[:8]}, or reject", data)
