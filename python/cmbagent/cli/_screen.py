"""What a run is shown on, as the options of the command and the terminal allow."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from cmbagent.display import Display, make_display, on_terminal


@dataclass(frozen=True)
class Screen:
    """How a run is shown.

    Attributes:
        quiet: show the closing line only.
        plain: show it line by line.
        as_json: standard output is for programs: show it on standard error.
    """

    quiet: bool = False
    plain: bool = False
    as_json: bool = False

    def display(self) -> Display | None:
        """Make the display; `None` where nothing is to be shown."""
        if make_display(False if self.quiet else None) is None:
            return None
        stream = sys.stderr if self.as_json else sys.stdout
        if not self.plain:
            # rich takes longer to load than all else.
            from cmbagent.cli import _live

            if _live.fits(stream):
                return _live.LiveDisplay(stream)
        return Display(sys.stderr if self.as_json else None)

    @contextlib.contextmanager
    def shown(self) -> Iterator[Display]:
        """Show the run that begins in the context; those that its phases make are shown as they come."""
        display = self.display() or Display()
        waiting = [display]

        def make() -> Display:
            return waiting.pop() if waiting else Display(sys.stderr if self.as_json else None)

        token = on_terminal.set(make)
        try:
            yield display
        finally:
            on_terminal.reset(token)
            display.close()
