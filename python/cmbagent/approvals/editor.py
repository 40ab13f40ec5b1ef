"""Editing a text in the user's editor."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cmbagent.approvals.plan import FORM
from cmbagent.errors import ConfigurationError

_HEAD = f"""\
# Change the plan, save, and close the editor. Each step is written as {FORM};
# a text goes on in lines indented by five blanks. Lines that start with # are left out.
# An empty file leaves the plan as it was.

"""


def editor_command() -> list[str] | None:
    """Return the editor that `VISUAL` or `EDITOR` names, or `None` where no terminal could show one."""
    import shlex

    name = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    try:
        seen = sys.stdin.isatty() and sys.stdout.isatty()
    except (AttributeError, ValueError):
        seen = False
    return shlex.split(name) or None if seen else None


def edit_in_editor(text: str, command: list[str]) -> str:
    """Have a text edited and return what was saved, without the explanation on top.

    Args:
        text: what to edit; it is kept in a private temporary file meanwhile.
        command: the editor and its arguments; the file's name is added.

    Raises:
        ConfigurationError: the editor could not be started, or ended with an error.
    """
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="cmbagent-") as folder:
        file = Path(folder) / "plan.txt"
        file.write_text(_HEAD + text, encoding="utf-8")
        try:
            ended = subprocess.run([*command, str(file)], check=False)
        except OSError as error:
            raise ConfigurationError(
                f"the editor {command[0]!r} cannot be started: {error.strerror}; set VISUAL or EDITOR"
            ) from error
        if ended.returncode:
            raise ConfigurationError(
                f"the editor {command[0]!r} ended with status {ended.returncode}; nothing was taken over"
            )
        saved = file.read_text(encoding="utf-8")
    kept = saved.removeprefix(_HEAD)
    # An edited explanation is comments and blank lines all the same.
    return "" if all(not line.strip() or line.startswith("#") for line in kept.splitlines()) else kept
