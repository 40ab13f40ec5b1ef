"""What a run shows in a Jupyter kernel: lines as everywhere, a progress line that changes in place, plots.

Everything is published through the kernel the run finds itself in; IPython is not imported.
"""

from __future__ import annotations

import base64
import logging
import time
import uuid
from pathlib import Path
from typing import Any, TextIO

from cmbagent import _html
from cmbagent.display import EFFECTS, Display, seconds_text

logger = logging.getLogger("cmbagent.run")

PLOT_BYTES = 8_000_000
"""The largest picture that is shown inline; larger ones are named in a line only."""
PROGRESS_SECONDS = 0.2
"""How long the progress line stays at least before small changes replace it."""

# What changes with every piece of text; a notebook's page need not follow each.
_SMALL = frozenset({"call_text", "script_output"})
_STILL = frozenset({"message", "cost", "file_written"})


class NotebookDisplay(Display):
    """Writes a run's events as text, with a live progress line and the plots among them.

    A kernel that does not take displays costs the progress line and the plots, not the run: the lines go
    on.

    Args:
        publisher: the shell's `display_pub`.
        stream: where the lines go; `None` is `sys.stdout` as it is at each event.
    """

    def __init__(self, publisher: Any, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._publisher = publisher
        self._display_id = uuid.uuid4().hex
        self._drawn_at: float | None = None
        self._pictures: set[tuple[str, int]] = set()
        self._progress = Progress()

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Shows one event."""
        if kind not in _STILL:
            self._progress.event(kind, data)
            self._draw(kind)
        super().event(kind, data)
        if kind in ("step_finished", "script_finished"):
            for path in data.get("files") or []:
                self._picture(str(path))

    def _draw(self, kind: str) -> None:
        now = time.monotonic()
        if kind in _SMALL and self._drawn_at is not None and now - self._drawn_at < PROGRESS_SECONDS:
            return
        first, self._drawn_at = self._drawn_at is None, now
        content = {"text/plain": self._progress.text(), "text/html": self._progress.html()}
        self._publish(content, transient={"display_id": self._display_id}, update=not first)

    def _picture(self, path: str) -> None:
        if not _html.is_image(path):
            return
        try:
            version = (path, Path(path).stat().st_mtime_ns)
        except OSError:
            return  # gone already; the lines name it
        if version in self._pictures:
            return
        self._pictures.add(version)
        name = self._path(path)
        content = _html.image_bytes(path, PLOT_BYTES)
        if content is None:
            self._write(f"  not shown here, too large: {name}\n")
            return
        kind = _html.IMAGE_TYPES[Path(path).suffix.lower()]
        shown = {"text/plain": name}
        if kind in ("image/png", "image/jpeg", "image/gif"):
            shown[kind] = base64.b64encode(content).decode("ascii")
        else:
            # As a page of its own an SVG could bring scripts.
            shown["text/html"] = _html.whole(_html.picture(kind, content, name))
        self._publish(shown)

    def _publish(self, content: dict[str, str], **how: Any) -> None:
        if self._publisher is None:
            return
        try:
            self._publisher.publish(content, {}, **how)
        except Exception as error:
            self._publisher = None
            logger.warning("the notebook takes no displays; only lines are shown", exc_info=error)


class Progress:
    """Where a run stands, as one line."""

    def __init__(self) -> None:
        self._name = "Run"
        self._phases: list[str] = []
        self._phase = ""
        self._index = 0
        self._step = self._steps = 0
        self._doing = "starting"
        self._streamed = 0
        self._began: float | None = None
        self._seconds = 0.0
        self._calls = 0
        self._cost = 0.0
        self._status = "running"

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Takes an event into account."""
        at = data.get("at")
        if at is not None:
            self._began = at if self._began is None else self._began
            self._seconds = max(self._seconds, at - self._began)
        note = getattr(self, f"_on_{kind}", None)
        if note is not None:
            note(data)

    def text(self) -> str:
        """The line as plain text."""
        return " · ".join(part for part in (self._name, self._status, *self._parts()) if part)

    def html(self) -> str:
        """The line as HTML, with a bar."""
        parts = [f"<b>{_html.text(self._name)}</b>", _html.status(self._status)]
        parts += [_html.text(part) for part in self._parts() if part]
        return _html.whole(_html.bar(self.fraction(), self._status), _html.line(*parts))

    def fraction(self) -> float:
        """How much of the phases and of their steps has been done, from 0 to 1."""
        if self._status == "completed":
            return 1.0
        within = (self._step - 1) / self._steps if self._step and self._steps else 0.0
        return min(1.0, (self._index + within) / len(self._phases)) if self._phases else 0.0

    def _parts(self) -> list[str]:
        step = f"step {self._step} of {self._steps}" if self._step and self._steps else ""
        calls = f"{self._calls} model call{'' if self._calls == 1 else 's'}" if self._calls else ""
        cost = f"${self._cost:.4f}" if self._cost else ""
        return [self._phase, step, self._doing, calls, cost, seconds_text(self._seconds)]

    def _on_run_started(self, data: dict[str, Any]) -> None:
        self._name = str(data.get("workflow_name") or data.get("workflow_id") or "Run")
        self._phases = list(data.get("phases") or [])

    def _on_run_resumed(self, data: dict[str, Any]) -> None:
        self._on_run_started(data)
        self._doing = "taking up what is finished"

    def _on_phase_restored(self, data: dict[str, Any]) -> None:
        self._phase = str(data.get("display_name") or data.get("phase") or "")
        self._index, self._step, self._steps = (data.get("phase_index") or 0) + 1, 0, 0

    def _on_effect_repeated(self, data: dict[str, Any]) -> None:
        self._doing = "again: " + EFFECTS.get(str(data.get("effect")), "what was cut short")

    def _on_run_finished(self, data: dict[str, Any]) -> None:
        self._status = str(data.get("status") or "")
        usage = data.get("usage") or {}
        self._calls, self._cost = usage.get("calls") or 0, usage.get("cost") or 0.0
        self._seconds = data.get("seconds") or self._seconds
        if self._status == "completed":
            self._phase, self._step = "", 0
        self._doing = ""

    def _on_run_paused(self, data: dict[str, Any]) -> None:
        self._status = "paused"

    def _on_run_continued(self, data: dict[str, Any]) -> None:
        self._status = "running"

    def _on_phase_started(self, data: dict[str, Any]) -> None:
        self._phase = str(data.get("display_name") or data.get("phase") or "")
        self._index, self._step, self._steps = data.get("phase_index") or 0, 0, 0
        self._doing = ""

    def _on_step_started(self, data: dict[str, Any]) -> None:
        self._step, self._steps = data.get("number") or 0, data.get("total") or 0
        self._doing = ""

    def _on_call_started(self, data: dict[str, Any]) -> None:
        self._streamed = 0
        self._doing = f"{data.get('agent')} is thinking"

    def _on_call_text(self, data: dict[str, Any]) -> None:
        self._streamed += len(data.get("delta") or "")
        self._doing = f"{data.get('agent')} is writing, {self._streamed:,} characters"

    def _on_call_retry(self, data: dict[str, Any]) -> None:
        wait = seconds_text(data.get("wait_seconds") or 0.0)
        self._doing = f"{data.get('agent')} tries again in {wait}"

    def _on_call_finished(self, data: dict[str, Any]) -> None:
        usage = data.get("usage") or {}
        self._calls += 1
        self._cost += usage.get("cost") or 0.0
        self._doing = ""

    def _on_script_started(self, data: dict[str, Any]) -> None:
        self._doing = f"running {data.get('file')}"

    def _on_script_finished(self, data: dict[str, Any]) -> None:
        self._doing = ""

    def _on_approval_requested(self, data: dict[str, Any]) -> None:
        self._doing = "waiting for a decision"

    def _on_approval_received(self, data: dict[str, Any]) -> None:
        self._doing = ""
