"""A run on a terminal: what lasts scrolls by, and where it stands is drawn below, in place."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cmbagent.cli._board import Board
from cmbagent.display import TAIL_LINES, Display, seconds_text, usage_text

FRAMES_A_SECOND = 8
"""How often the rows are drawn."""

WIDTH = 100
"""Columns of the rows at most: a terminal made narrower breaks longer ones, of which pieces stay behind."""

OUTPUT_ROWS = 6
"""Rows of the running script's output."""

RESULT_LINES = 8
"""Lines from the end of a script's output that stay when it has ended well."""


class LiveDisplay(Display):
    """Shows a run on a terminal.

    Phases, steps, plans, warnings and the ends of scripts' output last; calls and running scripts are shown
    in the rows below, with the time, tokens and dollars.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._board = Board()
        self._tail: deque[str] = deque(maxlen=OUTPUT_ROWS)
        self._file = ""
        self._drawing = threading.RLock()
        self._live: Live | None = None
        self._holds = 0
        self._over = False

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Show one event."""
        self._board.event(kind, data)
        own = self._board.is_of(data)
        if kind == "run_finished" and own:
            self.close()
        super().event(kind, data)
        if kind in ("run_started", "run_resumed") and own:
            self._over = False
            self._draw()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Leave the terminal to a conversation."""
        with self._drawing:
            self._holds += 1
            self._erase()
        try:
            yield
        finally:
            with self._drawing:
                self._holds -= 1
                self._draw()

    def close(self) -> None:
        """Draw no more; what lasts stays."""
        with self._drawing:
            self._over = True
            self._erase()

    def _draw(self) -> None:
        with self._drawing:
            if self._over or self._holds or self._live is not None:
                return
            self._live = Live(
                get_renderable=self._frame,
                console=self._console,
                refresh_per_second=FRAMES_A_SECOND,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
            )
            with contextlib.suppress(OSError):  # the terminal has gone; the run goes on
                self._live.start()
                # A process that is killed leaves the cursor as it is.
                self._console.show_cursor(True)

    def _erase(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(OSError):
                live.stop()

    def _frame(self) -> Group:
        width = min(self._console.width, WIDTH) - 1
        output = [*self._tail, *filter(str.strip, [self._partial])][-OUTPUT_ROWS:]
        rows = self._board.rows(time.time(), width)
        for line in output if self._file else ():
            row = Text(f"    │ {self._output_line(line).strip()}", style="dim")
            row.truncate(width, overflow="ellipsis")
            rows.append(row)
        return Group(*rows)

    def _write(self, text: str) -> None:
        try:
            self._console.print(Text.from_ansi(text.removesuffix("\n")), soft_wrap=True)
        except (OSError, ValueError):
            # The terminal has gone; the run goes on without an audience.
            self.event = self._nothing  # type: ignore[method-assign]

    # The rows say what goes on, and for how long.

    def _show_status(self, text: str) -> None:
        pass

    def _schedule(self) -> None:
        pass

    def _on_call_finished(self, data: dict[str, Any]) -> None:  # type: ignore[override]
        self._end()

    def _on_script_started(self, data: dict[str, Any]) -> None:  # type: ignore[override]
        self._partial, self._file = "", self._path(data.get("file") or "")
        self._tail.clear()

    def _output_lines(self, lines: list[str]) -> None:
        self._tail.extend(lines[-OUTPUT_ROWS:])

    def _on_script_finished(self, data: dict[str, Any]) -> str:
        self._end()
        file, self._file, self._partial = self._file, "", ""
        ok = bool(data.get("success"))
        output = str(data.get("output") or "").rstrip()
        shown = output.split("\n")[-(RESULT_LINES if ok else TAIL_LINES) :] if output else []
        return "\n".join([f"  {file} {self._script_end(data)}", *map(self._output_line, shown)])

    def _on_phase_finished(self, data: dict[str, Any]) -> str | None:
        shown = super()._on_phase_finished(data)
        if data.get("status") != "completed":
            return shown
        usage = data.get("usage") or {}
        spent = f", {usage_text(usage)}" if usage.get("calls") else ""
        name = self._board.phase_name(data)
        return self._style(f"✓ {name} in {seconds_text(data.get('seconds') or 0.0)}{spent}", "green")


def fits(stream: TextIO) -> bool:
    """Whether rows can be drawn in place there: a terminal that moves its cursor and knows the signs."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return False
    try:
        return stream.isatty() and (stream.encoding or "").lower().startswith("utf")
    except (AttributeError, ValueError):
        return False
