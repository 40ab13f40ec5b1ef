"""What the site says of the program is asked of the program: its verbs, exit statuses, public names."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

import cmbagent
from cmbagent.cli._app import app
from cmbagent.cli._status import Exit


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put what is asked for into a page."""
    for mark, lines in (("names", names), ("statuses", statuses), ("verbs", verbs)):
        if (comment := f"<!-- {mark} -->") in markdown:
            markdown = markdown.replace(comment, "\n".join(lines()))
    return markdown


def names() -> Iterator[str]:
    """Yield the public names of the package, each a link to where it is described."""
    links = []
    for name in cmbagent.__all__:
        value = getattr(cmbagent, name)
        described = inspect.isclass(value) or inspect.isfunction(value)
        links.append(f"[`{name}`][{value.__module__}.{name}]" if described else f"`{name}`")
    yield ", ".join(links) + "."


def statuses() -> Iterator[str]:
    """Yield a table of the exit statuses."""
    yield from ("| status | |", "|---|---|")
    yield from (f"| {status.value} | {status.meaning} |" for status in Exit)


def verbs() -> Iterator[str]:
    """Yield a section for each verb, with its help as the terminal shows it."""
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "100"}, prog_name="cmbagent")
        yield f"### {name}\n\n```text\n{shown.output.strip()}\n```\n"
